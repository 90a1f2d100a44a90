"""Requests and tempo maps: exact time, and every bad value refused by its name."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from genmodel.engine.prepare import bar_period_frames
from genmodel.errors import GenModelError
from genmodel.request import AudioClip, GenerationRequest, Sampling, TempoChange, TempoMap


def clip(**changes: Any) -> AudioClip:
    return AudioClip(**{"samples": torch.zeros(1, 32000), "rate_hz": 32000, **changes})


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "mode": ({"mode": "extend"}, "mode", "E_ARGUMENT"),
    "no prompt": ({"prompt": None}, "prompt", "E_ARGUMENT"),
    "a prompt too many": ({"mode": "generate"}, "prompt", "E_ARGUMENT"),
    "no frames": ({"frames": 0}, "frames", "E_ARGUMENT"),
    "negative": ({"frames": -3}, "frames", "E_ARGUMENT"),
    "fraction": ({"frames": 2.5}, "frames", "E_ARGUMENT"),
    "ten hours": ({"frames": 36_000 * 50}, "frames", "E_TOO_LONG"),
    "no variations": ({"variations": 0}, "variations", "E_ARGUMENT"),
    "many variations": ({"variations": 17}, "variations", "E_ARGUMENT"),
    "seed": ({"seed": 2**64}, "seed", "E_ARGUMENT"),
    "chunks": ({"chunk_frames": 0}, "chunk_frames", "E_ARGUMENT"),
    "long text": ({"text": "é" * 8193}, "text", "E_TOO_LONG"),
    "no text": ({"text": b"x"}, "text", "E_ARGUMENT"),
    "long negative text": ({"negative_text": "x" * 2**20}, "negative_text", "E_TOO_LONG"),
    "harmony": ({"harmony": torch.zeros(5, 11)}, "harmony", "E_ARGUMENT"),
    "NaN harmony": ({"harmony": torch.full((5, 12), math.nan)}, "harmony", "E_ARGUMENT"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_bad_requests(what: str) -> None:
    changes, field, code = BAD_REQUESTS[what]
    base: dict[str, Any] = {"mode": "continue", "frames": 10, "prompt": clip()}
    GenerationRequest(**base)
    with pytest.raises(GenModelError) as caught:
        GenerationRequest(**{**base, **changes})
    assert (caught.value.field, caught.value.code) == (field, code)
    assert caught.value.allowed and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": torch.zeros(1, 0)},
        {"samples": torch.zeros(7, 100)},
        {"samples": torch.zeros(0, 100)},
        {"samples": torch.zeros(100)},
        {"samples": torch.full((1, 9), math.inf)},
        {"rate_hz": 0},
        {"rate_hz": -1},
        {"rate_hz": math.nan},
        {"rate_hz": 10**9},
    ],
)
def test_bad_audio(changes: dict[str, Any]) -> None:
    with pytest.raises(GenModelError) as caught:
        clip(**changes)
    assert caught.value.code == "E_AUDIO"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"top_p": -0.1}, "top_p"),
        ({"cfg_coef": 1e9}, "cfg_coef"),
        ({"cfg_coef_beta": math.inf}, "cfg_coef_beta"),
    ],
)
def test_bad_sampling(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(GenModelError) as caught:
        Sampling(**changes)
    assert caught.value.field == field


def change(at: Any = 0, bpm: float = 120.0, beats: int = 4, unit: int = 4) -> TempoChange:
    return TempoChange(at, bpm, beats, unit)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TempoMap(()),
        lambda: TempoMap((change(0), change(0))),
        lambda: TempoMap((change(4), change(0))),
        lambda: TempoMap((change(),), math.nan),
        lambda: change(bpm=0),
        lambda: change(bpm=math.inf),
        lambda: change(beats=0),
        lambda: change(unit=3),
        lambda: change(at=math.nan),
    ],
)
def test_bad_tempo(make: Any) -> None:
    with pytest.raises(GenModelError) as caught:
        make()
    assert str(caught.value.field).startswith("tempo_map")


def test_phases_of_one_tempo() -> None:
    tempo = TempoMap((change(bpm=120),), start_beats=6)  # the seam: bar 2, beat 3
    bar, beat, four = tempo.phases([Fraction(0), Fraction(1, 4), 1, 2, -3, 10])
    assert bar.tolist() == [0.5, 0.625, 0.0, 0.5, 0.0, 0.5]
    assert beat.tolist() == [0.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert four.tolist() == [0.375, 0.40625, 0.5, 0.625, 0.0, 0.625]
    assert bar.dtype == torch.float64


def test_tempo_and_meter_change_under_way() -> None:
    # two bars of 4/4 at 120, then 3/4 at 90, then 6/8 at 60 from its second bar on
    tempo = TempoMap((change(0, 120), change(8, 90, 3, 4), change(14, 60, 6, 8)))
    assert tempo.seconds(8) == 4 and tempo.seconds(14) == 4 + Fraction(6 * 60, 90)
    assert tempo.beats_at(4) == 8 and tempo.beats_at(8) == 14
    assert tempo.bars_to_seconds(2) == 4 and tempo.bars_to_seconds(3) == 6 and tempo.bars_to_seconds(4) == 8
    assert tempo.bars_to_seconds(5) == 11  # six eighths are three quarters at 60
    bar, beat, four = tempo.phases([4, 5, 8, Fraction(17, 2)])
    assert bar.tolist() == [0.0, 0.5, 0.0, float(Fraction(1, 6))]
    assert beat.tolist() == [0.0, 0.5, 0.0, 0.0]
    assert four.tolist() == [0.5, 0.625, 0.0, float(Fraction(1, 24))]


def test_a_meter_change_inside_a_bar_begins_a_bar() -> None:
    tempo = TempoMap((change(0, 60, 4, 4), change(6, 60, 3, 4)))
    bar, _, four = tempo.phases([5, 6, 7])
    assert bar.tolist() == [0.25, 0.0, float(Fraction(1, 3))]
    assert four.tolist()[1] == 0.5  # bars 1 and 2 (cut short), so this is the third


def test_time_is_exact_hours_in() -> None:
    tempo = TempoMap((change(0, 123.456),), start_beats=Fraction(1, 3))
    hop = Fraction(640, 32000)
    frame = 50 * 3600 * 5
    bar, _, _ = tempo.phases([frame * hop])
    quarters = Fraction(1, 3) + frame * hop * Fraction(123.456) / 60
    assert bar[0] == float(quarters / 4 - quarters / 4 // 1)
    for bars in (Fraction(7, 3), 4, Fraction(1, 16)):
        assert tempo.bars_to_seconds(bars) == bars * 4 * 60 / Fraction(123.456)
    assert tempo.beats_at(tempo.seconds(Fraction(22, 7))) == Fraction(22, 7)


def test_a_frame_on_the_beat_is_on_the_beat_even_where_floats_miss() -> None:
    # 110 bpm: 4.8 bars of frames; floats put some downbeats just below 1
    tempo = TempoMap((change(0, 75.0),))
    bar, beat, four = tempo.phases([Fraction(4, 5) * n for n in range(400)])
    assert bool((beat == 0).all()) and bar[:5].tolist() == [0.0, 0.25, 0.5, 0.75, 0.0]
    assert bool(((bar < 1) & (four < 1)).all())


def test_the_period_of_the_harmony_is_the_most_whole_bars_that_fit() -> None:
    tempo = TempoMap((change(0, 120),), start_beats=40)
    # a bar is two seconds, 100 frames
    assert [bar_period_frames(tempo, frames, 50.0) for frames in (99, 100, 399, 400, 2000)] == [
        None,
        100.0,
        200.0,
        400.0,
        400.0,
    ]
    slower_before = TempoMap((change(0, 60), change(36, 120)), start_beats=40)
    assert bar_period_frames(slower_before, 299, 50.0) == 100.0
    assert bar_period_frames(slower_before, 300, 50.0) == 300.0
