"""Noise by position: the random number of a token is a hash of where it stands, so company cannot change it.

A key is a 64-bit hash of (seed, variation, frame, codebook); hashed again with each token's id it gives a
uniform number, and that, through a table, Gumbel noise. The likeliest token after adding it is a draw from
the softmax. Only integer arithmetic, one rounding of an integer to float32 and a table look-up are involved:
every device gives the same bits. The hash steps are SplitMix64 (Steele, Lea, Flood 2014) and lowbias32
(Wellons 2018).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MANTISSA_BITS = 12  # relative resolution of tail probabilities: 2^-12
_SHIFT = 23 - _MANTISSA_BITS
_ONE_BITS = 0x3F800000 >> _SHIFT  # float32 1.0
_EXPONENTS = 31
_GUMBEL_STEP = 2.0**-16  # rounding the table makes it equal whatever libm computed it


def _signed(value: int) -> int:
    """The same 64 bits as int64 sees them."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, wrapping; shifts are made logical by masks."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _mix32(x: Tensor) -> Tensor:
    """lowbias32 on int32, wrapping."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


def position_keys(seed: int, variation: int, frames: int, codebooks: int) -> Tensor:
    """int64 [K, F]: the key of each frame and codebook. ``seed`` is any integer of 64 bits."""
    golden = 0x9E3779B97F4A7C15
    base = _mix64(torch.tensor([_signed(seed + golden)]))
    base = _mix64(base + _signed((variation + 1) * golden))
    books = _mix64(base + (torch.arange(1, codebooks + 1) * _signed(golden)))[:, None]
    return _mix64(books + torch.arange(1, frames + 1)[None] * _signed(golden))


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    """Gumbel noise by the leading bits of the probability to exceed it, float32 [31 * 2^12 + 1].

    Entry i stands for tail probabilities v around (1 + m/2^12) * 2^e / 2^31 with i = e * 2^12 + m; the noise
    exceeded with probability v is -log(-log(1 - v)).
    """
    size = _EXPONENTS << _MANTISSA_BITS
    index = torch.arange(size, dtype=torch.int64)
    mantissa = 1 + ((index & ((1 << _MANTISSA_BITS) - 1)).double() + 0.5) / (1 << _MANTISSA_BITS)
    v = mantissa * torch.pow(2.0, (index >> _MANTISSA_BITS).double() - _EXPONENTS)
    gumbel = -torch.log(-torch.log1p(-v))
    gumbel = torch.cat([gumbel, gumbel[-1:]])  # the integer just below 2^31 rounds up to it
    return (torch.round(gumbel / _GUMBEL_STEP) * _GUMBEL_STEP).float().to(device)


@lru_cache(maxsize=32)
def _salts(card: int, device: torch.device) -> Tensor:
    """int32 [card]: a hash of each token's id."""
    ids = torch.arange(1, card + 1, dtype=torch.int32)
    return _mix32(ids * (0x9E3779B9 - (1 << 32))).to(device)


def gumbel_noise(keys: Tensor, card: int) -> Tensor:
    """Keys int64 [...] -> float32 [..., card] of Gumbel noise."""
    return _on_host(keys, card) if keys.device.type == "cpu" else _anywhere(keys, card)


def _on_host(keys: Tensor, card: int) -> Tensor:
    """As ``_anywhere``, to the bit: numpy has unsigned integers, whose shifts need no mask, and its small
    operations cost a third of torch's (45 us instead of 139 for 4 codebooks of 2048).
    """
    both = keys.numpy().view(np.uint64)[..., None]
    h = _salts(card, keys.device).numpy().view(np.uint32) ^ both.astype(np.uint32)
    _mix32_on_host(h)
    h += (both >> np.uint64(32)).astype(np.uint32)
    _mix32_on_host(h)
    h &= np.uint32(0x7FFFFFFF)
    h |= np.uint32(1)
    bits = h.view(np.int32).astype(np.float32).view(np.int32)
    bits >>= _SHIFT
    bits -= _ONE_BITS
    return torch.from_numpy(_table(keys.device).numpy().take(bits))


def _mix32_on_host(x: NDArray[np.uint32]) -> None:
    """lowbias32, in place."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)


def _anywhere(keys: Tensor, card: int) -> Tensor:
    low = (keys & 0xFFFFFFFF).to(torch.int64)
    low = (low - ((low >> 31) << 32)).to(torch.int32)[..., None]
    high = (keys >> 32).to(torch.int32)[..., None]
    h = _mix32(_mix32(_salts(card, keys.device) ^ low) + high)
    # an odd integer below 2^31, rounded to float32: its leading bits are the table's index
    bits = ((h & 0x7FFFFFFF) | 1).to(torch.float32).view(torch.int32)
    return _table(keys.device)[(bits >> _SHIFT) - _ONE_BITS]


def noise_tables(card: int) -> tuple[Tensor, Tensor, int]:
    """What `gumbel_noise` looks up, for kernels that make the same: the table float32, the tokens' salts
    int32 [card], and how many low bits of the hash as float32 the table's index leaves out.
    """
    cpu = torch.device("cpu")
    return _table(cpu), _salts(card, cpu), _SHIFT
