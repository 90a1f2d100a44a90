"""Ardour's tempo map, as our scripts read it, against Ardour's own grid: headless, in the real thing."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bridge_clients.ardour import compose
from protocol.fields import fraction
from protocol.tempo import Length, TempoMap

pytestmark = pytest.mark.skipif(shutil.which("ardour7-lua") is None, reason="ardour7-lua is not installed")

TICKS, RATE, CLOCK = 1920, 48_000, 282_240_000
HERE = Path(__file__).resolve().parent


def _maps(count: int, ramps: bool) -> list[dict[str, Any]]:
    """Meters begin on bar lines, tempi on quarter notes: Ardour moves them there."""
    draw = random.Random(3)
    found = []
    for _ in range(count):
        at, meters = 0, []
        for _ in range(draw.randrange(1, 5)):
            beats, unit = draw.choice([(4, 4), (3, 4), (7, 8), (5, 4), (6, 8), (2, 2), (9, 16)])
            meters.append([at, beats, unit])
            at += draw.randrange(1, 5) * beats * 4 * TICKS // unit
        places = sorted({0} | {draw.randrange(1, 30) * TICKS for _ in range(draw.randrange(4))})
        tempi = []
        for place in places:
            bpm = round(draw.uniform(40, 240), draw.randrange(4))
            tempi.append([place, bpm, bpm, draw.choice([4, 4, 4, 8])])
        if ramps:
            for this, after in zip(tempi, tempi[1:], strict=False):
                this[3] = after[3] = 4
                this[2] = after[1]
        seams = [draw.randrange(0, 30 * RATE) for _ in range(3)]
        found.append({"tempi": tempi, "meters": meters, "seams": [0, *seams], "bars": draw.randrange(1, 9)})
    return found


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def run(maps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        (tmp_path / "maps").write_text("\n".join(json.dumps(given) for given in maps))
        done = subprocess.run(
            ["ardour7-lua", str(HERE / "ardour_tempo.lua"), str(tmp_path / "s"), str(compose.HERE / "parts"),
             str(tmp_path / "maps"), str(tmp_path / "out")],
            env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]

    return run


def _exact(given: dict[str, Any]) -> Any:
    """Clock of a place in ticks, exactly, from what was set: Ardour keeps whole clock ticks a note."""

    def clock(ticks: Fraction) -> Fraction:
        total = Fraction(0)
        tempi = given["tempi"]
        for i, (at, bpm, _, note) in enumerate(tempi):
            end = tempi[i + 1][0] if i + 1 < len(tempi) else None
            upto = ticks if end is None else min(ticks, Fraction(end))
            if upto > at:
                total += (upto - at) / TICKS * Fraction(math.floor(CLOCK * 60 / bpm + 0.5) * note, 4)
        return total

    return clock


@pytest.mark.parametrize("ramps", [False, True], ids=["steps", "ramps"])
def test_the_map_that_is_sent_is_ardours_own(read: Any, ramps: bool) -> None:
    maps = _maps(4, ramps)
    for given, answers in zip(maps, read(maps), strict=True):
        clock = _exact(given)
        for seam, answer in zip(given["seams"], answers, strict=True):
            sent = TempoMap.from_map(answer["map"])
            for i, line in enumerate(answer["lines"]):
                at = sent.seconds_at(Fraction(i, 2)) * RATE
                # Ardour's lines are whole samples, a ramp's steps whole quarters between such lines
                assert abs(at - line) <= (8 if ramps and i % 2 else 1.5), (given, i)
            if not ramps:
                bars = Length(bars=given["bars"]).in_frames(RATE, sent)
                assert abs(bars - answer["bars"]) <= 1, "the daemon counts bars as Ardour does"
            start = sent.seconds_at(fraction(sent.start)) * RATE
            assert abs(start - seam) <= (7 if ramps else 0.01), (given, seam)
            if not ramps:
                changes = {fraction(change["at"]) for change in answer["map"]["changes"]}
                wanted = {Fraction(at, TICKS) for at, *_ in given["tempi"] + given["meters"]}
                assert changes == {
                    at for at in wanted if clock(at * TICKS) * RATE / CLOCK <= seam + 300 * RATE
                }


def test_bars_are_counted_on_ardours_own_grid(read: Any) -> None:
    maps = _maps(4, ramps=False)
    for given, answers in zip(maps, read(maps), strict=True):
        clock = _exact(given)

        def bar_line(place: Fraction, meters: list[list[int]]) -> tuple[Fraction, Fraction]:
            at, beats, unit = [m for m in meters if m[0] <= place][-1]
            length = Fraction(beats * 4 * TICKS, unit)
            line = at + (place - at) // length * length
            return line, line + length

        for seam, answer in zip(given["seams"], answers, strict=True):
            low, high = Fraction(0), Fraction(10_000 * TICKS)
            for _ in range(80):  # the seam's place: where the clock says its sample
                middle = (low + high) / 2
                low, high = (middle, high) if clock(middle) * RATE < seam * CLOCK else (low, middle)
            line, after = bar_line(high, given["meters"])
            part = (high - line) / (after - line)
            for _ in range(given["bars"]):
                line, after = bar_line(after, given["meters"])
            end = clock(line + part * (after - line)) * RATE / CLOCK
            assert abs(seam + answer["bars"] - math.floor(end)) <= 1, (given, seam)
            line, after = bar_line(high, given["meters"])
            lines = [math.floor(clock(place) * RATE / CLOCK) for place in (line, after)]
            nearest = lines[0] if lines[0] >= seam else lines[1]
            assert abs(answer["next_bar"] - nearest) <= 1, (given, seam)
