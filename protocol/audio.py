"""Audio on the wire: raw samples in a frame of their own, and the description that goes with them.

Samples are little-endian and interleaved: frame after frame, channel after channel. Full scale is 1.0 for
f32le, 2^15 for s16le, 2^23 for s24le. A *frame* here is one sample of every channel. No numpy: a client that
only asks how far a job is should not pay for it. With numpy, `numpy.frombuffer(block.data,
"<f4").reshape(-1, channels)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from .errors import SegueError
from .fields import Record, choice, integer, matching, record, wire, wrong
from .limits import (
    MAX_CHANNELS,
    MAX_CONTEXT_TRACKS,
    MAX_FRAME_BYTES,
    MAX_INTEGER,
    MAX_RATE_HZ,
    MAX_VARIATIONS,
    MIN_RATE_HZ,
)

SAMPLE_BYTES = {"f32le": 4, "s24le": 3, "s16le": 2}
ROLES = ("prompt", "following", "context", "source")
STEM = matching(r"[a-z0-9][a-z0-9_-]{0,31}", "a stem's name: up to 32 of a-z 0-9 _ -")

Buffer = bytes | bytearray | memoryview

# A float32 is not finite when its eight exponent bits are all ones: little-endian, byte 3 is 0x7F or 0xFF
# and byte 2 has its top bit set. These tables turn those two bytes into 1 where that holds.
_EXPONENT_HIGH = bytes(1 if b & 0x7F == 0x7F else 0 for b in range(256))
_EXPONENT_LOW = bytes(b >> 7 for b in range(256))


@record
class AudioFormat(Record):
    """One entry of a header's "audio" list.

    position counts frames at `rate` from the seam (the first new sample is 0, what lies before it is
    negative); role and track are for audio in requests, variation for audio in events, stem for both: in a
    request it says which of the model's stems a context track is.
    """

    CODE: ClassVar[str] = "E_AUDIO"

    rate: int = wire(integer(MIN_RATE_HZ, MAX_RATE_HZ, "Hz"))
    channels: int = wire(integer(1, MAX_CHANNELS))
    frames: int = wire(integer(1, MAX_INTEGER))
    format: str = wire(choice(*SAMPLE_BYTES), default="f32le")
    layout: str = wire(choice("interleaved"), default="interleaved")
    role: str | None = wire(choice(*ROLES), default=None)
    track: int | None = wire(integer(0, MAX_CONTEXT_TRACKS - 1), default=None)
    position: int | None = wire(integer(-MAX_INTEGER, MAX_INTEGER, "frames"), default=None)
    variation: int | None = wire(integer(0, MAX_VARIATIONS - 1), default=None)
    stem: str | None = wire(STEM, default=None)

    @property
    def frame_bytes(self) -> int:
        return self.channels * SAMPLE_BYTES[self.format]

    @property
    def total_bytes(self) -> int:
        """The exact length of the payload that this describes."""
        return self.frames * self.frame_bytes

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    def same_samples_as(self, other: AudioFormat) -> bool:
        """Whether pieces of both can be put one after the other as they are."""
        return (self.rate, self.channels, self.format) == (other.rate, other.channels, other.format)


@dataclasses.dataclass(frozen=True)
class AudioBlock:
    """Samples with their description. `data` is bytes-like and exactly `format.total_bytes` long."""

    format: AudioFormat
    data: Buffer = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.data, (bytes, bytearray, memoryview)):
            raise wrong("audio", self.data, "bytes", "E_AUDIO")
        if isinstance(self.data, memoryview) and not self.data.contiguous:
            raise SegueError("E_AUDIO", "Audio must lie in one piece of memory.", field="audio")
        given = memoryview(self.data).nbytes
        if given != self.format.total_bytes:
            raise SegueError(
                "E_AUDIO",
                f"The audio has {given} bytes where its description says {self.format.total_bytes} "
                f"({self.format.frames} frames of {self.format.frame_bytes} bytes).",
                field="audio",
                value=given,
                allowed=f"exactly {self.format.total_bytes} bytes",
            )

    @property
    def rate(self) -> int:
        return self.format.rate

    @property
    def channels(self) -> int:
        return self.format.channels

    @property
    def frames(self) -> int:
        return self.format.frames

    @property
    def position(self) -> int | None:
        return self.format.position

    def check_finite(self, name: str = "audio") -> None:
        """Refuse NaN and infinity (E_AUDIO, with the first position and the count)."""
        if self.format.format != "f32le":
            return
        found = not_finite(self.data)
        if found is not None:
            first, count = found
            frame = first // self.format.channels
            raise SegueError(
                "E_AUDIO",
                f"{name} has samples that are not numbers, {count} in all, "
                f"the first at frame {frame} ({frame / self.format.rate:.3f} s).",
                field=name,
                value=f"{count} at frame {frame}",
                allowed="finite samples",
            )

    def parts(self, max_bytes: int = MAX_FRAME_BYTES) -> Iterator[AudioBlock]:
        """Cut into pieces that each fit into one frame of a message; they share this block's memory."""
        step = max(1, max_bytes // self.format.frame_bytes)
        if self.format.frames <= step:
            yield self
            return
        view = memoryview(self.data).cast("B")
        for start in range(0, self.format.frames, step):
            frames = min(step, self.format.frames - start)
            position = None if self.format.position is None else self.format.position + start
            made = dataclasses.replace(self.format, frames=frames, position=position)
            yield AudioBlock(made, view[start * made.frame_bytes : (start + frames) * made.frame_bytes])


def check_pieces(pieces: Sequence[AudioBlock]) -> None:
    """Refuse pieces that do not make one sound together (E_AUDIO); samples are not touched."""
    if not pieces:
        raise SegueError("E_AUDIO", "There is no audio to put together.", field="audio")
    first = pieces[0].format
    expected = first.position
    for piece in pieces[1:]:
        if not piece.format.same_samples_as(first):
            raise SegueError(
                "E_AUDIO", "Pieces of one sound must have the same rate, channels and format.", field="audio"
            )
    if expected is not None:
        for piece in pieces:
            if piece.format.position not in (None, expected):
                raise SegueError(
                    "E_AUDIO", "Pieces of one sound must follow each other without a gap.", field="audio"
                )
            expected += piece.format.frames


def joined_blocks(blocks: Iterable[AudioBlock]) -> AudioBlock:
    """Put pieces of one sound together again, in order; refuses pieces that do not fit together (E_AUDIO)."""
    pieces = list(blocks)
    check_pieces(pieces)
    if len(pieces) == 1:
        return pieces[0]
    made = dataclasses.replace(pieces[0].format, frames=sum(p.format.frames for p in pieces))
    return AudioBlock(made, b"".join(p.data for p in pieces))


def not_finite(data: Buffer) -> tuple[int, int] | None:
    """Where float32 little-endian samples are NaN or infinite: (index of the first, how many), or None.

    Works on whole byte planes at memory speed: 64 MiB take some tens of milliseconds without numpy. Real
    audio has no sample of 2^127 or more, so looking for the exponent's high byte settles nearly every block
    at once.
    """
    view = memoryview(data).cast("B")
    raw = data if isinstance(data, bytes) else view.tobytes()
    high = raw[3::4]
    if b"\x7f" not in high and b"\xff" not in high:
        return None
    both = int.from_bytes(high.translate(_EXPONENT_HIGH), "little") & int.from_bytes(
        raw[2::4].translate(_EXPONENT_LOW), "little"
    )
    if not both:
        return None
    return ((both & -both).bit_length() - 1) // 8, both.bit_count()
