"""Whether a stem that pocket adds to given tracks fits them better than it fits another song's.

Two figures per pair: how alike the onsets are (correlation of the envelopes, at the same time), and, for
bass and other, how alike the pitch classes are, half a second at a time. The AUC says how often a stem fits
its own tracks better than another song's tracks; the true stems are judged beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from genmodel.base import BaseGenModel
from genmodel.pocket.chroma import chroma
from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.prompts import FRAME_RATE, HOP, Prompt, generate
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.song import STEMS
from genmodel.request import AudioClip, GenerationRequest, Sampling

PITCH_FRAMES = 25
"""Pitch classes are compared half a second at a time."""
LOUD_DB = -50.0


def accompaniment(prompt: Prompt, wanted: str, sampling: Sampling, seed: int) -> GenerationRequest:
    """Play `wanted` to the song's other stems, which are known from the seam to the end of the clip."""
    others = [index for index, name in enumerate(STEMS) if name != wanted]
    tracks = torch.from_numpy(prompt.truth[others].sum(0))[None]
    return GenerationRequest(
        "generate",
        prompt.new_samples // HOP,
        seed=seed,
        sampling=sampling,
        tempo_map=prompt.tempo_map(),
        context=AudioClip(tracks, RATE_HZ),
        stems=(wanted,),
    )


def beat_fit(stem: np.ndarray, tracks: np.ndarray) -> float:
    """Correlation of the onset envelopes of two sounds that play together."""
    a, b = metrics.onset_envelope(stem), metrics.onset_envelope(tracks)
    size = min(len(a), len(b))
    a, b = a[:size] - a[:size].mean(), b[:size] - b[:size].mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))


def _pitches(wav: np.ndarray) -> np.ndarray:
    """Pitch classes of each half second, [n, 12], their mean removed, of unit length."""
    frames = chroma(torch.from_numpy(np.asarray(wav, dtype=np.float32))).numpy().astype(np.float64)
    count = max(1, int(len(wav) / RATE_HZ * FRAME_RATE) // PITCH_FRAMES)
    rows = np.stack([part.mean(0) for part in np.array_split(frames, count)])
    rows -= rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def pitch_fit(stem: np.ndarray, tracks: np.ndarray) -> float:
    """Mean likeness of the pitch classes of two sounds that play together, half a second at a time."""
    a, b = _pitches(stem), _pitches(tracks)
    size = min(len(a), len(b))
    return float((a[:size] * b[:size]).sum(1).mean())


def fit_auc(
    stems: Sequence[np.ndarray], tracks: Sequence[np.ndarray], wanted: Sequence[str], shifts: int = 5
) -> dict[str, float]:
    """AUC of own against other tracks: "beat", "pitch", and their mean "fit".

    Each stem is set against the tracks of the next `shifts` songs; silent stems count as not fitting
    anything.
    """
    own: dict[str, list[float]] = {"beat": [], "pitch": []}
    others: dict[str, list[float]] = {"beat": [], "pitch": []}
    count = len(stems)
    for index, (stem, name) in enumerate(zip(stems, wanted, strict=True)):
        measures = [("beat", beat_fit)] + ([("pitch", pitch_fit)] if name != "drums" else [])
        heard = metrics.level_db(stem) > LOUD_DB
        for kind, measure in measures:
            own[kind].append(measure(stem, tracks[index]) if heard else -1.0)
            for shift in range(1, min(shifts, count - 1) + 1):
                other = tracks[(index + shift) % count]
                others[kind].append(measure(stem, other) if heard else -1.0)
    found = {kind: metrics.auc(own[kind], others[kind]) for kind in own}
    found["fit"] = float(np.nanmean(list(found.values())))
    return {kind: round(value, 3) for kind, value in found.items()}


def judge_accompaniment(
    model: BaseGenModel, prompts: list[Prompt], sampling: Sampling, slots: int = 8
) -> dict[str, Any]:
    """Each prompt's song is given one stem back, drums, bass and other in turn."""
    chosen: list[Prompt] = []
    wanted: list[str] = []
    for prompt in prompts:
        name = STEMS[len(chosen) % len(STEMS)]
        index = STEMS.index(name)
        tracks = np.delete(prompt.truth, index, axis=0).sum(0)
        if metrics.level_db(prompt.truth[index]) > LOUD_DB and metrics.level_db(tracks) > LOUD_DB:
            chosen.append(prompt)
            wanted.append(name)
    if len(chosen) < 2:
        return {"accompany_auc": None}
    requests = [
        accompaniment(p, name, sampling, i) for i, (p, name) in enumerate(zip(chosen, wanted, strict=True))
    ]
    made = [stems[0] for stems in generate(model, requests, slots)]
    tracks = [
        np.delete(prompt.truth, STEMS.index(name), axis=0).sum(0)
        for prompt, name in zip(chosen, wanted, strict=True)
    ]
    true = [prompt.truth[STEMS.index(name)] for prompt, name in zip(chosen, wanted, strict=True)]
    found = fit_auc(made, tracks, wanted)
    return {
        "accompany_auc": found["fit"],
        "accompany": {"made": found, "truth": fit_auc(true, tracks, wanted), "clips": len(chosen)},
    }
