"""Hugging Face folders: ``config.json`` with safetensors (whole or sharded), else ``pytorch_model.bin``.

``musicgen`` (mono and stereo) and ``musicgen_melody`` become the same ``LMModel`` and ``EncodecModel`` as
AudioCraft's checkpoints, by renaming tensors; their configuration is written out as AudioCraft would have.
``encodec`` folders give a codec alone. The text encoder and its tokenizer are in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from genmodel.checkpoints.assemble import assemble_lm, reading
from genmodel.checkpoints.config import make_config
from genmodel.checkpoints.encoders import LocalEncoders, build_text_encoder
from genmodel.checkpoints.files import read_json, read_weights
from genmodel.codec import EncodecModel, encodec_config_from_hf, load_encodec
from genmodel.errors import CheckpointError
from genmodel.lm.conditioners.t5 import TextEncoder
from genmodel.lm.lm import LMModel

LM_TYPES = ("musicgen", "musicgen_melody")
_DECODER = "decoder.model.decoder."
_DESCRIPTION = "condition_provider.conditioners.description.output_proj."
_MELODY = "condition_provider.conditioners.self_wav.output_proj."
_DEFAULT_SEGMENT_S = 30.0
_LONGEST_SEGMENT_S = 300.0


def model_type(folder: Path) -> str | None:
    """``model_type`` of a folder's ``config.json``; None where there is none or it cannot be read."""
    if not (folder / "config.json").is_file():
        return None
    try:
        found = read_json(folder / "config.json").get("model_type")
    except CheckpointError:
        return None
    return found if isinstance(found, str) else None


def is_model(folder: Path) -> bool:
    return model_type(folder) in LM_TYPES


def has_codec(folder: Path) -> bool:
    return model_type(folder) in (*LM_TYPES, "encodec")


def load_codec(folder: Path) -> EncodecModel:
    """The codec of a musicgen or encodec folder, in eval mode."""
    config = read_json(folder / "config.json")
    prefix = "" if config.get("model_type") == "encodec" else "audio_encoder."
    section = config if not prefix else _section(config, "audio_encoder", folder)
    weights = read_weights(folder, lambda name: name.startswith(prefix))
    with reading(folder):
        codec = load_encodec(
            encodec_config_from_hf(section), {name[len(prefix) :]: value for name, value in weights.items()}
        )
    return codec.eval()


def _section(config: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(f"{folder / 'config.json'} has no section {name}", field=name)
    return section


def load_lm(folder: Path) -> LMModel:
    """The language model of a musicgen or musicgen_melody folder, float32, on the CPU, in eval mode."""
    config = read_json(folder / "config.json")
    if config.get("model_type") not in LM_TYPES:
        raise CheckpointError(
            f"{folder} holds another kind of model",
            field="model_type",
            value=config.get("model_type"),
            allowed=", ".join(LM_TYPES),
        )
    with reading(folder):
        cfg = audiocraft_config(config, _generation_config(folder), folder)
    wanted = ("decoder.", "enc_to_dec_proj.", "audio_enc_to_dec_proj.")

    def tensors() -> dict[str, Tensor]:
        return rename(read_weights(folder, lambda name: name.startswith(wanted)), folder)

    state = tensors()
    with reading(folder):
        _add_missing_projections(state, cfg, config)

    def encoder(name: str) -> TextEncoder:
        section = _section(config, "text_encoder", folder)
        prefix = "text_encoder."
        weights = read_weights(folder, lambda key: key.startswith(prefix))
        plain = {key[len(prefix) :]: value for key, value in weights.items()}
        if not plain:
            return LocalEncoders(folder)(name)
        return build_text_encoder(section, plain, folder, name)

    return assemble_lm(cfg, state, folder, encoder, tensors)


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def audiocraft_config(config: Mapping[str, Any], generation: Mapping[str, Any], folder: Path) -> DictConfig:
    """``config.json`` and ``generation_config.json`` in the words of AudioCraft's training configuration.

    Not in these files, and so implied: the delays (0…K-1, or pairs of them for interleaved stereo) and the
    window (the longest generation, 1500 frames in the published models, else 30 s).
    """
    decoder = _section(config, "decoder", folder)
    text = _section(config, "text_encoder", folder)
    audio = _section(config, "audio_encoder", folder)
    melody = config.get("model_type") == "musicgen_melody"
    dim = int(decoder.get("hidden_size", 1024))
    n_q = int(decoder.get("num_codebooks", 4))
    channels = int(decoder.get("audio_channels", 1))
    if channels not in (1, 2) or n_q % channels:
        raise CheckpointError(
            f"{folder / 'config.json'}: the channels cannot be interleaved",
            field="audio_channels",
            value=channels,
        )
    sample_rate = int(audio.get("sampling_rate", 24000))
    hop = 1
    for ratio in audio.get("upsampling_ratios", (8, 5, 4, 2)):
        hop *= int(ratio)
    guidance = generation.get("guidance_scale")
    conditioners: dict[str, Any] = {
        "description": {
            "model": "t5",
            "t5": {
                "name": str(text.get("_name_or_path") or "t5-base"),
                "finetune": False,
                "word_dropout": 0.0,
                "normalize_text": False,
            },
        }
    }
    if melody:
        conditioners["self_wav"] = {
            "model": "chroma_stem",
            "chroma_stem": {
                "sample_rate": sample_rate,
                "n_chroma": int(config.get("num_chroma", 12)),
                "radix2_exp": 14,
                "argmax": True,
                "match_len_on_eval": True,
                "chroma_length": int(config.get("chroma_length", 235)),
            },
        }
    names = ["self_wav", "description"] if melody else []
    return make_config(
        {
            "solver": "musicgen",
            "sample_rate": sample_rate,
            "channels": channels,
            "dataset": {"segment_duration": _segment_s(generation, sample_rate / hop)},
            "compression_model_n_q": None,
            "interleave_stereo_codebooks": {"use": channels == 2, "per_timestep": False},
            "lm_model": "transformer_lm",
            "transformer_lm": {
                "dim": dim,
                "num_heads": _heads(decoder, dim),
                "num_layers": int(decoder.get("num_hidden_layers", 24)),
                "hidden_scale": int(decoder.get("ffn_dim", 4 * dim)) / dim,
                "n_q": n_q,
                "card": int(decoder.get("vocab_size", 2048)),
                "dropout": 0.0,
                "activation": str(decoder.get("activation_function", "gelu")),
                "norm": "layer_norm",
                "norm_first": True,
                "bias_ff": False,
                "bias_attn": False,
                "bias_proj": False,
                "causal": True,
                "positional_embedding": "sin",
                "cross_attention": not melody,
                "two_step_cfg": False,
            },
            "codebooks_pattern": {
                "modeling": "delay",
                "delay": {
                    "delays": [k // channels for k in range(n_q)],
                    "flatten_first": 0,
                    "empty_initial": 0,
                },
            },
            "classifier_free_guidance": {
                "training_dropout": 0.0,
                "inference_coef": float(guidance) if guidance is not None else 3.0,
            },
            "attribute_dropout": {},
            "fuser": {
                "cross_attention_pos_emb": False,
                "cross_attention_pos_emb_scale": 1,
                "sum": [],
                "prepend": names,
                "cross": [] if melody else ["description"],
                "input_interpolate": [],
            },
            "conditioners": conditioners,
        }
    )


def _segment_s(generation: Mapping[str, Any], frame_rate: float) -> float:
    longest = generation.get("max_length")
    if isinstance(longest, int) and 1.0 <= longest / frame_rate <= _LONGEST_SEGMENT_S:
        return longest / frame_rate
    return _DEFAULT_SEGMENT_S


def _heads(decoder: Mapping[str, Any], dim: int) -> int:
    """The number of heads; the first conversions of medium and large left it at the default of small.

    Every published MusicGen has heads of width 64, and 1536 and 2048 wide models with 16 heads were never
    trained.
    """
    heads = int(decoder.get("num_attention_heads", 16))
    return dim // 64 if heads == 16 and dim in (1536, 2048) else heads


_LAYER_NAMES = {
    "self_attn.out_proj": "self_attn.out_proj",
    "encoder_attn.out_proj": "cross_attention.out_proj",
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm_cross",
    "final_layer_norm": "norm2",
    "fc1": "linear1",
    "fc2": "linear2",
}
_ATTENTION = {"self_attn": "self_attn", "encoder_attn": "cross_attention"}
_LAYER = re.compile(re.escape(_DECODER) + r"layers\.(\d+)\.(.+)\.(weight|bias)$")
_QKV = re.compile(r"(self_attn|encoder_attn)\.([qkv])_proj$")
_TABLE = re.compile(re.escape(_DECODER) + r"embed_tokens\.(\d+)\.weight$")
_HEAD = re.compile(r"decoder\.lm_heads\.(\d+)\.(weight|bias)$")


def rename(weights: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Hugging Face's tensors of the decoder under AudioCraft's names, q, k and v joined."""
    state: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        if name.startswith(f"{_DECODER}embed_positions."):
            continue  # a table of the sinusoid, computed here for any length
        if found := _TABLE.match(name):
            state[f"emb.{found[1]}.weight"] = value
        elif found := _HEAD.match(name):
            state[f"linears.{found[1]}.{found[2]}"] = value
        elif name.startswith(f"{_DECODER}layer_norm."):
            state["out_norm." + name.rpartition(".")[2]] = value
        elif name.startswith("enc_to_dec_proj."):
            state[_DESCRIPTION + name.rpartition(".")[2]] = value
        elif name.startswith("audio_enc_to_dec_proj."):
            state[_MELODY + name.rpartition(".")[2]] = value
        elif found := _LAYER.match(name):
            layer, part, kind = found.groups()
            prefix = f"transformer.layers.{layer}."
            if qkv := _QKV.match(part):
                target = f"{prefix}{_ATTENTION[qkv[1]]}.in_proj_{kind}"
                joined.setdefault(target, {})[qkv[2]] = value
            elif part in _LAYER_NAMES:
                state[f"{prefix}{_LAYER_NAMES[part]}.{kind}"] = value
            else:
                raise CheckpointError(f"{folder} has an unknown tensor {name}", field="model")
        else:
            raise CheckpointError(f"{folder} has an unknown tensor {name}", field="model")
    for target, parts in joined.items():
        if missing := sorted(set("qkv") - set(parts)):
            raise CheckpointError(f"{folder}: {target} lacks its {missing[0]} part", field="model")
        try:
            state[target] = torch.cat([parts[key] for key in "qkv"])
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: the parts of {target} do not fit", field="model") from error
    return state


def _add_missing_projections(state: dict[str, Tensor], cfg: DictConfig, config: Mapping[str, Any]) -> None:
    """Where the encoder is as wide as the decoder, transformers leaves the projection out: it is the
    identity.
    """
    widths = {_DESCRIPTION: int(config["text_encoder"].get("d_model", 512))}
    if "self_wav" in cfg.conditioners:
        widths[_MELODY] = int(cfg.conditioners.self_wav.chroma_stem.n_chroma)
    for prefix, width in widths.items():
        if f"{prefix}weight" not in state and width == cfg.transformer_lm.dim:
            state[f"{prefix}weight"] = torch.eye(width)
            state[f"{prefix}bias"] = torch.zeros(width)
