"""Writes vectors/: every message as bytes with its meaning, for clients in other languages.

    python -m protocol.vectors_write [FOLDER]

Each file is a JSON list. `frames` are hex strings, F0 first (a REQ socket adds the empty frame before them
itself); a frame of many equal bytes is {"hex": "00", "times": n}. `header` is F1 in words, binary values as
{"bin": "hex"}. In malformed.json `frames` are what a ROUTER receives, routing id first, and `expect` is what
has to happen.
"""

from __future__ import annotations

import array
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from . import messages as m
from .audio import Buffer
from .errors import SegueError
from .framing import encode_error, encode_push, encode_reply, encode_request
from .limits import MAGIC, MAJOR, MAX_FRAME_BYTES, MAX_FRAMES, MAX_HEADER_BYTES, MAX_PAYLOADS, MINOR

FOLDER = Path(__file__).parent / "vectors"
TOKEN = bytes(range(32))
KEY = bytes(range(16, 32))
SESSION = bytes(range(32, 48))
JOB = "41"
MANY_BYTES = 1024  # a frame of more equal bytes than this is written as {"hex", "times"}


def prompt() -> m.AudioBlock:
    """Four frames of stereo float: 0, 0.25, -0.5, 1 …"""
    data = array.array("f", [0.0, 0.25, -0.5, 1.0, -1.0, 0.125, 0.75, -0.0625]).tobytes()
    return m.AudioBlock(m.AudioFormat(rate=48000, channels=2, frames=4, role="prompt", position=-4), data)


def following() -> m.AudioBlock:
    """Two frames of mono s16le that come after the gap."""
    form = m.AudioFormat(rate=44100, channels=1, frames=2, format="s16le", role="following")
    return m.AudioBlock(form, b"\x01\x00\xff\x7f")


def chunk(seq: int = 3, position: int = 0) -> m.Audio:
    """An audio event with two frames of stereo."""
    data = array.array("f", [0.5, -0.5, 0.25, -0.25]).tobytes()
    event = m.Audio(
        seq=seq,
        time_ms=1_700_000_000_123,
        attempt=1,
        variation=0,
        stem="mix",
        position=position,
        frames=2,
        crc=zlib.crc32(data),
        rate=48000,
        channels=2,
    )
    return event.with_data(data)


def requests() -> dict[str, m.Request]:
    """One of each op, and the jobs that a host sends most."""
    tempo = m.TempoMap(
        changes=(
            m.TempoChange(at=0, bpm=120),
            m.TempoChange(at=16, bpm="181/2", beats=7, unit=8),
        ),
        start="15/2",
    )
    full = m.Submit(
        key=KEY,
        session=SESSION,
        project="/home/ada/Höhenflug.rpp",
        mode="continue",
        model="pocket",
        text='dusty "breakbeat", 120 bpm\n$(no shell)',
        negative_text="voices",
        length=m.Length(bars=4),
        tempo_map=tempo,
        harmony=(m.Chord(at=0, chord="Am7"), m.Chord(at=4, pitches=(0, 4, 7))),
        variations=3,
        stems=("drums", "mix"),
        seed=7,
        sampling=m.Sampling(temperature=0.9, top_k=0, top_p=0.95),
        guidance=m.Guidance(cfg_coef=3.0),
        rate=48000,
        channels=2,
        handle_ms=40,
        level="off",
        priority="live",
        deadline_ms=20000,
    )
    return {
        "hello": m.Hello(client="vectors", version="1", build="none", protocol=(MAJOR, MINOR)),
        "ping": m.Ping(),
        "models": m.Models(),
        "load": m.Load(model="pocket", keep_alive_s=-1, wait_ms=1000),
        "unload": m.Unload(model="pocket", wait_ms=1000),
        "submit, the least there is": m.Submit(key=KEY, mode="generate", length=m.Length(seconds=8)),
        "submit, continue a prompt": m.Submit(
            key=KEY, mode="continue", length=m.Length(frames=96000)
        ).with_audio([prompt()]),
        "submit, everything": full.with_audio([prompt(), following()]),
        "next": m.Next(job=JOB, after=2, max_bytes=1048576, wait_ms=1000),
        "attach": m.Attach(job=JOB, after=0, credit=1048576),
        "attach, stop it": m.Attach(job=JOB, detach=True),
        "credit": m.Credit(job=JOB, bytes_=65536, after=3),
        "cancel": m.Cancel(job=JOB),
        "retake": m.Retake(job=JOB, key=KEY[::-1], seed=8),
        "status": m.Status(job=JOB),
        "list": m.List(project="/home/ada/Höhenflug.rpp", states=("done", "running"), limit=10),
        "fetch, the path": m.Fetch(job=JOB, variation=2, stem="drums"),
        "fetch, bytes": m.Fetch(job=JOB, part="handle", as_="bytes", offset=44, max_bytes=65536),
        "forget": m.Forget(job=JOB),
        "pause": m.Pause(release=True),
        "resume": m.Resume(),
        "drain": m.Drain(stop=True, finish="running"),
        "metrics": m.Metrics(),
    }


def replies() -> dict[str, m.Reply]:
    """One reply of each op."""
    tick = m.Tick(
        state="generating", attempt=1, step=120, steps=400, samples=96000, seconds=1.5, xrt=1.25, eta_ms=3500
    )
    info = m.JobInfo(
        job=JOB, state="running", mode="continue", model="pocket", text="dusty", last=3, seed=7, tick=tick,
        session=SESSION, worker="worker0", deadline_left_ms=55000,
    )  # fmt: skip
    model = m.ModelInfo(
        name="pocket",
        state="loaded",
        memory_bytes=268435456,
        rate=32000,
        channels=1,
        stems=("drums", "bass", "other"),
        conditions=("description", "transport"),
        device="cpu",
        precision="float32",
        licence="MIT",
        keep_alive_ms=300000,
        keep_alive_left_ms=240000,
        worker="worker0",
        jobs=(JOB,),
    )
    resting = m.ModelInfo(
        name="heavy", state="quarantined", reason="heavy ended its worker 5 times within a minute",
        retry_ms=42000,
    )  # fmt: skip
    return {
        "hello": m.HelloReply(
            daemon="segued 0.1.0", build="0.1.0+00000000", protocol=(MAJOR, MINOR), boot="9f86d081", pid=4242,
            device="cpu", models=("pocket",), default_model="pocket",
        ),
        "hello, not ready": m.HelloReply(
            daemon="segued 0.1.0", protocol=(MAJOR, MINOR), boot="9f86d081", ready=False,
            waiting_for="the device"
        ),
        "ping": m.PingReply(boot="9f86d081", queued=1, running=1, clock_ms=123456),
        "ping, with a notice": m.PingReply(
            boot="9f86d081", queued=1, paused=True, notice="The journal of jobs was damaged."
        ),
        "models": m.ModelsReply(models=(model, resting), default="pocket"),
        "load": m.LoadReply(model="pocket", state="loading", waiting_for="the weights"),
        "unload": m.UnloadReply(model="pocket", state="ready_to_load", freed_bytes=268435456, measured=True),
        "submit": m.SubmitReply(job=JOB, state="queued", position=2, seed=7),
        "submit, sent again": m.SubmitReply(job=JOB, state="running", seed=7, again=True),
        "next, nothing new": m.NextReply(job=JOB, state="running", tick=tick, last=2),
        "next, with audio": m.NextReply(
            job=JOB, state="running", events=(chunk(3), chunk(4, 2)), tick=tick, last=5, more=True
        ),
        "next, the end": m.NextReply(
            job=JOB, state="done", events=(m.Done(seq=6, manifest={"seed": 7}),), last=6
        ),
        "attach": m.AttachReply(job=JOB, state="running", last=5, credit=1048576),
        "credit": m.CreditReply(job=JOB, credit=1114112),
        "cancel": m.CancelReply(job=JOB, state="cancelling"),
        "retake": m.RetakeReply(job="42", state="queued", seed=8),
        "status": m.StatusReply(info=info),
        "list": m.ListReply(jobs=(info,), next=JOB),
        "fetch, the path": m.FetchReply(
            job=JOB, path="/home/ada/.local/state/segue/takes/41/v0.mix.wav", total_bytes=52, crc=1,
            rate=48000, channels=2, frames=1,
        ),
        "fetch, bytes": m.FetchReply(
            job=JOB, offset=44, total_bytes=52, crc=1, rate=48000, channels=2, frames=1, position=-1,
            data=b"\0" * 8
        ),
        "forget": m.ForgetReply(job=JOB, freed_bytes=1024),
        "pause": m.PauseReply(released_bytes=268435456),
        "resume": m.ResumeReply(),
        "drain": m.DrainReply(running=1, queued=2, pid=4242),
        "metrics": m.MetricsReply(data=b"# TYPE segue_jobs_queued gauge\nsegue_jobs_queued 2\n"),
    }  # fmt: skip


def pushes() -> dict[str, m.Event | m.Tick]:
    """One event of each kind as it is pushed, and a tick."""
    failed = SegueError("E_WORKER_DIED", "The worker ended three times; the model may be damaged.", job=JOB)
    return {
        "accepted": m.Accepted(seq=1, time_ms=1_700_000_000_000, position=2),
        "started": m.Started(
            seq=2, attempt=1, worker="w0", model="pocket", device="cpu", precision="float32"
        ),
        "audio": chunk(3),
        "audio, the handle before the seam": chunk(3, -2),
        "requeued": m.Requeued(seq=5, why="the worker died", discard_from=-2),
        "done": m.Done(seq=6, manifest={"seed": 7, "takes": [{"variation": 0}]}),
        "failed": m.Failed(seq=6, error=failed),
        "cancelled": m.Cancelled(seq=6, why="the client asked"),
        "tick": m.Tick(state="queued", position=2),
        "tick, at work": m.Tick(
            state="decoding", attempt=1, step=400, steps=400, samples=384000, seconds=6.25
        ),
    }


def errors() -> dict[str, SegueError]:
    """Refusals with all their fields."""
    return {
        "an argument": SegueError(
            "E_ARGUMENT", "length.seconds must be above 0, not -1.", field="length.seconds", value=-1,
            allowed="above 0",
        ),
        "try again later": SegueError("E_QUEUE_FULL", "64 jobs are waiting.", retry_ms=1500, value=64),
        "a defect": SegueError("E_INTERNAL", "Something went wrong inside.", detail="incident 7c4a", job=JOB),
    }  # fmt: skip


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


def written() -> dict[str, list[dict[str, Any]]]:
    """The content of every file of vectors/."""
    files: dict[str, list[dict[str, Any]]] = {"requests": [], "replies": [], "pushes": [], "errors": []}
    for name, request in requests().items():
        frames = encode_request(request, 9, TOKEN)
        files["requests"].append(_vector(name, frames))
    for name, reply in replies().items():
        files["replies"].append(_vector(name, encode_reply(reply, 9)))
    for name, push in pushes().items():
        files["pushes"].append(_vector(name, encode_push(JOB, push)))
    for name, error in errors().items():
        files["errors"].append(_vector(name, encode_error(error, "submit", 9)))
    files["malformed"] = [
        {"name": name, "expect": expect, "frames": [_hex(f) for f in frames]}
        for name, (frames, expect) in malformed().items()
    ]
    return files


def _vector(name: str, frames: Sequence[Buffer]) -> dict[str, Any]:
    header = msgpack.unpackb(bytes(frames[1]))
    return {"name": name, "header": _plain(header), "frames": [_hex(f) for f in frames]}


def _hex(frame: Buffer) -> str | dict[str, Any]:
    raw = bytes(frame)
    if len(raw) > MANY_BYTES and raw.count(raw[0]) == len(raw):
        return {"hex": raw[:1].hex(), "times": len(raw)}
    return raw.hex()


def unhex(frame: str | dict[str, Any]) -> bytes:
    """The bytes of a frame as it stands in a file."""
    return bytes.fromhex(frame) if isinstance(frame, str) else bytes.fromhex(frame["hex"]) * frame["times"]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def text_of(vectors: list[dict[str, Any]]) -> str:
    """A file's text: one vector a line."""
    lines = (json.dumps(v, ensure_ascii=False) for v in vectors)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def main(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(exist_ok=True)
    for name, vectors in written().items():
        (folder / f"{name}.json").write_text(text_of(vectors), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
