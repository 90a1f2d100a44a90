"""The golden checkpoints (tests/golden/README.md): where they are and what AudioCraft computed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
MODELS: tuple[str, ...] = ("musicgen-tiny-mono", "musicgen-tiny-stereo", "audiogen-tiny")


def folder(name: str) -> Path:
    """The checkpoint folder of one golden model."""
    return GOLDEN / name


def tensors(name: str) -> dict[str, Tensor]:
    """Everything in ``expected.safetensors``."""
    return load_file(GOLDEN / name / "expected.safetensors")


def facts(name: str) -> dict[str, Any]:
    """``expected.json``: texts and durations."""
    return json.loads((GOLDEN / name / "expected.json").read_text())


def package(name: str, file: str = "compression_state_dict.bin") -> dict[str, Any]:
    """One AudioCraft package as stored: ``best_state`` (tensors) and ``xp.cfg`` (YAML text)."""
    return torch.load(GOLDEN / name / file, weights_only=True)
