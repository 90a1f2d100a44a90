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
from .limits import MAJOR, MINOR
from .vectors_malformed import JOB, KEY, TOKEN, malformed

FOLDER = Path(__file__).parent / "vectors"
SESSION = bytes(range(32, 48))
MANY_BYTES = 1024  # a frame of more equal bytes than this is written as {"hex", "times"}


def prompt() -> m.AudioBlock:
    """Four frames of stereo float: 0, 0.25, -0.5, 1 …"""
    data = array.array("f", [0.0, 0.25, -0.5, 1.0, -1.0, 0.125, 0.75, -0.0625]).tobytes()
    return m.AudioBlock(m.AudioFormat(rate=48000, channels=2, frames=4, role="prompt", position=-4), data)


def track(role: str, position: int | None = None, **more: Any) -> m.AudioBlock:
    """Two frames of mono s16le under a role."""
    form = m.AudioFormat(
        rate=44100, channels=1, frames=2, format="s16le", role=role, position=position, **more
    )
    return m.AudioBlock(form, b"\x01\x00\xff\x7f")


def producing(tempo: m.TempoMap) -> dict[str, m.Request]:
    """What producers ask for besides going on (minor 1)."""
    return {
        "submit, accompany two tracks from the next bar on": m.Submit(
            key=KEY, mode="accompany", length=m.Length(bars="5/2"), tempo_map=tempo, start="bar"
        ).with_audio([track("context", -4, track=0, stem="drums"), track("context", 0, track=1)]),
        "submit, vary a loop": m.Submit(
            key=KEY, mode="vary", strength=0.25, loop=True, tempo_map=tempo
        ).with_audio([track("source")]),
        "submit, fill a gap": m.Submit(
            key=KEY, mode="fill", length=m.Length(frames=96000), tail_ms=120
        ).with_audio([prompt(), track("following", 96000)]),
        "retake, in other words": m.Retake(
            job=JOB, key=KEY[::-1], change={"text": "brighter", "sampling": {"temperature": 0.9}}
        ),
    }


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
        "submit, everything": full.with_audio([prompt(), track("following")]),
        **producing(tempo),
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
        "submit, on the next bar": m.SubmitReply(
            job=JOB, state="queued", seed=7, lead_frames=12000, frames=192000, rate=48000
        ),
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
