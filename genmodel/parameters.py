"""Checks of what ``BaseGenModel`` is told: durations, generation parameters, the window a configuration
names.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from genmodel.errors import GenModelError
from genmodel.request import Sampling

MAX_DURATION_S = 3600.0


def tell_progress(done: int, total: int) -> None:
    """What ``progress=True`` shows where there is no callback: a counter on stderr."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"\r{done:6d} / {total:6d}" + ("\n" if done == total else ""))
        sys.stderr.flush()


def sampling_of(params: dict[str, Any]) -> Sampling:
    """``generation_params`` as the engine's value; GenModelError for one out of range or unknown."""
    names = {"temp": "temperature"}
    try:
        return Sampling(**{names.get(name, name): value for name, value in params.items()})
    except TypeError as error:
        raise GenModelError(f"unknown generation parameter: {error}", field="generation_params") from error


def check_duration(seconds: Any) -> None:
    """GenModelError unless ``seconds`` is a length of audio."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= MAX_DURATION_S:
        raise GenModelError(
            "the duration is out of range",
            code="E_TOO_LONG" if number and seconds > MAX_DURATION_S else "E_ARGUMENT",
            field="duration",
            value=seconds,
            allowed=f"more than 0 and at most {MAX_DURATION_S:g} s",
        )


def segment_duration(cfg: DictConfig | None) -> float:
    """``dataset.segment_duration`` (s): the longest window; GenModelError where it is not said."""
    found = None if cfg is None else OmegaConf.select(cfg, "dataset.segment_duration", default=None)
    if found is None:
        raise GenModelError(
            "the longest window is unknown: give max_duration, or a model whose configuration has "
            "dataset.segment_duration",
            field="max_duration",
        )
    return float(found)
