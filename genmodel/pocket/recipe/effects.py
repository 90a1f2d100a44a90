"""What happens to a stem, and to the whole, between the instruments and the mix: random, but the same for a
seed.

Every effect works along the last axis and leaves silence silent. Those of the whole are a gain that all stems
share, so that the mix stays the sum of its stems.
"""

from __future__ import annotations

import numpy as np

BLOCK_S = 0.01


def tilt(sound: np.ndarray, rate_hz: int, db_per_octave: float) -> np.ndarray:
    """Louder towards the highs (or the lows), nothing changed at 800 Hz, at most 4.5 octaves to either
    side."""
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(sound.shape[-1], 1 / rate_hz), 20.0) / 800.0)
    gain_db = db_per_octave * np.clip(octaves, -4.5, 4.5)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), sound.shape[-1]).astype(np.float32)


def peak(
    sound: np.ndarray, rate_hz: int, centre_hz: float, gain_db: float, octaves: float = 1.0
) -> np.ndarray:
    """A bell in the spectrum: `gain_db` at its centre, half of that `octaves` away."""
    spectrum = np.fft.rfft(sound)
    away = np.log2(np.maximum(np.fft.rfftfreq(sound.shape[-1], 1 / rate_hz), 1.0) / centre_hz)
    bell_db = gain_db * 2.0 ** -((away / octaves) ** 2)
    return np.fft.irfft(spectrum * 10 ** (bell_db / 20), sound.shape[-1]).astype(np.float32)


def saturate(sound: np.ndarray, drive: float) -> np.ndarray:
    """tanh with the loudest sample at `drive`; quiet sounds pass as they are."""
    scale = drive / max(1e-6, float(np.abs(sound).max()))
    return (np.tanh(sound * scale) / scale).astype(np.float32)


def compression_gain(
    sound: np.ndarray,
    rate_hz: int,
    ratio: float,
    share: float = 0.6,
    attack_s: float = 0.01,
    release_s: float = 0.15,
) -> np.ndarray:
    """Gain [n] that holds down what is above the level that `share` of the sounding blocks stay below."""
    mono = sound.reshape(-1, sound.shape[-1]).mean(0)
    block = int(BLOCK_S * rate_hz)
    count = -(-len(mono) // block)
    power = np.pad(mono, (0, count * block - len(mono))).reshape(count, block)
    level_db = 10 * np.log10(np.mean(power**2, axis=1) + 1e-12)
    sounding = level_db[level_db > -70]
    if not len(sounding):
        return np.ones(len(mono), dtype=np.float32)
    over_db = np.maximum(0.0, level_db - np.quantile(sounding, share)) * (1 - 1 / ratio)
    rise, fall = np.exp(-BLOCK_S / attack_s), np.exp(-BLOCK_S / release_s)
    held, held_db = 0.0, np.empty(count)
    for index, wanted in enumerate(over_db):
        keep = rise if wanted > held else fall
        held = wanted + (held - wanted) * keep
        held_db[index] = held
    middle = (np.arange(count) + 0.5) * block
    return (10 ** (-np.interp(np.arange(len(mono)), middle, held_db) / 20)).astype(np.float32)


def room(
    sound: np.ndarray, rate_hz: int, seconds: float, wet: float, noise: np.random.Generator
) -> np.ndarray:
    """The sound in a room whose echoes fall by 60 dB in `seconds`; `wet` is their share of the level."""
    size = int(seconds * rate_hz)
    echoes = noise.standard_normal(size) * 10 ** (-3 * np.arange(size) / size)
    echoes[: int(0.008 * rate_hz)] = 0
    echoes /= np.linalg.norm(echoes)
    length = sound.shape[-1] + size
    made = np.fft.irfft(np.fft.rfft(sound, length) * np.fft.rfft(echoes, length), length)
    return (sound * (1 - wet) + made[..., : sound.shape[-1]] * wet).astype(np.float32)


def colour(stem: np.ndarray, name: str, rate_hz: int, draw: np.random.Generator) -> np.ndarray:
    """A stem's own equaliser, compressor and room, each of them sometimes."""
    if not stem.any():
        return stem
    if draw.random() < 0.5:
        centre_hz = float(np.exp(draw.uniform(np.log(120), np.log(6000))))
        stem = peak(stem, rate_hz, centre_hz, float(draw.uniform(-6, 6)))
    if draw.random() < 0.35:
        stem = stem * compression_gain(stem, rate_hz, float(draw.uniform(2, 6)))
    if name != "bass" and draw.random() < 0.2:
        stem = room(stem, rate_hz, float(draw.uniform(0.15, 0.9)), float(draw.uniform(0.08, 0.3)), draw)
    return stem


def glue(stems: np.ndarray, rate_hz: int, draw: np.random.Generator) -> np.ndarray:
    """Stems [3, ..., n] under one compressor that hears their sum, sometimes."""
    if draw.random() >= 0.25 or not stems.any():
        return stems
    return stems * compression_gain(stems.sum(0), rate_hz, float(draw.uniform(1.5, 3)), 0.5, 0.02, 0.2)
