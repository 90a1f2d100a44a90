"""From logits to tokens, in AudioCraft's order: temperature, softmax, then top-p, else top-k, else
everything.

Draws are made by adding Gumbel noise and taking the largest (equal in distribution to a multinomial draw), so
that the noise can be given by position (``genmodel/engine/noise.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """bool like ``logits`` [..., card]: the k largest, with all that equal the k-th. More than card means
    card.
    """
    threshold = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits >= threshold


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """bool like ``logits``: the likeliest tokens up to and including the one that takes their sum above p."""
    probability, order = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
    before = probability.cumsum(-1) - probability
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before <= p)


def choose(
    logits: Tensor, noise: Tensor | None, temperature: float = 1.0, top_k: int = 250, top_p: float = 0.0
) -> Tensor:
    """Tokens int64 [...] from logits [..., card]; ``noise`` is Gumbel noise of that shape, None for the
    likeliest.
    """
    logits = logits.float()
    if noise is None:
        return logits.argmax(-1)
    if temperature != 1.0:
        logits = logits / temperature
    if top_p > 0:
        kept = keep_top_p(logits, top_p)
    elif 0 < top_k < logits.shape[-1]:
        kept = keep_top_k(logits, top_k)
    else:
        return (logits + noise).argmax(-1)
    return torch.where(kept, logits + noise, float("-inf")).argmax(-1)
