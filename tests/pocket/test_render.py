"""Rendering: levels, silent stems, nothing leaking from one stem into the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genmodel.pocket.recipe import voices
from genmodel.pocket.recipe.compose import compose
from genmodel.pocket.recipe.render import FontPlayer, RenderError, find_font, render, render_many


def short(seed: int):
    return compose(seed, seconds=4.0)


def test_a_missing_font_is_told(tmp_path) -> None:
    with pytest.raises(RenderError, match="FluidR3Mono"):
        find_font(tmp_path / "none.sf3")


def test_the_mix_has_its_level_and_no_overload(player: FontPlayer) -> None:
    stems = render(short(0), player)
    mix = stems.sum(0)
    assert stems.shape[0] == 3
    assert np.abs(mix).max() <= 0.96
    assert -23 < voices.decibels(float(np.mean(mix**2))) < -16.5


def test_a_stem_without_notes_is_zeros_whatever_was_played_before(player: FontPlayer) -> None:
    song = short(1)
    bare = replace(song, parts=tuple(p for p in song.parts if p.stem != "drums"))
    render(song, player)
    assert not render(bare, player)[0].any()


def test_the_same_song_sounds_the_same_again(player: FontPlayer) -> None:
    """Not sample for sample (the synthesiser's modulators run free), but in level, piece by piece."""
    pieces = []
    for _ in range(2):
        stems = render(short(2), player)
        count = stems.shape[1] // 3200
        pieces.append(np.sqrt(np.mean(stems[:, : count * 3200].reshape(3, count, 3200) ** 2, axis=2)).ravel())
    assert np.corrcoef(*pieces)[0, 1] > 0.95


def test_files_are_written_once(player: FontPlayer, tmp_path) -> None:
    assert render_many(tmp_path, [5], player, seconds=4.0) > 0
    assert render_many(tmp_path, [5], player, seconds=4.0) == 0
    stems = np.load(tmp_path / "00000005.npy")
    assert stems.dtype == np.int16
    assert stems.shape[0] == 3


@pytest.mark.parametrize("voice", ["saw", "square", "sine", "fm"])
def test_own_tones_have_their_pitch(voice: str) -> None:
    sound = voices.tone(voice, 69, 0.5, 100, 32_000)
    spectrum = np.abs(np.fft.rfft(sound[:16_000] * np.hanning(16_000)))
    assert abs(spectrum.argmax() * 2 - 440) <= 4
    assert np.isfinite(sound).all()


@pytest.mark.parametrize("pitch", [36, 38, 39, 42, 46, 47, 49])
def test_own_drums_fade(pitch: int) -> None:
    sound = voices.drum(pitch, 100, 32_000, np.random.default_rng(0))
    assert np.abs(sound).max() > 0.05
    assert np.abs(sound[-50:]).max() < 0.1 * np.abs(sound).max()
