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

from daemon.workers.closing import Closing
from daemon.workers.interface import ModelFacts, PlayerError, Samples
from daemon.workers.levels import Figures, Level, match_level, rms_db
from daemon.workers.matching import Matching

_QUALITY = "HQ"
_MAX_TRIM_FRAMES = 1024


@dataclass(frozen=True)
class HostShape:
    """What the host asked for, in samples at its own rate: `frames`, at most `handle_frames` of the prompt
    before the seam, and `tail` after the end.

    `lead` lies between the seam and the take's first sample. Of it the first `hidden` are not delivered: the
    model played them so that something lies before a beginning. `kept` is how much before the take is wanted
    for its end, delivered or not.
    """

    rate: int
    channels: int
    frames: int
    handle_frames: int | None  # None: all that the model made again
    lead: int = 0
    tail: int = 0
    hidden: int = 0
    kept: int = 0

    @property
    def after_seam(self) -> int:
        """Samples that the model has to play after the seam."""
        return self.lead + self.frames + self.tail


def model_frames(host: HostShape, facts: ModelFacts) -> int:
    """Token frames to ask for: enough for the take, and one more for the resampler's look-ahead."""
    # integers, because a float quotient just above a whole number would ask for a frame too many
    exact = -(-host.after_seam * facts.rate // (host.rate * facts.hop))
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


class Voice:
    """One variation and stem on its way to the host: streaming resampler, channels, positions."""

    def __init__(self, facts: ModelFacts, host: HostShape, handle_model_frames: int) -> None:
        self._facts, self._host = facts, host
        # Zeros before the handle make its length a whole number of host samples, so that positions stay
        # integers.
        unit = facts.rate // math.gcd(facts.rate, host.rate)
        lead = -handle_model_frames % unit
        self._position = -((handle_model_frames + lead) * host.rate // facts.rate) - host.lead
        handle_host_frames = handle_model_frames * host.rate // facts.rate
        wanted = handle_host_frames if host.handle_frames is None else host.handle_frames
        self.handle_frames = min(wanted, handle_host_frames) + host.lead - host.hidden
        self._first = -max(self.handle_frames, min(host.kept, handle_host_frames + host.lead))
        self._inner = min(facts.channels, host.channels)
        self._resampler = (
            soxr.ResampleStream(facts.rate, host.rate, self._inner, dtype="float32", quality=_QUALITY)
            if host.rate != facts.rate
            else None
        )
        self._lead = np.zeros((self._inner, lead), np.float32)

    def push(self, samples: Samples, last: bool) -> tuple[int, Samples]:
        """Model samples in order; returns (host position, host samples [channels, n]) that are final and
        wanted. Positions count from the take's first sample.
        """
        inner = with_channels(samples, self._inner)
        if self._lead.shape[1]:
            inner, self._lead = np.concatenate([self._lead, inner], axis=1), self._lead[:, :0]
        if self._resampler is not None:
            inner = self._resampler.resample_chunk(np.ascontiguousarray(inner.T), last=last).T
        start, stop = self._position, self._position + inner.shape[1]
        self._position = stop
        end = self._host.frames + self._host.tail
        low, high = max(start, self._first), min(stop, end)
        if high <= low:
            return max(low, min(start, end)), np.zeros((self._host.channels, 0), np.float32)
        kept = with_channels(inner[:, low - start : high - start], self._host.channels)
        return low, np.ascontiguousarray(kept, dtype=np.float32)

    @property
    def complete(self) -> bool:
        return self._position >= self._host.frames + self._host.tail


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
        closing: Closing | None = None,
        period: int | None = None,
        recording: Samples | None = None,
        source: Samples | None = None,
    ) -> None:
        """`period`: model samples of the prompt's last bar, None where it is not known. `recording`: the
        prompt at the host's rate and channels. `source`: what is varied, from the seam on.
        """
        self._source = source
        self._recording = prompt if recording is None else recording
        self._matching: Matching | None = None
        self._period = period
        self._closing = closing
        self._figures = {name: Figures() for name in wanted}
        self._facts, self._host, self._wanted, self._prompt, self._match = facts, host, wanted, prompt, match
        self._stems = {name: _Stem() for name in stems}
        self._voices: dict[str, Voice] = {}
        self._position = 0
        self._handle = 0
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
        due: dict[str, Samples] = {}
        for name, state in self._stems.items():
            joined = np.concatenate(state.pending, axis=1) if len(state.pending) != 1 else state.pending[0]
            state.pending, due[name] = [joined[:, count:]], joined[:, :count]
        if self._matching is not None:
            gain = self._matching.factors(self._position, _sum(list(due.values())))
            due = {name: samples * gain for name, samples in due.items()}
        ready = {name: self._voices[name].push(samples, last) for name, samples in due.items()}
        self._position += count
        self.finished = last
        if "mix" in self._wanted and "mix" not in self._stems:
            host_position = next(iter(ready.values()))[0]
            mixed = np.stack([samples for _, samples in ready.values()]).sum(axis=0, dtype=np.float32)
            ready["mix"] = (host_position, mixed)
        if self._closing is not None:
            ready = self._closing.push(ready, last)
        return [piece for name in self._wanted if (piece := self._delivered(name, *ready[name]))[2].shape[1]]

    def _delivered(self, name: str, position: int, samples: Samples) -> tuple[str, int, Samples]:
        """What of a piece is delivered, counted into the take's figures."""
        hidden = max(0, -self.handle_frames - position)
        position, samples = position + hidden, samples[:, hidden:]
        begin, end = max(0, -position), max(0, self._host.frames - position)
        self._figures[name].add(samples[:, begin:end])
        return name, position, samples

    def _begin(self) -> None:
        names = set(self._stems) | set(self._wanted)
        self._voices = {name: Voice(self._facts, self._host, self._handle) for name in names}
        if not self._match:
            return
        heads = [np.concatenate(state.pending, axis=1) for state in self._stems.values()]
        begun = _sum([head[:, : min(other.shape[1] for other in heads)] for head in heads])
        handle, fresh = begun[:, : self._handle], begun[:, self._handle :]
        rate, source = self._facts.rate, self._source
        if source is not None:
            self._matching = Matching(source, rate, source.shape[1], rms_db(source), lasting=True)
        if self._prompt is None or not self._handle:
            if self._matching is not None:
                self._matching.begin_at_once(fresh)
            return
        whole = self._prompt if self._recording is None else self._recording
        # the recording ends where the prompt does, at whatever rate
        size = round(whole.shape[1] * self._handle / self._prompt.shape[1])
        if 0 < size < whole.shape[1]:
            if self._matching is None:
                self._matching = Matching(self._prompt, rate, self._period, rms_db(whole))
            self._matching.begin(rms_db(whole[:, -size:]), handle, fresh)
            if source is not None and self._matching.level.measured_db is None:
                self._matching.begin_at_once(fresh)  # nothing to be matched before the seam

    @property
    def handle_frames(self) -> int:
        """Host samples of the handle, once the first piece has come."""
        return next(iter(self._voices.values())).handle_frames if self._voices else 0

    def report(self) -> dict[str, dict[str, float | None]]:
        """Figures per stem that was asked for."""
        return {name: self._figures[name].to_map() for name in self._wanted}

    @property
    def level(self) -> dict[str, float | bool | None]:
        """What was done to the level at the seam."""
        return Level(None, 0.0).to_map() if self._matching is None else self._matching.to_map()

    @property
    def ending(self) -> dict[str, float | bool | None] | None:
        """What was done to the end's level, where it has to meet something."""
        return None if self._closing is None else self._closing.to_map()


def _sum(parts: list[Samples]) -> Samples:
    return np.asarray(np.stack(parts).sum(axis=0, dtype=np.float32))


__all__ = [
    "HostShape", "VariationRender", "Voice", "match_level", "model_frames", "to_model", "trimmed_frames",
]  # fmt: skip
