"""Lengths on a tempo map: exact, whatever the tempo, the meter and the rate."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from protocol.errors import SegueError
from protocol.harmony import pitch_classes
from protocol.messages import Length, TempoChange, TempoMap


def simple(bpm: object = 120, beats: int = 4, unit: int = 4, start: object = 0) -> TempoMap:
    return TempoMap(changes=(TempoChange(at=0, bpm=bpm, beats=beats, unit=unit),), start=start)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "tempo", "rate", "frames"),
    [
        (Length(bars=4), simple(), 48000, 384000),
        (Length(bars=4), simple(), 44100, 352800),
        (Length(bars=1), simple(bpm=140, beats=7, unit=8), 48000, 72000),
        (Length(bars="1/3"), simple(), 48000, 32000),
        (Length(bars=1), simple(bpm="400/3"), 48000, 86400),
        (Length(bars=1), simple(bpm=133), 44100, round(Fraction(240, 133) * 44100)),
        (Length(bars=1000), simple(bpm=133.7), 8000, round(Fraction(240) / Fraction(133.7) * 8_000_000)),
        (Length(seconds=8), None, 44100, 352800),
        (Length(seconds=0.1), None, 44100, 4410),
        (Length(frames=12345), None, 44100, 12345),
    ],
)
def test_known_lengths(length: Length, tempo: TempoMap | None, rate: int, frames: int) -> None:
    assert length.in_frames(rate, tempo) == frames


def test_every_duration_on_a_grid_is_its_rounded_product() -> None:
    for rate in (8000, 44100, 48000):
        for hundredths in range(1, 12001, 7):
            seconds = hundredths / 100
            assert Length(seconds=seconds).in_frames(rate, None) == round(Fraction(seconds) * rate)


def test_a_meter_change_in_between() -> None:
    tempo = TempoMap(
        changes=(
            TempoChange(at=0, bpm=120),
            TempoChange(at=8, bpm=60, beats=3, unit=4),
            TempoChange(at=14, bpm=120),
        ),
        start=4,
    )
    # one bar of 4/4 at 120 (2 s), two of 3/4 at 60 (6 s), one of 4/4 at 120 (2 s)
    assert [tempo.seconds_of_bars(Fraction(n)) for n in (1, 2, 3, 4)] == [2, 5, 8, 10]
    assert tempo.bars_at(Fraction(14)) == 4 and tempo.quarters_at_bars(Fraction(4)) == 14
    assert tempo.seconds_of_bars(Fraction(3, 2)) == Fraction(7, 2)


def test_a_bar_cut_short_by_a_change_is_still_one_bar() -> None:
    tempo = TempoMap(changes=(TempoChange(at=0, bpm=60), TempoChange(at=6, bpm=60)), start=0)
    assert tempo.seconds_of_bars(Fraction(1)) == 4
    assert tempo.seconds_of_bars(Fraction(2)) == 6
    assert tempo.seconds_of_bars(Fraction(3)) == 10


def test_before_the_origin_the_first_tempo_holds() -> None:
    tempo = simple(start=-2)
    assert tempo.bars_at(Fraction(-2)) == Fraction(-1, 2)
    assert tempo.seconds_of_bars(Fraction(1)) == 2
    assert tempo.seconds_at(Fraction(-2)) == -1


def test_random_maps_against_a_walk_bar_by_bar() -> None:
    """An independent calculation: lay the bars out one by one, then read off where each begins."""
    dice = random.Random(11)
    for _ in range(150):
        changes, bars, at, second = [], [(Fraction(0), Fraction(0))], Fraction(0), Fraction(0)
        for _change in range(dice.randrange(1, 6)):
            bpm, beats, unit = (
                Fraction(dice.randrange(300, 2400), 10),
                dice.randrange(1, 12),
                dice.choice([2, 4, 8, 16]),
            )
            changes.append(TempoChange(at=at, bpm=bpm, beats=beats, unit=unit))  # type: ignore[arg-type]
            for _bar in range(dice.randrange(1, 9)):
                at += Fraction(4 * beats, unit)
                second += Fraction(4 * beats, unit) * 60 / bpm
                bars.append((at, second))
        first = dice.randrange(len(bars) - 1)
        last = dice.randrange(first + 1, len(bars))
        tempo = TempoMap(changes=tuple(changes), start=bars[first][0])  # type: ignore[arg-type]
        seconds = bars[last][1] - bars[first][1]
        assert tempo.seconds_of_bars(Fraction(last - first)) == seconds
        rate = dice.choice([8000, 44100, 48000, 96000])
        assert Length(bars=last - first).in_frames(rate, tempo) == round(seconds * rate)
        quarters = Fraction(dice.randrange(1000), 1000) * bars[-1][0]
        assert tempo.quarters_at_bars(tempo.bars_at(quarters)) == quarters


def test_too_long_too_short_and_without_a_map() -> None:
    with pytest.raises(SegueError) as caught:
        Length(bars=3000).in_frames(48000, simple(bpm=60))
    assert caught.value.code == "E_TOO_LONG"
    with pytest.raises(SegueError) as caught:
        Length(bars=1).in_frames(48000, None)
    assert caught.value.field == "tempo_map"
    with pytest.raises(SegueError) as caught:
        Length(seconds=1e-6).in_frames(8000, None)
    assert caught.value.field == "length"


@pytest.mark.parametrize(
    ("symbol", "notes"),
    [
        ("C", (0, 4, 7)),
        ("F#m7", (6, 9, 1, 4)),
        ("Bbmaj7/D", (10, 2, 5, 9)),
        ("Am/F", (9, 0, 4, 5)),
        ("Cb", (11, 3, 6)),
        ("E7sus4", (4, 9, 11, 2)),
        ("N", ()),
    ],
)
def test_chords(symbol: str, notes: tuple[int, ...]) -> None:
    assert pitch_classes(symbol) == notes


@pytest.mark.parametrize("symbol", ["", "H", "c", "C##", "Cfoo", "C/", "C/X", "N/C", "C" * 50, "C\n", "𝄞"])
def test_what_is_no_chord(symbol: str) -> None:
    with pytest.raises(SegueError) as caught:
        pitch_classes(symbol)
    assert caught.value.field == "chord" and caught.value.allowed
