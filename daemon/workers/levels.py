"""How loud: the gain at the seam, and the figures of a finished take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from daemon.workers.interface import Samples

MAX_GAIN_DB = 6.0
QUIET_DB = -60.0  # below this there is no level to match
GLIDE_S = 4.0


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


class Figures:
    """Peak and RMS of what is delivered of one stem, in dB of full scale (None for silence)."""

    def __init__(self) -> None:
        self._peak = 0.0
        self._power_sum, self._power_count = 0.0, 0

    def add(self, samples: Samples) -> None:
        if samples.size:
            self._peak = max(self._peak, float(np.abs(samples).max()))
            self._power_sum += float(np.sum(np.square(samples, dtype=np.float64)))
            self._power_count += samples.size

    def to_map(self) -> dict[str, float | None]:
        mean = self._power_sum / max(1, self._power_count)
        return {
            "peak_db": round(20.0 * math.log10(self._peak), 2) if self._peak > 0.0 else None,
            "rms_db": round(10.0 * math.log10(mean), 2) if mean > 0.0 else None,
        }
