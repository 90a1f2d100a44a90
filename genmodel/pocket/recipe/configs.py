"""pocket's configurations in AudioCraft's keys (`xp.cfg`), and the language model built from them."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from genmodel.lm.conditioners.build import build_fuser, build_provider
from genmodel.lm.config import LMConfig
from genmodel.lm.lm import LMModel
from genmodel.pocket.recipe.lexicon import words_config
from genmodel.pocket.recipe.lmdata import CODEBOOKS, FRAME_RATE
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.song import STEMS

GUIDANCE = 2.5
DELAYS = [step for step in range(CODEBOOKS) for _ in STEMS]

PAN = (-0.125, 0.0, 0.1875)
"""Where drums, bass and other stand between left (-1) and right (1): a few decibels between the channels,
enough to tell the stems apart, and the mean of both channels is the mono stem. Binary fractions, so that it
is exact."""


LOGIT_SCALE = {"drums": 1.0, "bass": 1.0465, "other": 1.0465}
"""Of each stem's codebooks: at temperature 0.9 bass and other are drawn at 0.86. Measured on 100 prompts: all
at 0.9 give bass and other a percussive share of 0.256 and keep the tempo in 0.94, all at 0.85 0.243 and 0.87.
"""


def lm_config(
    dim: int = 256, layers: int = 6, heads: int = 4, card: int = 1024, seconds: float = 15.0
) -> dict[str, Any]:
    """The contents of lm.yaml."""
    return {
        "solver": "musicgen",
        "sample_rate": RATE_HZ,
        "channels": 2,
        "dtype": "float32",
        "dataset": {"segment_duration": seconds},
        "stems": {"use": True, "names": list(STEMS), "pan": list(PAN)},
        "interleave_stereo_codebooks": {"use": False, "per_timestep": False},
        "compression_model_n_q": None,
        "lm_model": "transformer_lm",
        "transformer_lm": {
            "dim": dim, "num_heads": heads, "num_layers": layers, "hidden_scale": 4,
            "n_q": CODEBOOKS * len(STEMS),
            "card": card, "dropout": 0.0, "activation": "gelu", "norm_first": True, "bias_ff": False,
            "bias_attn": False,
            "bias_proj": False, "causal": True, "custom": False, "memory_efficient": True,
            "cross_attention": True,
            "positional_embedding": "sin", "positional_scale": POSITION_SCALE, "max_period": 10000,
            "layer_scale": None,
            "tie_embeddings": False, "two_step_cfg": False,
        },
        "codebooks_pattern": {
            "modeling": "delay", "delay": {"delays": DELAYS, "flatten_first": 0, "empty_initial": 0},
        },
        "classifier_free_guidance": {"training_dropout": 0.15, "inference_coef": GUIDANCE},
        "fuser": {
            "cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1.0, "prepend": [],
            "cross": ["description"], "sum": ["transport", "harmony", "context"], "input_interpolate": [],
        },
        "conditioners": {
            "description": {"model": "words", "words": words_config(WORD_WIDTH)},
            "transport": {"model": "transport"},
            "harmony": {"model": "harmony"},
            "context": {"model": "context", "context": {"n_q": CODEBOOKS, "card": card,
            "look_ahead_frames": 25}},
        },
    }  # fmt: skip


def shipped(config: dict[str, Any]) -> dict[str, Any]:
    """What goes beside the weights: training knows nothing of the logits' scale."""
    scales = [LOGIT_SCALE[stem] for _ in range(CODEBOOKS) for stem in STEMS]
    return config | {"transformer_lm": config["transformer_lm"] | {"logit_scale": scales}}


POSITION_SCALE = 0.2
"""The position code at AudioCraft's scale of 1 is five times louder than a frame's embeddings at the start
of training."""
WORD_WIDTH = 128


def codec_config(settings: dict[str, Any]) -> dict[str, Any]:
    """The contents of codec.yaml for a `FastCodec` of these settings."""
    return {
        "solver": "compression",
        "compression_model": "encodec",
        "sample_rate": RATE_HZ,
        "channels": 1,
        "encodec": {
            "autoencoder": "seanet", "quantizer": "rvq", "sample_rate": RATE_HZ, "channels": 1,
            "causal": False,
            "renormalize": False,
        },
        "seanet": {
            "dimension": settings["dimension"], "channels": 1, "causal": False,
            "n_filters": settings["filters"],
            "n_residual_layers": 1, "ratios": list(settings["ratios"]), "activation": "ELU",
            "activation_params": {"alpha": 1.0}, "norm": "weight_norm", "norm_params": {}, "kernel_size": 7,
            "last_kernel_size": 7, "residual_kernel_size": 3, "dilation_base": 2, "pad_mode": "constant",
            "true_skip": True, "compress": 2, "lstm": settings["lstm_layers"], "disable_norm_outer_blocks": 0,
            "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
            "encoder": {},
        },
        "rvq": {
            "n_q": settings["codebooks"], "bins": settings["codebook_size"], "decay": 0.99,
            "kmeans_init": True,
            "threshold_ema_dead_code": 2, "q_dropout": False,
        },
    }  # fmt: skip


def build_lm(config: dict[str, Any], seed: int = 0) -> LMModel:
    """A fresh language model of this configuration, initialised from `seed`."""
    cfg: DictConfig = OmegaConf.create(config)
    torch.manual_seed(seed)
    shape = LMConfig.from_audiocraft(cfg)
    provider = build_provider(cfg, shape.dim)
    for name, parameter in provider.named_parameters():
        if "emb" in name:
            torch.nn.init.normal_(parameter, std=shape.dim**-0.5)
    return LMModel(shape, provider, build_fuser(cfg, provider), cfg=cfg)


def mean_frames(seconds: float) -> int:
    return round(seconds * FRAME_RATE)
