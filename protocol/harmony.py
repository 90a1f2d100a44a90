"""Chords by their symbols: "C", "F#m7", "Bbmaj7/D", "N" for none -> pitch classes (C = 0 … B = 11)."""

from __future__ import annotations

import re

from .fields import Record, array, integer, rational, record, text, wire, wrong

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_QUALITIES: dict[str, tuple[int, ...]] = {
    "": (0, 4, 7),
    "maj": (0, 4, 7),
    "m": (0, 3, 7),
    "min": (0, 3, 7),
    "-": (0, 3, 7),
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "M7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "min7": (0, 3, 7, 10),
    "-7": (0, 3, 7, 10),
    "mmaj7": (0, 3, 7, 11),
    "9": (0, 4, 7, 10, 2),
    "maj9": (0, 4, 7, 11, 2),
    "m9": (0, 3, 7, 10, 2),
    "11": (0, 4, 7, 10, 2, 5),
    "m11": (0, 3, 7, 10, 2, 5),
    "13": (0, 4, 7, 10, 2, 9),
    "add9": (0, 4, 7, 2),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "sus": (0, 5, 7),
    "7sus4": (0, 5, 7, 10),
    "dim": (0, 3, 6),
    "o": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "m7b5": (0, 3, 6, 10),
    "aug": (0, 4, 8),
    "+": (0, 4, 8),
}
_SYMBOL = re.compile(r"([A-G][#b]?)([A-Za-z0-9+-]{0,8})(?:/([A-G][#b]?))?", re.ASCII)
_ALLOWED = 'a chord such as "C", "F#m7", "Bbmaj7/D", or "N" for none'


def pitch_classes(symbol: str, name: str = "chord") -> tuple[int, ...]:
    """Pitch classes of a chord symbol, root first, a foreign bass note last; () for "N". Raises
    E_ARGUMENT.
    """
    if symbol == "N":
        return ()
    found = _SYMBOL.fullmatch(symbol)
    if not found or found[2] not in _QUALITIES:
        raise wrong(name, symbol, _ALLOWED)
    root = _note(found[1])
    notes = [(root + step) % 12 for step in _QUALITIES[found[2]]]
    if found[3] and (bass := _note(found[3])) not in notes:
        notes.append(bass)
    return tuple(notes)


def _note(letters: str) -> int:
    return (_LETTERS[letters[0]] + {"#": 1, "b": -1}.get(letters[1:], 0)) % 12


@record
class Chord(Record):
    """From `at` (quarter notes from the tempo map's origin) until the next: a chord symbol, or its pitch
    classes.
    """

    at: int | float | str = wire(rational(-10_000_000, 10_000_000, "quarter notes"))
    chord: str | None = wire(text(24, 1), default=None)
    pitches: tuple[int, ...] | None = wire(array(integer(0, 11), 0, 12), default=None)

    def check(self) -> None:
        if (self.chord is None) == (self.pitches is None):
            raise wrong("chord", self.chord, "a chord symbol, or pitches in its place")
        if self.chord is not None:
            pitch_classes(self.chord)

    @property
    def notes(self) -> tuple[int, ...]:
        """The pitch classes, either way given."""
        return self.pitches if self.pitches is not None else pitch_classes(self.chord or "N")
