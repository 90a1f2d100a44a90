"""The composer: a whole song (notes, words, chords, tempo map) from one seed.

A song is built from a loop of two or four bars that comes back with fills and changes of arrangement: a small
model learns what repeats. Positions are quarter notes from the first bar; everything drawn comes from
`random.Random(seed)`.

Run it to look at songs:  python -m genmodel.pocket.recipe.compose --seed 7
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys

from genmodel.pocket.recipe.arrange import (
    Writer,
    bass_bar,
    chord_bar,
    close_song,
    draw_sections,
    drum_bar,
    melody_bar,
    near,
)
from genmodel.pocket.recipe.song import Chord, Note, Part, Song
from genmodel.pocket.recipe.styles import BASSES, GROOVES, STYLES, TONAL
from genmodel.pocket.recipe.theory import (
    PROGRESSIONS,
    ROOT_WORDS,
    Timeline,
    chord_classes,
    meter_of,
)

METER_WORDS = {
    "3/4": "threefour",
    "6/8": "sixeight",
    "5/4": "fivefour",
    "7/8": "seveneight",
    "4/4": "fourfour",
}
SONG_SECONDS = 22.0
ENDING_SHARE = 0.25
HELD_OUT_FROM = 1_000_000
"""Seeds from here on are never trained on."""


def tempo_word(bpm: float) -> str:
    return "slow" if bpm < 92 else "medium" if bpm < 120 else "fast"


def bpm_word(bpm: float) -> str:
    """The bucket word of a tempo: nearest multiple of five between 60 and 180."""
    return f"bpm{min(180, max(60, 5 * math.floor(bpm / 5 + 0.5)))}"


def _pick(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def compose(seed: int, seconds: float = SONG_SECONDS) -> Song:
    """The song of a seed, about `seconds` long, in whole loops."""
    rng = random.Random(seed)
    genre = rng.choice(sorted(STYLES))
    style = STYLES[genre]
    meters = list(style.grooves)
    meter = meter_of(rng.choices(meters, [1.0] + [0.45] * (len(meters) - 1))[0])
    low, high = style.tempo
    bpm = float(rng.randint(low, high))
    loop = 2 if rng.random() < 0.45 or bpm < 76 else 4
    bar_seconds = meter.quarters * 60 / bpm
    bars = max(4, round(seconds / bar_seconds / 2) * 2)
    changes: tuple[tuple[float, float], ...] = ((0.0, bpm),)
    if rng.random() < 0.06:
        changes += (
            (
                bars // 2 * meter.quarters,
                max(60.0, min(180.0, round(bpm * rng.choice((0.85, 0.9, 1.1, 1.15))))),
            ),
        )
    root, mode = rng.randrange(12), _pick(rng, style.modes)
    progression = rng.choice(PROGRESSIONS[mode])
    degrees = [progression[i % len(progression)] for i in range(loop)]
    seventh = rng.random() < style.seventh
    classes = [chord_classes(root, mode, degree, seventh) for degree in degrees]

    writer = Writer(rng, style, meter)
    has_drums = rng.random() < style.drums
    groove = dict(GROOVES[meter.name][rng.choice(style.grooves[meter.name])])
    if "h" in groove and rng.random() < 0.2:
        groove["h"] = "x" * meter.steps if writer.tight else "xo" * (meter.steps // 2)
    bass_kind, bass_word = rng.choice(style.bass), rng.choice(style.basses)
    chord_word, chord_kind = rng.choice(style.chords)
    tune_word, tune_kind = rng.choice(style.melody)
    has_tune, has_bass = rng.random() < 0.7, rng.random() < 0.93
    grid = [s for s in range(0, meter.steps, 1 if style.extra == ("dance",) else 2) if s < meter.steps - 1]
    rhythm = (
        sorted({0, *rng.sample(grid, min(3, len(grid)))})
        if rng.random() < 0.7
        else [s for s in (3, 6, 10, 13) if s < meter.steps]
    )
    riff_steps = sorted({0, *rng.sample(range(2, meter.steps - 1), 4)})
    riff = [(step, 0 if step == 0 else rng.choice((0, 0, 1, 2, 3))) for step in riff_steps]
    arp = rng.choice(([0, 2, 4, 7], [0, 4, 2, 4], [7, 4, 2, 0], [0, 2, 4, 7, 4, 2], [0, 4, 7, 4, 2, 4]))
    span = 2 if rng.random() < 0.5 else 1
    starts = range(0, meter.steps - 1, 2)
    motifs = []
    for _ in range(span):
        onsets = sorted(rng.sample(starts, rng.randint(2, min(5, len(starts)))))
        ends = [*onsets[1:], meter.steps]
        motifs.append(
            [
                (s, rng.choice((0, 1, 2, 2, 4, 4, 5, 7)), min(e - s, rng.choice((2, 4, 6))))
                for s, e in zip(onsets, ends, strict=True)
            ]
        )
    voicing_low = rng.choice((52, 55, 57, 60))
    fill_every, fill_length = rng.choice((4, 4, 8, 0)), rng.choice((2, 4, 4, 8)) if meter.steps >= 16 else 4

    sections = draw_sections(rng, bars, loop, has_drums)
    drums: list[Note] = []
    bass: list[Note] = []
    chords: list[Note] = []
    tune: list[Note] = []
    bar = 0
    for name, length in sections:
        silent: set[str] = set()
        if name == "intro":
            silent = rng.choice(
                (
                    {"drums"},
                    {"drums", "bass"},
                    {"bass", "tune"},
                    {"chords", "tune"},
                    {"tune"},
                    {"bass", "chords", "tune"},
                )
            )
        elif name == "break":
            silent = rng.choice(({"drums"}, {"drums", "tune"}, {"chords", "tune"}))
        elif name == "build":
            silent = {"bass", "tune"}
        for inside in range(length):
            place = bar % loop
            chord, following = classes[place], classes[(place + 1) % loop]
            last = inside == length - 1
            fill = (
                fill_length
                if has_drums
                and (last or (fill_every and bar % fill_every == fill_every - 1))
                and rng.random() < 0.75
                else 0
            )
            if has_drums and "drums" not in silent:
                drums += drum_bar(
                    writer,
                    groove,
                    bar,
                    min(fill, meter.steps // 2),
                    inside == 0 and bar > 0 and rng.random() < 0.7,
                    rng,
                )
            if has_bass and "bass" not in silent:
                bass += bass_bar(writer, bass_kind, bar, chord, following, riff)
            if "chords" not in silent:
                voicing = sorted(near(pitch_class, voicing_low) for pitch_class in chord)
                if chord_kind == "power":
                    voicing = [near(chord[0], 40)]
                chords += chord_bar(writer, chord_kind, bar, voicing, rhythm)
            if has_tune and "tune" not in silent:
                tune += melody_bar(
                    writer, tune_kind, bar, root, mode, degrees[place], motifs[bar % span], arp
                )
            bar += 1
    harmony = [classes[index % loop] for index in range(bars)]
    # a generator of its own, so that the rest of a seed's song is what it was before songs could end
    after = random.Random(f"ending {seed}")
    if after.random() < ENDING_SHARE and sections[-1][1] > 2:
        name, length = sections[-1]
        sections = [*sections[:-1], (name, length - 1), ("ending", 1)]
        harmony[-1] = chord_classes(root, mode, 0, seventh=False)
        writer.rng = after
        closed = close_song(
            writer,
            {"drums": drums, "bass": bass, "chords": chords, "tune": tune},
            bars - 1,
            harmony[-1],
            voicing_low,
        )
        drums, bass, chords, tune = (closed[name] for name in ("drums", "bass", "chords", "tune"))

    def voice(choices: tuple[str, ...], share: float) -> str:
        return rng.choice(choices) if rng.random() < share else "font"

    synthetic = 0.35 if style.tight >= 0.8 else 0.08
    parts = [
        Part("drums", "drums", rng.choice(style.kits), True, voice(("machine",), synthetic), tuple(drums)),
        Part("bass", bass_word, rng.choice(BASSES[bass_word]), False,
             voice(("saw", "square", "sine"), synthetic if bass_word == "synthbass" else 0), tuple(bass)),
        Part("other", chord_word, rng.choice(TONAL[chord_word]), False,
             voice(("saw", "square"), synthetic if chord_word in ("pad", "synth") else 0), tuple(chords)),
    ]  # fmt: skip
    if tune:
        sound = voice(("saw", "square", "fm"), synthetic if tune_word in ("synth", "pluck", "bell") else 0)
        parts.append(Part("other", tune_word, rng.choice(TONAL[tune_word]), False, sound, tuple(tune)))
    timeline = Timeline(changes, meter)
    words = [
        genre, *style.extra, tempo_word(bpm), bpm_word(bpm), ROOT_WORDS[root],
        "minor" if mode in ("minor", "dorian") else "major", rng.choice(style.moods), METER_WORDS[meter.name],
        *([bass_word, "bass"] if bass else ["nobass"]), chord_word, *([tune_word, "melody"] if tune else []),
        "drums" if drums else "nodrums",
    ]  # fmt: skip
    if writer.swing > 0.1:
        words.append("swing")
    quarters = meter.quarters
    progressing = tuple(
        Chord(index * quarters, (index + 1) * quarters, chord) for index, chord in enumerate(harmony)
    )
    return Song(
        seed,
        genre,
        timeline,
        root,
        mode,
        bars,
        tuple(sections),
        progressing,
        tuple(parts),
        tuple(dict.fromkeys(words)),
    )


def vocabulary() -> list[str]:
    """Every word that a song can carry, sorted."""
    words = {*STYLES, *ROOT_WORDS, *METER_WORDS.values(), *TONAL, *BASSES}
    words |= {
        "minor",
        "major",
        "slow",
        "medium",
        "fast",
        "drums",
        "nodrums",
        "bass",
        "nobass",
        "melody",
        "swing",
    }
    for style in STYLES.values():
        words |= {*style.moods, *style.extra}
    return sorted(words) + [f"bpm{bpm}" for bpm in range(60, 181, 5)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compose the song of a seed and show what it is.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SONG_SECONDS)
    options = parser.parse_args(argv)
    song = compose(options.seed, options.seconds)
    facts = {
        "genre": song.genre, "meter": song.meter.name, "tempo": song.timeline.changes, "bars": song.bars,
        "seconds": round(song.total_seconds, 2), "sections": song.sections, "words": song.words,
        "texts": song.texts(),
        "parts": [(part.stem, part.word, part.voice, len(part.notes)) for part in song.parts],
    }  # fmt: skip
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
