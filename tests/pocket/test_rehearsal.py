"""The whole recipe in little: from nothing to a folder that loads and continues audio."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.__main__ import Scale, rehearse, render_all
from genmodel.pocket.recipe.render import FontPlayer
from genmodel.pocket.recipe.train_codec import CodecRun
from genmodel.pocket.recipe.train_codec import Plan as CodecPlan

MODULES = (
    "compose", "render", "train_codec", "tokenise", "train_lm", "evaluate", "export", "demo_loop", "__main__",
)  # fmt: skip


def test_the_chain_runs_and_goes_on_where_it_stopped(player: FontPlayer, tmp_path: Path) -> None:
    scale = Scale(songs=3, small=True)
    first = rehearse(tmp_path, scale, torch.device("cpu"), stop_after_s=0.0)
    assert first["stopped"] == "train_codec" and "tokenise" not in first
    facts = rehearse(tmp_path, scale, torch.device("cpu"))
    assert facts["render"]["music_s"] == 0  # the songs were there
    assert list(facts) == ["render", "train_codec", "tokenise", "train_lm", "export", "evaluate"]
    manifest = json.loads((tmp_path / "pocket" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stems"] == ["drums", "bass", "other"]
    plan = CodecPlan(steps=6, free_steps=2, rows=2, filters=4)
    again = CodecRun(tmp_path / "songs", tmp_path / "codec", plan, torch.device("cpu"))
    assert again.step == 4
    assert again.advance()
    assert again.step == 6


def test_songs_are_rendered_by_several_processes(player: FontPlayer, tmp_path: Path) -> None:
    assert render_all(tmp_path, [0, 1, 2, 3], None, 4.0, 2) > 8
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == [f"0000000{n}.npy" for n in range(4)]
    assert render_all(tmp_path, [0, 1, 2, 3], None, 4.0, 2) == 0


@pytest.mark.parametrize("module", MODULES)
def test_every_step_explains_itself(module: str) -> None:
    import importlib

    name = "genmodel.pocket.recipe" + ("" if module == "__main__" else f".{module}")
    if module == "compose":  # one of them as a user runs it
        done = subprocess.run(
            [sys.executable, "-m", name, "--help"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "usage" in done.stdout
        return
    main = importlib.import_module(f"genmodel.pocket.recipe.{module}").main
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0


def clicks(bpm: float, seconds: float = 6.0) -> np.ndarray:
    wav = np.zeros(int(seconds * 32_000), dtype=np.float32)
    noise = np.random.default_rng(0)
    for beat in np.arange(0.0, seconds - 0.1, 60 / bpm):
        at = int(beat * 32_000)
        wav[at : at + 1600] += noise.standard_normal(1600) * np.exp(-np.arange(1600) / 300) * 0.3
    return wav


@pytest.mark.parametrize("bpm", [72.0, 100.0, 128.0, 171.0])
def test_tempo_is_found_and_another_is_told_apart(bpm: float) -> None:
    assert metrics.same_tempo(metrics.tempo(clicks(bpm)), bpm)
    assert not metrics.same_tempo(bpm * 1.1, bpm)


def test_onsets_are_where_they_are() -> None:
    grid = np.arange(0.0, 8.0, 0.15)
    assert np.median(metrics.onset_errors_ms(clicks(100.0), 0.0, grid)) < 8
    assert np.median(metrics.onset_errors_ms(clicks(100.0), 0.07, grid)) > 40


def test_percussion_is_told_from_tone() -> None:
    time = np.arange(3 * 32_000) / 32_000
    tone = (0.1 * np.sin(2 * np.pi * 330 * time)).astype(np.float32)
    assert metrics.percussive_share(clicks(120.0)) > 0.6 > 0.2 > metrics.percussive_share(tone)


def test_auc_counts_pairs() -> None:
    assert metrics.auc([2.0, 3.0], [1.0, 0.0]) == 1.0
    assert metrics.auc([1.0], [1.0]) == 0.5
