"""Audio on its way into a model: rate and channels, as AudioCraft converts them.

Resampling is the windowed-sinc interpolation of Julius (A. Défossez), the published formula: a sinc at 0.945
of the lower Nyquist rate, 24 zero crossings to each side, a squared-cosine window, each phase normalised to
sum 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from genmodel.errors import GenModelError

ZEROS = 24
ROLLOFF = 0.945
MAX_RATE_HZ = 1_536_000
# Above this many numbers the table of all phases is not built (44.1 -> 32 kHz needs 23 thousand).
_MAX_TABLE = 2**22
_GATHER_SAMPLES = 2**16


def checked_rate(rate: float, field: str = "sample_rate") -> int:
    """A sample rate as a whole number of Hz; GenModelError E_AUDIO unless it is 1…1 536 000."""
    number = float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) else math.nan
    if not (1 <= number <= MAX_RATE_HZ):
        raise GenModelError(
            "this is no sample rate", code="E_AUDIO", field=field, value=rate, allowed=f"1…{MAX_RATE_HZ} Hz"
        )
    return int(number)


def checked_audio(wav: Tensor, field: str = "audio") -> Tensor:
    """Samples [..., C, T] in floating point, finite and not empty, or GenModelError (E_AUDIO,
    E_NOT_FINITE).
    """
    if not isinstance(wav, Tensor) or not wav.is_floating_point():
        kind = str(wav.dtype) if isinstance(wav, Tensor) else type(wav).__name__
        raise GenModelError(
            "audio is a tensor of floating-point samples", code="E_AUDIO", field=field, value=kind
        )
    if wav.ndim < 2 or wav.numel() == 0:
        raise GenModelError(
            "audio has no samples" if wav.ndim >= 2 else "audio needs a channel dimension",
            code="E_AUDIO",
            field=field,
            value=tuple(wav.shape),
            allowed="[..., channels, samples], at least one of each",
        )
    if not torch.isfinite(wav).all():
        raise GenModelError("audio holds NaN or infinity", code="E_NOT_FINITE", field=field)
    return wav


def _width(old: int, new: int) -> int:
    """Taps to each side of an output sample, in input samples."""
    return math.ceil(ZEROS * old / (min(old, new) * ROLLOFF))


def _weights(t: Tensor) -> Tensor:
    """Interpolation weights at distances t (in zero crossings), each row normalised to sum 1."""
    t = t.clamp(-ZEROS, ZEROS) * math.pi
    sinc = torch.where(t == 0, 1.0, torch.sin(t) / t)
    weights = sinc * torch.cos(t / ZEROS / 2).square()
    return weights / weights.sum(dim=-1, keepdim=True)


@lru_cache(maxsize=16)
def _table(old: int, new: int) -> Tensor:
    """All phases as one convolution kernel [new, 1, old + 2·width] with stride ``old``.

    In float32 and in the order of the published formula: prompts then become the tokens that AudioCraft makes
    of them.
    """
    width = _width(old, new)
    place = torch.arange(-width, width + old).float() / old
    start = torch.tensor([-phase / new for phase in range(new)])
    return _weights((start[:, None] + place[None]) * (min(old, new) * ROLLOFF))[:, None]


def resample(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """[..., T] at from_hz -> [..., floor(T · to_hz / from_hz)] at to_hz, same dtype (float32 or float64)."""
    if from_hz == to_hz:
        return wav
    common = math.gcd(from_hz, to_hz)
    old, new = from_hz // common, to_hz // common
    length = wav.shape[-1] * new // old
    flat = wav.reshape(-1, 1, wav.shape[-1])
    width = _width(old, new)
    if new * (old + 2 * width) <= _MAX_TABLE:
        padded = F.pad(flat, (width, width + old), mode="replicate")
        out = F.conv1d(padded, _table(old, new).to(wav), stride=old).transpose(1, 2).reshape(len(flat), -1)
    else:
        out = _resample_odd(flat[:, 0], old, new, length)
    return out[:, :length].reshape(*wav.shape[:-1], length)


def _resample_odd(flat: Tensor, old: int, new: int, length: int) -> Tensor:
    """Rates with no small ratio (44 099 Hz): the weights of each output sample, a piece at a time."""
    width = _width(old, new) + 1
    reach = torch.arange(-width, width + 1)
    pieces = []
    for start in range(0, length, _GATHER_SAMPLES):
        outputs = torch.arange(start, min(length, start + _GATHER_SAMPLES))
        # whole and fractional place apart: exact however far into the audio
        fraction = ((outputs * old) % new).float() / new
        weights = _weights((reach[None] - fraction[:, None]) * (min(old, new) * ROLLOFF / old))
        taps = (outputs * old // new)[:, None] + reach[None]
        around = flat[:, taps.clamp(0, flat.shape[-1] - 1).to(flat.device)]
        pieces.append((around * weights.to(flat)).sum(-1))
    return torch.cat(pieces, dim=-1) if pieces else flat[:, :0]


def convert_channels(wav: Tensor, channels: int) -> Tensor:
    """[..., C, T] -> [..., channels, T]: mean to mono, mono repeated, the first ones of more; else
    E_AUDIO.
    """
    have = wav.shape[-2]
    if have == channels:
        return wav
    if channels == 1:
        return wav.mean(dim=-2, keepdim=True)
    if have == 1:
        return wav.expand(*wav.shape[:-2], channels, wav.shape[-1])
    if have > channels > 0:
        return wav[..., :channels, :]
    raise GenModelError(
        f"audio with {have} channels cannot become {channels}",
        code="E_AUDIO",
        field="channels",
        value=have,
        allowed="mono, or at least as many channels as are wanted",
    )


def convert_audio(wav: Tensor, from_hz: float, to_hz: float, to_channels: int) -> Tensor:
    """Samples [..., C, T] at from_hz -> [..., to_channels, floor(T·to/from)] at to_hz, rate first, then
    channels.

    Raises GenModelError: E_AUDIO for what is no audio (empty, no rate, channels that cannot be made, so short
    that nothing is left), E_NOT_FINITE for NaN and infinity.
    """
    old, new = checked_rate(from_hz), checked_rate(to_hz)
    checked_audio(wav)
    if wav.dtype not in (torch.float32, torch.float64):
        wav = wav.float()
    if wav.shape[-1] * new // old < 1:
        raise GenModelError(
            "this audio is shorter than one sample of the model",
            code="E_AUDIO",
            field="audio",
            value=f"{wav.shape[-1]} samples at {old} Hz",
        )
    return convert_channels(resample(wav, old, new), int(to_channels))
