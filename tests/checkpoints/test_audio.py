"""Audio conversion: the published formula, exact lengths, channels, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmodel import audio
from genmodel.audio import convert_audio, resample
from genmodel.errors import GenModelError


def slow_resample(x: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """The formula, sample by sample, in float64."""
    common = math.gcd(old, new)
    old, new = old // common, new // common
    cutoff = min(old, new) * audio.ROLLOFF
    width = math.ceil(audio.ZEROS * old / cutoff)
    out = []
    for n in range(len(x) * new // old):
        whole, phase = divmod(n * old, new)
        total = weight_sum = 0.0
        for tap in range(-width, width + 2):
            t = max(-audio.ZEROS, min(audio.ZEROS, (tap - phase / new) / old * cutoff)) * math.pi
            weight = (math.sin(t) / t if t else 1.0) * math.cos(t / audio.ZEROS / 2) ** 2
            total += weight * float(x[max(0, min(len(x) - 1, whole + tap))])
            weight_sum += weight
        out.append(total / weight_sum)
    return torch.tensor(out)


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 32000), (48000, 32000), (32000, 44100), (22050, 16000), (8, 3)]
)
def test_resampling_is_the_formula(old: int, new: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(300)
    assert torch.allclose(resample(x, old, new), slow_resample(x, old, new), atol=3e-4)


def test_odd_rates_take_another_way_to_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4000)
    expected = resample(x, 48000, 32000)
    monkeypatch.setattr(audio, "_MAX_TABLE", 0)
    assert torch.allclose(resample(x, 48000, 32000), expected, atol=1e-5)
    assert resample(torch.randn(1, 44099), 44099, 32000).shape == (1, 32000)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000]),
    st.sampled_from([16000, 32000]),
)
def test_lengths_are_exact(samples: int, old: int, new: int) -> None:
    wav = torch.ones(1, samples)
    expected = samples * new // old
    if expected == 0:
        with pytest.raises(GenModelError):
            convert_audio(wav, old, new, 1)
        return
    found = convert_audio(wav, old, new, 1)
    assert found.shape == (1, expected) and torch.allclose(found, torch.ones(()), atol=1e-5)


def test_a_tone_keeps_its_level_and_what_cannot_be_kept_is_gone() -> None:
    t = torch.arange(48000, dtype=torch.float64) / 48000
    low, high = torch.sin(2 * torch.pi * 1000 * t)[None], torch.sin(2 * torch.pi * 20000 * t)[None]
    kept, gone = convert_audio(low, 48000, 32000, 1), convert_audio(high, 48000, 32000, 1)
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(32000, dtype=torch.float64) / 32000)
    assert (kept[0] - expected)[100:-100].abs().max() < 1e-3
    assert gone[0, 100:-100].abs().max() < 1e-3


def test_channels() -> None:
    stereo = torch.stack([torch.zeros(8), torch.ones(8)])
    assert torch.equal(convert_audio(stereo, 8000, 8000, 1), torch.full((1, 8), 0.5))
    assert torch.equal(convert_audio(stereo[1:], 8000, 8000, 2), torch.ones(2, 8))
    seven = torch.arange(7.0)[:, None].expand(7, 8)
    assert convert_audio(seven, 8000, 8000, 2)[:, 0].tolist() == [0, 1]
    assert convert_audio(seven[None], 8000, 8000, 1).shape == (1, 1, 8)
    assert convert_audio(stereo.double(), 8000, 16000, 2).dtype == torch.float64
    assert convert_audio(stereo.half(), 8000, 16000, 2).dtype == torch.float32


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("wav", "rate", "channels", "code"),
    [
        (torch.zeros(2, 8), 0, 1, "E_AUDIO"),
        (torch.zeros(2, 8), -44100, 1, "E_AUDIO"),
        (torch.zeros(2, 8), NAN, 1, "E_AUDIO"),
        (torch.zeros(2, 8), INF, 1, "E_AUDIO"),
        (torch.zeros(2, 8), "44100", 1, "E_AUDIO"),
        (torch.zeros(2, 0), 44100, 1, "E_AUDIO"),
        (torch.zeros(0, 8), 44100, 1, "E_AUDIO"),
        (torch.zeros(8), 44100, 1, "E_AUDIO"),
        (torch.zeros(2, 8, dtype=torch.int16), 44100, 1, "E_AUDIO"),
        ([[0.0]], 44100, 1, "E_AUDIO"),
        (torch.zeros(2, 8), 44100, 4, "E_AUDIO"),
        (torch.zeros(1, 1), 44100, 1, "E_AUDIO"),
        (torch.full((1, 8), NAN), 44100, 1, "E_NOT_FINITE"),
        (torch.full((1, 8), -INF), 44100, 1, "E_NOT_FINITE"),
    ],
)
def test_what_is_no_audio_is_refused(wav: torch.Tensor, rate: float, channels: int, code: str) -> None:
    with pytest.raises(GenModelError) as caught:
        convert_audio(wav, rate, 32000, channels)
    assert caught.value.code == code
