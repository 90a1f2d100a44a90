"""What happens to a job: numbered events that are never lost, and ticks that may be.

Events have numbers 1, 2, 3 … per job, are journaled before they are sent and can be read again until
`forget`. Ticks have none: each tells the whole state, the newest wins, losing one costs nothing.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

from .audio import STEM, AudioBlock, AudioFormat, Buffer
from .errors import SegueError
from .fields import Record, error_map, integer, mapping, matching, number, record, text, wire, wrong
from .limits import MAX_CHANNELS, MAX_INTEGER, MAX_RATE_HZ, MAX_STRING_BYTES, MAX_VARIATIONS, MIN_RATE_HZ

# what clients may meet; a newer daemon may know more, so they are not checked on the way in
TICK_STATES = ("queued", "loading", "prefill", "generating", "decoding", "finishing")
_COUNT = integer(0, MAX_INTEGER)
_WORDS = text(MAX_STRING_BYTES)


@record
class Event(Record):
    """One durable event. seq: 1, 2, 3 … without gaps; time_ms: Unix time at which it was journaled."""

    event: ClassVar[str] = ""
    final: ClassVar[bool] = False  # nothing comes after it

    seq: int = wire(integer(1, MAX_INTEGER))
    time_ms: int | None = wire(_COUNT, default=None)

    def to_map(self) -> dict[str, Any]:
        return {"event": self.event, **super().to_map()}


@record
class Accepted(Event):
    """The job is in the journal. position: jobs ahead of it."""

    event: ClassVar[str] = "accepted"
    position: int = wire(_COUNT, default=0)


@record
class Started(Event):
    """A worker has begun. attempt counts from 1."""

    event: ClassVar[str] = "started"
    attempt: int = wire(integer(1, 1000))
    worker: str = wire(text(256), default="")
    model: str = wire(text(1024), default="")
    device: str = wire(text(256), default="")
    precision: str = wire(text(64), default="")


@record
class Audio(Event):
    """New final audio of one variation and stem, float32 interleaved at the host's rate.

    position counts samples per channel from the seam; what lies before 0 is the handle, for a crossfade. crc
    is the CRC-32 (zlib) of the samples' bytes. `block` is None when the samples did not travel (`max_bytes`
    0).
    """

    event: ClassVar[str] = "audio"
    attempt: int = wire(integer(1, 1000))
    variation: int = wire(integer(0, MAX_VARIATIONS - 1))
    stem: str = wire(STEM)
    position: int = wire(integer(-MAX_INTEGER, MAX_INTEGER, "samples"))
    frames: int = wire(integer(1, MAX_INTEGER))
    crc: int = wire(integer(0, 0xFFFFFFFF))
    rate: int = wire(integer(MIN_RATE_HZ, MAX_RATE_HZ, "Hz"))
    channels: int = wire(integer(1, MAX_CHANNELS))
    payload: int | None = wire(integer(0, 63), default=None)
    block: AudioBlock | None = None

    @property
    def format(self) -> AudioFormat:
        """The description of this event's samples."""
        return AudioFormat(
            rate=self.rate, channels=self.channels, frames=self.frames, position=self.position,
            variation=self.variation, stem=self.stem,
        )  # fmt: skip

    def with_data(self, data: Buffer) -> Audio:
        """The same event with its samples. E_AUDIO when the length is wrong, E_TAKE_DAMAGED when the
        checksum is.
        """
        block = AudioBlock(self.format, data)
        if zlib.crc32(data) != self.crc:
            raise SegueError(
                "E_TAKE_DAMAGED",
                f"The audio of variation {self.variation}, {self.stem}, at {self.position} arrived damaged.",
                field="crc",
                retry="same",
            )
        return dataclasses.replace(self, block=block)


@record
class Requeued(Event):
    """The attempt ended early and another will follow.

    discard_from: samples at or after this position (of every variation and stem) from earlier attempts are
    void; None when the next attempt goes on exactly where this one stopped.
    """

    event: ClassVar[str] = "requeued"
    why: str = wire(_WORDS, default="")
    discard_from: int | None = wire(integer(-MAX_INTEGER, MAX_INTEGER, "samples"), default=None)


@record
class Done(Event):
    """All audio is made and its files are in place. `manifest` tells what was made (keys: SPEC.md,
    "Manifest").
    """

    event: ClassVar[str] = "done"
    final: ClassVar[bool] = True
    manifest: dict[str, Any] = wire(mapping(), default={})


@record
class Failed(Event):
    """The job has failed for good; audio made so far stays readable."""

    event: ClassVar[str] = "failed"
    final: ClassVar[bool] = True
    error: SegueError = wire(error_map())


@record
class Cancelled(Event):
    """The job was cancelled; audio made so far stays readable."""

    event: ClassVar[str] = "cancelled"
    final: ClassVar[bool] = True
    why: str = wire(_WORDS, default="")


@record
class Tick(Record):
    """Where a job stands now, in absolute values.

    position: jobs ahead in the queue; step of steps: of the whole job, so a bar goes from 0 to 100 once;
    samples: made so far per variation at the host's rate; seconds: spent since the attempt began; xrt: audio
    seconds made per second; note: what is being waited for, in words.
    """

    state: str = wire(matching(r"[a-z_]{1,32}", "a state"))
    attempt: int = wire(integer(0, 1000), default=0)
    position: int = wire(_COUNT, default=0)
    step: int = wire(_COUNT, default=0)
    steps: int = wire(_COUNT, default=0)
    samples: int = wire(_COUNT, default=0)
    seconds: float = wire(number(0, 1e9, "seconds"), default=0.0)
    xrt: float | None = wire(number(0, 1e9), default=None)
    eta_ms: int | None = wire(_COUNT, default=None)
    note: str | None = wire(text(512), default=None)


EVENTS: dict[str, type[Event]] = {
    cls.event: cls for cls in (Accepted, Started, Audio, Requeued, Done, Failed, Cancelled)
}


@record
class UnknownEvent(Event):
    """An event of a newer daemon: its number counts, its meaning does not concern this client."""

    event: ClassVar[str] = "unknown"
    kind: str = wire(text(64), default="")


def parse_event(found: object, blocks: Sequence[AudioBlock] = ()) -> Event:
    """Read an event map; `blocks` are the message's payloads. Raises E_HEADER or E_TAKE_DAMAGED."""
    kind = found.get("event") if isinstance(found, dict) else None
    if not isinstance(kind, str) or not isinstance(found, dict):
        raise wrong("event", kind, "an event's name", "E_HEADER")
    cls = EVENTS.get(kind)
    if cls is None:
        return UnknownEvent.from_map(
            {"seq": found.get("seq"), "time_ms": found.get("time_ms"), "kind": kind[:64]}
        )
    event = cls.from_map(found)
    if isinstance(event, Audio) and event.payload is not None:
        if event.payload >= len(blocks):
            raise wrong("payload", event.payload, f"below {len(blocks)}", "E_HEADER")
        event = event.with_data(blocks[event.payload].data)
    return event
