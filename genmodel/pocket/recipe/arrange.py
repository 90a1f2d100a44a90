"""Bars of drums, bass, chords and melody: how each style of playing turns a chord into notes."""

from __future__ import annotations

import random

from genmodel.pocket.recipe.song import Note
from genmodel.pocket.recipe.styles import DRUM_KEYS, TOMS, Style
from genmodel.pocket.recipe.theory import Meter, scale_pitch


class Writer:
    """Turns loop material into notes: swing, accents, humanising."""

    def __init__(self, rng: random.Random, style: Style, meter: Meter) -> None:
        self.rng, self.meter = rng, meter
        self.tight = rng.random() < style.tight
        self.swing = style.swing * rng.uniform(0.7, 1.1)
        self.unit = style.swing_unit_steps

    def at(self, bar: int, step: float) -> float:
        late = self.swing * self.unit / 4 if self.swing and step % (2 * self.unit) == self.unit else 0.0
        return bar * self.meter.quarters + step / 4 + late

    def note(self, bar: int, step: float, length_steps: float, pitch: int, velocity: float) -> Note:
        shift, louder = 0.0, 0.0
        if not self.tight:
            shift = max(-6.0, min(8.0, self.rng.gauss(0.5, 2.5)))
            louder = self.rng.gauss(0, 5)
        loud = int(max(18, min(127, velocity + louder)))
        return Note(self.at(bar, step), length_steps / 4, max(21, min(108, pitch)), loud, shift)


def near(pitch_class: int, low: int) -> int:
    """The pitch of that class in the octave that starts at `low`."""
    return low + (pitch_class - low) % 12


def drum_bar(
    writer: Writer, groove: dict[str, str], bar: int, fill: int, crash: bool, rng: random.Random
) -> list[Note]:
    """One bar of drums; the last `fill` steps are replaced by toms and snare."""
    notes: list[Note] = []
    loud = {"x": 108.0, "o": 80.0, "g": 46.0}
    steps = writer.meter.steps
    for key, pattern in groove.items():
        cut = steps - fill if fill and key not in "k" else steps
        for step, mark in enumerate(pattern[:cut]):
            if mark != ".":
                ease = 0.8 if key in "hodmtb" else 1.0
                notes.append(writer.note(bar, step, 0.5, DRUM_KEYS[key], loud[mark] * ease))
    if fill:
        for index, step in enumerate(range(steps - fill, steps)):
            drum = 38 if index % 4 in (0, 3) and rng.random() < 0.5 else TOMS[min(3, index * 4 // fill)]
            notes.append(writer.note(bar, step, 0.5, drum, 84 + 24 * index / fill))
    if crash:
        notes.append(writer.note(bar, 0, 2, DRUM_KEYS["y"], 88))
    return notes


def bass_bar(
    writer: Writer,
    kind: str,
    bar: int,
    chord: tuple[int, ...],
    following: tuple[int, ...],
    riff: list[tuple[int, int]],
) -> list[Note]:
    steps = writer.meter.steps
    low = near(chord[0], 28)
    fifth = near(chord[2], low)
    beat = 16 // writer.meter.unit if writer.meter.unit == 4 else 6

    def play(step: float, length: float, pitch: int = low, velocity: float = 96) -> Note:
        return writer.note(bar, step, length * 0.93, pitch, velocity)

    if kind == "off":
        return [play(step, 2) for step in range(2, steps, 4)]
    if kind == "octave":
        return [play(step, 2, low + 12 * (step // 2 % 2)) for step in range(0, steps, 2)]
    if kind == "eighth":
        return [play(step, 2, velocity=100 if step % 4 == 0 else 86) for step in range(0, steps, 2)]
    if kind == "roll":
        return [play(step, 1, velocity=92 if step % 4 == 2 else 76) for step in range(steps) if step % 4]
    if kind == "tresillo":
        return [
            play(step, 2.5, low if i < 2 else fifth)
            for i, step in enumerate(s for s in (0, 6, 12) if s < steps)
        ]
    if kind == "fifth":
        half = steps // 2 if steps % 8 == 0 or writer.meter.unit == 8 else 8
        return [play(0, half), play(half, steps - half, fifth, 88)]
    if kind == "sub":
        return [play(0, steps * 0.6), play(steps - 4, 3, low, 84)]
    if kind == "walk":
        count = max(2, steps // beat)
        line = [low, near(chord[1], low), fifth, near(chord[1], low), fifth][: count - 1]
        line.append(near(following[0], 28) + (1 if bar % 2 else -1))
        return [play(index * beat, beat, pitch) for index, pitch in enumerate(line)]
    if kind == "riff":
        palette = (low, fifth, low + 12, near(chord[-1], low))
        return [play(step, 1.5, palette[choice]) for step, choice in riff]
    return (
        [play(0, steps * 0.9)]
        if steps < 12
        else [play(0, steps / 2), play(steps / 2, steps / 2, velocity=86)]
    )


def chord_bar(writer: Writer, kind: str, bar: int, voicing: list[int], rhythm: list[int]) -> list[Note]:
    steps, unit = writer.meter.steps, writer.meter.unit

    def strike(step: float, length: float, velocity: float, pitches: list[int] | None = None) -> list[Note]:
        return [writer.note(bar, step, length * 0.95, pitch, velocity) for pitch in (pitches or voicing)]

    def many(where: list[int] | range, length: float, velocity: float) -> list[Note]:
        return [note for step in where for note in strike(step, length, velocity)]

    if kind == "hold":
        return strike(0, steps, 72)
    if kind == "stab":
        return many(rhythm, 1.8, 84)
    if kind == "comp":
        return many(rhythm[:3], 2.5, 74)
    if kind == "pulse":
        return many(range(0, steps, 4 if unit == 4 else 6), 3.5, 80)
    if kind == "strum":
        return [n for s in range(0, steps, 2) for n in strike(s, 2, 86 if s % 4 == 0 else 64)]
    if kind == "chop":
        return many([s for s in range(steps) if s % 8 in (2, 3, 6)], 0.8, 82)
    if kind == "skank":
        return many(range(4, steps, 8) if steps == 16 else range(2, steps, 4), 1.2, 88)
    if kind == "oompah":
        return many(range(4, steps, 4), 2.5, 76)
    if kind == "power":
        root = near(voicing[0], 40)
        return [
            n
            for s in range(0, steps, 2)
            for n in strike(s, 2, 92 if s % 4 == 0 else 76, [root, root + 7, root + 12])
        ]
    order = [0, 1, 2, 1] if kind == "arp8" else [0, 1, 2, len(voicing) - 1]
    return [
        writer.note(bar, step, 2.6, voicing[order[i % 4] % len(voicing)], 78)
        for i, step in enumerate(range(0, steps, 2))
    ]


def melody_bar(
    writer: Writer,
    kind: str,
    bar: int,
    root: int,
    mode: str,
    degree: int,
    motif: list[tuple[int, int, int]],
    arp: list[int],
) -> list[Note]:
    if kind == "arp":
        every = 1 if writer.meter.unit == 4 and len(arp) > 4 else 2
        tones = [scale_pitch(root, mode, degree + third) for third in arp]
        return [
            writer.note(
                bar,
                step,
                every * 0.95,
                near(tones[i % len(arp)] % 12, 60) + 12 * (arp[i % len(arp)] >= 7),
                80,
            )
            for i, step in enumerate(range(0, writer.meter.steps, every))
        ]
    notes = []
    for step, third, length in motif:
        pitch = near(scale_pitch(root, mode, degree + third) % 12, 62) + (12 if third >= 7 else 0)
        notes.append(writer.note(bar, step, length * 0.95, pitch, 94 if step % 4 == 0 else 84))
    return notes


def draw_sections(rng: random.Random, bars: int, loop: int, has_drums: bool) -> list[tuple[str, int]]:
    """Names and lengths of the sections; their lengths sum to `bars`."""
    if bars < 2 * loop or rng.random() < 0.45:
        return [("groove", bars)]
    first = 2 if rng.random() < 0.5 else loop
    shape = rng.choice(("intro", "intro", "break", "build")) if has_drums else "intro"
    if shape == "break" and bars > 3 * first:
        before = (bars - first) // 2 // first * first or first
        return [("groove", before), ("break", first), ("groove", bars - before - first)]
    return [(shape if shape != "break" else "intro", first), ("groove", bars - first)]


def close_song(
    writer: Writer, notes: dict[str, list[Note]], bar: int, tonic: tuple[int, ...], voicing_low: int
) -> dict[str, list[Note]]:
    """The same song with `bar` as its last: everyone strikes once on the tonic and lets it ring.

    `notes` by "drums", "bass", "chords" and "tune"; who had nothing in the bar stays silent.
    """
    begin, steps = bar * writer.meter.quarters, writer.meter.steps
    closed: dict[str, list[Note]] = {}
    for name, played in notes.items():
        before = [note for note in played if note.start < begin - 1e-6]
        last: list[Note] = []
        if len(before) < len(played):
            if name == "drums":
                last = [writer.note(bar, 0, 2, DRUM_KEYS[key], 104) for key in "ky"]
            elif name == "bass":
                last = [writer.note(bar, 0, steps * 0.9, near(tonic[0], 28), 100)]
            elif name == "chords":
                pitches = sorted(near(pitch_class, voicing_low) for pitch_class in tonic)
                last = [writer.note(bar, 0, steps * 0.95, pitch, 86) for pitch in pitches]
            else:
                last = [writer.note(bar, 0, steps * 0.9, near(tonic[0], 62), 90)]
        closed[name] = before + last
    return closed
