"""What both clients share and no socket is needed for: numbering requests, following a job, fetching a file.

Procedures of several questions are generators that yield a request and are sent its reply, so that the
blocking and the asyncio client run the same code.
"""

from __future__ import annotations

import dataclasses
import os
import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from protocol.audio import AudioBlock, AudioFormat, Buffer
from protocol.build import build_id
from protocol.errors import SegueError
from protocol.events import Cancelled, Done, Event, Failed, Tick
from protocol.framing import decode_reply, encode_request
from protocol.limits import KEY_BYTES
from protocol.replies import (
    FetchReply,
    HelloReply,
    JobInfo,
    ListReply,
    LoadReply,
    NextReply,
    Reply,
    UnloadReply,
)
from protocol.requests import FINAL_STATES, Fetch, List, Load, Next, Request, Unload
from protocol.submit import Submit

T = TypeVar("T")
Steps = Generator[Request, Any, T]

PIECE_BYTES = 1024 * 1024
AudioIn = AudioBlock | tuple[AudioFormat, Buffer]


ATTEMPT_S = 3.0
"""How long a question waits, beyond what it asks the daemon to wait, before it is asked again."""
ANSWER_S = 0.1
"""How long an answer may be under way, where a caller's time is short."""
PATIENCE_S = {"models": 22.0, "pause": 18.0, "submit": 8.0, "retake": 8.0, "metrics": 5.0}
"""Ops whose answer may take longer: the daemon ends or asks other processes, or takes in audio."""
AWAY_S = 2.0
MAX_LOST = 4
"""How often a daemon may end over one and the same question."""


def new_key() -> bytes:
    """A fresh key for one job. Save it with the project before submitting, and a crash loses nothing."""
    return os.urandom(KEY_BYTES)


def _blocks(audio: Iterable[AudioIn]) -> list[AudioBlock]:
    """Audio given as blocks or as (format, bytes) pairs."""
    return [a if isinstance(a, AudioBlock) else AudioBlock(*a) for a in audio]


def complete(submit: Submit, audio: Iterable[AudioIn]) -> Submit:
    """The request with this audio aboard as well, checked as a whole before anything is sent."""
    blocks = _blocks(audio)
    if blocks:
        submit = submit.with_audio([*submit.audio, *blocks])
    submit.check_complete()
    return submit


def attempt_s(request: Request) -> float:
    """How long to wait for the answer to this request before it is asked again."""
    return float(getattr(request, "wait_ms", 0)) / 1000 + PATIENCE_S.get(request.op, ATTEMPT_S)


def allowed_s(request: Request, timeout_s: float) -> float:
    """The whole time for a request, where the caller gave none: the client's own, or two attempts."""
    return max(timeout_s, attempt_s(request) + PATIENCE_S.get(request.op, ATTEMPT_S))


def away_s(wanted_s: float, took_s: float) -> float:
    """How long this process was stopped during a wait of `wanted_s`, in seconds: that was not the daemon's
    time. What a busy machine adds to a wait does not count.
    """
    return took_s - wanted_s if took_s - wanted_s > AWAY_S else 0.0


def pause_before_retry(error: SegueError, damaged: int, autostart: bool) -> float | None:
    """Seconds after which a refused question is worth asking again by itself, or None: tell the caller.

    damaged: how often the answer to this question was unreadable already.
    """
    if error.retry == "same":
        return 0.0 if damaged <= 2 else None
    if error.code == "E_NOT_READY" or (error.code == "E_DRAINING" and autostart):
        return (error.retry_ms or 200) / 1000
    return None


def unanswered(request: Request, allowed_s: float) -> SegueError:
    """The error for a question that got no answer in its time."""
    return SegueError(
        "E_TIMEOUT",
        f"The daemon did not answer {request.op} within {allowed_s:g} s.",
        detail="It may be busy or stopped; asking again is safe.",
    )


def check_lost(times: int) -> None:
    """Refuse to start a daemon again and again over a question that ends it."""
    if times > MAX_LOST:
        raise SegueError(
            "E_UNREACHABLE",
            f"The daemon ended {times - 1} times in a row over one question; its log may tell why.",
            retry="never",
        )


class Numbering:
    """Request ids of one client, and the check that an answer belongs to its question."""

    def __init__(self) -> None:
        self._last = 0

    def frames(self, request: Request, token: bytes) -> tuple[int, list[Buffer]]:
        """(id, frames) of the next request."""
        self._last += 1
        return self._last, encode_request(request, self._last, token)

    def answer(self, request: Request, request_id: int, frames: Sequence[Buffer]) -> Reply:
        """The reply in these frames. Raises the daemon's error, or E_HEADER when it answers something
        else.
        """
        answered, found = decode_reply(frames)
        if isinstance(found, SegueError):
            raise found
        if answered != request_id or found.op != request.op:
            raise SegueError("E_HEADER", "The daemon answered another question.", retry="same")
        return found


class Follower:
    """Reads a job's events in order, each once, whatever happens to the connection in between.

    after: the number of the last event handed out; keep it to go on later, also in another process.
    """

    def __init__(self, job: str, after: int = 0, *, audio: bool = True, wait_ms: int = 1000) -> None:
        self.job, self.after, self.state = job, after, "queued"
        self.finished = False
        self._max_bytes = PIECE_BYTES if audio else 0
        self._wait_ms = wait_ms
        self._tick: Tick | None = None

    def question(self, left_s: float | None = None) -> Next:
        """What to ask next; acknowledges everything handed out so far. Held for less than `left_s`, so that
        the answer is there in time.

        Raises E_TIMEOUT when no time is left.
        """
        if left_s is not None and left_s <= 0:
            raise SegueError("E_TIMEOUT", f"Job {self.job} was not done in the time given.", job=self.job)
        if left_s is None:
            wait_ms = self._wait_ms
        else:
            wait_ms = min(self._wait_ms, int(1000 * max(left_s / 2, left_s - ANSWER_S)))
        return Next(job=self.job, after=self.after, max_bytes=self._max_bytes, wait_ms=wait_ms)

    def take(self, reply: NextReply) -> Generator[Event | Tick, None, None]:
        """Hand out what is new in a reply: events in order, then the tick if it has changed."""
        self.state = reply.state
        for event in reply.events:
            if event.seq <= self.after:
                continue
            if event.seq != self.after + 1:
                raise SegueError(
                    "E_INTERNAL",
                    f"Event {self.after + 1} of job {self.job} is missing; {event.seq} came instead.",
                    job=self.job,
                    retry="never",
                )
            self.after = event.seq
            self.finished = event.final
            yield event
        if reply.state in FINAL_STATES and not reply.more and self.after >= reply.last:
            self.finished = True
        if reply.tick is not None and reply.tick != self._tick and not self.finished:
            self._tick = reply.tick
            yield reply.tick


def outcome(event: Event | Tick, job: str) -> Done | None:
    """A job's end when this event is one: Done, or the job's error raised; None when the job goes on."""
    if isinstance(event, Failed):
        raise event.error
    if isinstance(event, Cancelled):
        raise SegueError("E_CANCELLED", f"Job {job} was cancelled.", job=job)
    return event if isinstance(event, Done) else None


def ended_before(job: str) -> SegueError:
    """The error of waiting for an end that has been read already."""
    return SegueError("E_JOB", f"Job {job} has ended, and its end was read before.", job=job)


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A finished WAV file: where it is, or its bytes. position: its first sample relative to the seam."""

    job: str
    path: Path | None
    data: bytes | None
    rate: int
    channels: int
    frames: int
    position: int
    crc: int


def fetch_path_steps(job: str, variation: int, stem: str, part: str, check: bool) -> Steps[Fetched]:
    """Ask for a file's path; with `check` the file is read once and held against its checksum."""
    reply: FetchReply = yield Fetch(job=job, variation=variation, stem=stem, part=part, as_="path")
    path = Path(reply.path or "")
    try:
        whole = path.read_bytes() if check else None
        size = path.stat().st_size
    except OSError as error:
        raise SegueError(
            "E_TAKE_MISSING", f"The take {path} cannot be read ({error.strerror}).", job=job, value=str(path)
        ) from None
    if size != reply.total_bytes or (whole is not None and zlib.crc32(whole) != reply.crc):
        raise _damaged(job, str(path))
    return _fetched(reply, path=path, data=None)


def fetch_bytes_steps(job: str, variation: int, stem: str, part: str) -> Steps[Fetched]:
    """Ask for a file's bytes, piece by piece, and hold the whole against its checksum."""
    pieces: list[bytes] = []
    offset = 0
    while True:
        reply: FetchReply = yield Fetch(
            job=job,
            variation=variation,
            stem=stem,
            part=part,
            as_="bytes",
            offset=offset,
            max_bytes=PIECE_BYTES,
        )
        piece = bytes(reply.data or b"")
        if reply.offset != offset or (not piece and offset < reply.total_bytes):
            raise _damaged(job, f"{stem}, piece at {offset}")
        pieces.append(piece)
        offset += len(piece)
        if offset >= reply.total_bytes:
            break
    data = b"".join(pieces)
    if len(data) != reply.total_bytes or zlib.crc32(data) != reply.crc:
        raise _damaged(job, stem)
    return _fetched(reply, path=None, data=data)


def _fetched(reply: FetchReply, path: Path | None, data: bytes | None) -> Fetched:
    return Fetched(reply.job, path, data, reply.rate, reply.channels, reply.frames, reply.position, reply.crc)


def _damaged(job: str, what: str) -> SegueError:
    return SegueError(
        "E_TAKE_DAMAGED", f"The take ({what}) does not fit its checksum; make it again.", job=job, value=what
    )


def list_steps(
    session: bytes | None, project: str | None, states: Sequence[str] | None, at_most: int | None
) -> Steps[list[JobInfo]]:
    """All jobs that a question finds, page after page, up to `at_most`."""
    found: list[JobInfo] = []
    question = List(
        session=session,
        project=project,
        states=tuple(states) if states else None,
        limit=min(at_most or 500, 500),
    )
    while True:
        reply: ListReply = yield question
        found.extend(reply.jobs)
        if reply.next is None or not reply.jobs or (at_most is not None and len(found) >= at_most):
            return found[:at_most]
        question = dataclasses.replace(question, before=reply.next)


def load_steps(model: str, keep_alive_s: float | None) -> Steps[LoadReply]:
    """Ask until the model is loaded; every answer that says "not yet" goes to the caller as it is."""
    while True:
        reply: LoadReply = yield Load(model=model, keep_alive_s=keep_alive_s, wait_ms=1000)
        if reply.state not in ("loading", "ready_to_load", "unloading"):
            return reply


def unload_steps(model: str) -> Steps[UnloadReply]:
    """Ask until the model's memory is free."""
    while True:
        reply: UnloadReply = yield Unload(model=model, wait_ms=1000)
        if reply.state not in ("loaded", "unloading"):
            return reply


def skew(hello: HelloReply) -> str | None:
    """One sentence when the daemon that runs is not the code on the disk, else None: which process is old,
    since when it runs, and what restarts it.
    """
    mine = build_id()
    if not hello.build or "+" not in hello.build or hello.build == mine:
        return None
    return (
        f"The daemon that is running ({which(hello)}) is of another build of Segue ({hello.build}, here is"
        f" {mine}). It goes on working; {restart(hello)}."
    )


def which(hello: HelloReply) -> str:
    """A daemon as one finds it among the processes: its number, program, and since when it runs."""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - hello.uptime_ms / 1000))
    program = f", {hello.executable}" if hello.executable else ""
    return f"process {hello.pid}{program}, since {since}"


def restart(hello: HelloReply) -> str:
    """What to type so that the daemon starts anew, by whom it is watched."""
    if hello.supervisor == "systemd":
        return "`systemctl --user restart segue.service` starts the new one"
    if hello.supervisor == "launchd":
        return "`segue service install` starts the new one"
    return "`segue stop` ends it politely, and the next command starts the new one"


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in place whole or not at all. Raises E_DISK_FULL or E_ARGUMENT."""
    import errno

    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise SegueError(
            "E_DISK_FULL" if full else "E_ARGUMENT",
            f"{path} cannot be written ({error.strerror}).",
            field="to",
            value=str(path),
        ) from None
