"""The level across the seam: the take's own version of the prompt's last moments is brought to the level of
the recording, and what follows is held at the level of the prompt's last bar until it goes its own way.

The handle alone is 80 ms: one drum hit more or less in it says nothing about the music that follows (pocket,
six prompts: 80 ms and a glide from there left the first second 5.6 dB below the prompt, and two of six above
6 dB and clamped). So the two are told apart. What follows is compared with the prompt one bar before, beat
for beat, as it is made.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from daemon.workers.interface import Samples
from daemon.workers.levels import QUIET_DB, Level, rms_db

HANDLE_GAIN_DB = (-60.0, 20.0)  # heard within the crossfade only
REST_DB = 45.0  # so far below the prompt there is nothing to be heard
HELD_GAIN_DB = 9.0
# From the handle's gain to that of what follows: down before the seam, so that no first beat is too loud; up
# after it, because a hit that the recording does not have may lie right before it.
DOWN_S, UP_S = 0.02, 0.01
HOLD_S, END_S = 2.0, 5.0  # after the seam: held for so long, gone by then
SLEW_DB_S = 24.0
_SURE_S = 0.15  # so much music weighs as much as what the handle said
_PRIOR_DB = 2.0
_STEPS = 40


class Matching:
    """One variation's gain over time. `rate` is the model's; positions count from the seam."""

    def __init__(
        self,
        prompt: Samples,
        rate: int,
        period: int | None,
        recording_db: float,
        *,
        lasting: bool = False,
    ) -> None:
        """`period`: samples of the prompt's last bar, None where it is not known. `recording_db`: level of
        the host's recording, which may be wider than what a model hears of it, in band and in stereo.
        `lasting`: `prompt` is the source of a variation, whose level the take keeps to its end.
        """
        self._lasting = lasting
        self._rate = rate
        self._recording_db = recording_db
        narrower = recording_db - rms_db(prompt)
        whole = prompt if not period or period > prompt.shape[1] else prompt[:, -period:]
        self._reference = _power(whole) * 10 ** (min(_PRIOR_DB * 2, max(0.0, narrower)) / 10)
        self._mean = float(self._reference.mean())
        self._beat_for_beat = bool(period) and period == whole.shape[1]
        self._sums = [0.0, 0.0]  # of the reference and of the take
        self._heard = 0
        self._handle_db = self._held_db = self._prior_db = self._up_db = 0.0
        self.level = Level(None, 0.0)

    def begin_at_once(self, fresh: Samples) -> None:
        """Without anything before the seam. `fresh`: what is there of the take."""
        if self._recording_db >= QUIET_DB:
            self._held_db = self._wanted(*self._compared(fresh, 0))
            self.level = Level(0.0, 0.0)

    def begin(self, tail_db: float, handle: Samples, fresh: Samples) -> None:
        """`tail_db`: level of the recording's end; `handle`: the take's version of it; `fresh`: what is there
        of the take after the seam.
        """
        quiet = max(QUIET_DB - 20.0, self._recording_db - REST_DB)
        here, there = rms_db(handle), max(quiet - 20.0, tail_db)
        if here < quiet or self._recording_db < QUIET_DB:
            return  # there is nothing that could be louder or softer
        measured = there - here
        self._prior_db = max(-_PRIOR_DB, min(_PRIOR_DB, measured))
        self._held_db = self._wanted(*self._compared(fresh, 0))
        power = _power(handle)
        if measured > HANDLE_GAIN_DB[1]:  # it rests where the recording sounds: what would be raised is noise
            self._handle_db = self._held_db
            self.level = Level(measured, self._held_db)
            return
        if measured <= self._held_db:
            self._handle_db = max(HANDLE_GAIN_DB[0], measured)
            self._up_db = self._handle_db - self._held_db
            self.level = Level(measured, self._handle_db)
            return
        ramp = self._ramp(np.arange(-handle.shape[1], 0))

        def level(db: float) -> float:
            gains = db + (self._held_db - db) * ramp
            return 10 * math.log10(float(np.mean(power * np.power(10.0, gains / 10))) + 1e-30)

        low, high = HANDLE_GAIN_DB
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if level(middle) < there else (low, middle)
        self._handle_db = (low + high) / 2
        self.level = Level(measured, level(self._handle_db) - here)

    def factors(self, position: int, mix: Samples) -> NDArray[np.float32]:
        """Gain factors for the take's next samples, all stems alike. `mix`: their sum."""
        count = mix.shape[1]
        if self.level.measured_db is None or not count:
            return np.ones(count, np.float32)
        at = np.arange(position, position + count)
        before = max(0, min(count, -position))
        held = self._held_db
        db = np.full(count, held)
        if self._up_db:
            db[:before] = self._handle_db
        else:
            db[:before] = self._handle_db + (held - self._handle_db) * self._ramp(at[:before])
        fresh = mix[:, before:]
        if fresh.shape[1] and (self._lasting or at[before] < HOLD_S * self._rate):
            reference, take = self._compared(fresh, self._heard)
            self._sums = [self._sums[0] + reference, self._sums[1] + take]
            self._heard += fresh.shape[1]
            most = SLEW_DB_S * fresh.shape[1] / self._rate
            wanted = self._wanted(*self._sums)
            self._held_db = held + max(-most, min(most, wanted - held))
            db[before:] = np.linspace(held, self._held_db, fresh.shape[1])
        gone = np.clip((END_S - at[before:] / self._rate) / (END_S - HOLD_S), 0.0, 1.0)
        if not self._lasting:
            db[before:] *= gone
        db[before:] += self._up_db * np.clip(1.0 - at[before:] / (UP_S * self._rate), 0.0, 1.0)
        return np.power(10.0, db / 20).astype(np.float32)

    def _ramp(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """0 in the handle, 1 at the seam."""
        return np.clip(1.0 + at / (DOWN_S * self._rate), 0.0, 1.0)

    def _compared(self, fresh: Samples, heard: int) -> tuple[float, float]:
        """Energy of the prompt where the music was a bar before, and of the take."""
        take = float(_power(fresh).sum())
        if not self._beat_for_beat:
            return self._mean * fresh.shape[1], take
        places = np.arange(heard, heard + fresh.shape[1]) % len(self._reference)
        return float(self._reference[places].sum()), take

    def _wanted(self, reference: float, take: float) -> float:
        """The gain that makes the take as loud as its reference; near the prior where little was heard."""
        sure = self._mean * _SURE_S * self._rate
        ratio = (reference + sure) / (take + sure * 10 ** (-self._prior_db / 10))
        return max(-HELD_GAIN_DB, min(HELD_GAIN_DB, 10 * math.log10(ratio)))

    def to_map(self) -> dict[str, float | bool | None]:
        """For the manifest."""
        measured = self.level.measured_db
        return {
            "measured_db": None if measured is None else round(measured, 2),
            "applied_db": round(self.level.applied_db, 2),
            "clamped": measured is not None and abs(self.level.applied_db - measured) > 0.01,
            "held_db": round(self._held_db, 2),
            "glide_s": None if self._lasting else END_S,
        }


def _power(samples: Samples) -> NDArray[np.float64]:
    """Mean square over the channels, sample by sample."""
    return np.asarray(np.mean(np.square(samples, dtype=np.float64), axis=0))
