"""Sampling: AudioCraft's order and rules, and draws that follow the softmax."""

from __future__ import annotations

import torch

from genmodel.engine.noise import gumbel_noise, position_keys
from genmodel.lm.sampling import choose, keep_top_k, keep_top_p

LOGITS = torch.tensor([2.0, 1.0, 1.0, 0.0, -1.0, -3.0])


def drawn(**settings: float) -> torch.Tensor:
    """Shares of each token in 60 000 draws."""
    keys = position_keys(5, 0, 15_000, 4)
    tokens = choose(LOGITS.expand(4, 15_000, -1), gumbel_noise(keys, 6), **settings)  # type: ignore[arg-type]
    return torch.bincount(tokens.flatten(), minlength=6) / tokens.numel()


def test_top_k_keeps_ties_and_more_than_all_is_all() -> None:
    assert keep_top_k(LOGITS, 2).tolist() == [True, True, True, False, False, False]
    assert keep_top_k(LOGITS, 100).all()


def test_top_p_keeps_the_token_that_crosses_p() -> None:
    probability = LOGITS.softmax(-1)
    assert keep_top_p(LOGITS, float(probability[0]) - 1e-4).tolist() == [True] + [False] * 5
    assert keep_top_p(LOGITS, float(probability[0]) + 1e-4).sum() == 2
    assert keep_top_p(LOGITS, 1.0).all()
    shuffled = LOGITS[torch.tensor([5, 3, 0, 1, 4, 2])]
    assert keep_top_p(shuffled, 0.5).tolist() == [False, False, True, False, False, False]


def test_draws_follow_the_softmax() -> None:
    assert torch.allclose(drawn(top_k=0), LOGITS.softmax(-1), atol=0.006)
    assert torch.allclose(drawn(top_k=0, temperature=2.0), (LOGITS / 2).softmax(-1), atol=0.006)


def test_top_p_takes_the_place_of_top_k() -> None:
    kept = torch.where(keep_top_k(LOGITS, 2), LOGITS, float("-inf")).softmax(-1)
    assert torch.allclose(drawn(top_k=2), kept, atol=0.006)
    kept = torch.where(keep_top_p(LOGITS, 0.9), LOGITS, float("-inf")).softmax(-1)
    assert torch.allclose(drawn(top_k=1, top_p=0.9), kept, atol=0.006)


def test_temperature_comes_before_top_p() -> None:
    hot = keep_top_p(LOGITS / 3, 0.6)
    assert (drawn(top_p=0.6, temperature=3.0) > 0).tolist() == hot.tolist()
    assert hot.sum() > keep_top_p(LOGITS, 0.6).sum()


def test_without_noise_the_likeliest() -> None:
    assert int(choose(LOGITS, None, temperature=0.0)) == 0
