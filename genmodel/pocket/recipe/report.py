"""What an evaluation is written down as: a table against the bars, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genmodel.pocket.recipe.prompts import Prompt
from genmodel.pocket.recipe.render import RATE_HZ


@dataclass(frozen=True)
class Bar:
    """One figure and what is asked of it: at least (or at most) `cpu` after hours on CPUs, `gpu` with a GPU.

    `below` names a figure that the bar is counted from: the bar is that figure less `cpu` or `gpu`.
    """

    key: str
    words: str
    least: bool
    cpu: float | None
    gpu: float | None
    below: str = ""

    def wanted(self, facts: Mapping[str, Any], value: float | None) -> float | None:
        """The bar itself, where it is known."""
        if value is None or not self.below:
            return value
        base = facts.get(self.below)
        return None if base is None else round(float(base) - value, 3)

    def met(self, facts: Mapping[str, Any], value: float | None) -> bool | None:
        """Whether the figure reaches the bar; None where either is missing."""
        wanted, found = self.wanted(facts, value), facts.get(self.key)
        if wanted is None or found is None:
            return None
        if self.key == "level_drift_db":
            return abs(float(found)) <= wanted
        return float(found) >= wanted if self.least else float(found) <= wanted


BARS = (
    Bar("codec_mel_db", "codec, sum of the stems: mel distance, dB", False, 4.0, 3.3),
    Bar("codec_sisdr_db", "codec, sum of the stems: SI-SDR, dB", True, 5.8, 7.0),
    Bar("other_mel_db", "codec, stem other: mel distance, dB", False, 4.5, 3.6),
    Bar("other_sisdr_db", "codec, stem other: SI-SDR, dB", True, 1.5, 3.5),
    Bar("comb_ripple_db", "comb ripple between 5 and 12 kHz, dB", False, 7.0, 4.5),
    Bar("codebook_perplexity", "codebook perplexity on mixes, least of four", True, 500, 500),
    Bar("codes_used", "codes in use on mixes, least of four", True, 850, 850),
    Bar("tempo_kept", "tempo within 2 % (half, double, 3:2 allowed)", True, 0.10, 0.05, "tempo_round_trip"),
    Bar("tempo_no_transport", "the same without a tempo map", True, None, 0.5),
    Bar("onset_error_ms", "onsets: median distance to the sixteenth grid, ms", False, 15, 10),
    Bar("chroma_auc", "pitch classes: own prompt against others (AUC)", True, 0.68, 0.78),
    Bar("scale_first", "true scale first of 12, chords given", True, 0.30, 0.50),
    Bar("accompany_auc", "an added stem fits its own tracks (AUC)", True, 0.70, 0.80),
    Bar("drums_percussive", "percussive share of drums", True, 0.50, 0.55),
    Bar("tonal_percussive", "percussive share of bass and other", False, 0.25, 0.22),
    Bar("genre_accuracy", "genre heard from text alone", True, 0.50, 0.65),
    Bar("steady_60s", "a minute without half a second of silence", True, 0.90, 0.95),
    Bar("level_drift_db", "a minute: mean change of level, dB", False, 4.0, 3.0),
    Bar("beat_last_over_first", "a minute: beat of the last window over the first's", True, 0.6, 0.75),
    Bar("xrt_two_cores", "times real time on two cores, guidance on, codec included", True, 2.0, 2.0),
    Bar("weights_mb", "weights, MB", False, 40, 40),
)
"""The figures that a set of weights is judged by, in the order of the table."""

BESIDE = ("truth", "round_trip", "mismatched")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def _bar_cell(bar: Bar, facts: Mapping[str, Any], value: float | None) -> str:
    wanted = bar.wanted(facts, value)
    if wanted is None:
        return "report"
    met = bar.met(facts, value)
    sign = "≥" if bar.least else "≤"
    return f"{sign} {wanted:g}" + ("" if met is None else " yes" if met else " no")


def table(facts: Mapping[str, Any]) -> str:
    """The figures as a Markdown table, with truth, codec round trip and mismatched clips where they exist."""
    lines = [
        "| measure | pocket | through the codec | truth | mismatched | bar (a), CPUs | bar (b), GPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for bar in BARS:
        beside = {name: (facts.get(name) or {}).get(bar.key) for name in BESIDE}
        if bar.key == "genre_accuracy":
            beside["round_trip"] = facts.get("genre_truth")
            beside["mismatched"] = facts.get("genre_chance")
        if bar.key == "accompany_auc":
            beside["truth"] = ((facts.get("accompany") or {}).get("truth") or {}).get("fit")
        if bar.key == "comb_ripple_db":
            beside["truth"] = facts.get("comb_ripple_truth_db")
        cells = [
            _cell(facts.get(bar.key)),
            *(_cell(beside[n]) for n in ("round_trip", "truth", "mismatched")),
        ]
        cells += [_bar_cell(bar, facts, bar.cpu), _bar_cell(bar, facts, bar.gpu)]
        lines.append("| " + " | ".join([bar.words, *cells]) + " |")
    return "\n".join(lines)


def write_markdown(facts: Mapping[str, Any], path: Path) -> None:
    """EVALUATION.md: how it was measured, the table, foreign material where it was judged, everything as
    JSON."""
    met = [bar.met(facts, bar.cpu) for bar in BARS]
    judged = [one for one in met if one is not None]
    parts = [
        "# pocket, judged",
        "Written by `python -m genmodel.pocket.recipe.evaluate`; the same figures are in `evaluation.json`.",
        f"{facts['prompts']} prompts of {facts['prompt_s']:g} s from held-out songs of the recipe, a seam on "
        f"a bar line, {facts['new_s']:g} s continued with the tempo map and without text, unless the row "
        f"says otherwise. {sum(judged)} of {len(judged)} bars (a) are met. Every estimator misses on true "
        "music too: a figure means something beside the others of its row. *Through the codec* is the "
        "truth coded and decoded, *mismatched* another song's truth in its place (for the genre: chance).",
        table(facts),
    ]
    foreign = facts.get("foreign")
    if foreign:
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in foreign.items())
        parts += [
            "## Music that the recipe did not make",
            "Any folder of audio, five seconds of each file continued without a tempo map. "
            "`prompts_tempo_kept`: the same tempo is estimated before and after the seam.",
            f"| measure | figure |\n|---|---|\n{rows}",
        ]
    parts += ["## All figures", f"```json\n{json.dumps(facts, indent=1)}\n```"]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def sheet(prompts: list[Prompt], clips: list[np.ndarray], path: Path, rows: int = 6) -> None:
    """Spectrograms of prompt and continuation, truth beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = min(rows, len(prompts))
    figure, axes = pyplot.subplots(rows, 2, figsize=(16, 2.6 * rows), squeeze=False)
    for row in range(rows):
        prompt, clip = prompts[row], clips[row]
        for column, tail in enumerate((clip.sum(0), prompt.truth.sum(0))):
            audio = np.concatenate([prompt.heard, tail]) + 1e-6
            axes[row][column].specgram(audio, NFFT=1024, Fs=RATE_HZ, noverlap=512, vmin=-130, vmax=-40)
            axes[row][column].axvline(len(prompt.heard) / RATE_HZ, color="cyan")
            axes[row][column].set_ylim(0, 12_000)
        song = prompt.song
        axes[row][0].set_title(f"{song.genre} {song.meter.name} {song.bpm:.0f} bpm: pocket", fontsize=8)
        axes[row][1].set_title("truth", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    pyplot.close(figure)


def sheets(prompts: list[Prompt], clips: list[np.ndarray], path: Path, each: int = 6) -> list[Path]:
    """As many pictures as it takes to show every prompt: `path`, then its name with -2, -3 …"""
    written = []
    for number, start in enumerate(range(0, len(prompts), each), 1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        sheet(prompts[start : start + each], clips[start : start + each], name, each)
        written.append(name)
    return written
