"""Tempo, meter and lengths in exact arithmetic.

Positions count quarter notes from the map's origin, which is bar 1 beat 1. Everything is a Fraction until
the one rounding to samples at the end, so a thousand bars are exactly as long as they should be.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from fractions import Fraction

from .errors import SegueError
from .fields import Record, array, boolean, fraction, integer, nested, number, rational, record, wire, wrong
from .limits import MAX_INTEGER, MAX_LENGTH_S

_FARTHEST = 10_000_000  # quarter notes; at 1 bpm nineteen years


@record
class TempoChange(Record):
    """From `at` on: `bpm` quarter notes a minute, bars of `beats` notes of 1/`unit`. A new bar begins at
    `at`, unless `mid_bar` says that only the tempo changes and the bar under way goes on.
    """

    at: int | float | str = wire(rational(0, _FARTHEST, "quarter notes"))
    bpm: int | float | str = wire(rational(1, 2000, "quarter notes a minute"))
    beats: int = wire(integer(1, 64), default=4)
    unit: int = wire(integer(1, 64), default=4)
    mid_bar: bool = wire(boolean(), default=False, later=True)

    def check(self) -> None:
        if self.unit & (self.unit - 1):
            raise wrong("unit", self.unit, "1, 2, 4, 8, 16, 32 or 64")

    @property
    def meter(self) -> tuple[int, int]:
        return self.beats, self.unit

    @property
    def quarters_per_bar(self) -> Fraction:
        return Fraction(4 * self.beats, self.unit)

    @property
    def seconds_per_quarter(self) -> Fraction:
        return Fraction(60) / fraction(self.bpm)


@record
class TempoMap(Record):
    """Tempo and meter as steps, and where in it the seam (the first new sample) lies.

    The first change is at 0 and holds for everything before it as well, so `start` may be negative (an
    upbeat).
    """

    changes: tuple[TempoChange, ...] = wire(array(nested(TempoChange), 1, 4096))
    start: int | float | str = wire(rational(-_FARTHEST, _FARTHEST, "quarter notes"), default=0)

    def check(self) -> None:
        places = self._places
        if places[0] != 0:
            raise wrong("changes[0].at", self.changes[0].at, "0: the first change is the map's origin")
        for i in range(1, len(places)):
            if places[i] <= places[i - 1]:
                raise wrong(f"changes[{i}].at", self.changes[i].at, "after the change before it")
        for i, change in enumerate(self.changes):
            same = i > 0 and self.changes[i - 1].meter == change.meter
            if change.mid_bar and not same:
                raise wrong(f"changes[{i}].mid_bar", True, "false: another meter begins a bar")

    @functools.cached_property
    def _places(self) -> list[Fraction]:
        return [fraction(c.at) for c in self.changes]

    @functools.cached_property
    def _bars(self) -> list[Fraction]:
        """Bars from the origin at each change; a change ends the bar before it, however short, unless it is
        one of the tempo alone.
        """
        bars = [Fraction(0)]
        for i in range(1, len(self.changes)):
            quarters = self._places[i] - self._places[i - 1]
            at = bars[-1] + quarters / self.changes[i - 1].quarters_per_bar
            bars.append(at if self.changes[i].mid_bar else Fraction(math.ceil(at)))
        return bars

    @functools.cached_property
    def _seconds(self) -> list[Fraction]:
        """Seconds from the origin at each change."""
        seconds = [Fraction(0)]
        for i in range(1, len(self.changes)):
            quarters = self._places[i] - self._places[i - 1]
            seconds.append(seconds[-1] + quarters * self.changes[i - 1].seconds_per_quarter)
        return seconds

    def _index(self, values: Sequence[Fraction | int], value: Fraction) -> int:
        return max(0, bisect.bisect_right(values, value) - 1)

    def seconds_at(self, quarters: Fraction) -> Fraction:
        """Seconds from the origin."""
        i = self._index(self._places, quarters)
        return self._seconds[i] + (quarters - self._places[i]) * self.changes[i].seconds_per_quarter

    def bars_at(self, quarters: Fraction) -> Fraction:
        """Bars from the origin: 2.5 is the middle of the third bar. A bar cut short by a change counts by
        its own part.
        """
        i = self._index(self._places, quarters)
        return self._bars[i] + (quarters - self._places[i]) / self.changes[i].quarters_per_bar

    def quarters_at_bars(self, bars: Fraction) -> Fraction:
        """The inverse of `bars_at`; inside the missing rest of a bar cut short it is the change itself."""
        i = self._index(self._bars, bars)
        quarters = self._places[i] + (bars - self._bars[i]) * self.changes[i].quarters_per_bar
        return min(quarters, self._places[i + 1]) if i + 1 < len(self._places) else quarters

    def next_bar(self) -> Fraction:
        """The first bar line at or after `start`, in quarter notes from the origin."""
        return self.quarters_at_bars(Fraction(math.ceil(self.bars_at(fraction(self.start)))))

    def seconds_of_bars(self, bars: Fraction, start: Fraction | None = None) -> Fraction:
        """How long `bars` bars are from a position on, in quarter notes from the origin (None: `start`)."""
        start = fraction(self.start) if start is None else start
        return self._seconds_between(start, self.quarters_at_bars(self.bars_at(start) + bars))

    def quarters_after(self, seconds: Fraction) -> Fraction:
        """The position `seconds` (0 or more) after `start`, in quarter notes from the origin."""
        i = self._index(self._places, fraction(self.start))
        at, left = fraction(self.start), seconds
        while i + 1 < len(self._places):
            whole = (self._places[i + 1] - at) * self.changes[i].seconds_per_quarter
            if left < whole:
                break
            at, left, i = self._places[i + 1], left - whole, i + 1
        return at + left / self.changes[i].seconds_per_quarter

    def seconds_to(self, quarters: Fraction) -> Fraction:
        """How long it is from `start` to a later position, in quarter notes from the origin."""
        return self._seconds_between(fraction(self.start), quarters)

    def _seconds_between(self, start: Fraction, end: Fraction) -> Fraction:
        """Exactly, without what lies before: denominators grow with every tempo that is added. Two and two,
        then four and four, that takes milliseconds where one after the other took 0.2 s (1,300 tempi).
        """
        first, last = self._index(self._places, start), self._index(self._places, end)
        edges = [start, *self._places[first + 1 : last + 1], end]
        terms = [
            (edges[i + 1] - edges[i]) * self.changes[first + i].seconds_per_quarter
            for i in range(len(edges) - 1)
        ]
        while len(terms) > 1:
            terms = [sum(terms[i : i + 2], Fraction(0)) for i in range(0, len(terms), 2)]
        return terms[0]


@record
class Length(Record):
    """How much new audio: exactly one of `frames` (samples at the request's rate), `seconds`, `bars`."""

    frames: int | None = wire(integer(1, MAX_INTEGER, "samples at the request's rate"), default=None)
    seconds: float | None = wire(number(0, 1e9, "seconds", above=True), default=None)
    bars: int | float | str | None = wire(rational(0, 100_000, "bars", above=True), default=None)

    def check(self) -> None:
        given = [n for n in ("frames", "seconds", "bars") if getattr(self, n) is not None]
        if len(given) != 1:
            raise wrong("", ", ".join(given) or None, "exactly one of frames, seconds or bars")

    def in_frames(self, rate_hz: int, tempo_map: TempoMap | None, start: Fraction | None = None) -> int:
        """The exact count of new samples per channel at `rate_hz`: round(seconds * rate), halves to even.

        `start`: where bars are counted from, in quarter notes from the map's origin (None: its `start`).
        E_ARGUMENT without a tempo map for bars or when it comes to nothing, E_TOO_LONG above an hour.
        """
        if self.frames is not None:
            exact = Fraction(self.frames)
        elif self.seconds is not None:
            exact = Fraction(self.seconds) * rate_hz
        elif tempo_map is None:
            raise SegueError(
                "E_ARGUMENT",
                "A length in bars needs a tempo map: give the tempo and the meter.",
                field="tempo_map",
                allowed="a tempo map",
            )
        else:
            exact = tempo_map.seconds_of_bars(fraction(self.bars or 0), start) * rate_hz
        frames = round(exact)
        if frames > MAX_LENGTH_S * rate_hz:
            raise SegueError(
                "E_TOO_LONG",
                f"{float(exact / rate_hz):.6g} s is too long; one job makes at most {MAX_LENGTH_S} s.",
                field="length",
                value=f"{float(exact / rate_hz):.6g} s",
                allowed=f"at most {MAX_LENGTH_S} s",
            )
        if frames < 1:
            raise wrong("length", f"{float(exact / rate_hz):.6g} s", "at least one sample")
        return frames
