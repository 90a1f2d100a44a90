"""Pitch-class content of audio, frame by frame: the *harmony* condition of pocket.

Per frame the energy of a spectrum's bins between 60 Hz and 2 kHz is folded onto twelve pitch classes (C = 0),
smoothed over a quarter of a second, and scaled so that the largest class is 1. A silent frame is all zeros.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

RATE_HZ = 32_000
HOP_SAMPLES = 640
WINDOW_SAMPLES = 4096
LOW_HZ, HIGH_HZ = 60.0, 2000.0
SMOOTHING_FRAMES = 13
"""About 0.25 s at 50 frames a second; odd, so that a frame's window is centred on it."""
SILENCE = 1e-9
"""Folded power under which a frame counts as silent (a sine at about −70 dBFS)."""
COMPRESSION = 0.7
"""Exponent of the power: 0.5 lets the window's skirts colour the neighbouring classes, 1 hides all but the
loudest.
"""


@lru_cache(maxsize=4)
def _fold(rate_hz: int) -> Tensor:
    """[bins, 12]: how much each bin belongs to each pitch class; bins between two classes are shared.

    Low bins, wider than a semitone, would smear the bass over its neighbours: a bin's weight grows with its
    frequency up to 250 Hz.
    """
    frequency = torch.fft.rfftfreq(WINDOW_SAMPLES, 1 / rate_hz)
    inside = (frequency >= LOW_HZ) & (frequency <= HIGH_HZ)
    pitch = 69 + 12 * torch.log2(frequency.clamp(min=1.0) / 440.0)
    distance = (pitch[:, None] - torch.arange(12)).remainder(12)
    distance = torch.minimum(distance, 12 - distance)
    weight = (1 - distance).clamp(min=0) * (frequency / 250.0).clamp(max=1.0)[:, None]
    return weight * inside[:, None]


def chroma(wav: Tensor, rate_hz: int = RATE_HZ) -> Tensor:
    """Chroma of mono audio.

    Args:
        wav: float32 [n], at `rate_hz` (the hop and window are in samples at 32 kHz: resample first).
    Returns:
        float32 [F, 12] with F = ceil(n / 640), values in 0…1; frame f is centred on the middle of its 640
        samples.
    """
    if wav.dim() != 1:
        raise ValueError(f"chroma takes mono audio of one dimension, not shape {tuple(wav.shape)}")
    frames = -(-wav.shape[0] // HOP_SAMPLES)
    if frames == 0:
        return wav.new_zeros(0, 12, dtype=torch.float32)
    left = WINDOW_SAMPLES // 2 - HOP_SAMPLES // 2
    right = (frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES - left - wav.shape[0]
    padded = F.pad(wav.float(), (left, right))
    taper = torch.hann_window(WINDOW_SAMPLES, device=wav.device)
    spectrum = torch.stft(
        padded, WINDOW_SAMPLES, HOP_SAMPLES, window=taper, center=False, return_complex=True
    )
    power = torch.view_as_real(spectrum).square().sum(-1).T / WINDOW_SAMPLES**2
    folded = power[:frames] @ _fold(rate_hz).to(wav.device)
    smooth = F.avg_pool1d(
        folded.T[None], SMOOTHING_FRAMES, 1, SMOOTHING_FRAMES // 2, count_include_pad=False
    )[0].T
    top = smooth.amax(1, keepdim=True)
    scaled = (smooth / top.clamp(min=1e-12)).pow(COMPRESSION)
    return torch.where(top > SILENCE, scaled, torch.zeros_like(scaled))


def repeat_chroma(prompt: Tensor, frames: int, period_frames: float | None) -> Tensor:
    """Harmony for `frames` frames after a prompt whose chroma is [P, 12]: the prompt's own, come round again.

    Frame t takes the prompt's chroma one or more whole periods earlier; without a period (or a prompt shorter
    than one) every frame takes the prompt's mean, scaled so that its largest class is 1.
    """
    length = prompt.shape[0]
    if length == 0:
        return prompt.new_zeros(frames, 12)
    if period_frames is None or period_frames < 1 or round(period_frames) > length:
        mean = prompt.mean(0, keepdim=True)
        return (mean / mean.amax().clamp(min=1e-9)).expand(frames, 12).clone()
    ahead = torch.arange(frames, dtype=torch.float64)
    periods = torch.floor(ahead / period_frames) + 1
    source = torch.round(length + ahead - periods * period_frames).long().clamp(0, length - 1)
    return prompt[source.to(prompt.device)]
