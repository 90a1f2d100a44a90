"""``debug``: a model of AudioCraft's debug size with random weights, for scripts and tests that need no
music.

25 frames a second, 32 kHz (16 kHz for AudioGen), 4 codebooks of 400, look-up-table text, dim 16. The weights
are the same on every machine and in every process; the global random state is neither read nor touched.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from genmodel.checkpoints.assemble import assemble_lm
from genmodel.checkpoints.config import make_config
from genmodel.checkpoints.encoders import LocalEncoders
from genmodel.checkpoints.files import without_weights
from genmodel.codec import EncodecConfig, EncodecModel, SEANetConfig, load_encodec
from genmodel.lm.conditioners.build import build_fuser, build_provider
from genmodel.lm.config import LMConfig
from genmodel.lm.lm import LMModel

NAME = "debug"
LICENCE = "MIT"
RATES_HZ = {"musicgen": 32000, "audiogen": 16000}
_SEGMENT_S = {"musicgen": 30.0, "audiogen": 10.0}
_SEED = 20230608


def _random_state(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A value for each of a module's tensors: normal of variance 1/fan-in, norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.ndim < 2:
            fill = 1.0 if name.endswith("weight") else 0.0
            state[name] = torch.full(tensor.shape, fill)
        else:
            fan_in = math.prod(tensor.shape[1:])
            state[name] = torch.randn(tensor.shape, generator=generator) / math.sqrt(fan_in)
    return state


def config(family: str = "musicgen") -> DictConfig:
    """The debug model's configuration in AudioCraft's words."""
    return make_config(
        {
            "solver": family,
            "sample_rate": RATES_HZ[family],
            "channels": 1,
            "dataset": {"segment_duration": _SEGMENT_S[family]},
            "compression_model_n_q": None,
            "interleave_stereo_codebooks": {"use": False, "per_timestep": False},
            "lm_model": "transformer_lm",
            "transformer_lm": {
                "dim": 16,
                "num_heads": 4,
                "num_layers": 2,
                "hidden_scale": 4,
                "n_q": 4,
                "card": 400,
                "dropout": 0.0,
                "activation": "gelu",
                "norm": "layer_norm",
                "norm_first": True,
                "bias_ff": False,
                "bias_attn": False,
                "bias_proj": False,
                "causal": True,
                "positional_embedding": "sin",
                "cross_attention": True,
                "two_step_cfg": False,
            },
            "codebooks_pattern": {
                "modeling": "delay",
                "delay": {"delays": [0, 1, 2, 3], "flatten_first": 0, "empty_initial": 0},
            },
            "classifier_free_guidance": {"training_dropout": 0.0, "inference_coef": 3.0},
            "attribute_dropout": {},
            "fuser": {
                "cross_attention_pos_emb": False,
                "cross_attention_pos_emb_scale": 1,
                "sum": [],
                "prepend": [],
                "cross": ["description"],
                "input_interpolate": [],
            },
            "conditioners": {
                "description": {"model": "lut", "lut": {"n_bins": 128, "dim": 16, "tokenizer": "whitespace"}}
            },
        }
    )


def build_lm(family: str = "musicgen") -> LMModel:
    """The debug language model, float32, on the CPU, in eval mode."""
    cfg = config(family)
    with without_weights():
        provider = build_provider(cfg, cfg.transformer_lm.dim, device="meta")
        lm = LMModel(LMConfig.from_audiocraft(cfg), provider, build_fuser(cfg, provider), cfg=cfg)
    return assemble_lm(cfg, _random_state(lm, _SEED), Path(NAME), LocalEncoders(None))


def build_codec(family: str = "musicgen") -> EncodecModel:
    """The debug codec: 25 frames a second, no LSTM, reflecting edges."""
    rate_hz = RATES_HZ[family]
    seanet = SEANetConfig(
        dimension=32,
        n_filters=4,
        n_residual_layers=1,
        ratios=(10, 8, rate_hz // (25 * 80)),
        norm="none",
        pad_mode="reflect",
        lstm=0,
    )
    shape = EncodecConfig(sample_rate=rate_hz, n_q=4, bins=400, encoder=seanet, decoder=seanet)
    with without_weights():
        empty = EncodecModel(shape)
    return load_encodec(shape, _random_state(empty, _SEED + 1)).eval()
