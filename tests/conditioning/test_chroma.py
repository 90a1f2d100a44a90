"""Melody as one-hot chroma: the filters against transformers', the null melody, lengths."""

from __future__ import annotations

import pytest
import torch

from genmodel.errors import GenModelError
from genmodel.lm.conditioners.chroma import ChromaConditioner, chroma_filterbank
from genmodel.lm.conditioning import WavCondition

RATE = 32000


def sine(hz: float, seconds: float, rate: int = RATE) -> WavCondition:
    count = int(rate * seconds)
    wav = torch.sin(torch.arange(count) * 2 * torch.pi * hz / rate)[None, None]
    return WavCondition(wav, torch.tensor([count]), [rate])


def test_filters_are_the_published_ones() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    expected = audio_utils.chroma_filter_bank(
        num_frequency_bins=16384,
        num_chroma=12,
        sampling_rate=RATE,
        tuning=0,
        power=2.0,
        weighting_parameters=(5.0, 2.0),
        start_at_c_chroma=True,
    )
    found = chroma_filterbank(RATE, 16384, 12)
    assert torch.allclose(found, torch.from_numpy(expected).float(), atol=1e-5)


def test_no_melody_is_235_times_the_first_pitch_class() -> None:
    conditioner = ChromaConditioner(8, RATE)
    assert conditioner.chroma_length == 235
    rows = conditioner.tokenize([None, sine(440, 0.0)._replace(wav=torch.zeros(1, 1, 1))])
    assert rows.shape == (2, 235, 12)
    assert torch.equal(rows.argmax(-1), torch.zeros(2, 235, dtype=torch.int64)) and rows.sum() == 470


@pytest.mark.parametrize(("hz", "pitch"), [(440.0, 9), (261.63, 0), (311.13, 3)])
def test_a_tone_is_its_pitch_class(hz: float, pitch: int) -> None:
    conditioner = ChromaConditioner(8, RATE, duration_s=5.0)
    rows = conditioner.tokenize([sine(hz, 2.0), sine(hz, 0.1), sine(hz, 2.0, 44100)])
    assert (rows.argmax(-1) == pitch).all() and rows.shape[1] == conditioner.chroma_length
    values, mask = conditioner(rows)
    assert values.shape == (3, conditioner.chroma_length, 8) and mask.all()


def test_nan_is_refused() -> None:
    wav = sine(440, 1.0)
    wav.wav[0, 0, 5] = float("nan")
    with pytest.raises(GenModelError) as caught:
        ChromaConditioner(8, RATE).tokenize([wav])
    assert caught.value.code == "E_NOT_FINITE"
