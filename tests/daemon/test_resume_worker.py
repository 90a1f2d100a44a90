"""The worker itself: what it writes at the end holds nobody up, and ends with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from daemon.workers.finishing import Finisher
from daemon.workers.interface import Progress
from daemon.workers.rendering import Rendering, Stopped
from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, alive, joined, submit
from tests.daemon.test_resume import until

NewHouse = Callable[..., House]


def test_a_neighbour_goes_on_while_a_long_take_is_written(new_house: NewHouse) -> None:
    house = new_house(model="wide")
    with house.client() as wire:
        short = wire.ask(submit(60, rate=32_000, channels=2, text="slow=2", session=b"s" * 16)).job
        until(wire, short, 1)
        long = wire.ask(submit(25, rate=32_000, channels=2, variations=2, session=b"l" * 16)).job
        seen: list[tuple[float, int]] = []
        while (tick := wire.ask(m.Next(job=long, after=1_000_000, wait_ms=0)).tick) is not None:
            if tick.state == "finishing" and (other := wire.ask(m.Status(job=short)).info.tick) is not None:
                seen.append((time.monotonic(), other.step))
            time.sleep(0.01)
        assert wire.ask(m.Status(job=long)).info.state == "done"
        assert seen and seen[-1][1] > seen[0][1], seen  # the short one was made meanwhile
        wire.ask(m.Cancel(job=short))
        assert np.isfinite(np.fromfile(wire.ask(m.Fetch(job=long)).path, "<f4", offset=58)).all()


def test_a_take_dropped_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    class Slow(Rendering):
        def __init__(self) -> None:
            self.job, self.attempt, self.stopped, self.take_folder = 3, 1, False, tmp_path / "3"

        def finish(self) -> dict:
            self.take_folder.mkdir()
            (self.take_folder / "v0.mix.wav").write_bytes(b"x")
            while not self.stopped:
                time.sleep(0.001)
            raise Stopped

        def close(self) -> None:
            pass

    woken: list[bool] = []
    finisher = Finisher(lambda: woken.append(True))
    finisher.begin(Slow(), Progress("decoding", 5, 5))
    assert not finisher.ended() and not finisher.drop(3, 2)
    assert finisher.drop(3, 1)
    by = time.monotonic() + 5
    while not (over := finisher.ended()) and time.monotonic() < by:
        time.sleep(0.001)
    assert over[0].dropped and woken and not (tmp_path / "3").exists() and not finisher.aboard


def test_a_cancel_while_files_are_written(new_house: NewHouse) -> None:
    house = new_house(model="wide")
    with house.client() as wire:
        job = wire.ask(submit(30, rate=32_000, channels=2, mode="generate")).job
        while wire.ask(m.Next(job=job, after=1_000_000, wait_ms=0)).tick.state != "finishing":
            time.sleep(0.005)
        assert wire.ask(m.Cancel(job=job)).state == "cancelled"
        events = wire.events(wire.ask(submit(0.3, rate=32_000, channels=2)).job)
        assert events[-1].event == "done"
        pids = house.worker_pids()
        by = time.monotonic() + 5
        while (house.state / "takes" / job).exists() and time.monotonic() < by:
            time.sleep(0.02)
        assert not (house.state / "takes" / job).exists()
        assert house.worker_pids() == pids  # it was heard: nothing had to be ended


def test_a_worker_ends_with_its_daemon_whatever_it_does(new_house: NewHouse) -> None:
    for text in ("slow=5", "hang=12"):
        house = new_house()
        with house.client() as wire:
            until(wire, wire.ask(submit(30, rate=32_000, text=text)).job, 1)
            (pid,) = house.worker_pids()
            house.kill()
        by = time.monotonic() + 2
        while alive(pid) and time.monotonic() < by:
            time.sleep(0.01)
        assert not alive(pid)


def test_prints_of_every_kind_go_to_the_log(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        events = wire.events(wire.ask(submit(0.5, rate=32_000, text="prints")).job)
        start, audio = joined(events)
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))
        assert os.path.basename(events[-1].manifest["model"]["name"]) == "coded"
