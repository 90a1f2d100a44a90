"""Random ``transformers.EncodecModel``s loaded through their state dict: equal codes, equal audio."""

import math
from typing import Any

import pytest
import torch

from genmodel.codec import encodec_config_from_hf, load_encodec
from tests.codec.tiny import error, streamed

transformers = pytest.importorskip("transformers", reason="needs the extra 'musicgen'")

BASE: dict[str, Any] = {
    "sampling_rate": 32000,
    "num_filters": 4,
    "hidden_size": 16,
    "upsampling_ratios": [8, 5, 4, 4],
    "use_causal_conv": False,
    "use_conv_shortcut": False,
    "codebook_size": 64,
    "num_lstm_layers": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "musicgen": {},
    "zeros": {"pad_mode": "constant"},
    "shortcut": {"use_conv_shortcut": True, "num_lstm_layers": 1},
    "stereo": {"audio_channels": 2, "pad_mode": "constant"},
    "causal": {"use_causal_conv": True},
    "causal-zeros": {"use_causal_conv": True, "pad_mode": "constant", "upsampling_ratios": [8, 5, 4, 2]},
    "causal-trim": {"use_causal_conv": True, "trim_right_ratio": 0.5, "upsampling_ratios": [5, 3]},
    "residuals": {"num_residual_layers": 3, "upsampling_ratios": [4, 3], "num_lstm_layers": 3},
    "dilation-3": {
        "num_residual_layers": 2,
        "dilation_growth_rate": 3,
        "upsampling_ratios": [5, 2],
        "compress": 4,
    },
    "kernels": {
        "kernel_size": 5,
        "last_kernel_size": 3,
        "residual_kernel_size": 5,
        "upsampling_ratios": [7, 2, 1],
    },
    "wide": {"num_filters": 16, "upsampling_ratios": [5, 4]},  # the packed encoder
}


def build(changes: dict[str, Any], seed: int = 0) -> tuple[Any, Any]:
    """Theirs with random weights (biases, codebooks and long memory too) and ours with the same."""
    values = {**BASE, **changes}
    hop = math.prod(values["upsampling_ratios"])
    bits_per_s = 4 * math.ceil(values["sampling_rate"] / hop) * 6
    values["target_bandwidths"] = [(bits_per_s + 1) / 1000]  # the library counts codebooks by truncation
    torch.manual_seed(seed)
    theirs = transformers.EncodecModel(transformers.EncodecConfig(**values)).eval()
    with torch.no_grad():
        for layer in theirs.quantizer.layers:
            layer.codebook.embed.normal_().mul_(0.3)
        for name, parameter in theirs.named_parameters():
            if name.endswith("original0"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            if "lstm.bias_ih" in name:
                width = parameter.numel() // 4
                parameter[width : 2 * width] += 4.0
    return theirs, load_encodec(encodec_config_from_hf(theirs.config.to_dict()), theirs.state_dict())


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    return build(VARIANTS[request.param])


@torch.no_grad()
def test_codes_equal_and_audio_close(pair):
    theirs, ours = pair
    hop = ours.hop_samples
    for samples in (1, 2, hop - 1 or 1, hop, hop + 1, 2 * hop, 31 * hop + hop // 2):
        wave = torch.randn(2, ours.channels, samples, generator=torch.Generator().manual_seed(samples))
        codes = theirs.encode(wave, bandwidth=theirs.config.target_bandwidths[0]).audio_codes
        audio = theirs.decode(codes, [None]).audio_values
        for kernels in ("auto", "reference"):
            ours.kernels = kernels
            assert torch.equal(ours.encode(wave)[0], codes[0]), (kernels, samples)
            assert error(ours.decode(codes[0]), audio) < 1e-5, (kernels, samples)
        ours.kernels = "auto"
        assert error(streamed(ours.stream(2), codes[0], "random")[:, 0], audio) < 1e-5, samples


@torch.no_grad()
def test_fewer_codebooks_decode(pair):
    theirs, ours = pair
    codes = torch.randint(0, 64, (1, 2, 2, 9))
    assert error(ours.decode(codes[0]), theirs.decode(codes, [None]).audio_values) < 1e-5


@torch.no_grad()
def test_old_weight_norm_names():
    theirs, ours = build({"upsampling_ratios": [3, 2], "use_conv_shortcut": True})
    renamed = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in theirs.state_dict().items()
    }
    assert any(key.endswith("weight_g") for key in renamed)
    again = load_encodec(ours.config, renamed)
    for key, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_musicgen_prefix_and_nested_configuration():
    theirs, ours = build({"upsampling_ratios": [3, 2]})
    state = {f"audio_encoder.{k}": v for k, v in theirs.state_dict().items()}
    state["decoder.lm_heads.0.weight"] = torch.zeros(2, 2)
    config = encodec_config_from_hf({"model_type": "musicgen", "audio_encoder": theirs.config.to_dict()})
    again = load_encodec(config, state)
    assert config == ours.config
    codes = torch.randint(0, 64, (1, 4, 5))
    assert torch.equal(again.decode(codes), ours.decode(codes))


def test_defaults_are_theirs():
    theirs = transformers.EncodecConfig()
    assert encodec_config_from_hf({}) == encodec_config_from_hf(theirs.to_dict())
    assert encodec_config_from_hf({}).n_q == theirs.num_quantizers
