"""Voices of our own: wavetable tones, a two-operator FM tone and a small drum machine, so that no one font is
all there is.

All return mono float32. Tones are band-limited by construction: a table holds only the harmonics that fit
under 14 kHz.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

TABLE = 2048


@lru_cache(maxsize=256)
def _table(shape: str, harmonics: int) -> np.ndarray:
    """One period of a wave with `harmonics` partials, [TABLE] float32."""
    angle = 2 * np.pi * np.arange(TABLE) / TABLE
    step = 2 if shape == "square" else 1
    wave = np.zeros(TABLE)
    for partial in range(1, (1 if shape == "sine" else harmonics) + 1, step):
        wave += np.sin(partial * angle) / partial
    return (wave / np.abs(wave).max()).astype(np.float32)


def _envelope(samples: int, held: int, rate_hz: int, decay_s: float, sustain: float) -> np.ndarray:
    """Attack of 4 ms, exponential decay to `sustain`, release of 60 ms after `held` samples."""
    time = np.arange(samples, dtype=np.float32) / rate_hz
    level = sustain + (1 - sustain) * np.exp(-time / decay_s)
    level *= np.minimum(1.0, time / 0.004)
    if held < samples:
        level[held:] *= np.exp(-(time[held:] - time[held]) / 0.02)
    return level


def tone(voice: str, pitch: int, held_s: float, velocity: int, rate_hz: int) -> np.ndarray:
    """One note of "saw", "square", "sine" or "fm": brightness falls while it sounds."""
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    held, samples = int(held_s * rate_hz), int((held_s + 0.1) * rate_hz)
    cycles = frequency * np.arange(samples) / rate_hz
    level = velocity / 127.0
    if voice == "fm":
        time = np.arange(samples) / rate_hz
        index = 3.0 * level * np.exp(-time / 0.35)
        wave = np.sin(2 * np.pi * cycles + index * np.sin(2 * np.pi * 2 * cycles)).astype(np.float32)
        return wave * _envelope(samples, held, rate_hz, 0.6, 0.1) * level * 0.5
    phase = (cycles % 1.0 * TABLE).astype(np.int64)
    many = max(1, min(40, int(14_000 / frequency)))
    bright, dark = _table(voice, many), _table(voice, max(1, min(many, 5)))
    fade = np.exp(-np.arange(samples, dtype=np.float32) / (rate_hz * 0.18))
    wave = dark[phase] + (bright[phase] - dark[phase]) * fade * (0.4 + 0.6 * level)
    return wave * _envelope(samples, held, rate_hz, 0.5, 0.6) * level * 0.5


def drum(pitch: int, velocity: int, rate_hz: int, noise: np.random.Generator) -> np.ndarray:
    """One stroke of the drum machine for a General MIDI drum key."""
    level = velocity / 127.0

    def burst(length_s: float, decay_s: float, brightness: int) -> np.ndarray:
        """White noise, differenced `brightness` times (each adds 6 dB an octave), fading."""
        count = int(length_s * rate_hz)
        sound = noise.standard_normal(count + brightness).astype(np.float32)
        for _ in range(brightness):
            sound = np.diff(sound) * 0.7
        return sound * np.exp(-np.arange(count, dtype=np.float32) / (rate_hz * decay_s))

    def sweep(start_hz: float, end_hz: float, fall_s: float, decay_s: float) -> np.ndarray:
        time = np.arange(int(decay_s * 5 * rate_hz)) / rate_hz
        cycles = end_hz * time + (start_hz - end_hz) * fall_s * (1 - np.exp(-time / fall_s))
        return (np.sin(2 * np.pi * cycles) * np.exp(-time / decay_s)).astype(np.float32)

    if pitch == 36:
        return level * sweep(160, 48, 0.03, 0.11)
    if pitch in (38, 37, 39):
        body = sweep(260, 180, 0.02, 0.05 if pitch != 39 else 0.01)
        rattle = burst(0.3, 0.06, 1)
        mixed = np.zeros(max(len(body), len(rattle)), dtype=np.float32)
        mixed[: len(body)] += 0.5 * body
        mixed[: len(rattle)] += 0.35 * rattle
        return level * mixed
    if pitch in TOM_HZ:
        return level * 0.8 * sweep(TOM_HZ[pitch] * 1.6, TOM_HZ[pitch], 0.03, 0.12)
    if pitch in (46, 49, 51):
        return level * 0.22 * burst(0.9 if pitch == 49 else 0.4, 0.25 if pitch == 49 else 0.1, 2)
    return level * 0.2 * burst(0.1, 0.02, 2)


TOM_HZ = {43: 80.0, 45: 100.0, 47: 130.0, 50: 165.0}


def decibels(power: float) -> float:
    """10·log10, with a floor of −120 dB."""
    return 10.0 * math.log10(max(power, 1e-12))
