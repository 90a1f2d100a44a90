"""A mix taken apart into drums, bass and other, roughly: enough to lean on, not to listen to.

Drums are what is short and wide in the spectrum, the rest is what is long and narrow (median filters along
time and frequency: Fitzgerald 2010); of the rest, bass lies below a crossover. The masks add up to one, so
the parts add up to the mix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genmodel.errors import GenModelError

PARTS = ("drums", "bass", "other")
CROSSOVER_HZ = 220.0
_SLOPE = 4
_FFT = 2048
_HOP = 1024
_COLUMNS, _BINS = 17, 31  # half a second (at 32 kHz) and 0.5 kHz that the medians look over
_BLOCK = 256  # columns at a time: the medians of one block take 33 MB


def separated(mono: Tensor, rate_hz: int, names: Sequence[str]) -> Tensor:
    """Mono float32 [n] -> float32 [stems, n] in the order of ``names``.

    Raises GenModelError for a model with other stems than drums, bass and other.
    """
    if sorted(names) != sorted(PARTS):
        raise GenModelError(
            "audio cannot be taken apart into this model's stems",
            field="source",
            value=", ".join(names),
            allowed=", ".join(PARTS),
        )
    samples = mono.shape[0]
    window = torch.hann_window(_FFT)
    padded = torch.nn.functional.pad(mono.cpu().float(), (_FFT, _FFT + -samples % _HOP))
    spectrum = torch.stft(padded, _FFT, _HOP, window=window, center=False, return_complex=True)
    percussive = _percussive(spectrum.abs())
    frequency = torch.fft.rfftfreq(_FFT, 1 / rate_hz)
    low = (1 / (1 + (frequency / CROSSOVER_HZ) ** _SLOPE))[:, None]
    masks = {"drums": percussive, "bass": (1 - percussive) * low, "other": (1 - percussive) * (1 - low)}
    parts = torch.stack([spectrum * masks[name] for name in names])
    return _overlapped(parts, window)[:, _FFT : _FFT + samples]


def _percussive(level: Tensor) -> Tensor:
    """[bins, columns] of magnitudes -> the share, 0…1, that belongs to short sounds."""
    across, along = _COLUMNS // 2, _BINS // 2
    wide = torch.nn.functional.pad(level[None, None], (across, across, along, along), mode="replicate")[0, 0]
    shares = []
    for first in range(0, level.shape[1], _BLOCK):
        count = min(_BLOCK, level.shape[1] - first)
        block = wide[:, first : first + count + 2 * across]
        long = block[along : along + level.shape[0]].unfold(1, _COLUMNS, 1).median(-1).values.square()
        short = block[:, across : across + count].unfold(0, _BINS, 1).median(-1).values.square()
        shares.append(short / (short + long + 1e-12))
    return torch.cat(shares, 1)


def _overlapped(parts: Tensor, window: Tensor) -> Tensor:
    """Spectra [S, bins, columns] back to samples [S, n], windows squared and divided out."""
    frames = torch.fft.irfft(parts, _FFT, dim=1) * window[:, None]
    length = _FFT + _HOP * (parts.shape[2] - 1)

    def added(columns: Tensor) -> Tensor:
        return torch.nn.functional.fold(columns, (1, length), (1, _FFT), stride=(1, _HOP))[:, 0, 0]

    weight = (window.square()[:, None]).expand(-1, parts.shape[2])[None]
    return added(frames) / added(weight).clamp_min(1e-6)
