"""What a client may ask, but for `submit` and `retake`, which have their own file. One class per op."""

from __future__ import annotations

from typing import Any, ClassVar

from .audio import STEM, AudioBlock
from .fields import Record, array, binary, boolean, choice, integer, matching, number, record, text, wire
from .limits import (
    KEY_BYTES,
    MAX_CREDIT_BYTES,
    MAX_INTEGER,
    MAX_MESSAGE_BYTES,
    MAX_VARIATIONS,
    MAX_WAIT_MS,
)

__all__ = [
    "Attach", "Cancel", "Credit", "Drain", "Fetch", "Forget", "Hello", "List", "Load", "Metrics",
    "Models", "Next", "Pause", "Ping", "Request", "Resume", "Status", "Unload",
]  # fmt: skip

JOB_STATES = ("queued", "loading", "running", "cancelling", "done", "failed", "cancelled")
FINAL_STATES = ("done", "failed", "cancelled")
JOB_ID = matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "a job's id as the daemon gave it")
MODEL = text(1024, 1)
_AFTER = integer(0, MAX_INTEGER)
_WAIT = integer(0, MAX_WAIT_MS, "ms")


class Request(Record):
    """A question to the daemon. `op` names it; audio, where there is any, travels beside the header."""

    op: ClassVar[str] = ""

    @property
    def blocks(self) -> tuple[AudioBlock, ...]:
        """The audio to send along."""
        return ()

    def to_header(self, request_id: int = 0) -> dict[str, Any]:
        """The header map, with the descriptions of the audio if there is any."""
        header = {"op": self.op, "id": request_id, **self.to_map()}
        if self.blocks:
            header["audio"] = [block.format.to_map() for block in self.blocks]
        return header


@record
class Hello(Request):
    """First contact: who asks, and which protocol it speaks. Frozen for all majors."""

    op: ClassVar[str] = "hello"
    client: str = wire(text(128), default="")
    version: str = wire(text(128), default="")
    build: str = wire(text(128), default="")
    protocol: tuple[int, ...] | None = wire(array(integer(0, 65535), 2, 2), default=None)


@record
class Ping(Request):
    """Are you there, and how busy. Frozen for all majors."""

    op: ClassVar[str] = "ping"


@record
class Models(Request):
    """Which models can be used and what they cost."""

    op: ClassVar[str] = "models"


@record
class Load(Request):
    """Make a model ready. Answers when it is, or when `wait_ms` is over with the state until then."""

    op: ClassVar[str] = "load"
    model: str = wire(MODEL)
    keep_alive_s: float | None = wire(number(-1, 10_000_000, "seconds"), default=None)
    wait_ms: int = wire(_WAIT, default=0)


@record
class Unload(Request):
    """End a model's worker. Answers when its memory is measured free, or when `wait_ms` is over."""

    op: ClassVar[str] = "unload"
    model: str = wire(MODEL)
    wait_ms: int = wire(_WAIT, default=0)


@record
class Next(Request):
    """Events of a job after number `after`, which is thereby acknowledged. Held up to `wait_ms` while there
    are none.

    max_bytes bounds the audio in the answer (one audio event always fits); 0 asks for events without their
    audio.
    """

    op: ClassVar[str] = "next"
    job: str = wire(JOB_ID)
    after: int = wire(_AFTER, default=0)
    max_bytes: int = wire(integer(0, MAX_MESSAGE_BYTES, "bytes"), default=1024 * 1024)
    wait_ms: int = wire(_WAIT, default=0)


@record
class Attach(Request):
    """Push events after `after` to this DEALER, audio within `credit` bytes. `detach` stops it."""

    op: ClassVar[str] = "attach"
    job: str = wire(JOB_ID)
    after: int = wire(_AFTER, default=0)
    credit: int = wire(integer(0, MAX_CREDIT_BYTES, "bytes"), default=0)
    detach: bool = wire(boolean(), default=False)


@record
class Credit(Request):
    """So many more bytes of audio may be pushed for this job; `after` acknowledges events."""

    op: ClassVar[str] = "credit"
    job: str = wire(JOB_ID)
    bytes_: int = wire(integer(0, MAX_CREDIT_BYTES, "bytes"))
    after: int | None = wire(_AFTER, default=None)


@record
class Cancel(Request):
    """Stop a job; the audio it has made stays. A job that has ended is left as it is."""

    op: ClassVar[str] = "cancel"
    job: str = wire(JOB_ID)


@record
class Status(Request):
    """All about one job."""

    op: ClassVar[str] = "status"
    job: str = wire(JOB_ID)


@record
class List(Request):
    """Jobs, newest first, narrowed down by what is given. `before`: the reply's `next`, to go on."""

    op: ClassVar[str] = "list"
    session: bytes | None = wire(binary(KEY_BYTES), default=None)
    project: str | None = wire(text(512), default=None)
    states: tuple[str, ...] | None = wire(array(choice(*JOB_STATES), 1, len(JOB_STATES)), default=None)
    limit: int = wire(integer(1, 500), default=50)
    before: str | None = wire(JOB_ID, default=None)


@record
class Fetch(Request):
    """A finished stem: the path of its WAV file, or a range of that file's bytes."""

    op: ClassVar[str] = "fetch"
    job: str = wire(JOB_ID)
    variation: int = wire(integer(0, MAX_VARIATIONS - 1), default=0)
    stem: str = wire(STEM, default="mix")
    part: str = wire(choice("take", "handle", "tail"), default="take")
    as_: str = wire(choice("path", "bytes"), default="path")
    offset: int = wire(integer(0, MAX_INTEGER, "bytes"), default=0)
    max_bytes: int = wire(integer(1, 4 * 1024 * 1024, "bytes"), default=1024 * 1024)


@record
class Forget(Request):
    """The host has saved this job's takes: they may be deleted. Only for jobs that have ended."""

    op: ClassVar[str] = "forget"
    job: str = wire(JOB_ID)


@record
class Pause(Request):
    """Start no step until `resume`; with `release` the models' memory is given back too."""

    op: ClassVar[str] = "pause"
    release: bool = wire(boolean(), default=False)


@record
class Resume(Request):
    """Go on after `pause`."""

    op: ClassVar[str] = "resume"


@record
class Drain(Request):
    """Take no new jobs, finish what `finish` says, then exit if `stop`. What is left waits in the journal."""

    op: ClassVar[str] = "drain"
    stop: bool = wire(boolean(), default=True)
    finish: str = wire(choice("none", "running", "all"), default="running")


@record
class Metrics(Request):
    """Counters and gauges as Prometheus text, in the payload."""

    op: ClassVar[str] = "metrics"
