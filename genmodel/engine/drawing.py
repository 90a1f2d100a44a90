"""The tokens of one step of several takes, drawn from their logits: each by its own request and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmodel.engine.leaning import leaned
from genmodel.engine.noise import gumbel_noise
from genmodel.lm.sampling import choose
from genmodel.request import Sampling


@dataclass(frozen=True, eq=False)
class Draw:
    """How one take's tokens of one step are drawn: ``keys`` int64 [K] of the noise; ``near`` int64 [K]: a
    source's tokens, whose logits are raised by ``bonus`` (negative: none).
    """

    sampling: Sampling
    keys: Tensor
    near: Tensor | None = None
    bonus: float = 0.0


def draw_tokens(logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
    """Logits [n, K, card], one take a row -> tokens int64 [n, K], and bool [n]: whether a take's logits, the
    bonus left out, are all finite.
    """
    finite = (logits * 0).flatten(1).sum(1) == 0  # nothing times what is not finite is no number
    if any(draw.near is not None for draw in draws):
        logits = torch.stack(
            [
                row.float() if draw.near is None else leaned(row, draw.near, draw.bonus)
                for row, draw in zip(logits, draws, strict=True)
            ]
        )
    chosen = torch.empty(logits.shape[:2], dtype=torch.int64, device=logits.device)
    for sampling in {draw.sampling for draw in draws}:
        same = [i for i, draw in enumerate(draws) if draw.sampling == sampling]
        part = logits if len(same) == len(draws) else logits[same]
        noise = None
        if not sampling.greedy:
            noise = gumbel_noise(torch.stack([draws[i].keys for i in same]), logits.shape[-1])
        chosen[same] = choose(part, noise, sampling.temperature, sampling.top_k, sampling.top_p)
    return chosen, finite
