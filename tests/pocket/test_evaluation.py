"""The evaluation: its parts tell good from bad on sounds whose answer is known, and the table says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genmodel.pocket.recipe import accompany, endurance, genres, report
from genmodel.pocket.recipe.compose import compose
from genmodel.pocket.recipe.foreign import read_clips
from genmodel.pocket.recipe.journal import numbers
from genmodel.pocket.recipe.judging import usage
from genmodel.pocket.recipe.prompts import HOP, Prompt, request_of, stratified
from genmodel.request import Sampling

RATE = 32_000


def tune(notes: tuple[int, ...], seconds: float = 4.0, beat_s: float = 0.5) -> np.ndarray:
    """Plucked notes, one a beat, round and round."""
    time = np.arange(int(beat_s * RATE)) / RATE
    made = [
        np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time) * np.exp(-time / 0.2) * 0.2
        for note in (notes * 40)[: int(seconds / beat_s)]
    ]
    return np.concatenate(made).astype(np.float32)


def prompt_of(seed: int, stems: np.ndarray | None = None, new_s: float = 2.0) -> Prompt:
    song = compose(seed)
    new = int(new_s * RATE) // HOP * HOP
    if stems is None:
        stems = np.random.default_rng(seed).standard_normal((3, 2 * new)).astype(np.float32) * 0.1
    return Prompt(song, stems, new, new, new)


def test_a_stem_fits_its_own_tracks() -> None:
    keys = [(60, 64, 67, 72), (61, 65, 68, 73), (62, 66, 69, 74), (63, 67, 70, 75), (66, 70, 73, 78)]
    beats = [0.5, 0.41, 0.37, 0.46, 0.33]
    tracks = [tune(key, beat_s=beat) for key, beat in zip(keys, beats, strict=True)]
    stems = [tune(tuple(n - 12 for n in key), beat_s=beat) for key, beat in zip(keys, beats, strict=True)]
    names = ["bass"] * 5
    own = accompany.fit_auc(stems, tracks, names)
    assert own["fit"] > 0.95 and own["beat"] > 0.95 and own["pitch"] > 0.95
    wrong = accompany.fit_auc(stems[1:] + stems[:1], tracks, names)
    assert wrong["fit"] < 0.5
    silent = accompany.fit_auc([np.zeros_like(stem) for stem in stems], tracks, names)
    assert silent["fit"] == 0.5  # nothing fits: chance, not a number that flatters
    assert "pitch" in accompany.fit_auc(stems, tracks, ["drums"] * 4 + ["bass"])


def test_accompaniment_hears_the_other_stems_from_the_seam() -> None:
    prompt = prompt_of(3)
    request = accompany.accompaniment(prompt, "bass", Sampling(), 5)
    assert request.mode == "generate" and request.stems == ("bass",) and request.seed == 5
    assert request.frames == prompt.new_samples // HOP
    assert request.context is not None
    expected = prompt.truth[0] + prompt.truth[2]
    np.testing.assert_allclose(request.context.samples[0].numpy(), expected, atol=1e-6)


def test_chords_and_tempo_map_are_given_when_asked() -> None:
    prompt = prompt_of(4)
    plain = request_of(prompt, Sampling(), 0)
    assert plain.tempo_map is not None and plain.harmony is None
    bare = request_of(prompt, Sampling(), 0, transport=False, harmony=True)
    assert bare.tempo_map is None and bare.harmony is not None
    assert bare.harmony.shape == (bare.frames, 12)
    sounding = {int(c) for chord in prompt.song.chords for c in chord.classes}
    assert set(torch.nonzero(bare.harmony.sum(0))[:, 0].tolist()) <= sounding


def test_strata_take_turns() -> None:
    prompts = [prompt_of(seed) for seed in range(60)]
    some = stratified(prompts, 20)
    assert len(some) == 20 and len({id(p) for p in some}) == 20
    kinds = {(p.song.meter.name, p.song.genre) for p in some}
    assert len(kinds) == 20  # no stratum twice while there are others
    assert len(stratified(prompts, 500)) == 60


def test_the_classifier_learns_what_differs_and_nothing_from_noise() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 40)
    rows = draw.standard_normal((160, 30)).astype(np.float32)
    held = draw.standard_normal((160, 30)).astype(np.float32)
    by_chance = genres.GenreEar(rows, labels, 4).accuracy(held, labels)
    assert by_chance < 0.45
    rows[np.arange(160), labels] += 4
    held[np.arange(160), labels] += 4
    assert genres.GenreEar(rows, labels, 4).accuracy(held, labels) > 0.9


def test_features_are_finite_for_silence_and_music() -> None:
    music = np.stack([tune((40, 47)), tune((28, 35)), tune((60, 64, 67))])
    for stems in (music, np.zeros_like(music)):
        assert np.isfinite(genres.features(stems)).all()
    assert np.abs(genres.features(music) - genres.features(music * 0)).max() > 5


def test_a_minute_that_fades_is_told_from_one_that_holds() -> None:
    clicks = np.zeros(30 * RATE, dtype=np.float32)
    noise = np.random.default_rng(1)
    for at in np.arange(0, 30 * RATE - RATE, RATE // 2):
        clicks[at : at + 2000] = noise.standard_normal(2000) * np.exp(-np.arange(2000) / 400) * 0.3
    clicks += noise.standard_normal(len(clicks)).astype(np.float32) * 0.004
    held = endurance.steadiness(clicks, 120.0)
    assert held["silent"] == 0 and abs(held["drift_db"]) < 2 and held["beat_last"] > 0.7 * held["beat_first"]
    fading = endurance.steadiness(clicks * np.linspace(1, 0.001, len(clicks), dtype=np.float32), 120.0)
    assert fading["drift_db"] < -10 and fading["silent"] > 0


def test_usage_counts_entries() -> None:
    codes = torch.tensor([[0, 1, 2, 3] * 5, [7] * 20])
    assert usage(codes, 8) == [(pytest.approx(4.0), 4), (pytest.approx(1.0), 1)]


def test_foreign_audio_is_read_at_any_rate_and_short_files_left_out(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "deep" / "long.wav", np.zeros((44_100 * 5, 2), dtype=np.float32) + 0.1, 44_100)
    soundfile.write(tmp_path / "short.wav", np.zeros(8000, dtype=np.float32), 8000)
    clips = read_clips(tmp_path, 4.0)
    assert list(clips) == ["deep/long.wav"]
    assert abs(len(clips["deep/long.wav"]) - 4 * RATE) <= HOP
    with pytest.raises(FileNotFoundError):
        read_clips(tmp_path, 60.0)


FACTS = {
    "prompts": 100, "prompt_s": 5.0, "new_s": 6.0, "codec_mel_db": 3.9, "codec_sisdr_db": 3.0,
    "tempo_kept": 0.91, "tempo_round_trip": 1.0, "tempo_no_transport": 0.2, "level_drift_db": -5.0,
    "genre_truth": 0.8, "genre_chance": 0.05, "genre_accuracy": 0.4, "truth": {"tempo_kept": 1.0},
}  # fmt: skip


def test_bars_are_met_or_not() -> None:
    bars = {bar.key: bar for bar in report.BARS}
    assert len(bars) == len(report.BARS)

    def met(key: str) -> bool | None:
        return bars[key].met(FACTS, bars[key].cpu)

    assert met("codec_mel_db") is True and met("codec_sisdr_db") is False
    assert met("tempo_kept") is True  # 0.91 against the round trip less ten points
    assert bars["tempo_kept"].met(FACTS, bars["tempo_kept"].gpu) is False
    assert met("tempo_no_transport") is None  # only reported
    assert met("level_drift_db") is False  # five decibels down are as bad as five up
    assert met("accompany_auc") is None  # not measured


def test_the_report_is_written(tmp_path: Path) -> None:
    report.write_markdown({**FACTS, "foreign": {"clips": 3, "codec_mel_db": 5.5}}, tmp_path / "EVALUATION.md")
    text = (tmp_path / "EVALUATION.md").read_text(encoding="utf-8")
    assert "| 3.9 |" in text and "≤ 4 yes" in text and "≥ 5.8 no" in text and "did not make" in text
    assert json.loads(text.split("```json\n")[1].split("\n```")[0])["tempo_kept"] == 0.91


def test_numbers_are_json() -> None:
    mixed = {"a": np.float32(1.5), "b": [np.bool_(True), float("nan")], "c": {"d": np.int64(3)}}
    assert json.loads(json.dumps(numbers(mixed))) == {"a": 1.5, "b": [True, None], "c": {"d": 3}}


def test_a_sheet_for_every_six_prompts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    prompts = [prompt_of(seed, new_s=1.0) for seed in range(3)]
    written = report.sheets(prompts, [p.truth for p in prompts], tmp_path / "sheet.png", each=2)
    assert [path.name for path in written] == ["sheet.png", "sheet-2.png"]
    assert all(path.stat().st_size > 1000 for path in written)
