"""What is asked of a model and what comes back: requests, sampling, tempo maps, chunks of audio."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from genmodel.errors import GenModelError

MAX_VARIATIONS = 16
MAX_TEXT_BYTES = 16 * 1024
MAX_CHANNELS = 2
MAX_NEW_FRAMES = 180_000  # an hour at 50 frames a second; longer is a mistake in units
MAX_RATE_HZ = 768_000
MAX_COEF = 100.0
MAX_BPM = 2000  # as on the wire (protocol/tempo.py)


def _refuse(message: str, field: str, value: object, allowed: str) -> GenModelError:
    return GenModelError(message, field=field, value=value, allowed=allowed)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_text(text: str | None, name: str) -> None:
    """GenModelError where ``text`` is not text or longer than MAX_TEXT_BYTES in UTF-8."""
    if text is None:
        return
    if not isinstance(text, str):
        raise _refuse(f"{name} must be text", name, type(text).__name__, "a string or none")
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_TEXT_BYTES:
        raise GenModelError(
            f"{name} is too long",
            code="E_TOO_LONG",
            field=name,
            value=f"{size} bytes",
            allowed=f"at most {MAX_TEXT_BYTES} bytes",
        )


@dataclass(frozen=True, eq=False)
class AudioClip:
    """Audio that knows its rate: ``samples`` float32 [C, n], one or two channels, at least one sample, all
    finite.
    """

    samples: Tensor
    rate_hz: int

    def __post_init__(self) -> None:
        check_rate(self.rate_hz)
        check_audio(self.samples, 2)
        object.__setattr__(self, "samples", self.samples.detach().to("cpu", torch.float32))

    @property
    def channels(self) -> int:
        return self.samples.shape[0]


def check_rate(rate_hz: object, name: str = "rate") -> None:
    """GenModelError unless ``rate_hz`` is a sample rate."""
    if not _finite(rate_hz) or not 1 <= int(rate_hz) <= MAX_RATE_HZ:  # type: ignore[call-overload]
        raise GenModelError(
            "audio needs a sample rate",
            code="E_AUDIO",
            field=name,
            value=rate_hz,
            allowed=f"1…{MAX_RATE_HZ} Hz",
        )


def check_audio(samples: Tensor, dims: int, name: str = "prompt") -> None:
    """GenModelError (E_AUDIO) unless ``samples`` [.., C, n] is audio: not empty, 1 or 2 channels, finite."""

    def wrong(message: str, value: object, allowed: str) -> GenModelError:
        return GenModelError(message, code="E_AUDIO", field=name, value=value, allowed=allowed)

    if not isinstance(samples, Tensor) or samples.dim() != dims:
        shape = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        wanted = "[channels, samples]" if dims == 2 else "[batch, channels, samples]"
        raise wrong("audio has the wrong shape", shape, wanted)
    if not 1 <= samples.shape[-2] <= MAX_CHANNELS:
        raise wrong("audio has too many or no channels", samples.shape[-2], f"1…{MAX_CHANNELS} channels")
    if not samples.shape[-1] or not samples.numel():
        raise wrong("audio is empty", 0, "at least one sample")
    if not bool(torch.isfinite(samples).all()):
        raise wrong("audio holds NaN or infinity", "NaN or infinity", "finite samples")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: softmax of logits / temperature; then top_p if above 0, else top_k if above 0,
    else all.

    ``use_sampling`` False or a temperature of 0 takes the likeliest token. ``cfg_coef`` None is the model's
    own. ``cfg_coef_beta`` asks for double guidance (text over melody); ``two_step_cfg`` encodes the null
    conditions apart.
    """

    use_sampling: bool = True
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    cfg_coef: float | None = None
    cfg_coef_beta: float | None = None
    two_step_cfg: bool = False

    def __post_init__(self) -> None:
        if not _finite(self.temperature) or not 0 <= self.temperature <= 100:
            raise _refuse("temperature is out of range", "temperature", self.temperature, "0…100")
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 0:
            raise _refuse("top_k is out of range", "top_k", self.top_k, "0 (all tokens) or a positive number")
        if not _finite(self.top_p) or not 0 <= self.top_p <= 1:
            raise _refuse("top_p is out of range", "top_p", self.top_p, "0…1")
        for name in ("cfg_coef", "cfg_coef_beta"):
            value = getattr(self, name)
            if value is not None and (not _finite(value) or abs(value) > MAX_COEF):
                raise _refuse(f"{name} is out of range", name, value, f"-{MAX_COEF:g}…{MAX_COEF:g}")

    @property
    def greedy(self) -> bool:
        return not self.use_sampling or self.temperature <= 0


@dataclass(frozen=True)
class TempoChange:
    """From ``at_beats`` (quarter notes from the map's origin) on: ``bpm`` quarter notes a minute, bars of
    ``beats``/``unit``. ``mid_bar``: whether the bar under way goes on; None: it does, unless the meter
    changes."""

    at_beats: Fraction | float
    bpm: Fraction | float
    beats: int = 4
    unit: int = 4
    mid_bar: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.at_beats, Fraction) and not _finite(self.at_beats):
            raise _refuse("a tempo change needs a position", "tempo_map.at", self.at_beats, "quarter notes")
        if not (isinstance(self.bpm, Fraction) or _finite(self.bpm)) or not 1 <= self.bpm <= MAX_BPM:
            raise _refuse("the tempo is out of range", "tempo_map.bpm", self.bpm, f"1…{MAX_BPM}")
        if not isinstance(self.beats, int) or not 1 <= self.beats <= 64:
            raise _refuse("the meter is out of range", "tempo_map.beats", self.beats, "1…64")
        if self.unit not in (1, 2, 4, 8, 16, 32, 64):
            raise _refuse("the meter's unit is out of range", "tempo_map.unit", self.unit, "1, 2, 4 … 64")

    @property
    def bar_quarters(self) -> Fraction:
        """Length of a bar in quarter notes."""
        return Fraction(4 * self.beats, self.unit)


@dataclass(frozen=True)
class TempoMap:
    """Tempo and meter along the timeline, in exact fractions. The origin is bar 1 beat 1; tempo holds between
    changes.

    ``start_beats``: where the seam (the first new sample) lies, in quarter notes from the origin. The first
    change also holds before itself.
    """

    changes: tuple[TempoChange, ...]
    start_beats: Fraction | float = 0.0
    _at: tuple[Fraction, ...] = field(init=False, repr=False, compare=False, default=())
    _seconds: tuple[Fraction, ...] = field(init=False, repr=False, compare=False, default=())
    _bars: tuple[Fraction, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if not self.changes:
            raise _refuse("a tempo map needs a tempo", "tempo_map.changes", 0, "at least one change")
        if not isinstance(self.start_beats, Fraction) and not _finite(self.start_beats):
            raise _refuse("the seam needs a position", "tempo_map.start", self.start_beats, "quarter notes")
        at = [Fraction(change.at_beats) for change in self.changes]
        if any(b <= a for a, b in zip(at, at[1:], strict=False)):
            raise _refuse(
                "tempo changes must follow each other",
                "tempo_map.changes",
                [float(a) for a in at],
                "rising positions",
            )
        # seconds and bars at each change, counted from the first one; bars before a change of meter round up
        seconds, bars = [Fraction(0)], [Fraction(0)]
        for before, start, end in zip(self.changes, at, at[1:], strict=False):
            seconds.append(seconds[-1] + (end - start) * 60 / Fraction(before.bpm))
            done = bars[-1] + (end - start) / before.bar_quarters
            after = self.changes[len(bars)]
            goes_on = (before.beats, before.unit) == (after.beats, after.unit)
            goes_on = goes_on if after.mid_bar is None else after.mid_bar
            bars.append(done if goes_on else Fraction(math.ceil(done)))
        # bar 0 begins at the origin when the first change lies elsewhere
        shift = at[0] / self.changes[0].bar_quarters
        object.__setattr__(self, "_at", tuple(at))
        object.__setattr__(self, "_seconds", tuple(seconds))
        object.__setattr__(self, "_bars", tuple(bar + shift for bar in bars))

    def _segment(self, keys: Sequence[Fraction], value: Fraction) -> int:
        return max(0, bisect_right(keys, value) - 1)

    def seconds(self, beats: Fraction | float) -> Fraction:
        """Time of a position in quarter notes, in seconds from the seam (exact)."""
        return self._absolute_seconds(Fraction(beats)) - self._absolute_seconds(Fraction(self.start_beats))

    def _absolute_seconds(self, beats: Fraction) -> Fraction:
        i = self._segment(self._at, beats)
        return self._seconds[i] + (beats - self._at[i]) * 60 / Fraction(self.changes[i].bpm)

    def beats_at(self, seconds: Fraction | float) -> Fraction:
        """Position in quarter notes of a time in seconds from the seam (exact)."""
        time = Fraction(seconds) + self._absolute_seconds(Fraction(self.start_beats))
        i = self._segment(self._seconds, time)
        return self._at[i] + (time - self._seconds[i]) * Fraction(self.changes[i].bpm) / 60

    def change_at(self, beats: Fraction | float) -> TempoChange:
        """The tempo and meter in force at a position in quarter notes."""
        return self.changes[self._segment(self._at, Fraction(beats))]

    def _bar_at(self, beats: Fraction) -> tuple[Fraction, TempoChange]:
        """Bars since the origin, as a fraction, and the change in force."""
        i = self._segment(self._at, beats)
        return self._bars[i] + (beats - self._at[i]) / self.changes[i].bar_quarters, self.changes[i]

    def bars_to_seconds(self, bars: Fraction | float) -> Fraction:
        """Seconds that ``bars`` bars last from the seam on, through every change of tempo and meter (exact).

        Counted in bars of the meter in force: from the middle of a bar, two bars later is the middle of a
        bar.
        """
        left = Fraction(bars)
        at = Fraction(self.start_beats)
        time = Fraction(0)
        i = self._segment(self._at, at)
        while True:
            change = self.changes[i]
            end = self._at[i + 1] if i + 1 < len(self._at) else None
            need = left * change.bar_quarters
            if end is None or at + need <= end:
                return time + need * 60 / Fraction(change.bpm)
            time += (end - at) * 60 / Fraction(change.bpm)
            left -= (end - at) / change.bar_quarters
            at, i = end, i + 1

    def phases(self, times_s: Sequence[Fraction | float]) -> tuple[Tensor, Tensor, Tensor]:
        """Phase within the bar, within the beat of the meter's unit and within four bars, float64 in [0, 1).

        ``times_s``: seconds from the seam, negative before it. Each phase is a fraction until the last
        moment, so an hour in it is as exact as at the start.
        """
        rows: list[tuple[float, float, float]] = []
        for time in times_s:
            bar, change = self._bar_at(self.beats_at(time))
            phase = bar - math.floor(bar)
            beat = phase * change.beats
            rows.append(
                (float(phase), float(beat - math.floor(beat)), float((bar / 4) - math.floor(bar / 4)))
            )
        table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
        # a fraction just below one may round to it
        table = torch.where(table >= 1.0, torch.zeros_like(table), table)
        return table[:, 0], table[:, 1], table[:, 2]


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One request: go on from ``prompt`` (mode "continue") or start from nothing ("generate").

    ``frames``: new frames after the seam. ``context``: the other tracks, sample 0 at the prompt's start (at
    the seam without a prompt), reaching past it where the timeline is known. ``harmony`` float [F, 12] chroma
    per new frame. ``sampling`` None is the
    model's own. ``stems``: which of the model's stems to deliver, None for all. ``chunk_frames``: how much
    audio a chunk holds.

    ``given``: stems that the context has already: they are not played. ``source``: what is to be varied,
    sample 0 at the seam; ``strength`` says how far from it, 0…1. ``following``: what comes after a gap, its
    sample 0 ``following_s`` seconds after the seam; it is heard from frame ``heard_from`` on (what a take
    plays beyond the gap it shall play by itself).
    """

    mode: Literal["continue", "generate"]
    frames: int
    prompt: AudioClip | None = None
    text: str | None = None
    negative_text: str | None = None
    seed: int = 0
    variations: int = 1
    sampling: Sampling | None = None
    tempo_map: TempoMap | None = None
    harmony: Tensor | None = None
    context: AudioClip | None = None
    stems: tuple[str, ...] | None = None
    chunk_frames: int = 25
    given: tuple[str, ...] = ()
    source: AudioClip | None = None
    strength: float = 0.5
    following: AudioClip | None = None
    following_s: Fraction = Fraction(0)
    heard_from: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.following_s or self.heard_from < 0:
            raise _refuse("what follows lies after the seam", "following", self.following_s, "0 s or later")
        if not _finite(self.strength) or not 0 <= self.strength <= 1:
            raise _refuse(
                "the strength is out of range", "strength", self.strength, "0 (the source) … 1 (free)"
            )
        if self.mode not in ("continue", "generate"):
            raise _refuse("unknown mode", "mode", self.mode, "continue or generate")
        if (self.mode == "continue") != (self.prompt is not None):
            needed = "a prompt" if self.mode == "continue" else "no prompt"
            raise _refuse(f"mode {self.mode} takes {needed}", "prompt", None, needed)
        if not isinstance(self.frames, int) or isinstance(self.frames, bool) or self.frames < 1:
            raise _refuse("the length must be positive", "frames", self.frames, f"1…{MAX_NEW_FRAMES} frames")
        if self.frames > MAX_NEW_FRAMES:
            raise GenModelError(
                "the length is beyond all measure",
                code="E_TOO_LONG",
                field="frames",
                value=self.frames,
                allowed=f"1…{MAX_NEW_FRAMES} frames",
            )
        if not isinstance(self.variations, int) or not 1 <= self.variations <= MAX_VARIATIONS:
            raise _refuse("too many or no variations", "variations", self.variations, f"1…{MAX_VARIATIONS}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise _refuse("the seed is out of range", "seed", self.seed, "0…2^64-1")
        if not isinstance(self.chunk_frames, int) or not 1 <= self.chunk_frames <= 1500:
            raise _refuse("chunk_frames is out of range", "chunk_frames", self.chunk_frames, "1…1500")
        check_text(self.text, "text")
        check_text(self.negative_text, "negative_text")
        if self.harmony is not None and (
            self.harmony.dim() != 2
            or self.harmony.shape[1] != 12
            or not len(self.harmony)
            or not bool(torch.isfinite(self.harmony).all())
        ):
            raise _refuse(
                "harmony is one finite chroma of 12 per frame",
                "harmony",
                tuple(self.harmony.shape),
                "shape [F, 12]",
            )


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """Final audio of one variation and stem: ``samples`` float32 [C, n] at the model's rate.

    ``position`` counts samples from the seam; the handle before it has negative positions. Chunks of a
    variation and stem follow each other without gap or overlap; ``last`` marks the end.
    """

    variation: int
    stem: str
    position: int
    samples: Tensor
    last: bool
