"""Stems and their mix, level at the seam, wide models."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, joined, submit, tone


def test_stems_arrive_beside_their_mix(new_house: Callable[..., House]) -> None:
    with new_house(model="stems").client() as wire:
        request = submit(0.7, rate=32_000, channels=1, variations=3, seed=3)
        events = wire.events(wire.ask(request).job)
        for variation in range(3):
            stems = [joined(events, variation, stem)[1] for stem in engine.STEMS]
            for stem, audio in zip(engine.STEMS, stems, strict=True):
                assert np.array_equal(audio, engine.samples(3, variation, stem, -2560, audio.shape[1]))
            assert np.array_equal(joined(events, variation)[1], np.stack(stems).sum(axis=0, dtype=np.float32))
        manifest = events[-1].manifest
        assert manifest["stems"] == ["drums", "bass", "other", "mix"] and len(manifest["takes"]) == 3

        resampled = wire.events(wire.ask(submit(0.5, rate=44_100, channels=2)).job)
        total = sum(joined(resampled, 0, stem)[1].astype(np.float64) for stem in engine.STEMS)
        assert np.abs(joined(resampled)[1] - total).max() < 1e-6

        only = wire.events(wire.ask(submit(0.3, stems=["bass"])).job)
        assert {e.stem for e in only if e.event == "audio"} == {"bass"}


def test_the_level_is_matched_at_the_seam(new_house: Callable[..., House]) -> None:
    with new_house(model="wide").client() as wire:
        events = wire.events(wire.ask(submit(6, rate=32_000, channels=2, level="match")).job)
        start, audio = joined(events)
        model = engine.samples(7, 0, "mix", start, audio.shape[1], 2)
        tail = np.frombuffer(tone().data, "<f4")[-2560:]
        asked = 20 * np.log10(np.std(tail) / np.std(model[:, :2560]))
        level = events[-1].manifest["takes"][0]["level"]
        assert abs(level["measured_db"] - asked) < 0.2 and level["applied_db"] == level["measured_db"]
        assert abs(np.std(audio[:, :2560]) - np.std(tail)) < 0.01
        assert np.array_equal(audio[:, 2560 + 5 * 32_000 :], model[:, 2560 + 5 * 32_000 :])  # glided to 0 dB


def test_models_are_loaded_unloaded_and_kept_alive(new_house: Callable[..., House]) -> None:
    house = new_house("worker.keep_alive_s=0.3", "worker.preload=true")
    with house.client() as wire:
        assert wire.ask(m.Load(model="coded", keep_alive_s=-1, wait_ms=20_000)).state == "loaded"
        assert len(house.worker_pids()) == 1 and wire.ask(m.Hello()).models == ("coded",)
        reply = wire.ask(m.Unload(model="coded", wait_ms=10_000))
        assert reply.state == "ready_to_load" and reply.measured and reply.freed_bytes > 0
        assert not house.worker_pids()

        assert wire.refused(m.Load(model="no such", wait_ms=20_000)).code == "E_MODEL"
        wire.events(wire.ask(submit(0.2)).job)  # its worker ends by itself when it has been idle for 0.3 s
        by = time.monotonic() + 10
        while house.worker_pids() and time.monotonic() < by:
            time.sleep(0.05)
        assert not house.worker_pids()

        assert wire.ask(m.Load(model="wide", wait_ms=20_000, keep_alive_s=60)).state == "loaded"
        wire.events(wire.ask(submit(0.2, model="other")).job)  # there is room for both
        assert "wide" in wire.ask(m.Hello()).models
