"""From the model's samples to the host's: rate, channels, exact positions, level at the seam.

Time is counted in samples from the seam, in the model's rate on one side and the host's on the other; both
are 0 at the first new sample. The resampler runs over handle and take in one go, so the seam is no edge of
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import soxr

from daemon.workers.interface import ModelFacts, PlayerError, Samples

MAX_GAIN_DB = 6.0
QUIET_DB = -60.0  # below this there is no level to match
GLIDE_S = 4.0
_QUALITY = "HQ"
_MAX_TRIM_FRAMES = 1024


@dataclass(frozen=True)
class HostShape:
    """What the host asked for: `frames` after the seam and at most `handle_frames` before it, at its own
    rate.
    """

    rate: int
    channels: int
    frames: int
    handle_frames: int | None  # None: all that the model made again


def model_frames(host: HostShape, facts: ModelFacts) -> int:
    """Token frames to ask for: enough for the take, and one more for the resampler's look-ahead."""
    # integers, because a float quotient just above a whole number would ask for a frame too many
    exact = -(-host.frames * facts.rate // (host.rate * facts.hop))
    return exact + (host.rate != facts.rate)


def with_channels(samples: Samples, channels: int) -> Samples:
    """Mono from stereo by the mean, stereo from mono by copying. [C, n] -> [channels, n]."""
    if samples.shape[0] == channels:
        return samples
    if channels == 1:
        return samples.mean(axis=0, keepdims=True, dtype=np.float32)
    return np.repeat(samples[:1], channels, axis=0)


def to_model(samples: Samples, rate: int, facts: ModelFacts, frames: int | None = None) -> Samples:
    """Host audio [C, n] at the model's rate and channels, its END kept in place: [facts.channels, m]."""
    mono = with_channels(samples, facts.channels)
    if rate != facts.rate:
        mono = np.ascontiguousarray(soxr.resample(mono.T, rate, facts.rate, quality=_QUALITY).T)
    wanted = round(samples.shape[1] * facts.rate / rate) if frames is None else frames
    if mono.shape[1] < wanted:
        mono = np.pad(mono, ((0, 0), (wanted - mono.shape[1], 0)))
    return np.ascontiguousarray(mono[:, mono.shape[1] - wanted :], dtype=np.float32)


def trimmed_frames(frames: int, rate: int, facts: ModelFacts) -> int:
    """How many host samples to cut from the LEFT of a prompt so that its end falls on
    a model sample exactly.
    """
    unit = rate // math.gcd(rate, facts.rate)
    return frames % unit if unit <= _MAX_TRIM_FRAMES and frames >= unit else 0


@dataclass(frozen=True)
class Level:
    """The gain at the seam, as the manifest tells it. It glides to 0 dB within `glide_s` after the seam."""

    measured_db: float | None
    applied_db: float
    glide_s: float = GLIDE_S

    def to_map(self) -> dict[str, float | bool | None]:
        clamped = self.measured_db is not None and abs(self.measured_db) > MAX_GAIN_DB
        return {
            "measured_db": None if self.measured_db is None else round(self.measured_db, 2),
            "applied_db": round(self.applied_db, 2),
            "clamped": clamped,
            "glide_s": self.glide_s,
        }

    def envelope(self, position: int, count: int, rate: int) -> np.ndarray:
        """Gain factors for `count` samples from `position`: constant before the seam, then
        linear in dB to 0.
        """
        if self.applied_db == 0.0:
            return np.ones(count, np.float32)
        seconds = np.arange(position, position + count, dtype=np.float64) / rate
        remaining = 1.0 - np.clip(seconds / self.glide_s, 0.0, 1.0)
        return np.power(10.0, self.applied_db * remaining / 20.0).astype(np.float32)


def rms_db(samples: Samples) -> float:
    """Root mean square over all samples in dB of full scale; -inf for silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return 10.0 * math.log10(power) if power > 0.0 else -math.inf


def match_level(prompt_tail: Samples, handle: Samples) -> Level:
    """Gain that brings the model's own version of the prompt's last moments to the level of the host's
    recording.
    """
    host_db, model_db = rms_db(prompt_tail), rms_db(handle)
    if host_db < QUIET_DB or model_db < QUIET_DB:
        return Level(None, 0.0)
    measured = host_db - model_db
    return Level(measured, max(-MAX_GAIN_DB, min(MAX_GAIN_DB, measured)))


class Voice:
    """One variation and stem on its way to the host: streaming resampler, channels, positions, figures."""

    def __init__(self, facts: ModelFacts, host: HostShape, handle_model_frames: int) -> None:
        self._facts, self._host = facts, host
        # Zeros before the handle make its length a whole number of host samples, so that positions stay
        # integers.
        unit = facts.rate // math.gcd(facts.rate, host.rate)
        lead = -handle_model_frames % unit
        self._position = -((handle_model_frames + lead) * host.rate // facts.rate)
        handle_host_frames = handle_model_frames * host.rate // facts.rate
        wanted = handle_host_frames if host.handle_frames is None else host.handle_frames
        self.handle_frames = min(wanted, handle_host_frames)
        self._inner = min(facts.channels, host.channels)
        self._resampler = (
            soxr.ResampleStream(facts.rate, host.rate, self._inner, dtype="float32", quality=_QUALITY)
            if host.rate != facts.rate
            else None
        )
        self._lead = np.zeros((self._inner, lead), np.float32)
        self.peak = 0.0
        self._power_sum, self._power_count = 0.0, 0

    def push(self, samples: Samples, last: bool) -> tuple[int, Samples]:
        """Model samples in order; returns (host position, host samples [channels, n]) that are final and
        wanted.
        """
        inner = with_channels(samples, self._inner)
        if self._lead.shape[1]:
            inner, self._lead = np.concatenate([self._lead, inner], axis=1), self._lead[:, :0]
        if self._resampler is not None:
            inner = self._resampler.resample_chunk(np.ascontiguousarray(inner.T), last=last).T
        start, stop = self._position, self._position + inner.shape[1]
        self._position = stop
        low, high = max(start, -self.handle_frames), min(stop, self._host.frames)
        if high <= low:
            return max(low, min(start, self._host.frames)), np.zeros((self._host.channels, 0), np.float32)
        kept = with_channels(inner[:, low - start : high - start], self._host.channels)
        self._measure(kept[:, max(0, -low) :])
        return low, np.ascontiguousarray(kept, dtype=np.float32)

    def _measure(self, samples: Samples) -> None:
        if samples.size:
            self.peak = max(self.peak, float(np.abs(samples).max()))
            self._power_sum += float(np.sum(np.square(samples, dtype=np.float64)))
            self._power_count += samples.size

    @property
    def complete(self) -> bool:
        return self._position >= self._host.frames

    def figures(self) -> dict[str, float | None]:
        """Peak and RMS of the take after the seam, in dB of full scale (None for silence)."""
        mean = self._power_sum / max(1, self._power_count)
        return {
            "peak_db": round(20.0 * math.log10(self.peak), 2) if self.peak > 0.0 else None,
            "rms_db": round(10.0 * math.log10(mean), 2) if mean > 0.0 else None,
        }


@dataclass
class _Stem:
    pending: list[Samples] = field(default_factory=list)
    frames: int = 0
    last: bool = False
    start: int | None = None


class VariationRender:
    """All stems of one variation, kept in step so that the mix is their sum sample by sample."""

    def __init__(
        self,
        facts: ModelFacts,
        host: HostShape,
        stems: tuple[str, ...],
        wanted: tuple[str, ...],
        prompt: Samples | None,
        match: bool,
    ) -> None:
        self._facts, self._host, self._wanted, self._prompt, self._match = facts, host, wanted, prompt, match
        self._stems = {name: _Stem() for name in stems}
        self._voices: dict[str, Voice] = {}
        self._position = 0
        self._handle = 0
        self.level = Level(None, 0.0)
        self.finished = False

    def push(self, stem: str, position: int, samples: Samples, last: bool) -> list[tuple[str, int, Samples]]:
        """A piece from the model; returns (stem, host position, samples) that can be written, the mix
        included.
        """
        if not np.isfinite(samples).all():
            raise PlayerError(
                "E_NOT_FINITE",
                "The model made samples that are not numbers; try another seed or a lower temperature.",
                detail=f"stem {stem}, position {position}",
            )
        state = self._stems[stem]
        if state.start is None:
            state.start = position
        elif position != state.start + state.frames:
            raise PlayerError(
                "E_INTERNAL", f"The model skipped from {state.start + state.frames} to {position}."
            )
        state.pending.append(samples)
        state.frames += samples.shape[1]
        state.last = state.last or last
        return self._advance()

    def _advance(self) -> list[tuple[str, int, Samples]]:
        starts = {state.start for state in self._stems.values()}
        if None in starts or len(starts) != 1:
            return []  # some stem has not begun
        (start,) = starts
        if not self._voices:
            self._handle = max(0, -(start or 0))
            if min(state.frames for state in self._stems.values()) < self._handle:
                return []  # the level is measured over the whole handle before any of it leaves
            self._position = start or 0
            self._begin()
        count = min(start + state.frames for state in self._stems.values()) - self._position  # type: ignore[operator]
        last = all(state.last for state in self._stems.values())
        if count <= 0 and not last:
            return []
        gain = self.level.envelope(self._position, count, self._facts.rate)
        ready: dict[str, tuple[int, Samples]] = {}
        for name, state in self._stems.items():
            joined = np.concatenate(state.pending, axis=1) if len(state.pending) != 1 else state.pending[0]
            state.pending = [joined[:, count:]]
            ready[name] = self._voices[name].push(joined[:, :count] * gain, last)
        self._position += count
        self.finished = last
        if "mix" in self._wanted and "mix" not in self._stems:
            host_position = next(iter(ready.values()))[0]
            mixed = np.stack([samples for _, samples in ready.values()]).sum(axis=0, dtype=np.float32)
            self._voices["mix"]._measure(mixed[:, max(0, -host_position) :])
            ready["mix"] = (host_position, mixed)
        return [(name, ready[name][0], ready[name][1]) for name in self._wanted if ready[name][1].shape[1]]

    def _begin(self) -> None:
        names = set(self._stems) | set(self._wanted)
        self._voices = {name: Voice(self._facts, self._host, self._handle) for name in names}
        if self._match and self._prompt is not None and self._handle:
            tail = self._prompt[:, -self._handle :]
            heads = [
                np.concatenate(state.pending, axis=1)[:, : self._handle] for state in self._stems.values()
            ]
            if tail.shape[1] == self._handle:
                self.level = match_level(tail, np.sum(heads, axis=0, dtype=np.float32))

    @property
    def handle_frames(self) -> int:
        """Host samples of the handle, once the first piece has come."""
        return next(iter(self._voices.values())).handle_frames if self._voices else 0

    def report(self) -> dict[str, dict[str, float | None]]:
        """Figures per stem that was asked for."""
        return {name: self._voices[name].figures() for name in self._wanted}
