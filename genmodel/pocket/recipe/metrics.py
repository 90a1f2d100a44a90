"""Plain measures of a piece of music: its tempo, where its onsets fall, its key,
how percussive and how steady it is.

All take mono float32 arrays at 32 kHz. They are crude on purpose,
and every one of them misses on true music too: a
figure means something only beside the same figure of the truth, of the truth through the codec,
and of a wrong clip.
"""

from __future__ import annotations

import numpy as np
import torch

from genmodel.pocket.chroma import chroma
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.spectral import mel_filters
from genmodel.pocket.recipe.theory import MODES

ONSET_HOP = 160
ONSET_RATE_HZ = RATE_HZ / ONSET_HOP
ONSET_EARLY_S = 0.008
"""By how much the envelope rises before a click: its window of 32 ms sees the click coming."""
TEMPO_RANGE = (55.0, 185.0)


def onset_envelope(wav: np.ndarray) -> np.ndarray:
    """Rises of 40 mel bands summed, 200 values a second; value i belongs to the moment i / 200 s."""
    window = 1024
    audio = torch.from_numpy(np.asarray(wav, dtype=np.float32))
    taper = torch.hann_window(window)
    spectrum = torch.stft(audio, window, ONSET_HOP, window=taper, center=True, return_complex=True)
    bands = (spectrum.abs().square().T @ mel_filters(RATE_HZ, window, 40, 40.0) + 1e-4).log()
    rises = (bands[2:] - bands[:-2]).clamp(min=0).sum(1)
    return np.pad(rises.numpy(), (1, 1))


def autocorrelation(envelope: np.ndarray) -> np.ndarray:
    """Normalised autocorrelation of the envelope's deviations, lag 0 first."""
    centred = envelope - envelope.mean()
    size = 2 * len(centred)
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    lags = np.fft.irfft(power)[: len(centred)]
    overlap = np.arange(len(centred), 0, -1) / len(centred)
    return lags / max(lags[0], 1e-9) / np.maximum(overlap, 0.2)


def beat_strength(lags: np.ndarray, bpm: np.ndarray | float) -> np.ndarray:
    """How much the envelope repeats after 1, 2 and 4 beats of that tempo (mean autocorrelation)."""
    beat = 60.0 / np.asarray(bpm, dtype=np.float64) * ONSET_RATE_HZ
    where = np.arange(len(lags))
    return np.mean([np.interp(beat * count, where, lags) for count in (1, 2, 4)], axis=0)


def tempo(wav: np.ndarray) -> float:
    """Quarter notes a minute, by the strongest repetition; halves and doubles are not told apart."""
    grid = np.exp(np.arange(np.log(TEMPO_RANGE[0]), np.log(TEMPO_RANGE[1]), 0.0025))
    strength = beat_strength(autocorrelation(onset_envelope(wav)), grid)
    prior = np.exp(-0.5 * (np.log2(grid / 115.0) / 1.2) ** 2)
    return float(grid[np.argmax(strength * prior)])


def same_tempo(estimate: float, true: float, tolerance: float = 0.02) -> bool:
    """Within 2 %, allowing half, double, and the ratios 3:2 and 3:4 that triple meters and swing suggest."""
    return any(abs(estimate / (true * ratio) - 1) <= tolerance for ratio in (1, 0.5, 2, 1.5, 0.75, 2 / 3))


def onset_errors_ms(wav: np.ndarray, first_s: float, grid_s: np.ndarray) -> np.ndarray:
    """Distance in ms of each strong onset to the nearest grid time; `first_s` is when the clip begins."""
    envelope = onset_envelope(wav)
    if envelope.max() <= 0:
        return np.zeros(0)
    middle = envelope[1:-1]
    peaks = (middle >= envelope[:-2]) & (middle > envelope[2:]) & (middle > 0.3 * envelope.max())
    times = (np.nonzero(peaks)[0] + 1) / ONSET_RATE_HZ + ONSET_EARLY_S + first_s
    if not len(times):
        return np.zeros(0)
    return np.abs(times[:, None] - grid_s[None]).min(1) * 1000


def mean_chroma(wav: np.ndarray) -> np.ndarray:
    """Mean pitch-class content [12], its mean removed and of unit length."""
    mean = chroma(torch.from_numpy(np.asarray(wav, dtype=np.float32))).mean(0).numpy().astype(np.float64)
    centred = mean - mean.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-9)


def scale_rank(pitch: np.ndarray, root: int, mode: str) -> int:
    """Place (1 = first) of the true scale among its twelve transpositions by the chroma inside it."""
    inside = [pitch[[(root + shift + step) % 12 for step in MODES[mode]]].sum() for shift in range(12)]
    return 1 + sum(value > inside[0] + 1e-9 for value in inside)


def percussive_share(wav: np.ndarray) -> float:
    """Share of energy that a median along frequency keeps better than one along time (Fitzgerald 2010).

    Measured on two seconds from the middle.
    """
    window = 1024
    start = max(0, len(wav) // 2 - RATE_HZ)
    audio = torch.from_numpy(np.asarray(wav[start : start + 2 * RATE_HZ], dtype=np.float32))
    spectrum = torch.stft(audio, window, 512, window=torch.hann_window(window), return_complex=True).abs()
    size = 17
    sideways = torch.nn.functional.pad(spectrum[None], (size // 2, size // 2), mode="reflect")[0]
    harmonic = sideways.unfold(1, size, 1).median(-1).values
    upright = torch.nn.functional.pad(spectrum.T[None], (size // 2, size // 2), mode="reflect")[0]
    percussive = upright.unfold(1, size, 1).median(-1).values.T
    share = percussive.square() / (percussive.square() + harmonic.square() + 1e-12)
    power = spectrum.square()
    return float((share * power).sum() / power.sum().clamp(min=1e-12))


def level_db(wav: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(wav, dtype=np.float64)) + 1e-12))


def silent_share(wav: np.ndarray, threshold_db: float = -50.0) -> float:
    """Share of half-second pieces below the threshold."""
    size = RATE_HZ // 2
    count = len(wav) // size
    pieces = wav[: count * size].reshape(count, size)
    return float(np.mean([level_db(piece) < threshold_db for piece in pieces])) if count else 0.0


def ripple_db(wav: np.ndarray) -> float:
    """Spread of the long-term spectrum about its neighbourhood, 5 to 12 kHz: fixed lines raise it."""
    window = 8192
    audio = torch.from_numpy(np.asarray(wav, dtype=np.float32))
    taper = torch.hann_window(window)
    spectrum = (
        torch.stft(audio, window, window // 2, window=taper, return_complex=True).abs().square().mean(1)
    )
    bins = np.arange(int(5000 / RATE_HZ * window), int(12000 / RATE_HZ * window))
    level = 10 * np.log10(spectrum.numpy()[bins] + 1e-12)
    size = 65
    padded = np.pad(level, size // 2, mode="edge")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=1)
    return float(np.std(level - around))


def auc(own: list[float], others: list[float]) -> float:
    """Chance that a value of `own` exceeds one of `others`; 0.5 is no difference."""
    a, b = np.asarray(own)[:, None], np.asarray(others)[None]
    return float(np.mean((a > b) + 0.5 * (a == b))) if a.size and b.size else float("nan")
