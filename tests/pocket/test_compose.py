"""The composer: the same song from the same seed, whole bars, sound material in every meter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genmodel.pocket.recipe.compose import METER_WORDS, compose, vocabulary
from genmodel.pocket.recipe.lexicon import SYNONYMS
from genmodel.pocket.recipe.styles import GROOVES, STYLES
from genmodel.pocket.recipe.theory import MODES, Meter, Timeline, chord_classes, meter_of, scale_pitch
from genmodel.request import TempoChange, TempoMap

SEEDS = range(120)


def test_a_seed_gives_the_same_song_and_another_seed_another() -> None:
    assert compose(11) == compose(11)
    assert compose(11) != compose(12)


def test_songs_are_whole_bars_of_about_the_length_asked() -> None:
    for seed in SEEDS:
        song = compose(seed)
        assert song.bars % 2 == 0
        assert sum(length for _, length in song.sections) == song.bars
        assert 15 < song.total_seconds < 32
        assert len(song.chords) == song.bars


def test_notes_lie_inside_the_song_and_the_instruments_range() -> None:
    for seed in SEEDS:
        song = compose(seed)
        end = song.bars * song.meter.quarters
        for part in song.parts:
            for note in part.notes:
                assert 0 <= note.start < end + 0.1
                assert note.length > 0
                assert 21 <= note.pitch <= 108
                assert 1 <= note.velocity <= 127


def test_all_meters_and_genres_come_up() -> None:
    songs = [compose(seed) for seed in range(600)]
    assert {song.genre for song in songs} == set(STYLES)
    assert {song.meter.name for song in songs} == set(METER_WORDS)
    assert any(len(song.timeline.changes) > 1 for song in songs)
    assert {part.voice for song in songs for part in song.parts} >= {
        "font",
        "machine",
        "saw",
        "square",
        "sine",
    }


def test_some_songs_end_on_the_tonic_and_ring_out() -> None:
    songs = [compose(seed) for seed in range(200)]
    ending = [song for song in songs if song.sections[-1][0] == "ending"]
    assert 0.12 < len(ending) / len(songs) < 0.35
    for song in ending:
        begin = (song.bars - 1) * song.meter.quarters
        tonic = set(song.chords[-1].classes)
        assert song.root in tonic and len(tonic) == 3
        last = [(part, note) for part in song.parts for note in part.notes if note.start >= begin - 1e-6]
        assert last and all(note.start == begin for _, note in last)
        assert all(note.pitch % 12 in tonic for part, note in last if not part.drums)
    assert all(song.sections[-1][1] > 1 for song in songs if song not in ending)


def test_a_song_is_otherwise_what_it_was_before_songs_could_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from genmodel.pocket.recipe import compose as module

    seed = next(seed for seed in range(100) if compose(seed).sections[-1][0] == "ending")
    ended = compose(seed)
    monkeypatch.setattr(module, "ENDING_SHARE", 0.0)
    whole = compose(seed)
    begin = (ended.bars - 1) * ended.meter.quarters
    assert (ended.words, ended.timeline, ended.chords[:-1]) == (
        whole.words,
        whole.timeline,
        whole.chords[:-1],
    )
    for a, b in zip(ended.parts, whole.parts, strict=True):
        assert (a.word, a.program, a.voice) == (b.word, b.program, b.voice)
        assert [n for n in a.notes if n.start < begin - 1e-6] == [
            n for n in b.notes if n.start < begin - 1e-6
        ]


def test_every_groove_is_one_bar_long() -> None:
    for name, grooves in GROOVES.items():
        for groove in grooves.values():
            assert {len(pattern) for pattern in groove.values()} == {meter_of(name).steps}


def test_words_are_in_the_vocabulary_and_synonyms_lead_there() -> None:
    known = set(vocabulary())
    assert len(known) == len(vocabulary())
    for seed in SEEDS:
        assert set(compose(seed).words) <= known
    for word, targets in SYNONYMS.items():
        assert set(targets.split()) <= known, word


def test_the_wordings_of_a_song_are_understood() -> None:
    from genmodel.lm.conditioners.words import WordsConditioner

    words = WordsConditioner(vocabulary(), SYNONYMS, 8, 8)
    for seed in range(40):
        song = compose(seed)
        for text in song.texts():
            found = words.known_words(text)
            assert song.genre in found
            assert set(words.unknown_words(text)) <= {"groove"}


@pytest.mark.parametrize("meter", [Meter(4, 4), Meter(3, 4), Meter(6, 8), Meter(7, 8)])
def test_the_timeline_agrees_with_the_requests_tempo_map(meter: Meter) -> None:
    changes = ((0.0, 97.0), (float(4 * meter.quarters), 131.0))
    timeline = Timeline(changes, meter)
    tempo_map = TempoMap(tuple(TempoChange(at, bpm, meter.beats, meter.unit) for at, bpm in changes))
    times = [0.0, 0.5, 3.1, 9.99, 17.0]
    ours = timeline.phases(np.array(times))
    theirs = tempo_map.phases(times)
    for a, b in zip(ours, theirs, strict=True):
        turn = (torch.from_numpy(a) - b).remainder(1.0)
        assert torch.minimum(turn, 1 - turn).max() < 1e-6


def test_quarters_and_seconds_are_inverse() -> None:
    timeline = Timeline(((0.0, 90.0), (8.0, 120.0), (16.0, 75.0)), Meter(4, 4))
    where = np.linspace(0, 30, 61)
    np.testing.assert_allclose(timeline.quarters(timeline.seconds(where)), where, atol=1e-9)


def test_chords_and_scales() -> None:
    assert chord_classes(0, "major", 0, seventh=False) == (0, 4, 7)
    assert chord_classes(9, "minor", 0, seventh=True) == (9, 0, 4, 7)
    assert scale_pitch(0, "major", 7) == 12
    assert all(len(set(scale)) == 7 for scale in MODES.values())


def test_chord_chroma_follows_the_bars() -> None:
    song = compose(3)
    times = np.asarray(song.timeline.seconds(np.array([chord.start + 0.1 for chord in song.chords])))
    table = song.chord_chroma(times)
    for row, chord in zip(table, song.chords, strict=True):
        assert set(np.nonzero(row)[0]) == set(chord.classes)
