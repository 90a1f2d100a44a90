"""Provider and fuser: which condition goes where, in which order, and what absence means."""

from __future__ import annotations

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from genmodel.errors import CheckpointError, GenModelError
from genmodel.lm.conditioners.build import build_fuser, build_provider
from genmodel.lm.conditioning import (
    ConditioningAttributes,
    ConditioningProvider,
    WavCondition,
    null_conditions,
)
from genmodel.lm.fuser import ConditionFuser, hold_frames, sinusoid

DIM = 16


def config(**changes: object) -> DictConfig:
    base = OmegaConf.create(
        {
            "sample_rate": 32000,
            "dataset": {"segment_duration": 2.0},
            "transformer_lm": {"card": 8},
            "conditioners": {
                "args": {"merge_text_conditions_p": 0.25},
                "context": {"model": "context", "context": {"n_q": 2, "look_ahead_frames": 3}},
                "self_wav": {"model": "chroma_stem", "chroma_stem": {"sample_rate": 32000}},
                "description": {"model": "lut", "lut": {"n_bins": 32, "dim": 8, "tokenizer": "noop"}},
                "transport": {"model": "transport"},
            },
            "fuser": {
                "cross": ["description"],
                "prepend": ["self_wav"],
                "sum": ["transport", "context"],
            },
        }
    )
    return OmegaConf.merge(base, OmegaConf.create(changes))  # type: ignore[return-value]


@pytest.fixture
def provider() -> ConditioningProvider:
    torch.manual_seed(0)
    return build_provider(config(), DIM)


def wav(seconds: float = 1.0) -> WavCondition:
    count = int(32000 * seconds)
    samples = torch.sin(torch.arange(count) * 2 * torch.pi * 440 / 32000)[None, None]
    return WavCondition(samples, torch.tensor([count]), [32000], [None], [None])


def test_parameters_lie_under_audiocrafts_names(provider: ConditioningProvider) -> None:
    assert "conditioners.description.output_proj.weight" in provider.state_dict()
    assert "conditioners.self_wav.output_proj.bias" in provider.state_dict()
    assert "args" not in provider.conditioners


def test_texts_come_before_waveforms_before_frames(provider: ConditioningProvider) -> None:
    assert list(provider.embed([ConditioningAttributes()])) == [
        "description",
        "self_wav",
        "context",
        "transport",
    ]


def test_absent_conditions_are_exact_zeros_with_mask_zero(provider: ConditioningProvider) -> None:
    tensors = provider.embed([ConditioningAttributes(text={"description": ""}), ConditioningAttributes()])
    for name in ("description", "context", "transport"):
        values, mask = tensors[name]
        assert not values.any() and not mask.any(), name
    assert tensors["self_wav"][1].all()


def test_a_condition_the_model_does_not_take_is_refused(provider: ConditioningProvider) -> None:
    with pytest.raises(GenModelError) as caught:
        provider.tokenize([ConditioningAttributes(frames={"harmony": torch.zeros(3, 12)})])
    assert caught.value.code == "E_ARGUMENT" and "harmony" in str(caught.value)
    provider.tokenize([ConditioningAttributes(frames={"harmony": None})])


def test_null_conditions_drop_text_and_melody_and_keep_the_bar(provider: ConditioningProvider) -> None:
    bar = torch.ones(4, 11)
    row = ConditioningAttributes(
        text={"description": "house"}, wav={"self_wav": wav()}, frames={"transport": bar}
    )
    (null,) = null_conditions([row])
    assert null.text == {"description": None} and null.wav["self_wav"].length.tolist() == [0]
    assert null.frames["transport"] is bar and row.text["description"] == "house"
    (style,) = null_conditions([row], keep_wav=True)
    assert style.wav["self_wav"] is row.wav["self_wav"] and style.text == {"description": None}
    tensors = provider.embed([row, null])
    assert torch.equal(tensors["transport"][0][0], tensors["transport"][0][1])
    assert not torch.equal(tensors["self_wav"][0][0], tensors["self_wav"][0][1])


def test_fuser_puts_the_last_condition_foremost() -> None:
    fuser = ConditionFuser({"prepend": ["self_wav", "description"]})
    melody, text = torch.full((1, 3, 4), 2.0), torch.full((1, 2, 4), 1.0)
    ones = torch.ones
    fused = fuser(torch.zeros(1, 5, 4), {"description": (text, ones(1, 2)), "self_wav": (melody, ones(1, 3))})
    assert fused.input[0, :, 0].tolist() == [2, 2, 2, 1, 1, 0, 0, 0, 0, 0]
    assert fused.prefix_steps == 5 and fused.input_mask.all() and fused.cross is None
    later = fuser(torch.zeros(1, 5, 4), {"description": (text, ones(1, 2))}, first=False)
    assert later.input.shape[1] == 5


def test_summed_frames_hold_their_last_value() -> None:
    fuser = ConditionFuser({"sum": ["transport"]})
    values = torch.arange(3.0).view(1, 3, 1).expand(1, 3, 2)
    bias = fuser.bias({"transport": (values, torch.ones(1, 3))}, 5)
    assert bias is not None and bias[0, :, 0].tolist() == [0, 1, 2, 2, 2]
    assert hold_frames(values, 2).shape == (1, 2, 2)


def test_interpolated_conditions_are_stretched() -> None:
    fuser = ConditionFuser({"input_interpolate": ["curve"]})
    bias = fuser.bias({"curve": (torch.tensor([[[1.0], [3.0]]]), torch.ones(1, 2))}, 4)
    assert bias is not None and bias[0, :, 0].tolist() == [1, 1, 3, 3]


def test_cross_sources_are_joined_and_may_get_a_position_code() -> None:
    fuser = ConditionFuser(
        {"cross": ["a", "b"]}, cross_attention_pos_emb=True, cross_attention_pos_emb_scale=0.5
    )
    zero = torch.zeros(1, 2, 8)
    found = fuser.cross({"a": (zero, torch.ones(1, 2)), "b": (zero, torch.zeros(1, 2))})
    assert found is not None
    source, mask = found
    assert torch.allclose(source[0], 0.5 * sinusoid(torch.arange(4), 8)) and mask.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"fuser": {"sum": ["transport"]}}, "context"),
        ({"fuser": {"sum": ["transport", "context", "ghost"]}}, "ghost"),
        ({"conditioners": {"style": {"model": "style"}}}, "style"),
        ({"conditioners": {"clap": {"model": "clap"}}}, "CLAP"),
        ({"conditioners": {"odd": {"model": "odd"}}}, "odd"),
        ({"conditioners": {"odd": {"model": "lut", "lut": {"dim": 3}}}}, "n_bins"),
        ({"conditioners": {"odd": 3}}, "odd"),
    ],
)
def test_wrong_configurations_are_named(changes: dict[str, object], names: str) -> None:
    cfg = config(**changes)
    with pytest.raises(CheckpointError, match=names):
        build_fuser(cfg, build_provider(cfg, DIM))


def test_a_fuser_knows_every_condition() -> None:
    with pytest.raises(GenModelError, match="twice"):
        ConditionFuser({"sum": ["a"], "cross": ["a"]})
    with pytest.raises(GenModelError, match="unknown way"):
        ConditionFuser({"add": ["a"]})
    with pytest.raises(GenModelError, match="stray"):
        ConditionFuser({"cross": []}).cross({"stray": (torch.zeros(1, 1, 1), torch.ones(1, 1))})
