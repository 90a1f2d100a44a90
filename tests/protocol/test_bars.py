"""Bars against a calculation of its own: it walks from bar line to bar line and adds up what each piece
lasts, in exact fractions, and knows nothing of the code under test.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest

from protocol import messages as m
from protocol.tempo import Length, TempoMap

RATES = (22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
Change = dict[str, Any]


@dataclass
class Bar:
    """One bar of the walk: where it begins and ends (quarter notes), and how long a whole one would be."""

    begin: Fraction
    end: Fraction
    whole: Fraction


def walk(changes: list[Change], upto: Fraction) -> list[Bar]:
    """Bar lines from the origin until after a position."""
    bars: list[Bar] = []
    line = Fraction(0)
    while line <= upto:
        now = [c for c in changes if Fraction(c["at"]) <= line][-1]
        whole = Fraction(now["beats"] * 4, now["unit"])
        end = line + whole
        for change in changes:
            if line < Fraction(change["at"]) < end and not change.get("mid_bar"):
                end = Fraction(change["at"])
        bars.append(Bar(line, end, whole))
        line = end
    return bars


def seconds(changes: list[Change], begin: Fraction, end: Fraction) -> Fraction:
    """How long it is from one position to another, piece by piece."""
    edges = sorted({begin, end, *(Fraction(c["at"]) for c in changes if begin < Fraction(c["at"]) < end)})
    total = Fraction(0)
    for low, high in zip(edges, edges[1:], strict=False):
        now = ([c for c in changes if Fraction(c["at"]) <= low] or changes[:1])[-1]
        total += (high - low) * 60 / Fraction(now["bpm"])
    return total


def dice_map(dice: random.Random, most: int = 6) -> list[Change]:
    """A random map: meters, tempi as fractions, changes on and off the bar, some of the tempo alone."""
    changes: list[Change] = []
    at = Fraction(0)
    for number in range(dice.randint(1, most)):
        bpm = Fraction(dice.randint(40, 240)) + Fraction(dice.randint(0, 999), dice.choice([1, 7, 1000]))
        change: Change = {
            "at": at,
            "bpm": min(bpm, Fraction(1999)),
            "beats": dice.randint(1, 13),
            "unit": dice.choice([1, 2, 4, 8, 16]),
        }
        if number and dice.random() < 0.4:
            change |= {name: changes[-1][name] for name in ("beats", "unit")} | {"mid_bar": True}
        changes.append(change)
        at += Fraction(dice.randint(1, 64), dice.choice([1, 2, 3, 4, 8]))
    return changes


def wire(changes: list[Change], start: Fraction) -> TempoMap:
    return TempoMap(changes=tuple(m.TempoChange(**c) for c in changes), start=start)


def after(bars: list[Bar], start: Fraction, count: Fraction) -> Fraction:
    """The position `count` bars after another, by bar positions."""
    number = next(i for i, bar in enumerate(bars) if bar.begin <= start < bar.end)
    at = number + (start - bars[number].begin) / bars[number].whole + count
    bar = bars[int(at)]
    return min(bar.end, bar.begin + (at - int(at)) * bar.whole)


def test_ten_thousand_random_maps_are_exact() -> None:
    dice = random.Random(20261122)
    off = 0
    for _ in range(10_000):
        changes, rate = dice_map(dice), dice.choice(RATES)
        start = Fraction(dice.randint(0, 400), dice.choice([1, 2, 3, 4, 16]))
        count = Fraction(dice.randint(1, 40), dice.choice([1, 1, 2, 3, 4]))
        bars = walk(changes, start + (count + 3) * max(Fraction(c["beats"] * 4, c["unit"]) for c in changes))
        tempo = wire(changes, start)
        end = after(bars, start, count)
        expected = round(seconds(changes, start, end) * rate)
        if 1 <= expected <= 3600 * rate:
            off += abs(Length(bars=count).in_frames(rate, tempo) - expected)

        line = next(bar.begin for bar in bars if bar.begin >= start)
        lead = round(seconds(changes, start, line) * rate)
        frames = round(seconds(changes, line, after(bars, line, count)) * rate)
        if 1 <= frames and lead + frames <= 3600 * rate:
            asked = m.Submit(
                key=bytes(16), mode="generate", length=Length(bars=count), tempo_map=tempo, start="bar",
                rate=rate,
            )  # fmt: skip
            off += abs(asked.lead_frames - lead) + abs(asked.length_frames - frames)
    assert off == 0


def test_a_thousand_bars_do_not_drift() -> None:
    dice = random.Random(7)
    for _ in range(12):
        changes, rate = dice_map(dice, 30), dice.choice(RATES)
        for change in changes:
            change |= {"beats": 3, "unit": 8, "bpm": change["bpm"] + 60}
        bars = walk(changes, Fraction(2000))
        tempo = wire(changes, Fraction(0))
        line = Fraction(0)  # the sum of the single bars, which nothing may be added to
        for number in range(1, 1001):
            line += seconds(changes, bars[number - 1].begin, bars[number - 1].end)
            if number % 125 == 0 or number == 1000:
                assert Length(bars=number).in_frames(rate, tempo) == round(line * rate)


def test_the_model_is_told_the_very_same_bars() -> None:
    """What the worker gives the model: at each bar line the bar's phase is 0, at its half a half."""
    pytest.importorskip("torch")
    from daemon.workers.genmodel_player import tempo_map

    dice = random.Random(3)
    for _ in range(400):
        changes = dice_map(dice)
        start = Fraction(dice.randint(0, 200), dice.choice([1, 3, 4]))
        told = tempo_map(wire(changes, start))
        bars = [bar for bar in walk(changes, start + 100) if bar.begin >= start][:12]
        times, phases = [], []
        for bar in bars:
            middle = (bar.begin + bar.end) / 2
            times += [seconds(changes, start, bar.begin), seconds(changes, start, middle)]
            phases += [Fraction(0), (middle - bar.begin) / bar.whole]
        found = told.phases(times)[0].tolist()
        assert found == pytest.approx([float(phase) for phase in phases], abs=1e-12)
