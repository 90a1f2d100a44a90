"""Residual vector quantisation with Euclidean codebooks, AudioCraft's key names."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Frames whose distances to all entries are held at once: 8192 x 2048 float32 are 64 MiB.
_BLOCK_FRAMES = 8192


class _Codebook(nn.Module):
    embed: Tensor

    def __init__(self, bins: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(bins, dimension))


class _Layer(nn.Module):
    def __init__(self, bins: int, dimension: int) -> None:
        super().__init__()
        self._codebook = _Codebook(bins, dimension)


class _Stack(nn.Module):
    def __init__(self, n_q: int, bins: int, dimension: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(bins, dimension) for _ in range(n_q)])


def nearest(x: Tensor, embed: Tensor) -> Tensor:
    """``[N, D], [bins, D] -> [N]``: index of the nearest entry by squared distance, ties to the lowest.

    The expanded form and its order of operations are those of the published implementations: distances that
    differ by rounding only must be resolved the same way.
    """
    entries = embed.t()
    distance = x.pow(2).sum(1, keepdim=True) - 2 * x @ entries + entries.pow(2).sum(0, keepdim=True)
    return (-distance).max(dim=-1).indices


class ResidualVectorQuantizer(nn.Module):
    """``n_q`` codebooks of ``bins`` entries; codebook k quantises what the first k left over."""

    def __init__(self, n_q: int, bins: int, dimension: int) -> None:
        super().__init__()
        self.bins = bins
        self.vq = _Stack(n_q, bins, dimension)

    @property
    def codebooks(self) -> list[Tensor]:
        """The ``n_q`` tables, each ``[bins, D]``."""
        return [cast(_Layer, layer)._codebook.embed for layer in self.vq.layers]

    def encode(self, latent: Tensor, n_q: int) -> Tensor:
        """``[B, D, F]`` float -> ``[B, n_q, F]`` int64."""
        batch, dimension, frames = latent.shape
        residual = latent.permute(0, 2, 1).reshape(-1, dimension)
        columns = []
        for embed in self.codebooks[:n_q]:
            index = torch.cat([nearest(block, embed) for block in residual.split(_BLOCK_FRAMES)])
            residual = residual - F.embedding(index, embed)
            columns.append(index.view(batch, frames))
        return torch.stack(columns, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """``[B, K, F]`` int64 -> ``[B, F, D]`` (time before channels), the sum of the K entries."""
        latent = F.embedding(codes[:, 0], self.codebooks[0])
        for k in range(1, codes.shape[1]):
            latent = latent + F.embedding(codes[:, k], self.codebooks[k])
        return latent
