"""The language model's forward: AudioCraft's logits, rows apart from each other, gradients, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from genmodel.errors import CheckpointError, GenModelError
from genmodel.lm.config import LMConfig
from genmodel.lm.fuser import ConditionFuser
from genmodel.lm.lm import LMModel
from tests import golden_files
from tests.engine.tiny import TEXTS, row, tiny_lm


def golden_lm(name: str) -> LMModel:
    package = golden_files.package(name, "state_dict.bin")
    state = {k: v for k, v in package["best_state"].items() if not k.startswith("condition_provider")}
    config = LMConfig.from_audiocraft(OmegaConf.create(package["xp.cfg"]), state)
    lm = LMModel(config, None, ConditionFuser({"cross": ["description"]})).eval()
    lm.load_state_dict(state)
    return lm


@pytest.mark.parametrize("name", golden_files.MODELS)
def test_logits_are_audiocrafts(name: str) -> None:
    expected = golden_files.tensors(name)
    tensors = {"description": (expected["text.embedding"], expected["text.mask"])}
    with torch.no_grad():
        logits = golden_lm(name)(expected["lm.sequence"], None, tensors)
    assert (logits - expected["lm.logits"]).abs().max() <= 1e-4 * expected["lm.logits"].abs().max()


@pytest.mark.parametrize("how", ["cross", "prepend", "sum", "input_interpolate"])
@torch.no_grad()
def test_a_row_does_not_depend_on_longer_texts_beside_it(how: str) -> None:
    lm = tiny_lm(text=how)
    sequence = torch.randint(0, lm.card, (1, 4, 9)).expand(3, -1, -1)
    together = lm(sequence, [row(text) for text in TEXTS[:3]])
    if how == "input_interpolate":  # it stretches what the batch was padded to, as AudioCraft does
        assert together.shape == (3, 4, 9, lm.card)
        return
    if how == "sum":  # beyond a text's own words there are zeros, the last word is not held
        return
    for i, text in enumerate(TEXTS[:3]):
        alone = lm(sequence[:1], [row(text)])
        assert torch.allclose(together[i], alone[0], atol=1e-5), text
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@torch.no_grad()
def test_the_future_is_not_seen_and_frame_bias_enters_at_its_frame() -> None:
    lm = tiny_lm()
    sequence = torch.randint(0, lm.card, (1, 4, 10))
    base = lm(sequence, [row("fast")])
    changed = sequence.clone()
    changed[..., 6] = (changed[..., 6] + 1) % lm.card
    assert torch.equal(lm(changed, [row("fast")])[:, :, :6], base[:, :, :6])
    bias = torch.zeros(1, 8, lm.dim)
    bias[:, 7] = torch.randn(lm.dim)
    biased = lm(sequence, [row("fast")], frame_bias=bias)
    assert torch.allclose(biased[:, :, :7], base[:, :, :7], atol=1e-6)
    differs = (biased - base).abs().amax((0, 1, 3)) > 1e-3
    assert differs.tolist() == [False] * 7 + [True] * 3  # held beyond its end


def test_it_trains_and_predictions_leave_out_what_the_pattern_does() -> None:
    lm = tiny_lm(frames=("transport",)).train()
    codes = torch.randint(0, lm.card, (2, 4, 12))
    rows = [row("slow", transport=torch.ones(12, 11)), row(None)]
    with torch.autocast("cpu", torch.bfloat16):
        output = lm.compute_predictions(codes, rows)
    assert output.logits.shape == (2, 4, 12, lm.card)
    # the last max_delay steps are cut off in training: later codebooks lose their last frames
    assert output.mask[0].sum(-1).tolist() == [12, 11, 10, 9]
    assert bool(output.logits[~output.mask].isnan().all()) and not bool(
        output.logits[output.mask].isnan().any()
    )
    loss = torch.nn.functional.cross_entropy(output.logits[output.mask].float(), codes[output.mask])
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in lm.parameters())


def test_keys_of_wrapped_attention_are_understood() -> None:
    lm, other = tiny_lm(seed=1), tiny_lm(seed=2)
    state = {
        name.replace("self_attn.in_proj", "self_attn.mha.in_proj").replace(
            "self_attn.out", "self_attn.mha.out"
        ): value
        for name, value in lm.state_dict().items()
    }
    assert any(".mha." in name for name in state)
    other.load_state_dict(state)
    for name, value in other.state_dict().items():
        assert torch.equal(value, lm.state_dict()[name])


def cfg(**changes: Any) -> Any:
    lm = {
        "dim": 16,
        "num_heads": 2,
        "num_layers": 1,
        "n_q": 4,
        "card": 10,
        "norm_first": True,
        "bias_ff": False,
    }
    return OmegaConf.create({"lm_model": "transformer_lm", "transformer_lm": {**lm, **changes}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("positional_embedding", "rope"),
        ("positional_embedding", "sin_rope"),
        ("norm_first", False),
        ("norm", "rms_norm"),
        ("kv_repeat", 2),
        ("past_context", 100),
        ("qk_layer_norm", True),
        ("causal", False),
        ("activation", "silu"),
        ("logit_scale", [1.0, 1.0]),
        ("logit_scale", [1.0, 1.0, 0.0, 1.0]),
        ("logit_scale", "loud"),
    ],
)
def test_networks_that_are_not_computed_here_are_refused_by_key(key: str, value: Any) -> None:
    with pytest.raises(GenModelError) as caught:
        LMConfig.from_audiocraft(cfg(**{key: value}))
    assert caught.value.code == "E_MODEL" and caught.value.field == f"transformer_lm.{key}"


def test_configurations_without_a_language_model_are_refused() -> None:
    with pytest.raises(CheckpointError, match="transformer_lm"):
        LMConfig.from_audiocraft(OmegaConf.create({"lm_model": "transformer_lm"}))
    with pytest.raises(CheckpointError, match="card"):
        LMConfig.from_audiocraft(
            OmegaConf.create(
                {"transformer_lm": {"dim": 8, "num_heads": 1, "num_layers": 1, "n_q": 1, "norm_first": True}}
            )
        )
    with pytest.raises(CheckpointError, match="magnet"):
        LMConfig.from_audiocraft(OmegaConf.create({"lm_model": "transformer_lm_magnet"}))


@pytest.mark.parametrize("more", [{"bias_proj": True}, {"tie_embeddings": True}])
def test_a_scale_of_logits_is_a_temperature_of_each_codebook(more: dict[str, Any]) -> None:
    scales = [1.0, 0.5, 2.0, 1.25]
    plain, scaled = tiny_lm(**more), tiny_lm(**more, logit_scale=tuple(scales))
    scaled.load_state_dict(plain.state_dict())
    tokens = torch.randint(0, plain.card, (2, 4, 6))
    wanted = plain(tokens) * torch.tensor(scales)[:, None, None]
    assert torch.allclose(scaled(tokens), wanted, rtol=1e-5, atol=1e-6)
    assert LMConfig.from_audiocraft(cfg(logit_scale=scales)).logit_scale == tuple(scales)
    assert LMConfig.from_audiocraft(cfg()).logit_scale == ()


def test_biases_are_found_in_the_tensors_whatever_the_configuration_says() -> None:
    names = ["transformer.layers.0.self_attn.in_proj_bias", "linears.0.bias"]
    config = LMConfig.from_audiocraft(cfg(), dict.fromkeys(names))
    assert (config.bias_attn, config.bias_ff, config.bias_proj) == (True, False, True)
