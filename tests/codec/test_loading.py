"""Configurations and weights from files: both key layouts, and what happens when they are wrong."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from genmodel.codec import encodec_config_from_audiocraft, encodec_config_from_hf, load_encodec
from genmodel.errors import CheckpointError
from tests import golden_files
from tests.codec.tiny import SHAPES, codec, random_codes


@pytest.fixture(scope="module")
def package():
    return golden_files.package("musicgen-tiny-mono")


@pytest.fixture
def cfg(package):
    return OmegaConf.create(package["xp.cfg"])


@pytest.fixture
def state(package):
    return dict(package["best_state"])


def hf_names(state):
    """The same tensors as Hugging Face's converter names them."""
    out = {}
    for key, value in state.items():
        key = (
            key.replace(".model.", ".layers.", 1)
            .replace("convtr.convtr", "conv")
            .replace("conv.conv", "conv")
        )
        out[key.replace("vq.layers", "layers").replace("_codebook", "codebook")] = value
    return out


LAYOUTS = {"audiocraft": dict, "hf": hf_names}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.mark.parametrize("shape", SHAPES)
def test_folded_weights_round_trip(shape, layout):
    model = codec(shape)
    again = load_encodec(model.config, layout(model.state_dict()))
    codes = random_codes(model, 1, 5)
    assert torch.equal(again.decode(codes), model.decode(codes))
    wave = torch.randn(1, 1, 333, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode(wave)[0], model.encode(wave)[0])


def test_both_layouts_fold_to_the_same(cfg, state):
    config = encodec_config_from_audiocraft(cfg)
    one, two = (load_encodec(config, rename(state)).state_dict() for rename in LAYOUTS.values())
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    key = "decoder.model.3.convtr.convtr.weight"
    v, g = (state[key + suffix] for suffix in ("_v", "_g"))
    assert torch.allclose(one[key], g * v / v.pow(2).sum((1, 2), keepdim=True).sqrt())


def test_half_precision_files_give_float32(cfg, state):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    model = load_encodec(encodec_config_from_audiocraft(cfg), halves)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_file_may_be_changed_afterwards(cfg, state):
    state = {k: v.clone() for k, v in state.items()}
    model = load_encodec(encodec_config_from_audiocraft(cfg), state)
    before = copy.deepcopy(model.state_dict())
    for value in state.values():
        value.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def _refused(config, state) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_encodec(config, state)
    assert caught.value.code == "E_MODEL"
    return caught.value


def needed(state):
    """One key in three, all kinds of layers among them; not those that may be absent."""
    keys = [key for key in state if not key.endswith(("inited", "cluster_size", "embed_avg"))]
    return keys[::3]


def test_missing_keys_are_named(cfg, state, layout):
    config, state = encodec_config_from_audiocraft(cfg), layout(state)
    for key in needed(state):
        error = _refused(config, {k: v for k, v in state.items() if k != key})
        assert error.field == key and key in str(error)


def test_truncated_tensors_are_named(cfg, state, layout):
    config, state = encodec_config_from_audiocraft(cfg), layout(state)
    for key in needed(state):
        error = _refused(config, {**state, key: state[key][:-1]})
        assert error.field == key and key in str(error)


@pytest.mark.parametrize("key", ["decoder.model.15.conv.conv.bias", "decoder.model.1.lstm.weight_hh_l0"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "x", None, 3, torch.zeros(3, dtype=torch.long)])
def test_values_that_are_no_weights(cfg, state, key, bad):
    value = bad
    if isinstance(bad, float):
        value = state[key].clone()
        value.view(-1)[0] = bad
    error = _refused(encodec_config_from_audiocraft(cfg), {**state, key: value})
    assert error.field == key


def test_unknown_empty_and_foreign_states(cfg, state):
    config = encodec_config_from_audiocraft(cfg)
    assert _refused(config, {**state, "encoder.model.99.conv.conv.bias": torch.zeros(1)}).field.endswith(
        "99.conv.conv.bias"
    )
    assert "lack" in str(_refused(config, {}))
    assert "no place" in str(_refused(config, {"emb.0.weight": torch.zeros(2, 2)}))
    assert "lack" in str(
        _refused(config, {k: v for k, v in state.items() if "_v" not in k and "_g" not in k})
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"compression_model": "dac"}, "compression_model"),
        ({"encodec.quantizer": "no_quant"}, "encodec.quantizer"),
        ({"encodec.autoencoder": "unet"}, "encodec.autoencoder"),
        ({"encodec.renormalize": True}, "encodec.renormalize"),
        ({"seanet.norm": "time_group_norm"}, "seanet.norm"),
        ({"seanet.pad_mode": "circular"}, "seanet.pad_mode"),
        ({"seanet.activation": "Softmax"}, "seanet.activation"),
        ({"seanet.activation_params": {"nope": 1}}, "seanet.activation_params"),
        ({"seanet.decoder.final_activation": "__class__"}, "seanet.final_activation"),
        ({"seanet.decoder.trim_right_ratio": 0.5}, "seanet.trim_right_ratio"),
        ({"seanet.ratios": []}, "seanet.ratios"),
        ({"seanet.ratios": 8}, "seanet.ratios"),
        ({"seanet.ratios": [4, 0]}, "seanet.ratios"),
        ({"seanet.decoder.ratios": [2, 2]}, "seanet.ratios"),
        ({"seanet.n_filters": -4}, "seanet.n_filters"),
        ({"seanet.kernel_size": 7.5}, "seanet.kernel_size"),
        ({"seanet.lstm": "two"}, "seanet.lstm"),
        ({"seanet.surprise": 1}, "seanet.surprise"),
        ({"seanet": None}, "seanet"),
        ({"rvq": None}, "rvq"),
        ({"rvq.n_q": None}, "rvq.n_q"),
        ({"rvq.bins": 0}, "rvq.bins"),
        ({"sample_rate": "${nothing}"}, "encodec"),
    ],
)
def test_configurations_that_are_refused(package, cfg, changes, field):
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    with pytest.raises(CheckpointError) as caught:
        load_encodec(encodec_config_from_audiocraft(cfg), package["best_state"])
    assert caught.value.field == field
    assert field.split(".")[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"normalize": True}, "encodec.renormalize"),
        ({"chunk_length_s": 1.0}, "chunk_length_s"),
        ({"norm_type": "time_group_norm"}, "seanet.norm"),
        ({"model_type": "dac"}, "model_type"),
        ({"codebook_dim": 64}, "codebook_dim"),
    ],
)
def test_hugging_face_configurations_that_are_refused(changes, field):
    with pytest.raises(CheckpointError) as caught:
        encodec_config_from_hf(changes)
    assert caught.value.field == field


def test_halves_may_differ(cfg):
    OmegaConf.update(cfg, "seanet.encoder.n_filters", 6, force_add=True)
    OmegaConf.update(cfg, "seanet.decoder.lstm", 1, force_add=True)
    config = encodec_config_from_audiocraft(cfg)
    assert (config.encoder.n_filters, config.decoder.n_filters) == (6, 4)
    assert (config.encoder.lstm, config.decoder.lstm) == (2, 1)


def test_what_a_configuration_leaves_out_is_audiocrafts_default():
    cfg = {"sample_rate": 16000, "channels": 1, "encodec": {}, "seanet": {}, "rvq": {"n_q": 2, "bins": 8}}
    half = encodec_config_from_audiocraft(OmegaConf.create(cfg)).decoder
    assert (half.n_filters, half.n_residual_layers, half.ratios, half.lstm) == (32, 3, (8, 5, 4, 2), 0)
    assert (half.pad_mode, half.norm, half.causal, half.true_skip) == ("reflect", "none", False, True)
    assert encodec_config_from_audiocraft(cfg).decoder == half
