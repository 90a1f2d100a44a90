"""`segue accompany`, `vary`, `fill`, `retake` and their flags, with a real daemon and a coded model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.test_real_daemon import RATE, Segue, house, loop, segue  # noqa: F401
from tests.daemon import engine

HANDLE = 2560


@pytest.fixture
def tune(house: Path) -> Path:  # noqa: F811
    path = house / "tune.wav"
    wave = 0.25 * np.sin(2 * np.pi * 220 * np.arange(6 * RATE) / RATE)
    soundfile.write(path, wave.astype("f4"), RATE, "FLOAT")
    return path


def out(folder: Path, name: str) -> np.ndarray:
    return soundfile.read(folder / name, dtype="float32")[0]


def told(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_a_gap_is_filled_and_the_whole_is_one_file(segue: Segue, tune: Path, tmp_path: Path) -> None:  # noqa: F811
    done = segue("fill", tune, "--from", 2, "--to", "3.5", "--seed", 3, "--out", tmp_path, "--no-overview")
    assert done.returncode == 0, done.stderr
    assert "does not listen to what comes after" in done.stderr
    take, tail = out(tmp_path, "v1.mix.wav"), out(tmp_path, "v1.mix.tail.wav")
    assert (len(take), len(tail)) == (round(1.5 * RATE), HANDLE)
    whole, before = out(tmp_path, "v1.joined.wav"), out(tune.parent, "tune.wav")
    assert len(whole) == len(before)
    assert np.array_equal(whole[: 2 * RATE - HANDLE], before[: 2 * RATE - HANDLE])
    assert np.array_equal(whole[2 * RATE : 2 * RATE + len(take)], take)
    after = round(3.5 * RATE) + HANDLE
    assert np.array_equal(whole[after:], before[after:])
    assert told(tmp_path)["request"]["mode"] == "fill"


def test_a_take_on_the_next_bar_joins_over_what_lies_between(
    segue: Segue, tune: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    done = segue(
        "continue", tune, "--start-at", "1.9", "--tempo", 120, "--bars", 1, "--start", "bar", "--seed", 3,
        "--out", tmp_path, "--no-overview",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lead = round(0.1 * RATE)
    whole, take = out(tmp_path, "v1.joined.wav"), out(tmp_path, "v1.mix.wav")
    assert len(take) == 2 * RATE and len(whole) == round(1.9 * RATE) + lead + 2 * RATE
    assert np.array_equal(whole[-2 * RATE :], take)
    made = engine.samples(3, 0, "mix", 0, lead + 2 * RATE)[0]
    level = told(tmp_path)["daemon"]["takes"][0]["level"]
    if level["applied_db"] == 0:
        assert np.array_equal(take, made[lead:])
    assert told(tmp_path)["daemon"]["lead_frames"] == lead


def test_vary_and_retake(segue: Segue, tune: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "one"
    done = segue(
        "vary", tune, "--from", 1, "--to", 2, "--strength", "0.2", "--loop", "--out", folder, "--no-overview"
    )
    assert done.returncode == 0, done.stderr
    assert len(out(folder, "v1.mix.wav")) == RATE
    job = told(folder)["job"]
    again = tmp_path / "two"
    done = segue("retake", job, "--seed", 9, "--strength", "0.9", "--text", "b", "--out", again, "--json")
    assert done.returncode == 0, done.stderr
    settings = told(again)["daemon"]["settings"]
    assert (settings["strength"], settings["text"], settings["seed"]) == (0.9, "b", 9)
    assert settings["loop"] is True and settings["mode"] == "vary"
    assert len(out(again, "v1.mix.wav")) == RATE


def test_accompany_names_stems_and_refuses_a_deaf_model(segue: Segue, tune: Path, tmp_path: Path) -> None:  # noqa: F811
    done = segue(
        "accompany", f"{tune}:drums", "--seconds", 1, "--model", "stems", "--out", tmp_path / "a",
        "--no-overview",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "a").glob("v1.*.wav")}
    assert names == {"v1.bass.wav", "v1.other.wav", "v1.mix.wav"}
    done = segue("accompany", tune, "--seconds", 1, "--out", tmp_path / "b")
    assert done.returncode == 4 and "pocket does" in done.stderr


def test_a_tempo_map_from_a_file(segue: Segue, tune: Path, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"changes": [{"at": 0, "bpm": 120}, {"at": 4, "bpm": 90, "beats": 3}]}))
    done = segue(
        "continue", tune, "--start-at", 3, "--tempo-map", path, "--bars", "2", "--out", tmp_path / "a",
        "--no-overview", "--context", tune,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(out(tmp_path / "a", "v1.mix.wav")) == 4 * RATE
    assert told(tmp_path / "a")["request"]["tempo_map"]["start"] == "11/2"
    path.write_text("{")
    done = segue("continue", tune, "--tempo-map", path, "--bars", 2)
    assert done.returncode == 2 and re.search("cannot be read as JSON", done.stderr)
