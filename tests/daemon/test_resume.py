"""After a crash a take goes on at the next frame, to the bit, or says what is void: with the coded player."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit

NewHouse = Callable[..., House]


def until(wire: Wire, job: str, samples: int) -> int:
    """Wait for audio up to a position; returns the number of the last event."""
    after = 0
    by = time.monotonic() + 20
    while time.monotonic() < by:
        reply = wire.ask(m.Next(job=job, after=after, wait_ms=2000, max_bytes=0))
        after = reply.events[-1].seq if reply.events else after
        if any(e.event == "audio" and e.position + e.frames >= samples for e in reply.events):
            return after
        assert not (reply.events and reply.events[-1].final), reply.events[-1]
    raise AssertionError(f"no audio up to {samples}")


def checked(events: list[Any]) -> list[Any]:
    """Events that tell one whole story: dense numbers, an attempt after each requeue, an end that is done."""
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert events[-1].event == "done", events[-1]
    kinds = [e.event for e in events if e.event in ("started", "requeued", "done")]
    assert kinds == ["started", *["requeued", "started"] * kinds.count("requeued"), "done"]
    assert [e.attempt for e in events if e.event == "started"] == list(range(1, kinds.count("started") + 1))
    ticks = [(e.attempt, e.position) for e in events if e.event == "audio"]
    assert len(ticks) == len(
        {(e.attempt, e.variation, e.stem, e.position) for e in events if e.event == "audio"}
    )
    return events


def wav(wire: Wire, job: str, variation: int = 0, stem: str = "mix") -> np.ndarray:
    path = wire.ask(m.Fetch(job=job, variation=variation, stem=stem)).path
    return np.frombuffer(Path(path).read_bytes()[58:], "<f4")


def kill_worker(house: House) -> None:
    for pid in house.worker_pids():
        os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_loses_no_audio(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        job = wire.ask(submit(4, rate=32_000, text="resumable crash=150 crashes=2 slow=1")).job
        events = checked(wire.events(job))
        requeued = [e for e in events if e.event == "requeued"]
        assert len(requeued) == 2 and all(e.discard_from is None for e in requeued)
        start, audio = joined(events)
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))
        assert np.array_equal(wav(wire, job), audio[0, -start:])
        assert len({e.attempt for e in events if e.event == "audio"}) == 2
        for name in ("step", "samples"):
            told = [getattr(tick, name) for tick in wire.ticks]
            assert told == sorted(told)


def test_what_goes_on_was_made_from_the_journaled_tokens(new_house: NewHouse) -> None:
    """Each life of the model has its own values: audio made again without the tokens would not match."""
    house = new_house()
    with house.client() as wire:
        job = wire.ask(submit(3, rate=32_000, text="resumable lives slow=5")).job
        until(wire, job, 32_000)
        kill_worker(house)
        until(wire, job, 2 * 32_000)
        kill_worker(house)
        events = checked(wire.events(job))
        assert all(e.discard_from is None for e in events if e.event == "requeued")
        start, audio = joined(events)
        lives = []
        for at in range(0, audio.shape[1], engine.HOP):
            piece = audio[:, at : at + engine.HOP]
            (life,) = [
                life
                for life in (1, 2, 3)
                if np.array_equal(piece, engine.samples(7, 0, "mix", start + at, engine.HOP, life=life))
            ]
            lives.append(life)
        assert lives == sorted(lives) and set(lives) == {1, 2, 3}


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
def test_kills_of_both_sides_at_random_moments(new_house: NewHouse, rate: int) -> None:
    rng = random.Random(rate)
    house = new_house(
        "worker.attempts=50",
        "worker.backoff_s=0",
        "worker.deaths=100000",
        "life.crash_pause_s=0",
        model="stems",
    )
    words = "resumable slow=3"
    with house.client() as wire:
        twin = wire.events(wire.ask(submit(3, rate=rate, text="resumable", variations=2)).job)
        job = wire.ask(submit(3, rate=rate, text=words, variations=2)).job
        until(wire, job, 1)
    for _ in range(4):
        time.sleep(rng.uniform(0.0, 0.25))
        if rng.random() < 0.5:
            kill_worker(house)
        else:
            house.kill()
            house.start()
    with house.client() as wire:
        events = checked(wire.events(job))
        assert all(e.discard_from is None for e in events if e.event == "requeued")
        for variation in range(2):
            for stem in (*engine.STEMS, "mix"):
                start, audio = joined(events, variation, stem)
                assert (start, audio.shape) == (joined(twin)[0], joined(twin)[1].shape)
                assert np.array_equal(audio, joined(twin, variation, stem)[1])
                made = wav(wire, job, variation, stem).reshape(-1, audio.shape[0]).T
                assert np.array_equal(made, audio[:, -start:])


def test_pause_that_gives_memory_back_keeps_the_audio(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        job = wire.ask(submit(3, rate=48_000, channels=2, text="resumable slow=5")).job
        until(wire, job, 48_000)
        for _ in range(2):
            wire.ask(m.Pause(release=True))
            wire.ask(m.Resume())
            by = time.monotonic() + 20
            while wire.ask(m.Status(job=job)).info.state != "running" and time.monotonic() < by:
                time.sleep(0.05)
        events = checked(wire.events(job))
        assert [e.discard_from for e in events if e.event == "requeued"] == [None, None]
        twin = wire.events(wire.ask(submit(3, rate=48_000, channels=2, text="resumable")).job)
        assert np.array_equal(joined(events)[1], joined(twin)[1])


def test_a_stop_and_a_later_start_keep_the_audio(new_house: NewHouse) -> None:
    house = new_house("life.drain_s=0.1")
    with house.client() as wire:
        job = wire.ask(submit(3, rate=32_000, text="resumable lives slow=10")).job
        until(wire, job, 32_000)
        assert house.stop() == 0
    house.start()
    with house.client() as wire:
        assert wire.ask(m.Status(job=job)).info.tick.samples >= 32_000
        events = checked(wire.events(job))
        assert [(e.why, e.discard_from) for e in events if e.event == "requeued"] == [
            ("the daemon was stopped", None)
        ]
        start, audio = joined(events)
        assert np.array_equal(
            audio[:, : 32_000 - start], engine.samples(7, 0, "mix", start, 32_000 - start, life=1)
        )
        assert np.array_equal(audio[:, -640:], engine.samples(7, 0, "mix", 3 * 32_000 - 640, 640, life=2))


def _damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "first token":
        data[data.index(b"SGTK", 4) + 40] ^= 1
    elif how == "identity":
        data[40] ^= 4
    elif how == "cut":
        data = data[: data.index(b"SGCK") + 20]
    elif how == "gone":
        path.unlink()
        return
    elif how == "audio":
        data[data.index(b"SGCK") + 60] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["first token", "identity", "cut", "gone", "audio"])
def test_damage_is_said_and_everything_is_made_again(new_house: NewHouse, how: str) -> None:
    house = new_house("life.drain_s=0.1")
    with house.client() as wire:
        job = wire.ask(submit(2, rate=32_000, text="resumable lives slow=10")).job
        until(wire, job, 32_000)
        house.stop()
    _damage(house.state / "spool" / job / "1.pcm", how)
    house.start()
    with house.client() as wire:
        wire.events(job, max_bytes=0)  # until the audio is void, asking for its samples is an error
        events = wire.events(job)
        assert [e.seq for e in events] == list(range(1, len(events) + 1)) and events[-1].event == "done"
        discards = [e.discard_from for e in events if e.event == "requeued"]
        assert discards[-1] == -2560
        start, audio = joined(events)
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1], life=2))
        assert np.array_equal(wav(wire, job), audio[0, 2560:])


def test_one_that_cannot_go_on_says_so_at_once(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        events = wire.events(wire.ask(submit(2, rate=32_000, text="crash=60 crashes=1 slow=1")).job)
        assert [e.discard_from for e in events if e.event == "requeued"] == [-2560]
