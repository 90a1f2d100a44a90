"""Models for the tests of the model layer: golden checkpoints, the debug size, and a tiny one with stems."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf

from genmodel import AudioGen, BaseGenModel, MusicGen
from genmodel.checkpoints import debug
from tests import golden_files
from tests.engine.tiny import tiny_lm

STEMS = ("drums", "bass", "other")


@lru_cache(maxsize=4)
def _loaded(name: str) -> tuple[Any, Any, Any]:
    from genmodel.checkpoints import registry

    return registry.load(str(golden_files.folder(name)), "cpu")


def golden(name: str) -> BaseGenModel:
    """A fresh model object over a golden checkpoint (weights are shared, parameters are not)."""
    codec, lm, info = _loaded(name)
    return (AudioGen if name.startswith("audiogen") else MusicGen)(name, codec, lm, info=info)


def tiny(family: type[BaseGenModel] = MusicGen, max_duration: float | None = None) -> BaseGenModel:
    """AudioCraft's debug size: 25 frames a second."""
    kind = "audiogen" if family is AudioGen else "musicgen"
    return family("debug", debug.build_codec(kind), debug.build_lm(kind), max_duration)


def stems_model(max_duration: float = 8.0, level_db: float | None = -17.0) -> BaseGenModel:
    """Like pocket: three stems of four codebooks, listening to words, transport, harmony and context."""
    delays = [step for step in range(4) for _ in STEMS]
    lm = tiny_lm(
        frames=("transport", "harmony", "context"),
        n_q=12,
        card=400,
        pattern_options={"delays": delays},
    )
    lm.cfg = OmegaConf.create({"stems": {"use": True, "names": list(STEMS)}})
    torch.manual_seed(0)
    manifest = {} if level_db is None else {"prompt_level_db": level_db}
    info: Any = SimpleNamespace(manifest=manifest, sha256="0" * 64, licence="MIT")
    return BaseGenModel("stems", debug.build_codec(), lm, max_duration, info)
