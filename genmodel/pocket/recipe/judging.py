"""Figures of continuations and of the codec, each measured the same way of whatever it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genmodel.base import BaseGenModel
from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.journal import mean_of
from genmodel.pocket.recipe.prompts import Prompt
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.song import STEMS
from genmodel.pocket.recipe.spectral import SpectralLoss, mel_distance_db, si_sdr_db


def judge_clips(prompts: list[Prompt], clips: list[np.ndarray]) -> dict[str, Any]:
    """Measures of continuations [3, new], one per prompt."""
    tempi, strengths, errors, ranks, levels, silent = [], [], [], [], [], []
    drums, tonal = [], []
    own, others = [], []
    pitches = [metrics.mean_chroma(prompt.heard) for prompt in prompts]
    for index, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
        mix = clip.sum(0)
        song = prompt.song
        if any(part.drums and part.notes for part in song.parts):
            tempi.append(metrics.same_tempo(metrics.tempo(mix), song.bpm))
            lags = metrics.autocorrelation(metrics.onset_envelope(mix))
            strengths.append(float(metrics.beat_strength(lags, song.bpm)))
        if "swing" not in song.words:
            errors.append(metrics.onset_errors_ms(mix, prompt.seam / RATE_HZ, prompt.grid_s()))
        pitch = metrics.mean_chroma(mix)
        own.append(float(pitch @ pitches[index]))
        others += [float(pitch @ other) for other_index, other in enumerate(pitches) if other_index != index]
        ranks.append(metrics.scale_rank(pitch, song.root, song.mode) == 1)
        levels.append(metrics.level_db(mix) - metrics.level_db(prompt.heard))
        silent.append(metrics.silent_share(mix) > 0)
        if metrics.level_db(clip[0]) > -45:
            drums.append(metrics.percussive_share(clip[0]))
        tonal += [
            metrics.percussive_share(clip[stem]) for stem in (1, 2) if metrics.level_db(clip[stem]) > -45
        ]
    found = np.concatenate(errors) if errors else np.zeros(0)
    return {
        "tempo_kept": round(mean_of([float(hit) for hit in tempi]), 3),
        "beat_strength": round(mean_of(strengths), 3),
        "onset_error_ms": round(float(np.median(found)), 1) if len(found) else None,
        "chroma_auc": round(metrics.auc(own, others), 3),
        "scale_first": round(mean_of([float(hit) for hit in ranks]), 3),
        "level_change_db": round(mean_of([abs(value) for value in levels]), 2),
        "with_silence": round(mean_of([float(hit) for hit in silent]), 3),
        "drums_percussive": round(mean_of(drums), 3),
        "tonal_percussive": round(mean_of(tonal), 3),
    }


def usage(codes: torch.Tensor, size: int) -> list[tuple[float, int]]:
    """Perplexity and number of the entries in use, per codebook of codes [codebooks, frames]."""
    found = []
    for column in codes:
        count = torch.bincount(column.flatten(), minlength=size).float()
        share = count[count > 0] / count.sum()
        found.append((float(torch.exp(-(share * share.log()).sum())), int((count > 0).sum())))
    return found


def judge_codec(model: BaseGenModel, prompts: list[Prompt]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The codec on what follows each seam: measures, and the stems through the codec.

    A key without a stem's name is of the mix as the sum of its stems, each through the codec. How evenly the
    codebooks are used is counted on the whole songs' mixes, coded as such, and on the stem "other".
    """
    codec = model.compression_model
    loss = SpectralLoss()
    facts: dict[str, list[float]] = {}
    again: list[np.ndarray] = []
    coded: dict[str, list[torch.Tensor]] = {"mix": [], "other": []}
    with torch.no_grad():
        for prompt in prompts:
            stems = torch.from_numpy(prompt.truth)
            codes = codec.encode(stems[None])[0]
            made = codec.decode_stems(codes)[0].mean(1)
            coded["other"].append(codes[0].view(-1, len(STEMS), codes.shape[-1])[:, STEMS.index("other")])
            mix = torch.from_numpy(prompt.stems.sum(0))
            coded["mix"].append(codec.core.encode(mix[None, None])[0][0])
            again.append(made.numpy())
            for name, a, b in [*zip(STEMS, made, stems, strict=True), ("codec", made.sum(0), stems.sum(0))]:
                if float(b.square().mean()) > 1e-6:
                    distance = float(mel_distance_db(loss, a[None], b[None]))
                    facts.setdefault(f"{name}_mel_db", []).append(distance)
                    facts.setdefault(f"{name}_sisdr_db", []).append(float(si_sdr_db(a[None], b[None])))
            facts.setdefault("comb_ripple_db", []).append(metrics.ripple_db(made.sum(0).numpy()))
            facts.setdefault("comb_ripple_truth_db", []).append(metrics.ripple_db(prompt.truth.sum(0)))
    result: dict[str, Any] = {name: round(mean_of(values), 3) for name, values in facts.items()}
    result["other_sisdr_median_db"] = round(float(np.median(facts.get("other_sisdr_db", [np.nan]))), 3)
    mix_usage = usage(torch.cat(coded["mix"], 1), codec.cardinality)
    result["codebook_perplexity"] = round(min(perplexity for perplexity, _ in mix_usage), 1)
    result["codes_used"] = min(count for _, count in mix_usage)
    other_usage = usage(torch.cat(coded["other"], 1), codec.cardinality)
    result["other_perplexity"] = [round(perplexity, 1) for perplexity, _ in other_usage]
    return result, again
