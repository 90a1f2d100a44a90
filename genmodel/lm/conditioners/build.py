"""Conditioners and fuser from a checkpoint's configuration (``conditioners`` and ``fuser`` of ``xp.cfg``).

``conditioners.<name>.model`` names the kind and ``conditioners.<name>.<kind>`` holds its settings:

    t5         name, finetune                             text encoder found by ``EncoderSource``
    lut        n_bins, dim, tokenizer
    words      vocabulary, synonyms, dim
    transport  (none)
    harmony    (none)
    context    n_q, card, look_ahead_frames
    chroma_stem  sample_rate, n_chroma, radix2_exp        without source separation

``conditioners.args`` holds settings of AudioCraft's training and is not a condition.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf

from genmodel.errors import CheckpointError
from genmodel.lm.conditioners.base import Conditioner
from genmodel.lm.conditioners.chroma import ChromaConditioner
from genmodel.lm.conditioners.frames import (
    LOOK_AHEAD_FRAMES,
    ContextConditioner,
    HarmonyConditioner,
    TransportConditioner,
)
from genmodel.lm.conditioners.lut import LUTConditioner
from genmodel.lm.conditioners.t5 import T5Conditioner, TextEncoder
from genmodel.lm.conditioners.words import WordsConditioner
from genmodel.lm.conditioning import ConditioningProvider
from genmodel.lm.fuser import METHODS, ConditionFuser


class EncoderSource(Protocol):
    """Gives the text encoder that a checkpoint names; raises ModelNotFound with the command that gets it."""

    def __call__(self, name: str) -> TextEncoder: ...


def _no_encoder(name: str) -> TextEncoder:
    raise CheckpointError(f"this model needs the text encoder {name}, and none was given", value=name)


Settings = Mapping[str, Any]
Builder = Callable[[Settings, int, DictConfig, EncoderSource], Conditioner]


def _t5(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    if settings.get("normalize_text"):  # no published model does; it takes spaCy's lemmas
        warnings.warn(
            "this model was trained on lemmatised descriptions, which are passed as they are", stacklevel=2
        )
    return T5Conditioner(encoders(str(settings["name"])), output_dim, bool(settings.get("finetune", False)))


def _lut(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    return LUTConditioner(
        int(settings["n_bins"]),
        int(settings["dim"]),
        output_dim,
        str(settings.get("tokenizer", "whitespace")),
        int(settings.get("pad_idx", 0)),
    )


def _words(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    return WordsConditioner(
        settings["vocabulary"], settings.get("synonyms"), int(settings["dim"]), output_dim
    )


def _transport(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    return TransportConditioner(output_dim)


def _harmony(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    return HarmonyConditioner(output_dim)


def _context(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    card = settings.get("card", OmegaConf.select(cfg, "transformer_lm.card"))
    return ContextConditioner(
        output_dim,
        int(settings.get("n_q", 4)),
        int(card),
        int(settings.get("look_ahead_frames", LOOK_AHEAD_FRAMES)),
    )


def _chroma(settings: Settings, output_dim: int, cfg: DictConfig, encoders: EncoderSource) -> Conditioner:
    rate = settings.get("sample_rate") or OmegaConf.select(cfg, "sample_rate") or 32000
    duration = settings.get("duration") or OmegaConf.select(cfg, "dataset.segment_duration") or 30.0
    return ChromaConditioner(
        output_dim,
        int(rate),
        int(settings.get("n_chroma", 12)),
        int(settings.get("radix2_exp", 14)),
        float(duration),
        settings.get("chroma_length"),
    )


KINDS: dict[str, Builder] = {
    "t5": _t5,
    "lut": _lut,
    "words": _words,
    "transport": _transport,
    "harmony": _harmony,
    "context": _context,
    "chroma_stem": _chroma,
}
_NOT_READ = {
    "style": "a style excerpt (MERT features)",
    "clap": "a CLAP text and audio embedding",
}


def _settings(name: str, node: Any) -> tuple[str, Settings]:
    """(kind, plain settings) of ``conditioners.<name>``."""
    kind = node.get("model") if isinstance(node, Mapping) else None
    if kind in _NOT_READ:
        raise CheckpointError(
            f"this model is conditioned on {_NOT_READ[kind]}, which Segue does not read",
            field=f"conditioners.{name}.model",
            value=kind,
            allowed=", ".join(KINDS),
        )
    if kind not in KINDS:
        raise CheckpointError(
            f"the condition {name} is of an unknown kind",
            field=f"conditioners.{name}.model",
            value=kind,
            allowed=", ".join(KINDS),
        )
    return str(kind), node.get(kind) or {}


def build_provider(
    cfg: DictConfig,
    output_dim: int,
    encoders: EncoderSource = _no_encoder,
    device: torch.device | str = "cpu",
) -> ConditioningProvider:
    """The conditioners that ``cfg.conditioners`` names, with parameters in float32, on ``device``.

    Raises CheckpointError for an unknown kind or missing settings, ModelNotFound for a text encoder that is
    not here.
    """
    node = OmegaConf.select(cfg, "conditioners")
    plain: Any = OmegaConf.to_container(node, resolve=True) if node is not None else {}
    conditioners: dict[str, Conditioner] = {}
    for name, settings in (plain or {}).items():
        if name == "args":
            continue
        kind, values = _settings(str(name), settings)
        try:
            conditioners[str(name)] = KINDS[kind](values, output_dim, cfg, encoders)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the configuration of the condition {name} is incomplete: {error}",
                field=f"conditioners.{name}.{kind}",
            ) from error
    return ConditioningProvider(conditioners, device).to(device)


def build_fuser(cfg: DictConfig, provider: ConditioningProvider) -> ConditionFuser:
    """The fuser that ``cfg.fuser`` describes, for the provider's conditions."""
    node = OmegaConf.select(cfg, "fuser")
    plain: Any = OmegaConf.to_container(node, resolve=True) if node is not None else {}
    fuse2cond = {how: list(plain.get(how) or []) for how in METHODS}
    fused = {name for names in fuse2cond.values() for name in names}
    if lost := sorted(set(provider.conditioners) - fused):
        raise CheckpointError(
            f"the configuration does not say where the condition {', '.join(lost)} enters", field="fuser"
        )
    if stray := sorted(fused - set(provider.conditioners)):
        raise CheckpointError(
            f"the configuration fuses {', '.join(stray)}, which is no condition of this model", field="fuser"
        )
    return ConditionFuser(
        fuse2cond,
        bool(plain.get("cross_attention_pos_emb", False)),
        float(plain.get("cross_attention_pos_emb_scale", 1.0)),
        provider.frame_conditions,
    )
