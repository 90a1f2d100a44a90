"""A daemon that is not there: the client's face, with sound whose every sample says where it belongs.

Run as a program, it is the command itself with this client in place of the real one:
``python -m tests.cli.fake [--script NAME] -- continue IN.wav …``.
"""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bridge_clients.core import Fetched
from protocol.errors import SegueError
from protocol.messages import (
    Accepted,
    Audio,
    Cancelled,
    CancelReply,
    Done,
    Failed,
    ForgetReply,
    JobInfo,
    ModelInfo,
    ModelsReply,
    PingReply,
    Requeued,
    Started,
    Submit,
    Tick,
)
from protocol.replies import HelloReply, ListReply

CANCELLED = threading.Event()  # what one client says, the other hears: the daemon between them
CHUNK = 5000


def sample_value(variation: int, stem: str, positions: np.ndarray, channel: int) -> np.ndarray:
    """A slow ramp through ±0.5, offset by variation, stem and channel: gaps, swaps and repeats all show."""
    offset = 0.011 * variation + 0.003 * channel + 0.0007 * len(stem)
    return (((positions % 30011) / 30011 - 0.5) * 0.9 + offset).astype("<f4")


def sound(variation: int, stem: str, start: int, frames: int, channels: int) -> np.ndarray:
    positions = np.arange(start, start + frames)
    return np.stack([sample_value(variation, stem, positions, c) for c in range(channels)], axis=1)


class FakeJob:
    """Answers a submit according to ``script``: ok, stems, requeue, fail, short, loud, slow, elsewhere."""

    def __init__(self, submit: Submit, script: str) -> None:
        self.id, self.key, self.state, self.position, self.seed = (
            "j-1",
            submit.key,
            "queued",
            2,
            submit.seed or 4242,
        )
        self._submit, self._script, self._seq = submit, script, 0

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _audio(self, attempt: int, variation: int, stem: str, start: int, frames: int) -> Audio:
        submit = self._submit
        channels = submit.host_channels
        samples = sound(variation, stem, start, frames, channels)
        if self._script == "loud":
            samples = samples * 4
        data = samples.astype("<f4").tobytes()
        event = Audio(
            seq=self._next(),
            attempt=attempt,
            variation=variation,
            stem=stem,
            position=start,
            frames=frames,
            crc=zlib.crc32(data),
            rate=submit.host_rate_hz,
            channels=channels,
        )
        return event.with_data(data)

    def events(self) -> Iterator[Any]:
        submit = self._submit
        yield Accepted(seq=self._next(), position=2)
        yield Tick(state="queued", position=2)
        yield Tick(state="loading", note="pocket")
        yield Started(
            seq=self._next(), attempt=1, worker="w", model="pocket", device="cpu", precision="float32"
        )
        if self._script == "elsewhere":
            yield Cancelled(seq=self._next())
            return
        if self._script == "fail":
            yield Failed(
                seq=self._next(), error=SegueError("E_WORKER_DIED", "The worker died twice in a row.")
            )
            return
        stems = submit.stems or (("mix", "drums", "bass", "other") if self._script == "stems" else ("mix",))
        handle = round(0.08 * submit.host_rate_hz) if submit.mode == "continue" else 0
        frames = submit.length_frames - (1 if self._script == "short" else 0)
        steps = 100
        if self._script == "requeue":
            for variation in range(submit.variations):
                for stem in stems:
                    yield self._audio(1, variation, stem, -handle, handle + 3000)
            yield Requeued(seq=self._next(), why="the worker died", discard_from=1000)
            begin = 1000
        else:
            begin = -handle
        attempt = 2 if self._script == "requeue" else 1
        for start in range(begin, frames, CHUNK):
            if self._script == "slow":
                for _ in range(50):
                    yield Tick(state="generating", step=1, steps=steps, xrt=1.5, eta_ms=90_000)
                    if CANCELLED.wait(0.05):
                        yield Cancelled(seq=self._next())
                        return
            yield Tick(
                state="generating",
                step=steps * (start - begin) // (frames - begin),
                steps=steps,
                samples=max(start, 0),
                seconds=0.5,
                xrt=2.5,
                eta_ms=1500,
            )
            for variation in range(submit.variations):
                for stem in stems:
                    yield self._audio(attempt, variation, stem, start, min(CHUNK, frames - start))
        files = [{"stem": stem, "part": "take", "lufs": -14.5, "rms_db": -17.0} for stem in stems]
        manifest = {
            "seed": self.seed,
            "model": {"name": "pocket", "sha256": "ab" * 32},
            "ignored": ["description"] if submit.text else [],
            "takes": [{"variation": v, "files": files} for v in range(submit.variations)],
        }
        yield Done(seq=self._next(), manifest=manifest)


TAKES = [
    JobInfo(
        job="ab12", state="done", mode="continue", model="pocket", text="warm house", seed=7, variations=2,
        stems=("mix", "bass"), rate=44_100, frames=88_200, created_ms=1_700_000_000_000,
    ),
    JobInfo(job="ab99", state="done", mode="generate", model="pocket", rate=48_000, frames=48_000),
    JobInfo(job="cd34", state="running", tick=Tick(state="generating", step=1, steps=4, xrt=2, eta_ms=4000)),
]  # fmt: skip


class FakeClient:
    """The part of the client's face that the command uses."""

    skew = None
    hello = HelloReply(daemon="segued 0", protocol=(1, 0), boot="b", pid=7)

    def __init__(self, script: str, submitted: list[Submit]) -> None:
        self._script, self._submitted = script, submitted

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, submit: Submit) -> FakeJob:
        if self._script == "full":
            raise SegueError("E_QUEUE_FULL", "The queue is full; try again in a moment.", retry_ms=2000)
        self._submitted.append(submit)
        return FakeJob(submit, self._script)

    def ping(self) -> PingReply:
        if self._script == "down":
            raise SegueError("E_UNREACHABLE", "The daemon is not running; `segue serve` starts it.")
        return PingReply(boot="b", running=1, queued=2)

    def models(self) -> ModelsReply:
        known = ModelInfo(
            name="pocket",
            state="loaded",
            memory_bytes=160_000_000,
            rate=32_000,
            stems=("drums", "bass", "other"),
        )
        return ModelsReply(models=(known, ModelInfo(name="facebook/musicgen-small", state="absent")))

    def list(self, *, states: Sequence[str] | None = None, limit: int | None = 50) -> list[JobInfo]:
        return [job for job in TAKES if states is None or job.state in states][:limit]

    def status(self, job: str) -> JobInfo:
        for info in TAKES:
            if info.job == job:
                return info
        raise SegueError("E_JOB", f"There is no job {job}.", field="job")

    def fetch(self, job: str, variation: int, stem: str, part: str, *, as_: str) -> Fetched:
        if part == "handle" and self.status(job).mode == "generate":
            raise SegueError("E_TAKE_MISSING", "There is no such file.")
        data = f"RIFF {job} {variation} {stem} {part}".encode()
        return Fetched(job, None, data, 44_100, 2, 10, 0, zlib.crc32(data))

    def request(self, request: Any) -> ListReply:
        assert request.op == "list"
        return ListReply(used_bytes=5_000_000, quota_bytes=21_474_836_480)

    def forget(self, job: str) -> ForgetReply:
        return ForgetReply(job=job, freed_bytes=5_000_000)

    def cancel(self, job: str) -> Any:
        if any(info.job == job for info in TAKES):
            return CancelReply(job=job, state="cancelled")
        if job != "j-1":
            raise SegueError("E_JOB", f"There is no job {job}.")
        CANCELLED.set()


def install(script: str = "ok") -> list[Submit]:
    """Put the fake in the command's one connection; gives the list that collects what is submitted."""
    from bridge_clients.cli import connect

    submitted: list[Submit] = []

    def fake_connect(**_: Any) -> FakeClient:
        return FakeClient(script, submitted)

    connect.connect = fake_connect  # type: ignore[assignment]
    return submitted


def program() -> int:
    from bridge_clients.cli.main import main

    at = sys.argv.index("--")
    install(sys.argv[at - 1] if at > 1 else "ok")
    time.sleep(0)
    return main(sys.argv[at + 1 :])


if __name__ == "__main__":
    sys.exit(program())
