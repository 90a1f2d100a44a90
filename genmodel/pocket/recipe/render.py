"""Rendering: a composed song becomes three mono stems at the model's rate.

FluidSynth is driven through its own library (no command line, no MIDI file): the font is loaded once per
process. The font is named outright, never `default-GM`: other General MIDI fonts carry other licences.

    python -m genmodel.pocket.recipe.render --out DIR --first 0 --count 100
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from genmodel.pocket.recipe import effects, voices
from genmodel.pocket.recipe.compose import SONG_SECONDS, compose
from genmodel.pocket.recipe.song import STEMS, Part, Song

RATE_HZ = 32_000
FONT_NAME = "FluidR3Mono_GM.sf3"
FONT_FOLDERS = (
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts",
)
STEM_DB = (-20.0, -21.0, -21.0)
MIX_DB = -17.0
PEAK = 0.95
BLOCK_SAMPLES = 64
TAIL_SECONDS = 3.0
"""Silence run through the synthesiser between stems: a reset alone leaves the reverb's tail in the unit."""


class RenderError(RuntimeError):
    """FluidSynth or its font is not to be had; the message says what to install."""


def find_font(path: str | os.PathLike[str] | None = None) -> Path:
    """The FluidR3Mono font: `path`, else $SEGUE_SOUNDFONT, else the usual folders."""
    given = path or os.environ.get("SEGUE_SOUNDFONT")
    candidates = [Path(given)] if given else [Path(folder) / FONT_NAME for folder in FONT_FOLDERS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise RenderError(
        f"the sound font {FONT_NAME} was not found (Debian: fluidr3mono-gm-soundfont); name it with --font"
    )


def _load_library() -> ctypes.CDLL:
    for name in ("libfluidsynth.so.3", ctypes.util.find_library("fluidsynth")):
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    raise RenderError("libfluidsynth 3 was not found (Debian: libfluidsynth3)")


class FontPlayer:
    """One FluidSynth instance with the font loaded; not thread-safe."""

    def __init__(self, font: str | os.PathLike[str] | None = None, rate_hz: int = RATE_HZ) -> None:
        self.rate_hz = rate_hz
        path = find_font(font)
        library = self._library = _load_library()
        library.new_fluid_settings.restype = ctypes.c_void_p
        library.new_fluid_synth.restype = ctypes.c_void_p
        library.new_fluid_synth.argtypes = [ctypes.c_void_p]
        library.fluid_settings_setnum.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_double]
        library.fluid_settings_setint.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        library.fluid_synth_sfload.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        for name, count in (
            ("system_reset", 0),
            ("bank_select", 2),
            ("program_change", 2),
            ("noteon", 3),
            ("noteoff", 2),
        ):
            getattr(library, f"fluid_synth_{name}").argtypes = [ctypes.c_void_p] + [ctypes.c_int] * count
        side: list[Any] = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        library.fluid_synth_write_float.argtypes = [ctypes.c_void_p, ctypes.c_int, *side, *side]
        self._settings = ctypes.c_void_p(library.new_fluid_settings())
        library.fluid_settings_setnum(self._settings, b"synth.sample-rate", float(rate_hz))
        library.fluid_settings_setnum(self._settings, b"synth.gain", 0.5)
        library.fluid_settings_setint(self._settings, b"synth.chorus.active", 0)
        library.fluid_settings_setint(self._settings, b"synth.polyphony", 96)
        self._synth = ctypes.c_void_p(library.new_fluid_synth(self._settings))
        self._written = 0
        if library.fluid_synth_sfload(self._synth, str(path).encode(), 1) < 0:
            raise RenderError(f"FluidSynth could not read the sound font {path}")

    def _write(self, left: np.ndarray, right: np.ndarray) -> None:
        self._written += len(left)
        self._library.fluid_synth_write_float(
            self._synth, len(left), left.ctypes.data, 0, 1, right.ctypes.data, 0, 1
        )

    def play(self, parts: Iterable[Part], song: Song, samples: int, reverb: float = 0.4) -> np.ndarray:
        """Left and right of the given font parts, [2, samples] float32; zeros when they have no notes."""
        out = np.zeros((2, samples), dtype=np.float32)
        parts = [part for part in parts if part.notes]
        if not parts:
            return out
        library, synth = self._library, self._synth
        library.fluid_synth_system_reset(synth)
        library.fluid_settings_setnum(self._settings, b"synth.reverb.level", reverb)
        # The synthesiser works in blocks and keeps what is left of one: every stem begins on its own.
        tail = int(TAIL_SECONDS * self.rate_hz)
        silence = np.zeros((2, tail + -(self._written + tail) % BLOCK_SAMPLES), dtype=np.float32)
        self._write(silence[0], silence[1])
        events: list[tuple[float, int, int, int, int]] = []
        for index, part in enumerate(parts):
            channel = 9 if part.drums else index
            if part.drums:
                library.fluid_synth_bank_select(synth, channel, 128)
            library.fluid_synth_program_change(synth, channel, part.program)
            for note in part.notes:
                start, end = (
                    float(t) for t in song.timeline.seconds(np.array([note.start, note.start + note.length]))
                )
                start = max(0.0, start + note.shift_ms / 1000)
                events.append((start, 1, channel, note.pitch, note.velocity))
                events.append((max(end, start + 0.03), 0, channel, note.pitch, 0))
        events.sort()
        done = 0
        for at, on, channel, pitch, velocity in events:
            upto = min(samples, int(at * self.rate_hz) // BLOCK_SAMPLES * BLOCK_SAMPLES)
            if upto > done:
                self._write(out[0, done:upto], out[1, done:upto])
                done = upto
            if on:
                library.fluid_synth_noteon(synth, channel, pitch, velocity)
            else:
                library.fluid_synth_noteoff(synth, channel, pitch)
        if samples > done:
            self._write(out[0, done:], out[1, done:])
        return out


def play_own(part: Part, song: Song, samples: int, rate_hz: int) -> np.ndarray:
    """A part in one of our own voices, mono float32 [samples]."""
    out = np.zeros(samples, dtype=np.float32)
    noise = np.random.default_rng(song.seed)
    for note in part.notes:
        start, end = (
            float(t) for t in song.timeline.seconds(np.array([note.start, note.start + note.length]))
        )
        at = int(max(0.0, start + note.shift_ms / 1000) * rate_hz)
        if part.drums:
            sound = voices.drum(note.pitch, note.velocity, rate_hz, noise)
        else:
            sound = voices.tone(part.voice, note.pitch, max(0.03, end - start), note.velocity, rate_hz)
        sound = sound[: max(0, samples - at)]
        out[at : at + len(sound)] += sound
    return out


def render(song: Song, player: FontPlayer, stereo: bool = False) -> np.ndarray:
    """The stems of a song, float32 [3, samples] (or [3, 2, samples]): each at its level, their sum at −17 dB
    RMS.
    """
    rate_hz = player.rate_hz
    samples = int(song.total_seconds * rate_hz)
    draw = np.random.default_rng([song.seed, 1])
    stems = []
    for index, name in enumerate(STEMS):
        parts = [part for part in song.parts if part.stem == name]
        sound = player.play([p for p in parts if p.voice == "font"], song, samples, draw.uniform(0.1, 0.7))
        font_level = np.sqrt(np.mean(sound**2))
        for part in parts:
            if part.voice != "font" and part.notes:
                own = play_own(part, song, samples, rate_hz)
                own_level = np.sqrt(np.mean(own**2)) + 1e-9
                sound = sound + own * ((font_level if font_level > 1e-5 else 0.1) / own_level)
        mixed = sound if stereo else sound.mean(0, keepdims=True)
        if mixed.any():
            mixed = effects.tilt(mixed, rate_hz, draw.uniform(-0.9, 0.9))
            if draw.random() < 0.35:
                mixed = effects.saturate(mixed, draw.uniform(1.0, 3.0))
            # generators of their own: what came before them is drawn as it was
            mixed = effects.colour(mixed, name, rate_hz, np.random.default_rng([song.seed, 2, index]))
        level_db = voices.decibels(float(np.mean(mixed**2)))
        wanted_db = STEM_DB[index] + draw.uniform(-2.5, 2.5)
        stems.append(mixed * 10 ** ((wanted_db - level_db) / 20) if level_db > -80 else mixed * 0)
    out = effects.glue(np.stack(stems), rate_hz, np.random.default_rng([song.seed, 3]))
    mix = out.sum(0)
    gain = 10 ** ((MIX_DB - voices.decibels(float(np.mean(mix**2)))) / 20)
    peak = max(float(np.abs(mix).max()), float(np.abs(out).max()))
    out *= min(gain, PEAK / max(peak, 1e-9))
    return out if stereo else out[:, 0]


def to_int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)


def render_many(out: Path, seeds: Iterable[int], player: FontPlayer, seconds: float = SONG_SECONDS) -> float:
    """Write `<seed>.npy` (int16 [3, samples]) for each seed that is not there yet; return the seconds of
    music written.
    """
    out.mkdir(parents=True, exist_ok=True)
    total = 0.0
    for seed in seeds:
        path = out / f"{seed:08d}.npy"
        if path.exists():
            continue
        song = compose(seed, seconds)
        partial = path.with_suffix(".part.npy")
        np.save(partial, to_int16(render(song, player)))
        partial.replace(path)
        total += song.total_seconds
    return total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Render songs to int16 stems, one file a seed; resumes where it stopped."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument(
        "--step", type=int, default=1, help="take every step-th seed (to share work between processes)"
    )
    parser.add_argument("--seconds", type=float, default=SONG_SECONDS)
    parser.add_argument("--font", type=Path, default=None)
    options = parser.parse_args(argv)
    started = time.monotonic()
    player = FontPlayer(options.font)
    seeds = range(options.first, options.first + options.count, options.step)
    music = render_many(options.out, seeds, player, options.seconds)
    wall = time.monotonic() - started
    sys.stdout.write(json.dumps({"music_s": round(music, 1), "wall_s": round(wall, 1)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
