"""Melody models: text and chroma in front of the sequence, double guidance, melodies read on by later
windows.
"""

from __future__ import annotations

import pytest
import torch

from genmodel import AudioGen, GenModelError, MusicGen
from genmodel.checkpoints import debug
from genmodel.lm.conditioners.chroma import ChromaConditioner
from genmodel.lm.conditioners.words import WordsConditioner
from genmodel.lm.conditioning import ConditioningProvider
from genmodel.lm.config import LMConfig
from genmodel.lm.fuser import ConditionFuser
from genmodel.lm.lm import LMModel
from tests.engine.tiny import WORDS


def melody_model(max_duration: float = 2.0) -> MusicGen:
    torch.manual_seed(0)
    config = LMConfig(dim=32, num_heads=4, num_layers=2, n_q=4, card=400, cross_attention=False)
    conditioners = {
        "self_wav": ChromaConditioner(32, 32000, radix2_exp=12, duration_s=max_duration),
        "description": WordsConditioner(WORDS, {}, 16, 32),
    }
    fuser = ConditionFuser({"prepend": ["self_wav", "description"]})
    lm = LMModel(config, ConditioningProvider(conditioners), fuser)
    model = MusicGen("melody", debug.build_codec(), lm, max_duration)
    model.set_generation_params(duration=1.0, use_sampling=False, extend_stride=1.0)
    return model


def tone(hz: float, seconds: float = 1.0, rate: int = 32000) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * rate)) / rate)[None] * 0.3


def tokens(model: MusicGen, texts: list, melodies: object, rate: int = 32000) -> torch.Tensor:
    return model.generate_with_chroma(texts, melodies, rate, return_tokens=True)[1]  # type: ignore[arg-type]


def test_a_melody_is_heard_and_none_is_as_plain_text() -> None:
    model = melody_model()
    made = tokens(model, ["slow", "slow", "slow"], [tone(440), tone(523.25), None])
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert torch.equal(made[2], model.generate(["slow"], return_tokens=True)[1][0])
    for row, melody in enumerate((tone(440), tone(523.25))):
        assert torch.equal(tokens(model, ["slow"], melody)[0], made[row])
    # only pitch counts: neither level nor rate nor channels
    louder = tone(440, rate=48000).expand(2, -1) * 0.5
    assert torch.equal(tokens(model, ["slow"], louder[None], 48000)[0], made[0])


def test_double_guidance_weighs_text_against_melody() -> None:
    model = melody_model()
    made = {}
    for beta in (None, 1.0, 4.0):
        model.set_generation_params(cfg_coef_beta=beta)
        made[beta] = tokens(model, ["jazz piano"], tone(440))
    assert torch.equal(made[None], made[1.0])  # as its definition says
    assert not torch.equal(made[1.0], made[4.0])


def test_later_windows_read_the_melody_on_and_round() -> None:
    model = melody_model()
    model.set_generation_params(duration=4.0)
    changing = torch.cat([tone(261.63, 2.0), tone(392.0, 2.0)], 1)
    long = tokens(model, ["slow"], changing)
    assert long.shape == (1, 4, 100)
    # the first window (2 s, 50 frames) hears the first note only; the second begins one second in
    same_start = tokens(model, ["slow"], tone(261.63, 4.0))
    assert torch.equal(long[..., :50], same_start[..., :50])
    assert not torch.equal(long[..., 50:], same_start[..., 50:])
    # a melody of one second, and the same one written out
    assert torch.equal(
        tokens(model, ["slow"], tone(440, 1.0)), tokens(model, ["slow"], tone(440, 1.0).repeat(1, 4))
    )


def test_what_does_not_fit_is_refused() -> None:
    model = melody_model()
    with pytest.raises(AssertionError):
        model.generate_with_chroma(["a", "b"], [tone(440)], 32000)
    with pytest.raises(GenModelError):
        model.generate_with_chroma(["a"], torch.zeros(3), 32000)
    with pytest.raises(GenModelError):
        model.generate_with_chroma(["a"], torch.full((1, 1, 32000), float("nan")), 32000)
    with pytest.raises(GenModelError, match="MusicGen"):
        AudioGen("melody", model.compression_model, model.lm, 2.0)
