"""Frames that a daemon must refuse, or not answer at all: what `vectors/malformed.json` is written from."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import msgpack

from .audio import Buffer
from .limits import MAGIC, MAJOR, MAX_FRAME_BYTES, MAX_FRAMES, MAX_HEADER_BYTES, MAX_PAYLOADS

TOKEN = bytes(range(32))
KEY = bytes(range(16, 32))
JOB = "41"


def malformed() -> dict[str, tuple[Sequence[Buffer], dict[str, Any]]]:
    """Frames as a ROUTER receives them, and what has to happen: silence and a counter, or an error."""
    route = [b"\x00peer", b""]
    first = MAGIC + bytes([MAJOR]) + TOKEN

    def with_header(raw: bytes, *payloads: Buffer) -> list[Buffer]:
        return [*route, first, raw, *payloads]

    def packed(*payloads: Buffer, **header: Any) -> list[Buffer]:
        return with_header(msgpack.packb(header), *payloads)

    submit = {"op": "submit", "id": 9, "key": KEY, "mode": "generate", "length": {"seconds": 1}}
    form = {"rate": 48000, "channels": 1, "frames": 2, "role": "prompt"}
    nan = array.array("f", [0.5, float("nan")]).tobytes()
    lie = "E_HEADER"
    return {
        "no empty frame": ([b"\x00peer", first, b"\x80"], {"silent": "envelope"}),
        "nine frames of envelope": ([b"x"] * 9 + [b"", first, b"\x80"], {"silent": "envelope"}),
        "too many frames": ([*route, first, b"\x80", *[b""] * MAX_FRAMES], {"silent": "frames"}),
        "wrong magic": ([*route, b"HTT" + first[3:], b"\x80"], {"silent": "magic"}),
        "F0 too short": ([*route, first[:-1], b"\x80"], {"silent": "magic"}),
        "wrong token": ([*route, first[:-1] + b"\xff", b"\x80"], {"silent": "token"}),
        "token of zeros": ([*route, first[:4] + bytes(32), b"\x80"], {"silent": "token"}),
        "another major": (
            [*route, MAGIC + b"\x02" + TOKEN, msgpack.packb({"op": "models", "id": 9})],
            {"code": "E_VERSION", "id": 9},
        ),
        "another major says hello": (
            [*route, MAGIC + b"\x02" + TOKEN, msgpack.packb({"op": "hello", "id": 9})],
            {"ok": "hello", "id": 9},
        ),
        "no header": ([*route, first], {"code": lie, "id": 0}),
        "header too long": (with_header(b"\x80" * (MAX_HEADER_BYTES + 1)), {"code": "E_SIZE", "id": 0}),
        "empty header": (with_header(b""), {"code": lie, "id": 0}),
        "not msgpack": (with_header(b"\xc1"), {"code": lie, "id": 0}),
        "a byte too many": (with_header(b"\x80\x00"), {"code": lie, "id": 0}),
        "not a map": (with_header(b"\x93\x01\x02\x03"), {"code": lie, "id": 0}),
        "a key twice": (with_header(b"\x82\xa2id\x01\xa2id\x02"), {"code": lie, "id": 0}),
        "a key that is not text": (with_header(b"\x81\x01\x01"), {"code": lie, "id": 0}),
        "an extension type": (with_header(b"\x81\xa1a\xd4\x05\x00"), {"code": lie, "id": 0}),
        "a timestamp": (with_header(b"\x81\xa1a\xd6\xff\x00\x00\x00\x00"), {"code": lie, "id": 0}),
        "text that is not UTF-8": (with_header(b"\x81\xa1a\xa1\xff"), {"code": lie, "id": 0}),
        "nine levels": (with_header(b"\x81\xa1a" + b"\x91" * 8 + b"\x00"), {"code": lie, "id": 0}),
        "an array that claims 4 G": (with_header(b"\xdd\xff\xff\xff\xff"), {"code": lie, "id": 0}),
        "no id": (packed(op="ping"), {"code": lie, "id": 0}),
        "an id that is true": (packed(op="ping", id=True), {"code": lie, "id": 0}),
        "an unknown op": (packed(op="dance", id=9), {"code": "E_UNKNOWN_OP", "id": 9}),
        "an unknown key is ignored": (packed(op="ping", id=9, colour="blue"), {"ok": "ping", "id": 9}),
        "nil is absent": (packed(op="list", id=9, limit=None), {"ok": "list", "id": 9}),
        "a field is missing": (packed(op="cancel", id=9), {"code": "E_ARGUMENT", "id": 9, "field": "job"}),
        "a float for a whole number": (
            packed(op="next", id=9, job=JOB, after=1.0), {"code": "E_ARGUMENT", "id": 9, "field": "after"},
        ),
        "true for a whole number": (
            packed(op="next", id=9, job=JOB, after=True), {"code": "E_ARGUMENT", "id": 9, "field": "after"},
        ),
        "a path for a job": (
            packed(op="status", id=9, job="../../etc"), {"code": "E_ARGUMENT", "id": 9, "field": "job"},
        ),
        "a nested field": (
            packed(**{**submit, "length": {"seconds": -1}}),
            {"code": "E_ARGUMENT", "id": 9, "field": "length.seconds"},
        ),
        "two lengths": (
            packed(**{**submit, "length": {"seconds": 1, "frames": 1}}),
            {"code": "E_ARGUMENT", "id": 9, "field": "length"},
        ),
        "ten hours": (
            packed(**{**submit, "length": {"seconds": 36000}}), {"code": "E_TOO_LONG", "id": 9,
                "field": "length"},
        ),
        "bars without a tempo map": (
            packed(**{**submit, "length": {"bars": 4}}), {"code": "E_ARGUMENT", "id": 9,
                "field": "tempo_map"},
        ),
        "continue without a prompt": (
            packed(**{**submit, "mode": "continue"}), {"code": "E_AUDIO", "id": 9, "field": "audio"},
        ),
        "accompany nothing": (
            packed(**{**submit, "mode": "accompany"}), {"code": "E_AUDIO", "id": 9, "field": "audio"},
        ),
        "no length": (
            packed(**{**submit, "length": None}), {"code": "E_ARGUMENT", "id": 9, "field": "length"},
        ),
        "on the bar without a tempo map": (
            packed(**{**submit, "start": "bar"}), {"code": "E_ARGUMENT", "id": 9, "field": "tempo_map"},
        ),
        "a retake that changes the key": (
            packed(op="retake", id=9, job=JOB, key=KEY, change={"key": KEY}),
            {"code": "E_ARGUMENT", "id": 9, "field": "change.key"},
        ),
        "a payload nobody described": (packed(b"\0" * 8, **submit), {"code": lie, "id": 9, "field": "audio"}),
        "a payload that is missing": (packed(**submit, audio=[form]), {"code": lie, "id": 9,
            "field": "audio"}),
        "a payload that is too short": (
            packed(b"\0" * 7, **submit, audio=[form]), {"code": "E_AUDIO", "id": 9, "field": "audio[0]"},
        ),
        "0 Hz": (
            packed(b"\0" * 8, **submit, audio=[{**form, "rate": 0}]),
            {"code": "E_AUDIO", "id": 9, "field": "audio[0].rate"},
        ),
        "seven channels": (
            packed(b"\0" * 56, **submit, audio=[{**form, "channels": 7}]),
            {"code": "E_AUDIO", "id": 9, "field": "audio[0].channels"},
        ),
        "a sample that is not a number": (
            packed(nan, **submit, audio=[form]), {"code": "E_AUDIO", "id": 9, "field": "audio[0]"},
        ),
        "audio for an op that takes none": (
            packed(b"\0" * 8, op="ping", id=9, audio=[form]), {"code": lie, "id": 9, "field": "audio"},
        ),
        "a frame above 4 MiB": (
            packed(b"\0" * (MAX_FRAME_BYTES + 1), **submit, audio=[form]),
            {"code": "E_SIZE", "id": 9, "field": "audio"},
        ),
        "too many payloads": (
            packed(*[b"\0" * 8] * (MAX_PAYLOADS + 1), **submit, audio=[form] * (MAX_PAYLOADS + 1)),
            {"code": "E_SIZE", "id": 9, "field": "audio"},
        ),
    }  # fmt: skip
