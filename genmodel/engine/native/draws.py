"""Tokens from logits by the kernels: what `genmodel/engine/drawing` does, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodel.engine.native.library import CDraw, CNoise, Kernels, Scratch
from genmodel.engine.noise import noise_tables

if TYPE_CHECKING:
    from genmodel.engine.drawing import Draw


def drawable(draw: Draw) -> bool:
    """Whether the kernels draw so: not by top-p, whose sums and exponentials are torch's own."""
    return draw.sampling.greedy or draw.sampling.top_p == 0


class Draws:
    """Draws for a network of ``card`` tokens a codebook."""

    def __init__(self, kernels: Kernels, scratch: Scratch, card: int) -> None:
        self._kernels, self._scratch = kernels, scratch
        self._table, self._salts, shift = noise_tables(card)
        self._noise = CNoise(self._table.data_ptr(), self._salts.data_ptr(), shift)

    def __call__(self, logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """As ``drawing.draw_tokens``; tokens of a take whose logits are not finite mean nothing."""
        takes, codebooks, card = logits.shape
        if logits.dtype != torch.float32 or logits.stride()[1:] != (card, 1):
            logits = logits.float().contiguous()
        tokens = torch.zeros(takes, codebooks, dtype=torch.int64)
        finite = torch.empty(takes, codebooks, dtype=torch.bool)
        asked = (CDraw * takes)(*[_c_form(draw) for draw in draws])
        self._kernels.draw(asked, self._noise, logits, tokens, finite, self._scratch)
        return tokens, finite.all(1)


def _c_form(draw: Draw) -> CDraw:
    sampling, keys, near = draw.sampling, draw.keys, draw.near
    return CDraw(
        None if sampling.greedy else keys.data_ptr(),
        None if near is None else near.data_ptr(),
        keys.stride(0),
        0 if near is None else near.stride(0),
        draw.bonus,
        sampling.temperature,
        sampling.top_k,
    )
