"""A daemon in miniature for the clients' tests: the real frames over a real ROUTER, jobs out of thin air.

Its jobs outlive it when `Jobs` is handed to the next one, like a journal would. Faults are switches: answers
that are swallowed, late, garbage; a daemon that vanishes.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import secrets
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from protocol import messages as m
from protocol.build import build_id
from protocol.errors import SegueError
from protocol.framing import Refusal, decode_request, encode_error, encode_reply
from protocol.limits import MAJOR, MINOR

RATE_HZ = 8000
CHUNK_FRAMES = 400


class Jobs:
    """What a journal would keep."""

    def __init__(self, chunks: int = 5) -> None:
        self.chunks = chunks
        self.by_key: dict[bytes, tuple[bytes, str]] = {}
        self.events: dict[str, list[m.Event]] = {}
        self.released: dict[str, int] = {}
        self.submits = 0
        self.cancelled: set[str] = set()

    def add(self, request: m.Submit) -> tuple[str, bool]:
        self.submits += 1
        known = self.by_key.get(request.key)
        if known is not None:
            if known[0] != request.digest():
                raise SegueError("E_KEY_REUSE", "This key belongs to another job.", field="key")
            return known[1], True
        job = f"j{len(self.by_key) + 1:04}"
        self.by_key[request.key] = (request.digest(), job)
        made: list[m.Event] = [m.Accepted(seq=1), m.Started(seq=2, attempt=1, worker="w0", model="fake")]
        for i in range(self.chunks):
            made.append(chunk(seq=3 + i, position=i * CHUNK_FRAMES))
        made.append(m.Done(seq=3 + self.chunks, manifest={"seed": 7}))
        self.events[job], self.released[job] = made, 1
        return job, False

    def state(self, job: str) -> str:
        if job in self.cancelled:
            return "cancelled"
        return "done" if self.released[job] >= len(self.events[job]) else "running"


def chunk(seq: int, position: int) -> m.Audio:
    """Audio whose samples are their own positions."""
    data = array.array("f", [float(position + i) for i in range(CHUNK_FRAMES)]).tobytes()
    event = m.Audio(
        seq=seq,
        attempt=1,
        variation=0,
        stem="mix",
        position=position,
        frames=CHUNK_FRAMES,
        crc=zlib.crc32(data),
        rate=RATE_HZ,
        channels=1,
    )
    return event.with_data(data)


def write_connection(folder: Path, **more: Any) -> bytes:
    """A connection file as the daemon writes it; gives the token."""
    token = secrets.token_bytes(32)
    found = {
        "endpoints": [f"ipc://{folder / 'segue.sock'}"],
        "token": token.hex(),
        "pid": os.getpid(),
        "boot": secrets.token_hex(8),
        "build": build_id(),
        "protocol": [MAJOR, MINOR],
        **more,
    }
    part = folder / ".connection.part"
    part.touch(mode=0o600)
    part.write_text(json.dumps(found))
    os.replace(part, folder / "connection.json")
    return bytes.fromhex(str(found["token"]))


class FakeDaemon:
    """Use as a context manager; `stop()` makes it vanish without a word."""

    def __init__(self, folder: Path, jobs: Jobs | None = None, *, boot: str | None = None) -> None:
        self.folder, self.jobs = folder, jobs or Jobs()
        self.boot = boot or secrets.token_hex(8)
        self.ready_at = 0.0
        self.swallow: dict[str, int] = {}  # op -> how many answers to lose (after doing what was asked)
        self.delay_s: dict[str, float] = {}
        self.instead: dict[str, Callable[[list[bytes]], list[bytes]]] = {}  # op -> a worse answer
        self.errors: dict[str, list[SegueError]] = {}
        self.seen: list[str] = []
        self.refused = 0
        self._stopping = threading.Event()
        self.paused = threading.Event()

    def __enter__(self) -> FakeDaemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.token = write_connection(self.folder, boot=self.boot)
        bound = threading.Event()
        self._thread = threading.Thread(target=self.serve, args=(bound,), daemon=True)
        self._thread.start()
        bound.wait(5)

    def stop(self, *, remove: bool = False) -> None:
        self._stopping.set()
        self._thread.join(5)
        if remove:
            (self.folder / "connection.json").unlink(missing_ok=True)

    def serve(self, bound: threading.Event | None = None) -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.linger = 0
        router.router_mandatory = 1
        router.bind(f"ipc://{self.folder / 'segue.sock'}")
        if bound is not None:
            bound.set()
        try:
            while not self._stopping.is_set():
                if self.paused.is_set():
                    time.sleep(0.01)
                    continue
                if not router.poll(20) or self.paused.is_set():
                    continue
                frames = router.recv_multipart()
                answer = self.answer(frames)
                if answer is not None:
                    with contextlib.suppress(zmq.ZMQError):  # whoever asked has given up
                        router.send_multipart(answer)
        finally:
            time.sleep(0.1)  # the answer to `drain` still goes out, on a busy machine too
            router.close(0)
            context.destroy(linger=0)

    def answer(self, frames: list[bytes]) -> list[bytes] | None:
        try:
            incoming = decode_request(frames, self.token)
        except Refusal as refusal:
            self.refused += 1
            return None if refusal.silent else refusal.frames()
        op = incoming.op
        self.seen.append(op)
        time.sleep(self.delay_s.get(op, 0))
        try:
            if self.errors.get(op):
                raise self.errors[op].pop(0)
            made = encode_reply(self.reply(incoming.request), incoming.request_id)
        except SegueError as error:
            made = encode_error(error, op, incoming.request_id)
        if self.swallow.get(op, 0) > 0:
            self.swallow[op] -= 1
            return None
        if op in self.instead:
            made = self.instead.pop(op)(made)
        return [*incoming.envelope, *made]

    def reply(self, request: m.Request) -> m.Reply:
        jobs = self.jobs
        if isinstance(request, m.Hello):
            ready = time.monotonic() >= self.ready_at
            return m.HelloReply(
                daemon="fake",
                build=build_id(),
                protocol=(MAJOR, MINOR),
                boot=self.boot,
                pid=os.getpid(),
                ready=ready,
                waiting_for=None if ready else "the paint to dry",
            )
        if isinstance(request, m.Ping):
            return m.PingReply(boot=self.boot)
        if isinstance(request, m.Submit):
            job, again = jobs.add(request)
            return m.SubmitReply(job=job, state=jobs.state(job), seed=7, again=again)
        if isinstance(request, m.Metrics):
            return m.MetricsReply(data=b"segue_jobs 1\n")
        if isinstance(request, m.List):
            ids = sorted(jobs.events, reverse=True)
            ids = [j for j in ids if request.before is None or j < request.before]
            page = ids[: min(request.limit, 2)]
            infos = tuple(m.JobInfo(job=j, state=jobs.state(j)) for j in page)
            return m.ListReply(jobs=infos, next=page[-1] if len(ids) > len(page) else None)
        if isinstance(request, m.Load):
            return m.LoadReply(model=request.model, state="loaded")
        if isinstance(request, m.Unload):
            return m.UnloadReply(model=request.model, state="ready_to_load", measured=True, freed_bytes=1)
        if isinstance(request, m.Pause | m.Resume):
            return (m.PauseReply if isinstance(request, m.Pause) else m.ResumeReply)()
        if isinstance(request, m.Drain):
            self._stopping.set()
            (self.folder / "connection.json").unlink(missing_ok=True)
            return m.DrainReply(pid=os.getpid())
        if isinstance(request, m.Models):
            return m.ModelsReply(models=(m.ModelInfo(name="fake", state="loaded"),), default="fake")
        return self.job_reply(request)

    def job_reply(self, request: Any) -> m.Reply:
        jobs, job = self.jobs, request.job
        if job not in jobs.events:
            raise SegueError("E_JOB", f"There is no job {job}.", field="job", value=job)
        if isinstance(request, m.Next):
            jobs.released[job] = min(jobs.released[job] + 2, len(jobs.events[job]))
            end = jobs.released[job]
            found = [e for e in jobs.events[job][:end] if e.seq > request.after]
            if request.max_bytes == 0:
                found = [
                    m.Audio(**{k: getattr(e, k) for k in m.Audio.WIRE}) if isinstance(e, m.Audio) else e
                    for e in found
                ]
            return m.NextReply(
                job=job,
                state=jobs.state(job),
                events=tuple(found),
                tick=m.Tick(state="generating", step=end, steps=len(jobs.events[job])),
                last=end,
            )
        if isinstance(request, m.Cancel):
            if jobs.state(job) == "running":
                jobs.events[job] = jobs.events[job][: jobs.released[job]]
                jobs.events[job].append(m.Cancelled(seq=len(jobs.events[job]) + 1))
                jobs.cancelled.add(job)
                jobs.released[job] = len(jobs.events[job])
            return m.CancelReply(job=job, state=jobs.state(job))
        if isinstance(request, m.Status):
            return m.StatusReply(info=m.JobInfo(job=job, state=jobs.state(job), last=jobs.released[job]))
        if isinstance(request, m.Forget):
            return m.ForgetReply(job=job, freed_bytes=10)
        if isinstance(request, m.Retake):
            source = m.Submit(key=request.key, mode="generate", length={"seconds": 1}, seed=request.seed)
            made, again = jobs.add(source)
            return m.RetakeReply(job=made, state="queued", seed=request.seed or 1, again=again)
        if isinstance(request, m.Fetch):
            whole = take_bytes()
            path = self.folder / "take.wav"
            path.write_bytes(whole)
            facts = {
                "job": job,
                "total_bytes": len(whole),
                "crc": zlib.crc32(whole),
                "rate": RATE_HZ,
                "channels": 1,
            }
            facts["frames"] = (len(whole) - 44) // 4
            if request.as_ == "path":
                return m.FetchReply(path=str(path), **facts)
            piece = whole[request.offset : request.offset + min(request.max_bytes, 100_000)]
            return m.FetchReply(offset=request.offset, data=piece, **facts)
        raise SegueError("E_UNKNOWN_OP", "The miniature cannot do that.")


def take_bytes() -> bytes:
    """A file's worth of bytes, the same each time."""
    return b"RIFF" + bytes(range(256)) * 1500


def main() -> None:
    """As a process, for autostart: `python -m tests.clients.fake [seconds until ready]`."""
    import fcntl

    folder = Path(os.environ["SEGUE_RUNTIME"])
    lock = os.open(folder / "fake.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write("already running\n")
        sys.exit(3)
    with open(folder / "starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    daemon = FakeDaemon(folder)
    daemon.ready_at = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 0)
    daemon.token = write_connection(folder, boot=daemon.boot)
    daemon.serve()


if __name__ == "__main__":
    main()
