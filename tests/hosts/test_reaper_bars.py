"""Bars in REAPER: random tempo maps, an exact calculation of our own, and the daemon's counts."""

from __future__ import annotations

import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from protocol.fields import fraction
from protocol.tempo import TempoChange, TempoMap
from tests.hosts.reaper_host import Make, reaper

__all__ = ["reaper"]
pytestmark = pytest.mark.skipif(shutil.which("lua5.4") is None, reason="Lua 5.4 is not installed")

MAPS = 10_000
RATES = (44_100, 48_000, 88_200, 96_000)


class Exact:
    """A tempo map with changes on bar lines, in fractions: markers as (first bar, bpm, beats, unit)."""

    def __init__(self, rng: random.Random) -> None:
        self.markers = [(0, self._bpm(rng), *self._meter(rng))]
        for _ in range(rng.randrange(0, 8)):
            self.markers.append(
                (self.markers[-1][0] + rng.randrange(1, 9), self._bpm(rng), *self._meter(rng))
            )

    @staticmethod
    def _bpm(rng: random.Random) -> float:
        return rng.choice(
            [float(rng.randrange(40, 240)), round(rng.uniform(40, 240), 3), rng.uniform(30, 300)]
        )

    @staticmethod
    def _meter(rng: random.Random) -> tuple[int, int]:
        return rng.randrange(1, 16), rng.choice([1, 2, 4, 8, 16, 32])

    def seconds(self, bar: int) -> Fraction:
        """Where a bar begins."""
        total = Fraction(0)
        for i, (first, bpm, beats, unit) in enumerate(self.markers):
            until = self.markers[i + 1][0] if i + 1 < len(self.markers) else bar
            count = max(0, min(bar, until) - first)
            total += count * Fraction(4 * beats, unit) * 60 / Fraction(bpm)
        return total

    def as_reaper(self) -> list[dict[str, Any]]:
        made, quarters = [], Fraction(0)
        for i, (first, bpm, beats, unit) in enumerate(self.markers):
            if i:
                before = self.markers[i - 1]
                quarters += (first - before[0]) * Fraction(4 * before[2], before[3])
            made.append({"qn": float(quarters), "bpm": bpm, "beats": beats, "unit": unit})
        return made


def wire_map(found: dict[str, Any]) -> TempoMap:
    changes = tuple(TempoChange(**change) for change in found["map"]["changes"])
    return TempoMap(changes=changes, start=found["map"]["start"])


def test_random_maps_are_counted_exactly(reaper: Make) -> None:
    rng = random.Random(20_31)
    cases = []
    for _ in range(MAPS):
        exact, rate = Exact(rng), rng.choice(RATES)
        bar, bars = rng.randrange(0, 40), rng.randrange(1, 17)
        cases.append((exact, rate, bar, bars, round(exact.seconds(bar) * rate)))
    host = reaper(None)
    asked = [
        {"tempo": e.as_reaper(), "rate": rate, "seam": seam, "bars": bars} for e, rate, _, bars, seam in cases
    ]
    answers = host.ask("bars", maps=asked)["found"]
    for (exact, rate, bar, bars, seam), found in zip(cases, answers, strict=True):
        end = exact.seconds(bar + bars)
        assert found["frames"] == round(end * rate) - seam
        assert found["lead"] == 0
        # the daemon, from the map that is sent, counts exactly the same time and finds the same bar lines
        sent = wire_map(found)
        assert sent.next_bar() == fraction(sent.start)
        assert sent.seconds_of_bars(Fraction(bars)) == end - exact.seconds(bar)
        assert sent.bars_at(fraction(sent.start)).denominator == 1


def test_between_bar_lines_the_next_one_is_found(reaper: Make) -> None:
    rng = random.Random(77)
    cases = []
    for _ in range(MAPS // 4):
        exact, rate, bar = Exact(rng), rng.choice(RATES), rng.randrange(0, 30)
        here, there = (round(exact.seconds(b) * rate) for b in (bar, bar + 1))
        cases.append((exact, rate, bar, rng.randrange(here + 1, there)))
    host = reaper(None)
    asked = [{"tempo": e.as_reaper(), "rate": rate, "seam": seam, "bars": 2} for e, rate, _, seam in cases]
    for (exact, rate, bar, seam), found in zip(cases, host.ask("bars", maps=asked)["found"], strict=True):
        line = round(exact.seconds(bar + 1) * rate)
        assert found["lead"] == line - seam
        sent = wire_map(found)
        lead = sent.seconds_to(sent.next_bar()) * rate
        assert abs(lead - (line - seam)) < 1 and abs(lead - (exact.seconds(bar + 1) * rate - seam)) <= 0.51


def test_a_thousand_continuations_do_not_drift(reaper: Make) -> None:
    rng = random.Random(5)
    host = reaper(None)
    for _ in range(3):
        exact, rate = Exact(rng), 44_100
        (found,) = host.ask(
            "bars", maps=[{"tempo": exact.as_reaper(), "rate": rate, "seam": 0, "bars": 1, "chain": 1000}]
        )["found"]
        assert found["chain"] == [round(exact.seconds(bar) * rate) for bar in range(1001)]


def test_tempo_that_moves_within_bars_keeps_bars_and_quarters(reaper: Make) -> None:
    """Glides and changes in the middle of a bar: the map that is sent has every bar line and quarter note
    where REAPER has it.
    """
    rng = random.Random(9)
    asked = []
    for _ in range(500):
        markers: list[dict[str, Any]] = [{"qn": 0, "bpm": rng.uniform(60, 180), "beats": 4, "unit": 4}]
        for _ in range(rng.randrange(1, 6)):
            markers[-1]["linear"] = rng.random() < 0.4
            markers.append({"qn": markers[-1]["qn"] + rng.randrange(1, 60) / 6, "bpm": rng.uniform(60, 180)})
        asked.append({"tempo": markers, "rate": 48_000, "seam": 0, "bars": 12})
    for case, found in zip(asked, reaper(None).ask("bars", maps=asked)["found"], strict=True):
        sent = wire_map(found)
        assert abs(sent.seconds_of_bars(Fraction(12)) * 48_000 - found["frames"]) <= 0.5 + 1e-6
        for quarter in range(48):
            assert abs(float(sent.seconds_at(Fraction(quarter))) - seconds_at(case["tempo"], quarter)) < 1e-7
            assert sent.bars_at(Fraction(quarter)) == Fraction(quarter, 4)


def seconds_at(markers: list[dict[str, Any]], quarter: float) -> float:
    """Where a quarter note lies; a glide goes from one tempo to the next evenly in time."""
    total = 0.0
    for here, there in zip(markers, [*markers[1:], None], strict=True):
        until = min(quarter, there["qn"]) if there else quarter
        count = until - here["qn"]
        if count <= 0:
            break
        if there is not None and here.get("linear"):
            # tempo squared grows evenly over the quarters
            slope = (there["bpm"] ** 2 - here["bpm"] ** 2) / (there["qn"] - here["qn"])
            total += 120 * count / (here["bpm"] + (here["bpm"] ** 2 + slope * count) ** 0.5)
        else:
            total += count * 60 / here["bpm"]
    return total


def test_the_daemons_take_is_as_long_as_the_bars(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    """The whole way, with meters and tempi that change inside the new audio."""
    from tests.hosts.reaper_host import RATE, all_takes, settings, song

    tempo = [
        {"qn": 0, "bpm": 133.7, "beats": 7, "unit": 8},
        {"qn": 7, "bpm": 90, "beats": 3, "unit": 4},
        {"qn": 13, "bpm": 201.25, "beats": 5, "unit": 16},
    ]
    bars = [Fraction(7, 2) * 60 / Fraction(133.7)] * 2 + [Fraction(3 * 60, 90)] * 2
    host = reaper(segue_command)
    song(host, tmp_path, seconds=float(bars[0]), tempo=tempo)
    settings(host, variations=1, length="bars", bars=4, crossfade=False)
    host.action("Continue selection")
    ((item, _),) = all_takes(host.run())
    first, last = bars[0], sum(bars) + Fraction(5, 4) * 60 / Fraction(201.25)
    assert round(item["info"]["D_POSITION"] * RATE, 6) == round(first * RATE)
    assert round(item["info"]["D_LENGTH"] * RATE, 6) == round(last * RATE) - round(first * RATE)
