"""Messages that nobody should send: directed ones for each rule of the protocol, and mutations of good ones.

A message is the frames after the routing id, envelope included. What the daemon has to do with it is not
written here: `protocol.framing.decode_request` says it, and the daemon is held to that.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from protocol import messages as m
from protocol.audio import AudioBlock, AudioFormat
from protocol.fields import Record
from protocol.framing import encode_request
from protocol.limits import MAX_FRAME_BYTES, MAX_HEADER_BYTES

Frames = list[bytes]
MAGIC = b"SGU"
DEALER, REQ, REQ_CORRELATE = [b""], [b""], [b"\x00\x01\x02\x03", b""]
ENVELOPES: tuple[Frames, ...] = (DEALER, REQ_CORRELATE, [b"hop", b"\x00\x00\x00\x01", b""])

TRAVERSALS = (
    "..", ".", "/", "../", "../../etc/passwd", "..\\..\\windows", "/etc/passwd", "//etc/passwd", "~", "~root",
    "~/.ssh/id_rsa", "file:///etc/passwd", "%2e%2e%2fetc", "..%2f..%2f", "....//....//", "..;/", "a/../../b",
    "./../x", "C:\\x", "\\\\host\\share", "con", "nul", "x\x00.wav", "/proc/self/environ", "/dev/zero",
    "${HOME}", "$(id)", "`id`", "mix.wav", "../journal.db", "-rf", "x\n../y", "\u202egpj.exe", "．．／etc",
    "--help", "--device=x", "x" * 1024, "\x1b[2J", "*", "[", "pocket/..",
)  # fmt: skip

WRONG: tuple[Any, ...] = (
    True, False, -1, 0, 1, 2**31, 2**53 - 1, 2**53, 2**62, 2**63 - 1, 2**64 - 1, -(2**63), -(2**53), 0.0,
    -0.0, 1.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), "", "0", "7", "-1", "1/3",
    "1/0",
    "nan", "x" * 600, "x" * 16_384, "\x00", "\u202e\ud7ff", "é" * 300, b"", b"k" * 15, b"k" * 16, b"k" * 17,
    b"\xff" * 4096, [], [0], [None], [[]], [{}], [1, 2, 3], ["a"] * 17, [b""], {}, {"": 0}, {"a": {"b": []}},
    {"seconds": "1"}, ["../x"], "../x",
)  # fmt: skip


def first(token: bytes, major: int = 1) -> bytes:
    """F0."""
    return MAGIC + bytes([major]) + token


def header(**fields: Any) -> bytes:
    """F1 as msgpack writes it, without our own checks before."""
    return msgpack.packb(fields, use_bin_type=True)


def pcm(samples: list[float]) -> bytes:
    return struct.pack(f"<{len(samples)}f", *samples)


def good_submit(dice: random.Random, seconds: float = 0.2, **more: Any) -> m.Submit:
    """A small job that continues half a second."""
    frames = 4000
    data = pcm([dice.uniform(-0.5, 0.5) for _ in range(frames)])
    prompt = AudioBlock(AudioFormat(rate=8000, channels=1, frames=frames, role="prompt"), data)
    given: dict[str, Any] = {"mode": "continue", "length": m.Length(seconds=seconds), "seed": 7} | more
    return m.Submit(key=dice.randbytes(16), **given).with_audio((prompt,))


def good_requests(dice: random.Random) -> list[m.Request]:
    """One of each op with fields set, to be mutated."""
    tempo = m.TempoMap(changes=(m.TempoChange(at=0, bpm=120), m.TempoChange(at="9/2", bpm=93.5, beats=3)))
    return [
        m.Hello(client="x", version="1", protocol=(1, 0)),
        m.Ping(),
        m.Next(job="1", after=3, max_bytes=100),
        m.Attach(job="1", credit=100),
        m.Credit(job="1", bytes_=5),
        m.Cancel(job="999999"),
        m.Status(job="1"),
        m.List(limit=3, states=("queued",), project="p"),
        m.Fetch(job="1", as_="bytes", offset=3),
        m.Forget(job="999999"),
        m.Retake(job="999999", key=dice.randbytes(16)),
        m.Unload(model="nobody"),
        m.Metrics(),
        good_submit(dice),
        good_submit(dice, text="soft", tempo_map=tempo, harmony=(m.Chord(at=0, chord="Am7"),), variations=2),
    ]


# ---- directed ----


def preambles(token: bytes) -> Iterator[Frames]:
    body = header(op="ping", id=1)
    for envelope in ENVELOPES:
        for magic in (b"SGU", b"SGV", b"sgu", b"\x00\x00\x00", b"\xff\xff\xff", b"MGD", b"GET"):
            for major in (0, 1, 2, 127, 128, 255):
                for given in (token, bytes(32), bytes(31) + b"\x01", token[:-1] + bytes([token[-1] ^ 1])):
                    yield [*envelope, magic + bytes([major]) + given, body]
        for size in (0, 1, 3, 4, 35, 37, 63, 64, 65, 70_000):
            yield [*envelope, (first(token) + bytes(70_000))[:size], body]
        for bad in (token[:31], token + b"\x00", b"", token.hex().encode(), token[::-1]):
            yield [*envelope, first(bad), body]


def framings(token: bytes) -> Iterator[Frames]:
    ping = [first(token), header(op="ping", id=1)]
    yield from ([b""], [b"", b""], [b"", b"", b""], [b"x"], [b"", ping[0]], [b"", *ping, b""], ping)
    for count in (2, 70, 77, 78, 79, 80, 200, 20_000):
        yield [b"", *ping, *[b""] * count]
        yield [b""] * count
        yield [b"x"] * count
    for hops in range(1, 11):
        yield [*[b"h" * hops] * hops, b"", *ping]
    yield [b"x" * 300, b"", *ping]
    yield [b"", ping[0], b"", ping[1]]
    yield [b"", *ping, *[b"p" * 1000] * 3]
    for size in (MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, 10 << 20 >> 4, MAX_FRAME_BYTES):
        yield [b"", ping[0], b"\x80" * size]
        yield [b"", ping[0], b"\xdc\xff\xff" + b"\x80" * (size - 3)]


def packs(token: bytes) -> Iterator[Frames]:
    """F1 that is not, or just not, msgpack within the limits."""
    ping = header(op="ping", id=1)
    raws = [b"", ping + b"\x00", ping + ping, b"\xc1", b"\x00", b"\xa3abc", b"\x90", b"\xc0", b"\x81\xa2op"]
    for four_g in (b"\xdd", b"\xdf", b"\xc6", b"\xc9", b"\xdb"):
        raws += [four_g + b"\xff\xff\xff\xff", four_g + b"\xff\xff\xff\xff" + bytes(60_000)]
        raws.append(b"\x83\xa2op\xa4ping\xa2id\x01\xa1x" + four_g + b"\xff\xff\xff\xff")
    for depth in (7, 8, 9, 512, 1_023, 1_024, 1_025, 60_000):
        raws.append(b"\x83\xa2op\xa4ping\xa2id\x01\xa1x" + b"\x91" * depth + b"\xc0")
        raws.append(b"\x83\xa2op\xa4ping\xa2id\x01\xa1x" + b"\x81\xa1x" * min(depth, 20_000) + b"\xc0")
    keys = (b"\x01", b"\xc4\x01a", b"\x90", b"\xc0", b"\xc3", b"\xcb" + bytes(8), b"\xd6\xff" + bytes(4))
    raws += [b"\x83\xa2op\xa4ping\xa2id\x01" + key + b"\xc0" for key in keys]
    raws += [b"\x83\xa2op\xa4ping\xa2id\x01\xa2op\xa4ping", b"\x83\xa2op\xa4ping\xa2id\x01\xa2id\x02"]
    extensions = (
        b"\xd4\x00\x00",
        b"\xd6\xff" + bytes(4),
        b"\xd7\xff" + b"\xff" * 8,
        b"\xc7\x0c\xff" + b"\xff" * 12,
    )
    values = [
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xcb\x7f\xf0" + bytes(6),
        b"\xcb\xff\xf0" + bytes(6),
        b"\xcb\x80" + bytes(7),
    ]
    values += [
        b"\xcf" + b"\xff" * 8,
        b"\xd3\x80" + bytes(7),
        b"\xa2\xff\xfe",
        b"\xa3\xed\xa0\x80",
        b"\xa1\x00",
    ]
    values += [
        b"\xa3\xe2\x80\xae",
        b"\xa4\xf4\x90\x80\x80",
        b"\xda\x40\x00" + b"x" * 16_384,
        b"\xc3",
        b"\xca\x7f\xc0\x00\x00",
    ]
    values += [
        b"\xda\x40\x01" + b"x" * 16_385,
        b"\xc5\x10\x01" + bytes(4097),
        b"\xdc\x10\x01" + b"\xc0" * 4097,
        *extensions,
    ]
    values.append(b"\x9f" + (b"\xdc\x10\x00" + b"\xc0" * 4096) * 15)
    values.append(b"\xde\x01\x01" + b"".join(b"\xcd" + struct.pack(">H", i) + b"\xc0" for i in range(257)))
    for value in values:
        raws += [b"\x82\xa2op\xa4ping\xa2id" + value, b"\x82\xa2id\x07\xa2op" + value]
        raws += [b"\x83\xa2op\xa4ping\xa2id\x07\xa1x" + value, b"\x83\xa2op\xa4next\xa2id\x07\xa3job" + value]
        raws.append(b"\x84\xa2op\xa4next\xa2id\x07\xa3job\xa11\xa5after" + value)
    for index, raw in enumerate(raws):
        yield [*ENVELOPES[index % 3], first(token), raw]


def fields_of(cls: type[Record]) -> list[str]:
    return [field.key for field in cls.WIRE.values()]


def semantics(token: bytes, dice: random.Random) -> Iterator[Frames]:
    """Every field of every op with every wrong value, the nested ones of `submit` too; unknown ops, unknown
    fields, paths where names are due.
    """

    def sent(fields: dict[str, Any], payloads: list[bytes]) -> Frames:
        return [*dice.choice(ENVELOPES), first(token), msgpack.packb(fields, use_bin_type=True), *payloads]

    for request in good_requests(dice):
        frames = [bytes(frame) for frame in encode_request(request, 5, token)]
        fields, payloads = msgpack.unpackb(frames[1]), frames[2:]
        names = [*fields_of(type(request)), "id", "op", "audio", "data"]
        for name in names:
            for value in WRONG:
                yield sent({**fields, name: value}, payloads)
            yield sent({key: value for key, value in fields.items() if key != name}, payloads)
            for path in TRAVERSALS:
                yield sent({**fields, name: path}, payloads)
        for outer in ("length", "sampling", "guidance", "tempo_map", "audio", "harmony"):
            inner = fields.get(outer)
            record = {"sampling": m.Sampling, "guidance": m.Guidance, "length": m.Length}.get(outer)
            if isinstance(inner, list) and inner:
                for name in {
                    **inner[0],
                    "role": 0,
                    "track": 0,
                    "position": 0,
                    "stem": 0,
                    "pitches": 0,
                    "layout": 0,
                }:
                    for value in WRONG:
                        yield sent({**fields, outer: [{**inner[0], name: value}, *inner[1:]]}, payloads)
            elif record is not None and request.op == "submit":
                for name in fields_of(record):
                    for value in WRONG:
                        yield sent({**fields, outer: {name: value}}, payloads)
        for change in (fields.get("tempo_map") or {}).get("changes", [])[:1]:
            for name in ("at", "bpm", "beats", "unit"):
                for value in WRONG:
                    yield sent({**fields, "tempo_map": {"changes": [{**change, name: value}]}}, payloads)
    for op in (
        "live.open",
        "live.",
        "",
        "x" * 64,
        "x" * 65,
        "SUBMIT",
        "submit ",
        "__class__",
        "_turn",
        "../x",
    ):
        yield sent({"op": op, "id": 1}, [])
    for job in (
        "0",
        "00",
        "01",
        "+1",
        "1_0",
        "١",
        "²",
        "9" * 15,
        "9" * 16,
        "9" * 64,
        "a",
        "-1",
        "1.0",
        "0x1",
    ):
        for op in ("status", "next", "cancel", "forget", "fetch", "attach"):
            yield sent({"op": op, "id": 1, "job": job}, [])
    for stem in TRAVERSALS:
        yield sent({"op": "fetch", "id": 1, "job": "1", "stem": stem}, [])


def sounds(token: bytes, dice: random.Random) -> Iterator[Frames]:
    """Audio in: what it says of itself and what it is."""
    nan, inf, tiny = float("nan"), float("inf"), 1e-45
    payloads = [
        pcm([nan]), pcm([inf]), pcm([-inf]), pcm([tiny] * 4000), pcm([0.0] * 4000), b"", b"\x00", bytes(3),
        pcm([0.1] * 4000), pcm([3e38] * 4000), pcm([0.1] * 3999 + [nan]), b"RIFF" + bytes(16_000 - 4),
        b"fLaC" + bytes(15_996), b"OggS" + bytes(15_996), bytes(16_001),
    ]  # fmt: skip
    rates = (0, 1, 7_999, 8_000, 11_025, 44_100, 44_101, 96_000, 384_000, 384_001, 2**40)
    for payload in payloads:
        for rate in rates:
            for channels in (0, 1, 2, 3, 8, 64):
                frames = dice.choice(
                    [len(payload) // 4 // max(1, channels), 0, 1, 4000, 36_000 * rate, 2**53 - 1, 2**60, -1]
                )
                form = dice.choice(["f32le"] * 6 + ["s24le", "s16le", "f64le", "flac", ""])
                about = {"rate": rate, "channels": channels, "frames": frames, "format": form}
                about["role"] = dice.choice(["prompt"] * 5 + ["following", "context", "", None])
                body = header(
                    op="submit", id=2, key=dice.randbytes(16), mode="continue", length={"seconds": 0.1},
                    seed=7, audio=[about],
                )  # fmt: skip
                yield [b"", first(token), body, payload]
    one = {"rate": 8000, "channels": 1, "frames": 1000, "role": "prompt"}
    piece = pcm([0.1] * 1000)
    for second in (
        {"rate": 8001},
        {"channels": 2},
        {"position": 7},
        {"format": "s16le"},
        {"track": 3},
        {"role": "x"},
    ):
        for count in (2, 3, 64, 65):
            about = [one, *[{**one, **second}] * (count - 1)]
            body = header(
                op="submit", id=2, key=dice.randbytes(16), mode="continue", length={"frames": 9}, audio=about
            )
            yield [b"", first(token), body, *[piece] * count]
            yield [b"", first(token), body, *[piece] * (count - 1)]


# ---- mutated ----


def mutated(good: list[Frames], token: bytes, dice: random.Random) -> Frames:
    """A good message with something wrong in it: bytes, frames, fields or all of it."""
    frames = list(dice.choice(good))
    kind = dice.randrange(8)
    if kind == 0:  # bytes of the header flipped
        body = bytearray(frames[1])
        for _ in range(dice.randint(1, 8)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        frames[1] = bytes(body)
    elif kind == 1:  # one bit
        body = bytearray(frames[1])
        body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
        frames[1] = bytes(body)
    elif kind == 2:  # cut, or something inserted
        at = dice.randrange(len(frames[1]))
        frames[1] = frames[1][:at] + dice.randbytes(dice.randint(0, 4)) + frames[1][at + dice.randint(0, 4) :]
    elif kind == 3:  # noise for a header
        frames[1] = dice.randbytes(dice.choice([0, 1, 2, 40, 300, 3000]))
    elif kind == 4:  # frames left out, doubled, swapped
        at = dice.randrange(len(frames))
        frames = dice.choice(
            [frames[:at] + frames[at + 1 :], frames[: at + 1] + frames[at:], frames[::-1], [*frames, b""]]
        )
    elif kind == 5:  # a field of another message
        fields, other = msgpack.unpackb(frames[1]), msgpack.unpackb(dice.choice(good)[1])
        fields[dice.choice(list(other))] = dice.choice([*other.values(), *WRONG])
        frames[1] = msgpack.packb(fields, use_bin_type=True)
    elif kind == 6:  # a preamble of noise
        noise = bytearray(frames[0])
        for _ in range(dice.randint(1, 4)):
            noise[dice.randrange(len(noise))] = dice.randrange(256)
        frames[0] = bytes(noise)
    else:  # fields of noise
        fields = msgpack.unpackb(frames[1])
        for name in dice.sample(sorted(fields), min(2, len(fields))):
            fields[name] = dice.choice(WRONG)
        frames[1] = msgpack.packb(fields, use_bin_type=True)
    return [*dice.choice(ENVELOPES), *frames]
