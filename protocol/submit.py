"""`submit` and `retake`: asking for audio."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, ClassVar

from .audio import STEM, AudioBlock, check_pieces, joined_blocks
from .errors import SegueError
from .fields import (
    Record,
    array,
    binary,
    boolean,
    choice,
    integer,
    mapping,
    nested,
    number,
    record,
    text,
    wire,
    wrong,
)
from .harmony import Chord
from .limits import (
    DEFAULT_CHANNELS,
    DEFAULT_RATE_HZ,
    KEY_BYTES,
    MAX_CHANNELS,
    MAX_INTEGER,
    MAX_LENGTH_S,
    MAX_PAYLOADS,
    MAX_RATE_HZ,
    MAX_STRING_BYTES,
    MAX_VARIATIONS,
    MIN_RATE_HZ,
)
from .requests import JOB_ID, MODEL, Request
from .tempo import Length, TempoMap

PRIORITIES = ("live", "interactive", "batch")
MODES = ("continue", "generate", "accompany", "vary", "fill")
FILL_TAIL_MS = 80
# what each mode cannot do without: role, and the sentence where it is missing
_NEEDED = {
    "continue": ("prompt", "To continue, give the audio to continue from."),
    "accompany": ("context", "To accompany, give the tracks that are to be accompanied."),
    "vary": ("source", "To vary, give the audio that is to be varied."),
    "fill": ("following", "To fill a gap, give the audio that comes after it."),
}
# whose rate and channels the answer has, where the request does not say
_LEADING = {
    "continue": ("prompt",),
    "generate": ("prompt",),
    "accompany": ("prompt", "context"),
    "vary": ("source",),
    "fill": ("prompt", "following"),
}
_KEY = binary(KEY_BYTES)
_PROJECT = text(512)
_TEXT = text(MAX_STRING_BYTES)
_SEED = integer(0, MAX_INTEGER)


@record
class Sampling(Record):
    """How tokens are drawn; absent values are the model's own.

    top_p > 0 takes the place of top_k, and top_k alone switches a model's own top_p off. temperature 0 or
    use_sampling false is greedy.
    """

    use_sampling: bool | None = wire(boolean(), default=None)
    temperature: float | None = wire(number(0, 10), default=None)
    top_k: int | None = wire(integer(0, 65536), default=None)
    top_p: float | None = wire(number(0, 1), default=None)


@record
class Guidance(Record):
    """Classifier-free guidance; absent values are the model's own."""

    cfg_coef: float | None = wire(number(0, 100), default=None)
    cfg_coef_beta: float | None = wire(number(0, 100), default=None)


@record
class Submit(Request):
    """One job. The same key and body give the same job again, however often it is sent.

    `audio` holds the blocks that travel beside the header, by role: "prompt" ends at the seam, "following"
    begins where the new audio ends, "context" (other tracks) lies where its `position` says, by default
    beginning with the prompt, "source" (what is varied) begins at the seam. Several blocks of one role and
    track are pieces of one sound, in order.
    """

    op: ClassVar[str] = "submit"
    key: bytes = wire(_KEY)
    mode: str = wire(choice(*MODES))
    length: Length | None = wire(nested(Length), default=None)
    session: bytes | None = wire(_KEY, default=None)
    project: str | None = wire(_PROJECT, default=None)
    model: str | None = wire(MODEL, default=None)
    text: str | None = wire(_TEXT, default=None)
    negative_text: str | None = wire(_TEXT, default=None)
    tempo_map: TempoMap | None = wire(nested(TempoMap), default=None)
    harmony: tuple[Chord, ...] | None = wire(array(nested(Chord), 1, 4096), default=None)
    variations: int = wire(integer(1, MAX_VARIATIONS), default=1)
    stems: tuple[str, ...] | None = wire(array(STEM, 1, 16), default=None)
    seed: int | None = wire(_SEED, default=None)
    sampling: Sampling = wire(nested(Sampling), default=Sampling())
    guidance: Guidance = wire(nested(Guidance), default=Guidance())
    rate: int | None = wire(integer(MIN_RATE_HZ, MAX_RATE_HZ, "Hz"), default=None)
    channels: int | None = wire(integer(1, MAX_CHANNELS), default=None)
    handle_ms: int = wire(integer(0, 1000, "ms"), default=80)
    level: str = wire(choice("match", "off"), default="match")
    priority: str = wire(choice(*PRIORITIES), default="interactive")
    deadline_ms: int | None = wire(integer(1, 86_400_000, "ms"), default=None)
    loop: bool = wire(boolean(), default=False, later=True)
    start: str = wire(choice("edge", "bar"), default="edge", later=True)
    strength: float = wire(number(0, 1), default=0.5, later=True)
    tail_ms: int | None = wire(integer(0, 1000, "ms"), default=None)
    audio: tuple[AudioBlock, ...] = ()

    @property
    def blocks(self) -> tuple[AudioBlock, ...]:
        return self.audio

    def with_audio(self, blocks: Iterable[AudioBlock]) -> Submit:
        """The same request with this audio, cut into pieces that fit into frames."""
        return dataclasses.replace(self, audio=tuple(part for block in blocks for part in block.parts()))

    def check(self) -> None:
        if self.length is None and self.mode != "vary":
            raise wrong("length", None, "a Length map")
        self._check_shape()
        if self.harmony is not None and self.tempo_map is None:
            raise SegueError(
                "E_ARGUMENT", "Harmony counts in quarter notes and needs a tempo map.", field="tempo_map",
                allowed="a tempo map",
            )  # fmt: skip
        if len(self.audio) > MAX_PAYLOADS:
            raise SegueError(
                "E_SIZE", f"{len(self.audio)} pieces of audio are too many for one message.", field="audio",
                value=len(self.audio), allowed=f"at most {MAX_PAYLOADS}",
            )  # fmt: skip

    def check_complete(self) -> None:
        """What can only be judged with the audio aboard. Raises E_ARGUMENT, E_AUDIO or E_TOO_LONG."""
        for i, block in enumerate(self.audio):
            if block.format.role is None:
                raise SegueError(
                    "E_AUDIO", f"audio[{i}].role is missing.", field=f"audio[{i}].role",
                    allowed='"prompt", "following", "context" or "source"',
                )  # fmt: skip
            block.check_finite(f"audio[{i}]")
        needed, sentence = _NEEDED.get(self.mode, ("", ""))
        if needed and not any(b.format.role == needed for b in self.audio):
            raise SegueError("E_AUDIO", sentence, field="audio", allowed=f'audio with role "{needed}"')
        for role, track in {(b.format.role, b.format.track): None for b in self.audio}:
            check_pieces(self._pieces(str(role), track))
        seconds = (self.lead_frames + self.length_frames + self.tail_frames) / self.host_rate_hz
        if seconds > MAX_LENGTH_S + 1:
            raise SegueError(
                "E_TOO_LONG",
                f"Up to the bar line and from there on it is {seconds:.6g} s; one job makes at most"
                f" {MAX_LENGTH_S} s.",
                field="length", value=f"{seconds:.6g} s", allowed=f"at most {MAX_LENGTH_S} s",
            )  # fmt: skip

    def _check_shape(self) -> None:
        """Where the new audio begins and ends must make sense together."""
        if self.start == "bar" and self.tempo_map is None:
            raise SegueError(
                "E_ARGUMENT", "To begin on the bar, give the tempo and the meter.", field="tempo_map",
                allowed="a tempo map",
            )  # fmt: skip
        if self.start == "bar" and self.mode in ("vary", "fill"):
            raise SegueError(
                "E_ARGUMENT",
                "A gap and a variation begin where the given audio says; start on the bar is for new music.",
                field="start", value="bar", allowed="edge",
            )  # fmt: skip
        if self.loop and self.mode == "fill":
            raise SegueError(
                "E_ARGUMENT", "A gap ends in what follows, so it cannot be a loop as well.", field="loop",
                value=True, allowed="false",
            )  # fmt: skip

    def tracks(self, role: str) -> tuple[int | None, ...]:
        """The tracks given under a role, in order of appearance."""
        return tuple({b.format.track: None for b in self.audio if b.format.role == role})

    def sound(self, role: str, track: int | None = None) -> AudioBlock | None:
        """The whole sound of a role (and track), its pieces put together, or None."""
        found = self._pieces(role, track)
        return joined_blocks(found) if found else None

    def _pieces(self, role: str, track: int | None) -> list[AudioBlock]:
        return [b for b in self.audio if b.format.role == role and b.format.track == track]

    def _leading(self) -> AudioBlock | None:
        """The block whose rate and channels the answer takes over."""
        found = (b for role in _LEADING[self.mode] for b in self.audio if b.format.role == role)
        return next(found, None)

    @property
    def host_rate_hz(self) -> int:
        """The rate of the answer: as asked, else that of the audio it belongs to, else 48000."""
        leading = self._leading()
        return self.rate or (DEFAULT_RATE_HZ if leading is None else leading.format.rate)

    @property
    def host_channels(self) -> int:
        """The channels of the answer: as asked, else those of the audio it belongs to, else 2."""
        leading = self._leading()
        return self.channels or (DEFAULT_CHANNELS if leading is None else leading.format.channels)

    @property
    def length_frames(self) -> int:
        """New samples per channel at the host's rate, exactly: what is delivered, from position 0 on.

        Raises E_ARGUMENT or E_TOO_LONG.
        """
        if self.length is None:
            source = [b.format for b in self.audio if b.format.role == "source"]
            if not source:
                raise wrong("length", None, "a Length map")
            first = source[0]
            whole = sum(f.frames for f in source if f.track == first.track)
            made = Length(frames=max(1, round(Fraction(whole * self.host_rate_hz, first.rate))))
            return made.in_frames(self.host_rate_hz, None)
        start = self.tempo_map.next_bar() if self.tempo_map is not None and self.start == "bar" else None
        return self.length.in_frames(self.host_rate_hz, self.tempo_map, start)

    @property
    def lead_frames(self) -> int:
        """Samples at the host's rate between the seam and the first delivered one: up to the bar line with
        `start` "bar", else 0.
        """
        if self.start == "edge" or self.tempo_map is None:
            return 0
        return round(self.tempo_map.seconds_to(self.tempo_map.next_bar()) * self.host_rate_hz)

    @property
    def tail_frames(self) -> int:
        """Samples at the host's rate that are delivered after the end, for a crossfade."""
        tail_ms = (FILL_TAIL_MS if self.mode == "fill" else 0) if self.tail_ms is None else self.tail_ms
        return round(Fraction(tail_ms * self.host_rate_hz, 1000))

    def digest(self) -> bytes:
        """SHA-256 over everything but op, id and key: equal digests are equal jobs (E_KEY_REUSE
        otherwise).
        """
        import hashlib

        import msgpack

        body: dict[str, Any] = self.to_header()
        for name in ("op", "id", "key"):
            body.pop(name, None)
        made = hashlib.sha256(msgpack.packb(_sorted(body), use_bin_type=True))
        for block in self.audio:
            made.update(block.data)
        return made.digest()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return [[k, _sorted(value[k])] for k in sorted(value)]
    return [_sorted(v) for v in value] if isinstance(value, (list, tuple)) else value


CHANGEABLE = (
    "length", "model", "text", "negative_text", "tempo_map", "harmony", "stems", "sampling", "guidance",
    "rate", "channels", "handle_ms", "level", "priority", "deadline_ms", "loop", "start", "strength",
    "tail_ms",
)  # fmt: skip


@record
class Retake(Request):
    """The same job with another seed (drawn if absent), as a new job with its own key.

    `change` holds fields of `submit` that shall be otherwise; what it does not say stays as it was. Of
    `sampling` and `guidance` each value stands for itself; a nil brings back the default.
    """

    op: ClassVar[str] = "retake"
    job: str = wire(JOB_ID)
    key: bytes = wire(_KEY)
    seed: int | None = wire(_SEED, default=None)
    variations: int | None = wire(integer(1, MAX_VARIATIONS), default=None)
    change: dict[str, Any] | None = wire(mapping(), default=None)

    def check(self) -> None:
        for name in self.change or ():
            if name not in CHANGEABLE:
                raise wrong(f"change.{name}"[:80], name[:80], f"one of {', '.join(CHANGEABLE)}")

    def changed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The map of the first job's `submit` as this one wants it. Raises E_ARGUMENT where a field is not
        what it should be.
        """
        made = dict(request)
        for name, value in (self.change or {}).items():
            if name in ("sampling", "guidance") and isinstance(value, dict):
                value = {k: v for k, v in {**made.get(name, {}), **value}.items() if v is not None}
            if value is None:
                made.pop(name, None)
            else:
                made[name] = value
        return made
