"""Melody conditioning: the loudest pitch class of each moment, one-hot, as MusicGen's melody models take it.

AudioCraft separates the melody from drums and bass first (demucs). Here the chroma is taken of the given
audio as it is; a melody that is given alone, or with soft accompaniment, comes out the same. No melody is a
known constant: 235 times the first pitch class, which is what AudioCraft computes from silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmodel.errors import GenModelError
from genmodel.lm.conditioners.base import WaveformConditioner

_A0_HZ = 27.5  # octaves are counted from here
_CENTRE_OCTAVE, _OCTAVE_WIDTH = 5.0, 2.0


def chroma_filterbank(sample_rate: int, n_fft: int, bins: int) -> Tensor:
    """Weights [bins, n_fft/2 + 1] from spectrum to pitch classes (C first), float32.

    D. Ellis' constant-Q-like mapping: each frequency is a Gaussian bump around its place in the octave, as
    wide as the distance between neighbours but at least a semitone; columns have unit length and a Gaussian
    weight over octaves.
    """
    hz = torch.arange(1, n_fft, dtype=torch.float64) * sample_rate / n_fft
    place = bins * torch.log2(hz / _A0_HZ)
    place = torch.cat([place[:1] - 1.5 * bins, place])  # 0 Hz: an octave and a half below the first bin
    width = torch.cat([place.diff().clamp_min(1.0), torch.ones(1, dtype=torch.float64)])
    distance = place[None] - torch.arange(bins, dtype=torch.float64)[:, None]
    half = round(bins / 2)
    distance = torch.remainder(distance + half + 10 * bins, bins) - half
    weights = torch.exp(-0.5 * (2 * distance / width) ** 2)
    weights = weights / weights.norm(dim=0, keepdim=True).clamp_min(1e-12)
    weights = weights * torch.exp(-0.5 * ((place / bins - _CENTRE_OCTAVE) / _OCTAVE_WIDTH) ** 2)
    weights = weights.roll(-3 * (bins // 12), dims=0)  # counted from A above, from C below
    return weights[:, : n_fft // 2 + 1].float()


class ChromaConditioner(WaveformConditioner):
    """Waveform [B, C, T] -> one-hot chroma [B, L, bins] of the trained length -> projection. Mask all ones.

    Shorter chroma is repeated from its start, longer is cut. Extraction: power spectrum, window 2^radix2_exp,
    hop a quarter of it, centred; argmax per frame.
    """

    def __init__(
        self,
        output_dim: int,
        sample_rate: int,
        n_chroma: int = 12,
        radix2_exp: int = 14,
        duration_s: float = 30.0,
        chroma_length: int | None = None,
    ) -> None:
        super().__init__(n_chroma, output_dim)
        self.sample_rate = sample_rate
        self.n_fft = 2**radix2_exp
        self.hop_samples = self.n_fft // 4
        self.chroma_length = chroma_length or 1 + int(sample_rate * duration_s) // self.hop_samples
        self._filters: Tensor | None = None  # 8193 x 12 numbers that plain text use never needs

    def chroma(self, wav: Tensor) -> Tensor:
        """Mono float32 [T] at ``sample_rate`` -> one-hot [1 + T // hop, bins]."""
        if wav.shape[-1] < self.n_fft:
            missing = self.n_fft - wav.shape[-1]
            wav = F.pad(wav, (missing // 2, missing - missing // 2))
        window = torch.hann_window(self.n_fft, device=wav.device)
        spectrum = torch.stft(wav, self.n_fft, self.hop_samples, window=window, return_complex=True)
        if self._filters is None or self._filters.device != wav.device:
            self._filters = chroma_filterbank(self.sample_rate, self.n_fft, self.dim).to(wav.device)
        loudest = (self._filters @ spectrum.abs().square()).argmax(dim=0)
        return F.one_hot(loudest, self.dim).float()

    def tokenize(self, inputs: Sequence[Any]) -> Tensor:
        """Per row a ``WavCondition`` (one row of audio) or None -> one-hot float32 [B, L, bins]."""
        return torch.stack([self._row(value) for value in inputs])

    def _row(self, value: Any) -> Tensor:
        length = 0 if value is None else int(value.length.reshape(-1)[0])
        if length == 0:
            null = torch.zeros(self.chroma_length, self.dim)
            null[:, 0] = 1.0
            return null
        wav = value.wav.reshape(-1, value.wav.shape[-1])[:, :length].float().mean(dim=0)
        if not torch.isfinite(wav).all():
            raise GenModelError("the melody holds NaN or infinity", code="E_NOT_FINITE", field="melody")
        rate = value.sample_rate[0]
        if rate != self.sample_rate:
            from genmodel.audio import convert_audio

            wav = convert_audio(wav[None], rate, self.sample_rate, 1)[0]
        chroma = self.chroma(wav)
        return chroma.repeat(-(-self.chroma_length // len(chroma)), 1)[: self.chroma_length]

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        projection: nn.Linear = self.output_proj  # type: ignore[assignment]
        values = projection(inputs.to(projection.weight.device, projection.weight.dtype))
        return values, torch.ones(values.shape[:2], dtype=torch.int64, device=values.device)
