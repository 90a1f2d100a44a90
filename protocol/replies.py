"""What the daemon answers. One class per op; every answer that is not an error is `{op, id, ok: true, …}`."""

from __future__ import annotations

from typing import Any, ClassVar

from .audio import AudioBlock, Buffer
from .events import Audio, Event, Tick, parse_event
from .fields import (
    Check,
    Record,
    array,
    binary,
    boolean,
    error_map,
    integer,
    mapping,
    matching,
    nested,
    record,
    text,
    wire,
    wrong,
)
from .limits import (
    KEY_BYTES,
    MAX_CREDIT_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_INTEGER,
    MAX_MESSAGE_BYTES,
    MAX_STRING_BYTES,
    MAX_WAIT_MS,
)
from .requests import FINAL_STATES, JOB_ID

_COUNT = integer(0, MAX_INTEGER)
_BYTES = integer(0, MAX_INTEGER, "bytes")
_SHORT = text(1024)
_WORDS = text(MAX_STRING_BYTES)
_NAME = text(1024)
_PROJECT = text(512)
_WORD = text(32)
_PATH = text(4096)
_STATE = matching(r"[a-z_]{1,32}", "a job's state")
# what clients may meet; a newer daemon may know more, so they are not checked on the way in
MODEL_STATES = ("absent", "ready_to_load", "loading", "loaded", "unloading", "quarantined")
_MODEL_STATE = matching(r"[a-z_]{1,32}", "a model's state")


class Reply(Record):
    """An answer. `data` is the payload of `fetch` and `metrics`, described by the header's "data"."""

    op: ClassVar[str] = ""

    @property
    def blocks(self) -> tuple[AudioBlock, ...]:
        """The audio to send along."""
        return ()

    @property
    def raw(self) -> Buffer | None:
        """The payload that is not audio."""
        return None

    def to_header(self, request_id: int = 0) -> dict[str, Any]:
        """The header map, with the descriptions of what travels beside it."""
        header = {"op": self.op, "id": request_id, "ok": True, **self.to_map()}
        if self.blocks:
            header["audio"] = [block.format.to_map() for block in self.blocks]
        if self.raw is not None:
            import zlib

            header["data"] = {"bytes": memoryview(self.raw).nbytes, "crc": zlib.crc32(self.raw)}
        return header


@record
class Limits(Record):
    """What this daemon takes at most; a client checks before it sends."""

    frame_bytes: int = wire(_BYTES, default=MAX_FRAME_BYTES)
    message_bytes: int = wire(_BYTES, default=MAX_MESSAGE_BYTES)
    header_bytes: int = wire(_BYTES, default=MAX_HEADER_BYTES)
    wait_ms: int = wire(_COUNT, default=MAX_WAIT_MS)
    credit_bytes: int = wire(_BYTES, default=MAX_CREDIT_BYTES)


@record
class HelloReply(Reply):
    """Who answers. boot changes with every start of the daemon; waiting_for says why it is not ready yet;
    supervisor names the service manager that starts it again ("systemd", "launchd"), if one does; notice is
    what the user has to know, until `resume`.
    """

    op: ClassVar[str] = "hello"
    daemon: str = wire(_SHORT)
    build: str = wire(_SHORT, default="")
    protocol: tuple[int, ...] = wire(array(integer(0, 65535), 2, 2))
    boot: str = wire(text(64, 1))
    pid: int = wire(_COUNT, default=0)
    executable: str = wire(text(4096), default="")
    uptime_ms: int = wire(_COUNT, default=0)
    supervisor: str | None = wire(_SHORT, default=None)
    ready: bool = wire(boolean(), default=True)
    waiting_for: str | None = wire(_SHORT, default=None)
    notice: str | None = wire(_SHORT, default=None)
    device: str = wire(_SHORT, default="")
    models: tuple[str, ...] = wire(array(text(1024), 0, 4096), default=())
    default_model: str | None = wire(text(1024), default=None)
    limits: Limits = wire(nested(Limits), default=Limits())


@record
class PingReply(Reply):
    """Alive, ready, load, clock. clock_ms is monotonic since the daemon's start."""

    op: ClassVar[str] = "ping"
    boot: str = wire(text(64, 1))
    ready: bool = wire(boolean(), default=True)
    queued: int = wire(_COUNT, default=0)
    running: int = wire(_COUNT, default=0)
    paused: bool = wire(boolean(), default=False)
    draining: bool = wire(boolean(), default=False)
    notice: str | None = wire(_SHORT, default=None)
    clock_ms: int = wire(_COUNT, default=0)


@record
class ModelInfo(Record):
    """A model: what it is, what it costs, where it stands. Sizes are None when not known yet. reason says why
    it gets no worker now, and retry_ms when it will be tried again.
    """

    name: str = wire(text(1024, 1))
    state: str = wire(_MODEL_STATE)
    size_bytes: int | None = wire(_BYTES, default=None)
    memory_bytes: int | None = wire(_BYTES, default=None)
    rate: int | None = wire(_COUNT, default=None)
    channels: int | None = wire(_COUNT, default=None)
    stems: tuple[str, ...] = wire(array(text(32), 0, 64), default=())
    conditions: tuple[str, ...] = wire(array(text(64), 0, 64), default=())
    device: str | None = wire(_SHORT, default=None)
    precision: str | None = wire(_SHORT, default=None)
    licence: str | None = wire(_SHORT, default=None)
    keep_alive_ms: int | None = wire(_COUNT, default=None)
    keep_alive_left_ms: int | None = wire(_COUNT, default=None)
    worker: str | None = wire(_SHORT, default=None)
    jobs: tuple[str, ...] = wire(array(JOB_ID, 0, 4096), default=())
    reason: str | None = wire(_SHORT, default=None)
    retry_ms: int | None = wire(_COUNT, default=None)
    path: str | None = wire(text(4096), default=None)
    note: str | None = wire(_SHORT, default=None)


@record
class ModelsReply(Reply):
    """All models that can be named, and the one a job gets that names none."""

    op: ClassVar[str] = "models"
    models: tuple[ModelInfo, ...] = wire(array(nested(ModelInfo)), default=())
    default: str = wire(text(1024), default="pocket")


@record
class LoadReply(Reply):
    """The model's state now; "loaded" when it is ready. waiting_for says what is going on otherwise."""

    op: ClassVar[str] = "load"
    model: str = wire(text(1024, 1))
    state: str = wire(_MODEL_STATE)
    memory_bytes: int | None = wire(_BYTES, default=None)
    waiting_for: str | None = wire(_SHORT, default=None)


@record
class UnloadReply(Reply):
    """The model's state now. measured: the memory was seen to be free (freed_bytes of it)."""

    op: ClassVar[str] = "unload"
    model: str = wire(text(1024, 1))
    state: str = wire(_MODEL_STATE)
    freed_bytes: int | None = wire(_BYTES, default=None)
    used_bytes: int | None = wire(_BYTES, default=None)
    measured: bool = wire(boolean(), default=False)


@record
class SubmitReply(Reply):
    """The job. again: this key was known, nothing new was started. seed: given or drawn."""

    op: ClassVar[str] = "submit"
    job: str = wire(JOB_ID)
    state: str = wire(_STATE)
    position: int = wire(_COUNT, default=0)
    seed: int = wire(_COUNT)
    again: bool = wire(boolean(), default=False)
    lead_frames: int = wire(_COUNT, default=0, later=True)
    frames: int | None = wire(_COUNT, default=None)
    rate: int | None = wire(_COUNT, default=None)


@record
class RetakeReply(SubmitReply):
    """The new job."""

    op: ClassVar[str] = "retake"


def _events() -> Check:
    def run(name: str, value: Any) -> tuple[Event, ...]:
        if not isinstance(value, (list, tuple)):
            raise wrong(name, value, "a list of events")
        return tuple(v if isinstance(v, Event) else parse_event(v) for v in value)

    return Check("[event]", "a list of events", run, lambda events: [e.to_map() for e in events])


@record
class NextReply(Reply):
    """Events in order, from `after` + 1 on. last: the highest number there is; more: ask again at once."""

    op: ClassVar[str] = "next"
    job: str = wire(JOB_ID)
    state: str = wire(_STATE)
    events: tuple[Event, ...] = wire(_events(), default=())
    tick: Tick | None = wire(nested(Tick), default=None)
    last: int = wire(_COUNT, default=0)
    more: bool = wire(boolean(), default=False)

    def to_map(self) -> dict[str, Any]:
        """As any, the payloads numbered in the order of the audio events that carry samples."""
        made = super().to_map()
        count = 0
        for event, plain in zip(self.events, made["events"], strict=True):
            plain.pop("payload", None)
            if isinstance(event, Audio) and event.block is not None:
                plain["payload"] = count
                count += 1
        return made

    @property
    def blocks(self) -> tuple[AudioBlock, ...]:
        return tuple(e.block for e in self.events if isinstance(e, Audio) and e.block is not None)

    @property
    def ended(self) -> bool:
        """Whether the job has ended and this is all there was to say."""
        return (
            self.state in FINAL_STATES
            and not self.more
            and (not self.events or self.events[-1].seq >= self.last)
        )


@record
class AttachReply(Reply):
    """Pushing has begun (or stopped). credit: what is left of it."""

    op: ClassVar[str] = "attach"
    job: str = wire(JOB_ID)
    state: str = wire(_STATE)
    last: int = wire(_COUNT, default=0)
    credit: int = wire(_BYTES, default=0)


@record
class CreditReply(Reply):
    """credit: what may be pushed now."""

    op: ClassVar[str] = "credit"
    job: str = wire(JOB_ID)
    credit: int = wire(_BYTES, default=0)


@record
class CancelReply(Reply):
    """The job's state now; "cancelling" until the step in progress has ended."""

    op: ClassVar[str] = "cancel"
    job: str = wire(JOB_ID)
    state: str = wire(_STATE)


@record
class JobInfo(Record):
    """A job as `status` and `list` tell it. Times are Unix milliseconds; text may be shortened in lists."""

    job: str = wire(JOB_ID)
    state: str = wire(_STATE)
    mode: str = wire(_WORD, default="")
    model: str = wire(_NAME, default="")
    text: str | None = wire(_WORDS, default=None)
    project: str | None = wire(_PROJECT, default=None)
    session: bytes | None = wire(binary(KEY_BYTES), default=None)
    priority: str = wire(_WORD, default="interactive")
    worker: str | None = wire(_SHORT, default=None)
    deadline_left_ms: int | None = wire(_COUNT, default=None)
    position: int = wire(_COUNT, default=0)
    attempt: int = wire(_COUNT, default=0)
    last: int = wire(_COUNT, default=0)
    seed: int | None = wire(_COUNT, default=None)
    variations: int = wire(_COUNT, default=1)
    stems: tuple[str, ...] = wire(array(_WORD, 0, 64), default=())
    rate: int | None = wire(_COUNT, default=None)
    channels: int | None = wire(_COUNT, default=None)
    frames: int | None = wire(_COUNT, default=None)
    lead_frames: int = wire(_COUNT, default=0, later=True)
    created_ms: int | None = wire(_COUNT, default=None)
    ended_ms: int | None = wire(_COUNT, default=None)
    folder: str | None = wire(_PATH, default=None)
    size_bytes: int | None = wire(_BYTES, default=None)
    tick: Tick | None = wire(nested(Tick), default=None)
    error: Any = wire(error_map(), default=None)
    manifest: dict[str, Any] | None = wire(mapping(), default=None)

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


@record
class StatusReply(Reply):
    """One job."""

    op: ClassVar[str] = "status"
    info: JobInfo = wire(nested(JobInfo))


@record
class ListReply(Reply):
    """Jobs, newest first. next: give it as `before` to go on; absent at the end. All jobs together take
    used_bytes of quota_bytes.
    """

    op: ClassVar[str] = "list"
    jobs: tuple[JobInfo, ...] = wire(array(nested(JobInfo)), default=())
    next: str | None = wire(JOB_ID, default=None)
    used_bytes: int | None = wire(_BYTES, default=None)
    quota_bytes: int | None = wire(_BYTES, default=None)


@record
class FetchReply(Reply):
    """A finished WAV file: its path, or the piece of it that `data` holds. crc is the CRC-32 of the whole
    file.
    """

    op: ClassVar[str] = "fetch"
    job: str = wire(JOB_ID)
    path: str | None = wire(text(4096), default=None)
    offset: int = wire(_BYTES, default=0)
    total_bytes: int = wire(_BYTES)
    crc: int = wire(integer(0, 0xFFFFFFFF))
    rate: int = wire(_COUNT)
    channels: int = wire(_COUNT)
    frames: int = wire(_COUNT)
    position: int = wire(integer(-MAX_INTEGER, MAX_INTEGER, "samples"), default=0)
    data: Buffer | None = None

    @property
    def raw(self) -> Buffer | None:
        return self.data


@record
class ForgetReply(Reply):
    """The job is forgotten; freed_bytes were given back or will be."""

    op: ClassVar[str] = "forget"
    job: str = wire(JOB_ID)
    freed_bytes: int = wire(_BYTES, default=0)


@record
class PauseReply(Reply):
    """released_bytes: memory given back, where it was asked for."""

    op: ClassVar[str] = "pause"
    paused: bool = wire(boolean(), default=True)
    released_bytes: int | None = wire(_BYTES, default=None)


@record
class ResumeReply(Reply):
    """Going on."""

    op: ClassVar[str] = "resume"
    paused: bool = wire(boolean(), default=False)


@record
class DrainReply(Reply):
    """What is still there at the start of the drain."""

    op: ClassVar[str] = "drain"
    running: int = wire(_COUNT, default=0)
    queued: int = wire(_COUNT, default=0)
    stopping: bool = wire(boolean(), default=True)
    pid: int = wire(_COUNT, default=0)


@record
class MetricsReply(Reply):
    """Prometheus text (UTF-8) in `data`."""

    op: ClassVar[str] = "metrics"
    data: Buffer = b""

    @property
    def raw(self) -> Buffer | None:
        return self.data

    @property
    def text(self) -> str:
        return bytes(self.data).decode("utf-8", "replace")
