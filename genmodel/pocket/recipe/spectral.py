"""Spectral distances for training and judging the codec."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def mel_filters(rate_hz: int, window: int, bands: int, low_hz: float = 20.0) -> Tensor:
    """Triangular mel filters [window/2 + 1, bands], each summing to 1 (HTK's mel formula)."""

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    edges = 700.0 * (10 ** (torch.linspace(to_mel(low_hz), to_mel(rate_hz / 2), bands + 2) / 2595.0) - 1.0)
    bins = torch.linspace(0, rate_hz / 2, window // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    return filters / filters.sum(0).clamp(min=1e-8)


class SpectralLoss(nn.Module):
    """Log and linear distances of mel spectra at several windows, and one long window on linear frequency.

    The long window is there for the decoder's habit of making hiss out of fixed lines: they fall between the
    bands of a mel spectrum, while 8192 samples at 32 kHz tell lines 4 Hz apart.
    """

    def __init__(self, rate_hz: int = 32_000, long_window: int = 8192) -> None:
        super().__init__()
        self.scales = ((2048, 96), (1024, 64), (512, 48), (128, 16))
        self.long_window = long_window
        for window, bands in self.scales:
            self.register_buffer(f"mel_{window}", mel_filters(rate_hz, window, bands), persistent=False)
        for window in {long_window, *(w for w, _ in self.scales)}:
            self.register_buffer(f"hann_{window}", torch.hann_window(window), persistent=False)

    def power(self, audio: Tensor, window: int, hop: int) -> Tensor:
        """Power spectrum [B, frames, bins]; white noise of variance v gives about v in every bin."""
        taper = getattr(self, f"hann_{window}")
        spectrum = torch.stft(audio, window, hop, window=taper, center=True, return_complex=True)
        return torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) / (0.375 * window)

    def mel(self, audio: Tensor, window: int) -> Tensor:
        return self.power(audio, window, window // 4) @ getattr(self, f"mel_{window}") + 1e-8

    def forward(self, made: Tensor, true: Tensor, chosen: tuple[int, ...], long: bool) -> Tensor:
        """Mean distance over the windows `chosen` (indices into the scales),
        plus the long one when `long`."""
        total = made.new_zeros(())
        for index in chosen:
            window, _ = self.scales[index]
            with torch.no_grad():
                aim = self.mel(true, window)
            got = self.mel(made, window)
            total = total + 0.5 * (got.log10() - aim.log10()).abs().mean()
            total = total + 0.5 * (got.sqrt() - aim.sqrt()).abs().mean() / aim.sqrt().mean().clamp(min=1e-3)
        total = total / len(chosen)
        if long:
            window = self.long_window
            with torch.no_grad():
                aim = self.power(true, window, window // 4).clamp(min=1e-7)
            got = self.power(made, window, window // 4).clamp(min=1e-7)
            total = total + LONG_WEIGHT * (got.log10() - aim.log10()).abs().mean()
        return total


LONG_WEIGHT = 0.15


def mel_distance_db(loss: SpectralLoss, made: Tensor, true: Tensor) -> Tensor:
    """Mean absolute difference in dB of 96 mel bands (window 2048, floor −60 dB), one per row of [B, T]."""
    floor = 1e-6
    a, b = (loss.mel(audio, 2048).clamp(min=floor).log10() for audio in (made, true))
    return 10 * (a - b).abs().mean((1, 2))


def si_sdr_db(made: Tensor, true: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, one per row (Le Roux et al. 2019)."""
    scale = (made * true).sum(1, keepdim=True) / true.square().sum(1, keepdim=True).clamp(min=1e-9)
    part = scale * true
    return 10 * torch.log10((part.square().sum(1) + 1e-9) / ((made - part).square().sum(1) + 1e-9))


def incoherence(made: Tensor, true: Tensor, floor: float = 0.01) -> Tensor:
    """Minus a tenth of the SI-SDR in dB, one per row: the waveforms' correlation, whatever their levels.

    `floor` bounds it at about 20 dB on the bad side, where the gradient of the plain logarithm would be that
    of noise; the good side is bounded at 40 dB.
    """
    energy = made.square().sum(1) * true.square().sum(1)
    share = (made * true).sum(1).square() / energy.clamp(min=1e-6)
    return torch.log10((1.0 - share).clamp(min=0.0) + 1e-4) - torch.log10(share + floor)
