"""A song as a value: notes, parts, chords, timeline, words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genmodel.pocket.recipe.styles import STYLES
from genmodel.pocket.recipe.theory import ROOT_WORDS, Meter, Timeline

STEMS = ("drums", "bass", "other")


@dataclass(frozen=True)
class Note:
    """One note: start and length in quarter notes, MIDI pitch and velocity, and a shift of its start in
    milliseconds.
    """

    start: float
    length: float
    pitch: int
    velocity: int
    shift_ms: float = 0.0


@dataclass(frozen=True)
class Part:
    """One instrument. `voice` is "font" for the sound font, else a name of `voices.py`; drum parts have
    `drums` set.
    """

    stem: str
    word: str
    program: int
    drums: bool
    voice: str
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Chord:
    """Pitch classes sounding from `start` to `end` (quarter notes)."""

    start: float
    end: float
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Song:
    seed: int
    genre: str
    timeline: Timeline
    root: int
    mode: str
    bars: int
    sections: tuple[tuple[str, int], ...]
    chords: tuple[Chord, ...]
    parts: tuple[Part, ...]
    words: tuple[str, ...]

    @property
    def meter(self) -> Meter:
        return self.timeline.meter

    @property
    def bpm(self) -> float:
        return self.timeline.changes[0][1]

    @property
    def total_seconds(self) -> float:
        return float(self.timeline.seconds(self.bars * self.meter.quarters))

    def texts(self) -> tuple[str, ...]:
        """The song in a few wordings, as a user might ask for it."""
        root = ROOT_WORDS[self.root].removesuffix("natural")
        tonality = f"{root} {'minor' if self.mode in ('minor', 'dorian') else 'major'}"
        instruments = [part.word for part in self.parts if not part.drums]
        mood = next((word for word in self.words if word in STYLES[self.genre].moods), "")
        return (
            f"{mood} {self.genre} with {' and '.join(instruments)}, {self.bpm:.0f} bpm",
            f"{self.genre}, {tonality}, {', '.join(instruments)}",
            f"a {mood} {self.genre} groove in {self.meter.name} at {self.bpm:.0f} bpm",
        )

    def chord_chroma(self, seconds: np.ndarray) -> np.ndarray:
        """[times, 12] float32, one where a pitch class belongs to the chord of that moment."""
        quarters = self.timeline.quarters(seconds)
        starts = np.array([chord.start for chord in self.chords])
        index = np.clip(np.searchsorted(starts, quarters, side="right") - 1, 0, len(starts) - 1)
        table = np.zeros((len(self.chords), 12), dtype=np.float32)
        for row, chord in enumerate(self.chords):
            table[row, list(chord.classes)] = 1.0
        return table[index]
