"""The models: what turns a request into audio. Knows torch, but no socket, spool or job.

Imports neither ``protocol`` nor ``daemon``. The interface is ``BaseGenModel`` and its families ``MusicGen``
and ``AudioGen`` (AudioCraft's names and shapes) with ``stream(GenerationRequest)`` beside them, and
``Engine`` for whoever runs several requests at once. Inside: ``lm`` (tokens), ``codec`` (audio to tokens and
back), ``engine`` (sessions and steps), ``checkpoints`` (files to models), ``pocket`` (our own model).

Names are loaded on first use: ``import genmodel`` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmodel.audiogen import AudioGen
    from genmodel.base import BaseGenModel
    from genmodel.engine.engine import Engine, GenerationJob
    from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
    from genmodel.musicgen import MusicGen
    from genmodel.request import AudioChunk, AudioClip, GenerationRequest, Sampling, TempoChange, TempoMap

_HOMES = {
    "AudioGen": "genmodel.audiogen",
    "BaseGenModel": "genmodel.base",
    "Engine": "genmodel.engine.engine",
    "GenerationJob": "genmodel.engine.engine",
    "CheckpointError": "genmodel.errors",
    "GenModelError": "genmodel.errors",
    "ModelNotFound": "genmodel.errors",
    "MusicGen": "genmodel.musicgen",
    "AudioChunk": "genmodel.request",
    "AudioClip": "genmodel.request",
    "GenerationRequest": "genmodel.request",
    "Sampling": "genmodel.request",
    "TempoChange": "genmodel.request",
    "TempoMap": "genmodel.request",
}

__all__ = [
    "AudioChunk",
    "AudioClip",
    "AudioGen",
    "BaseGenModel",
    "CheckpointError",
    "Engine",
    "GenModelError",
    "GenerationJob",
    "GenerationRequest",
    "ModelNotFound",
    "MusicGen",
    "Sampling",
    "TempoChange",
    "TempoMap",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
