"""Tokens from logits where every row has its own settings, as tensors: ``lm/sampling.choose`` without a
decision of the host. Row by row the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def choose_by_row(
    logits: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor | None, greedy: Tensor
) -> Tensor:
    """Tokens int64 [N, K] from logits and Gumbel noise, float32 [N, K, card]; the settings are [N].

    ``top_k`` 0 and a ``top_p`` of 0 keep everything; ``top_p`` None: no row has one (which saves a sort).
    """
    card = logits.shape[-1]
    scaled = logits / torch.where(greedy, 1.0, temperature)[:, None, None]
    kept = torch.where((top_k > 0) & (top_k < card), top_k, card)
    if top_p is not None:
        kept = torch.where(top_p > 0, card, kept)
    ordered = scaled.sort(dim=-1, descending=True).values
    threshold = ordered.gather(-1, (kept - 1)[:, None, None].expand(-1, logits.shape[1], 1))
    keep = scaled >= threshold
    if top_p is not None:
        probability, order = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True)
        before = probability.cumsum(-1) - probability
        likely = torch.zeros_like(keep).scatter(-1, order, before <= top_p[:, None, None])
        keep = keep & (likely | (top_p <= 0)[:, None, None])
    drawn = (scaled.masked_fill(~keep, float("-inf")) + noise).argmax(-1)
    return torch.where(greedy[:, None], logits.argmax(-1), drawn)
