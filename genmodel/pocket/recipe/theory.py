"""Scales, chords, meters and the timeline of a song: the small amount of music theory that the composer
stands on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROOT_WORDS = ("c", "csharp", "d", "eflat", "e", "f", "fsharp", "g", "aflat", "anatural", "bflat", "b")
# "anatural": the bare letter would be taken for the article.
MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Progressions as scale degrees (0 = tonic), one chord a bar; the loop's length picks two or four of them.
PROGRESSIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "major": (
        (0, 4, 5, 3),
        (0, 5, 3, 4),
        (5, 3, 0, 4),
        (0, 3, 4, 3),
        (1, 4, 0, 0),
        (0, 2, 3, 4),
        (0, 3),
        (0, 4),
    ),
    "minor": (
        (0, 5, 2, 6),
        (0, 3, 6, 2),
        (0, 5, 3, 4),
        (0, 6, 5, 6),
        (0, 0, 5, 6),
        (0, 3, 0, 6),
        (0, 5),
        (0, 6),
    ),
    "dorian": ((0, 3), (0, 3, 0, 3), (0, 6, 3, 0), (0, 2, 3, 0), (0, 1)),
    "mixolydian": ((0, 6, 3, 0), (0, 6), (0, 3, 6, 3), (0, 4, 3, 0)),
}


@dataclass(frozen=True)
class Meter:
    """A time signature: `beats` beats of a 1/`unit` note in a bar."""

    beats: int
    unit: int

    @property
    def quarters(self) -> float:
        """Length of a bar in quarter notes."""
        return self.beats * 4 / self.unit

    @property
    def steps(self) -> int:
        """Sixteenth notes in a bar."""
        return self.beats * 16 // self.unit

    @property
    def name(self) -> str:
        return f"{self.beats}/{self.unit}"


def meter_of(name: str) -> Meter:
    beats, unit = name.split("/")
    return Meter(int(beats), int(unit))


@dataclass(frozen=True)
class Timeline:
    """Where a song's bars lie: tempo changes as (position in quarter notes, quarter notes per minute), one
    meter.
    """

    changes: tuple[tuple[float, float], ...]
    meter: Meter

    def _knots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.array([position for position, _ in self.changes], dtype=np.float64)
        rate = np.array([bpm for _, bpm in self.changes], dtype=np.float64) / 60.0
        seconds = np.concatenate([[0.0], np.cumsum(np.diff(at) / rate[:-1])])
        return at, rate, seconds

    def seconds(self, quarters: np.ndarray | float) -> np.ndarray:
        """Time in seconds of positions in quarter notes."""
        at, rate, start = self._knots()
        where = np.asarray(quarters, dtype=np.float64)
        k = np.clip(np.searchsorted(at, where, side="right") - 1, 0, None)
        return start[k] + (where - at[k]) / rate[k]

    def quarters(self, seconds: np.ndarray | float) -> np.ndarray:
        """Positions in quarter notes of times in seconds."""
        at, rate, start = self._knots()
        when = np.asarray(seconds, dtype=np.float64)
        k = np.clip(np.searchsorted(start, when, side="right") - 1, 0, None)
        return at[k] + (when - start[k]) * rate[k]

    def phases(self, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bar, beat (of the meter's unit) and 4-bar phases in [0, 1), float64, one per time."""
        quarters = self.quarters(seconds)
        bars = quarters / self.meter.quarters
        beats = quarters * self.meter.unit / 4
        return np.mod(bars, 1.0), np.mod(beats, 1.0), np.mod(bars / 4, 1.0)


def scale_pitch(root: int, mode: str, degree: int) -> int:
    """Semitones above C of a scale degree; degrees past the octave go on upwards."""
    scale = MODES[mode]
    return root + scale[degree % 7] + 12 * (degree // 7)


def chord_classes(root: int, mode: str, degree: int, seventh: bool) -> tuple[int, ...]:
    """Pitch classes of the triad (or seventh chord) on a scale degree, root first."""
    thirds = (0, 2, 4, 6) if seventh else (0, 2, 4)
    return tuple(scale_pitch(root, mode, degree + third) % 12 for third in thirds)
