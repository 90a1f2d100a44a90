"""The end of a take that has to meet something: a loop its own beginning, a filled gap what follows it.

Works on the host's samples of one variation, all stems alike. Everything but the last part is let through as
it comes; the last part waits until the model has played past it, because its level follows from the whole of
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from daemon.workers.interface import Samples
from daemon.workers.levels import MAX_GAIN_DB, QUIET_DB, rms_db

FADE_S = 0.08  # of a loop's end into what was played before its beginning; as long as a model's handle
HOLD_S = 2.0
_STEPS = 40  # of the bisection for the gain; 2^-40 of 12 dB is nothing

Ready = dict[str, tuple[int, Samples]]  # (position from the take's first sample, samples) by stem


@dataclass
class _Kept:
    """What is kept of one stem until the end: what was played before the take, and the last part."""

    before: list[Samples] = field(default_factory=list)
    first: list[Samples] = field(default_factory=list)
    last: list[Samples] = field(default_factory=list)


class Closing:
    """One variation's end; all lengths in host samples."""

    def __init__(
        self,
        rate: int,
        frames: int,
        tail: int,
        *,
        loop: bool,
        following: Samples | None,
        hold_s: float = HOLD_S,
        match: bool = True,
    ) -> None:
        """`following`: what comes after a gap, at the host's rate; None for a loop, or where it is not
        known. `hold_s`: over how long levels are compared, at most half of the take.
        """
        self._rate, self._frames, self._tail = rate, frames, tail
        self._loop, self._match = loop, match
        self.hold = max(1, min(round(hold_s * rate), frames // 2))
        self.fade = min(round(FADE_S * rate), self.hold) if loop else 0
        self._following = following
        self._kept: dict[str, _Kept] = {}
        self.measured_db: float | None = None
        self.applied_db = 0.0

    @property
    def _from(self) -> int:
        return self._frames - self.hold

    def push(self, ready: Ready, last: bool) -> Ready:
        """Samples of every stem, in step; what may go on of them. With `last` everything does."""
        let = {name: self._kept_back(name, *piece) for name, piece in ready.items()}
        if not last:
            return let
        ends = self._closed()
        return {
            name: (position, np.concatenate([samples, ends[name]], axis=1))
            if samples.shape[1]
            else (self._from, ends[name])
            for name, (position, samples) in let.items()
        }

    def _kept_back(self, name: str, position: int, samples: Samples) -> tuple[int, Samples]:
        kept = self._kept.setdefault(name, _Kept())
        stop = position + samples.shape[1]

        def part(low: int, high: int) -> Samples:
            low, high = max(low, position), min(high, stop)
            return samples[:, low - position : max(low, high) - position]

        kept.before.append(part(-self.fade, 0))
        kept.first.append(part(0, max(self.hold, self._tail) if self._loop else 0))
        kept.last.append(part(self._from, self._frames + self._tail))
        return position, samples[:, : max(0, self._from - position)]

    def _closed(self) -> dict[str, Samples]:
        """The last part of every stem as it is delivered, the tail included."""
        kept = {
            name: (
                np.concatenate(one.before, axis=1),
                np.concatenate(one.first, axis=1),
                np.concatenate(one.last, axis=1),
            )
            for name, one in self._kept.items()
        }
        self._kept.clear()
        gain = self._gain({name: (first, last) for name, (_, first, last) in kept.items()})
        return {
            name: self._shaped(before, first, last * gain) for name, (before, first, last) in kept.items()
        }

    def _gain(self, kept: dict[str, tuple[Samples, Samples]]) -> NDArray[np.float32]:
        """Gain factors for the last part: from 1 to what the end needs in its first half, then held."""
        parts = [(first, last) for name, (first, last) in kept.items() if name != "mix"] or list(
            kept.values()
        )
        size = self.hold + self._tail
        last = np.stack([last for _, last in parts]).sum(axis=0, dtype=np.float32)[:, : self.hold]
        first = np.stack([first for first, _ in parts]).sum(axis=0, dtype=np.float32)[:, : self.hold]
        meets = first if self._loop else self._following
        ramp = np.minimum(1.0, np.arange(size) / max(1, self.hold // 2))
        if meets is None or not meets.size or not self._match:
            return np.ones(size, np.float32)
        wanted, here = rms_db(meets), rms_db(last)
        if wanted < QUIET_DB or here < QUIET_DB:
            return np.ones(size, np.float32)
        self.measured_db = wanted - here
        power = np.mean(np.square(last, dtype=np.float64), axis=0)

        def level(db: float) -> float:
            return 10 * math.log10(float(np.mean(power * np.power(10.0, db * ramp[: self.hold] / 10))))

        low, high = -MAX_GAIN_DB, MAX_GAIN_DB
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if level(middle) < wanted else (low, middle)
        self.applied_db = (low + high) / 2
        return np.power(10.0, self.applied_db * ramp / 20).astype(np.float32)

    def _shaped(self, before: Samples, first: Samples, last: Samples) -> Samples:
        if not self._loop:
            return last
        end = last[:, : self.hold]
        fade = min(self.fade, before.shape[1])
        if fade:
            # equal power; at the last sample what was played before the beginning sounds alone
            angle = (np.arange(fade) + 1.0) / fade * (math.pi / 2)
            out, into = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
            head, over = end[:, : self.hold - fade], end[:, self.hold - fade :]
            end = np.concatenate([head, over * out + before[:, before.shape[1] - fade :] * into], axis=1)
        return np.ascontiguousarray(np.concatenate([end, first[:, : self._tail]], axis=1), dtype=np.float32)

    def to_map(self) -> dict[str, float | bool | None]:
        """For the manifest."""
        return {
            "measured_db": None if self.measured_db is None else round(self.measured_db, 2),
            "applied_db": round(self.applied_db, 2),
            "clamped": abs(self.applied_db) > MAX_GAIN_DB - 1e-6,
            "over_s": round(self.hold / self._rate, 3),
        }
