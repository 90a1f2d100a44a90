"""Rendering: levels, silent stems, nothing leaking from one stem into the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genmodel.pocket.recipe import effects, voices
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


RATE = 32_000


def loud_then_soft() -> np.ndarray:
    time = np.arange(RATE) / RATE
    level = np.where(time < 0.5, 0.5, 0.05)
    return (np.sin(2 * np.pi * 300 * time) * level).astype(np.float32)


def test_tilt_and_bell_change_what_they_say() -> None:
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)

    def band_db(sound: np.ndarray, hz: float) -> float:
        power = np.abs(np.fft.rfft(sound)) ** 2
        bins = np.fft.rfftfreq(len(sound), 1 / RATE)
        return voices.decibels(float(power[(bins > hz * 0.97) & (bins < hz * 1.03)].mean()))

    tilted = effects.tilt(noise, RATE, 0.9)
    bell = effects.peak(noise, RATE, 1000.0, 6.0)
    assert band_db(tilted, 3200) - band_db(noise, 3200) == pytest.approx(1.8, abs=0.2)
    assert band_db(tilted, 200) - band_db(noise, 200) == pytest.approx(-1.8, abs=0.2)
    assert band_db(bell, 1000) - band_db(noise, 1000) == pytest.approx(6.0, abs=0.2)
    assert band_db(bell, 2000) - band_db(noise, 2000) == pytest.approx(3.0, abs=0.3)
    assert band_db(bell, 8000) - band_db(noise, 8000) == pytest.approx(0.0, abs=0.2)


def test_a_compressor_narrows_the_range_and_leaves_silence() -> None:
    sound = loud_then_soft()
    held = sound * effects.compression_gain(sound, RATE, 4.0, share=0.4)

    def range_db(wav: np.ndarray) -> float:
        return voices.decibels(float(np.mean(wav[8000:15_000] ** 2))) - voices.decibels(
            float(np.mean(wav[24_000:31_000] ** 2))
        )

    assert range_db(sound) == pytest.approx(20.0, abs=0.2)
    assert 4.0 < range_db(held) < 8.0  # a quarter of twenty, and a little late
    assert (effects.compression_gain(np.zeros(1000, dtype=np.float32), RATE, 4.0) == 1).all()


def test_a_room_rings_on_and_the_sound_stays_in_front() -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[1000] = 1.0
    made = effects.room(click, RATE, 0.4, 0.3, np.random.default_rng(1))
    assert made[1000] == pytest.approx(0.7, abs=1e-4) and np.abs(made[:1000]).max() < 1e-6
    assert np.abs(made[4000:8000]).max() > 0.003 > np.abs(made[20_000:]).max()


def test_a_song_has_its_own_effects_and_the_mix_is_the_sum() -> None:
    draw = np.random.default_rng(2)
    stems = draw.standard_normal((3, 1, RATE)).astype(np.float32) * 0.1
    glued = [effects.glue(stems, RATE, np.random.default_rng([seed, 3])) for seed in range(12)]
    changed = [not np.array_equal(one, stems) for one in glued]
    assert 0 < sum(changed) < 12
    one = glued[changed.index(True)]
    gain = one[0] / stems[0]
    np.testing.assert_allclose(one[2], stems[2] * gain, rtol=1e-3, atol=1e-5)
    assert not effects.colour(stems[0] * 0, "drums", RATE, draw).any()
    coloured = [effects.colour(stems[0], "other", RATE, np.random.default_rng([s, 2, 2])) for s in range(12)]
    assert len({round(float(np.abs(sound).sum()), 2) for sound in coloured}) > 6
    assert all(np.isfinite(sound).all() for sound in coloured)


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
