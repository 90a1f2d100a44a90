"""pocket through the daemon: what it listens to arrives from the wire at the model, in stereo and in mono."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol import messages as m
from protocol.audio import AudioBlock, AudioFormat
from tests.daemon.house import House, joined, submit

RATE = 32_000
SECONDS = 0.8


@pytest.fixture(scope="module")
def pocket_house() -> object:
    house = House("worker.threads=1", model="pocket", real=True).start()
    yield house
    house.close()


def sound(role: str, hz: float, seconds: float, **more: Any) -> AudioBlock:
    """A plucked tone twice a second."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.25 * np.sin(2 * np.pi * hz * time) * np.exp(-(time % 0.5) / 0.15)
    form = AudioFormat(rate=RATE, channels=1, frames=len(time), role=role, **more)
    return AudioBlock(form, wave.astype("<f4").tobytes())


def take(
    house: House, *audio: AudioBlock, stem: str = "mix", **more: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    """New samples of a stem [channels, n], and the take's manifest."""
    tempo = m.TempoMap(changes=[m.TempoChange(at=0, bpm=120)])
    with house.client() as wire:
        request = submit(SECONDS, audio=audio, tempo_map=tempo, rate=RATE, channels=2, handle_ms=0, **more)
        events = wire.events(wire.ask(request).job, wait_s=180)
    assert events[-1].event == "done", events[-1]
    start, samples = joined(events, stem=stem)
    assert samples.shape[1] + start == round(SECONDS * RATE) and np.isfinite(samples).all()
    return samples[:, -start or None :], events[-1].manifest


def test_accompaniment_hears_the_tracks_and_the_chords(pocket_house: House) -> None:
    tracks = sound("context", 220.0, 2.0, track=0)
    given: dict[str, Any] = {"mode": "generate", "stems": ["bass"], "stem": "bass"}
    alone, _ = take(pocket_house, **given)
    played, manifest = take(pocket_house, tracks, **given)
    assert manifest["stems"] == ["bass"] and manifest["ignored"] == []
    assert not np.array_equal(played, alone)
    chords, _ = take(pocket_house, tracks, harmony=[m.Chord(at=0, chord="F#m7")], **given)
    assert not np.array_equal(chords, played)
    again, _ = take(pocket_house, tracks, **given)
    assert np.abs(again - played).max() < 1e-4


def test_what_follows_a_gap_is_heard(pocket_house: House) -> None:
    before = sound("prompt", 330.0, 1.0)
    plain, _ = take(pocket_house, before)
    filled, manifest = take(pocket_house, before, sound("following", 550.0, 1.0))
    assert manifest["ignored"] == []
    assert not np.array_equal(filled, plain)


def test_stems_stand_apart_and_a_mono_host_hears_their_mean(pocket_house: House) -> None:
    before = sound("prompt", 330.0, 1.0)
    drums, manifest = take(pocket_house, before, stem="drums", text="techno with bagpipes")
    assert manifest["remarks"] == {"unknown_words": ["bagpipes"]}
    assert drums.shape[0] == 2
    assert np.allclose(drums[0] * (0.875 / 1.125), drums[1], atol=1e-6) and np.abs(drums).max() > 1e-4
    with pocket_house.client() as wire:
        request = submit(
            SECONDS, audio=(before,), rate=RATE, channels=1, handle_ms=0, text="techno with bagpipes",
            tempo_map=m.TempoMap(changes=[m.TempoChange(at=0, bpm=120)]),
        )  # fmt: skip
        events = wire.events(wire.ask(request).job, wait_s=180)
    start, mono = joined(events, stem="drums")
    assert mono.shape[0] == 1
    assert np.abs(mono[0, -start or None :] - drums.mean(0)).max() < 1e-4
