"""Per-frame conditions: the numbers of the contract, absence as zero, rows that do not touch each other."""

from __future__ import annotations

import math

import pytest
import torch

from genmodel.errors import GenModelError
from genmodel.lm.conditioners.frames import (
    ContextConditioner,
    HarmonyConditioner,
    TransportConditioner,
    harmony_features,
    transport_features,
)


def test_transport_features_are_the_contracts() -> None:
    bar, beat, four = torch.tensor([0.25]), torch.tensor([0.125]), torch.tensor([0.5])
    found = transport_features(bar, beat, four)[0].tolist()
    expected = [1.0, -1, 0, 0, 1, math.sqrt(0.5), math.sqrt(0.5), 0, 1, -1, 0]
    assert found == pytest.approx(expected, abs=1e-6)


def test_absent_frames_and_rows_are_exact_zeros() -> None:
    torch.manual_seed(0)
    transport = TransportConditioner(6)
    features = transport_features(*(torch.rand(5) for _ in range(3)))
    features[2] = 0
    values, mask = transport(transport.tokenize([features, None]))
    assert values.shape == (2, 5, 6)
    assert mask.tolist() == [[1, 1, 0, 1, 1], [0] * 5]
    assert not values[0, 2].any() and not values[1].any()
    expected = features @ transport.output_proj.weight.T + transport.output_proj.bias
    assert torch.allclose(values[0, 0], expected[0])


def test_shorter_rows_hold_their_last_frame() -> None:
    harmony = HarmonyConditioner(6)
    short, long = torch.rand(3, 12), torch.rand(5, 12)
    values, mask = harmony(harmony.tokenize([short, long]))
    alone, _ = harmony(harmony.tokenize([short]))
    assert torch.allclose(values[0, :3], alone[0]) and torch.allclose(values[0, 3], values[0, 2])
    assert mask.all()


def test_harmony_takes_chroma_with_or_without_its_flag() -> None:
    harmony = HarmonyConditioner(6)
    chroma = torch.rand(4, 12)
    assert torch.equal(harmony.tokenize([chroma]), harmony.tokenize([harmony_features(chroma)]))
    silent, mask = harmony(harmony.tokenize([torch.zeros(4, 12)]))
    assert mask.all() and silent.any()  # silence is something that was said


def test_context_adds_now_and_a_little_later() -> None:
    torch.manual_seed(0)
    context = ContextConditioner(6, n_q=2, card=8, look_ahead_frames=2)
    codes = torch.randint(0, 8, (2, 5))
    values, mask = context(context.tokenize([codes]))
    now = context.emb[0](codes[0]) + context.emb[1](codes[1])
    later = torch.cat([now[2:], torch.zeros(2, 6)])
    assert torch.allclose(values[0], now + context.ahead(later), atol=1e-6) and mask.all()


def test_nothing_is_exactly_nothing_even_after_training_steps() -> None:
    context = ContextConditioner(6, n_q=2, card=8, look_ahead_frames=2)
    with torch.no_grad():
        for table in context.emb:
            table.weight.fill_(1.0)  # a file may hold anything in the special row
    nothing = torch.full((2, 4), 8)
    values, mask = context(context.tokenize([nothing, None]))
    assert not values.any() and not mask.any()


def test_context_rows_do_not_depend_on_their_company() -> None:
    torch.manual_seed(0)
    context = ContextConditioner(6, n_q=2, card=8, look_ahead_frames=2)
    short, long = torch.randint(0, 9, (2, 3)), torch.randint(0, 9, (2, 7))
    values, _ = context(context.tokenize([short, long, None]))
    for row, codes in enumerate((short, long)):
        alone, _ = context(context.tokenize([codes]))
        assert torch.allclose(values[row, : codes.shape[1]], alone[0], atol=1e-6)
    assert torch.equal(values[0, 3], values[0, 2])


@pytest.mark.parametrize(
    ("conditioner", "value"),
    [
        (TransportConditioner(4), torch.zeros(3, 10)),
        (TransportConditioner(4), torch.zeros(0, 11)),
        (TransportConditioner(4), torch.full((2, 11), float("nan"))),
        (HarmonyConditioner(4), torch.zeros(3, 4, 12)),
        (ContextConditioner(4, 2, 8), torch.zeros(2, 5)),
        (ContextConditioner(4, 2, 8), torch.full((2, 5), 9)),
        (ContextConditioner(4, 2, 8), torch.full((2, 5), -1)),
        (ContextConditioner(4, 2, 8), torch.zeros(3, 5, dtype=torch.int64)),
    ],
)
def test_wrong_frames_are_refused(conditioner: TransportConditioner, value: torch.Tensor) -> None:
    with pytest.raises(GenModelError):
        conditioner.tokenize([value])


def test_gradients_reach_every_weight() -> None:
    context = ContextConditioner(4, 2, 8, look_ahead_frames=1)
    context(context.tokenize([torch.randint(0, 8, (2, 6))]))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in context.parameters())
