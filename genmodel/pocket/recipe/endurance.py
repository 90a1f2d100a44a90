"""Long takes: whether a minute stays alive, at its level and on its beat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from genmodel.base import BaseGenModel
from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.journal import mean_of
from genmodel.pocket.recipe.prompts import HOP, Prompt, generate, request_of
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.request import Sampling

WINDOW_S = 5.0


def steadiness(mix: np.ndarray, bpm: float, window_s: float = WINDOW_S) -> dict[str, float]:
    """One take: its share of silent half seconds, change of level and of beat from the first window to the
    last."""
    size = int(window_s * RATE_HZ)
    first, last = mix[:size], mix[-size:]

    def beat(wav: np.ndarray) -> float:
        return float(metrics.beat_strength(metrics.autocorrelation(metrics.onset_envelope(wav)), bpm))

    begun = beat(first)
    return {
        "silent": metrics.silent_share(mix),
        "drift_db": metrics.level_db(last) - metrics.level_db(first),
        "beat_first": begun,
        "beat_last": beat(last),
    }


def judge_endurance(
    model: BaseGenModel, prompts: list[Prompt], sampling: Sampling, slots: int = 8, seconds: float = 60.0
) -> dict[str, Any]:
    """Continuations of `seconds` from each prompt, on the prompt's tempo throughout.

    "steady_60s" is the share of takes without half a second below -50 dBFS; "level_drift_db" the mean change
    of level; "beat_last_over_first" compares the mean repetition at the true tempo, where the song has drums.
    """
    frames = int(seconds * RATE_HZ) // HOP
    requests = [replace(request_of(prompt, sampling, i), frames=frames) for i, prompt in enumerate(prompts)]
    takes = [stems.sum(0) for stems in generate(model, requests, slots)]
    found = [steadiness(take, prompt.song.bpm) for take, prompt in zip(takes, prompts, strict=True)]
    beats = [
        facts
        for facts, prompt in zip(found, prompts, strict=True)
        if any(part.drums and part.notes for part in prompt.song.parts)
    ]
    first = mean_of([facts["beat_first"] for facts in beats])
    return {
        "steady_60s": round(mean_of([float(facts["silent"] == 0) for facts in found]), 3),
        "level_drift_db": round(mean_of([facts["drift_db"] for facts in found]), 2),
        "level_drift_size_db": round(mean_of([abs(facts["drift_db"]) for facts in found]), 2),
        "beat_last_over_first": round(mean_of([facts["beat_last"] for facts in beats]) / max(first, 1e-3), 3),
        "long_takes": len(takes),
    }
