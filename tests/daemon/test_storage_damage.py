"""A daemon whose journal or spool is damaged while it is down: nothing is lost, nothing bad is served."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol import messages as m
from protocol.errors import SegueError
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit

NewHouse = Callable[..., House]
SEED = 20261122


def _lived(wire: Wire) -> dict[str, list[Any]]:
    """A finished job, a cancelled, a forgotten one, and one that waits."""
    done = wire.ask(submit(0.5, rate=32_000, seed=3)).job
    wire.events(done)
    gone = wire.ask(submit(0.2, rate=32_000)).job
    wire.events(gone)
    wire.ask(m.Forget(job=gone))
    wire.ask(m.Pause())
    cancelled = wire.ask(submit(0.5, rate=32_000)).job
    wire.ask(m.Cancel(job=cancelled))
    waiting = wire.ask(submit(0.4, rate=32_000, seed=9)).job
    return {job: wire.ask(m.Next(job=job, after=0)).events for job in (done, cancelled, waiting)}


def _header(state: Path, dice: random.Random) -> None:
    with (state / "journal.db").open("r+b") as file:
        file.seek(dice.randrange(40))
        file.write(dice.randbytes(60))


def _page(state: Path, dice: random.Random) -> None:
    path = state / "journal.db"
    with path.open("r+b") as file:
        file.seek(4096 * dice.randrange(1, max(2, path.stat().st_size // 4096)))
        file.write(dice.randbytes(300))


def _log(state: Path, dice: random.Random) -> None:
    path = state / "journal.db-wal"
    with path.open("r+b") as file:
        file.seek(dice.randrange(path.stat().st_size))
        file.write(dice.randbytes(100))


def _log_gone(state: Path, dice: random.Random) -> None:
    (state / "journal.db-wal").unlink()


def _all_gone(state: Path, dice: random.Random) -> None:
    for path in state.glob("journal.db*"):
        path.unlink()


@pytest.mark.parametrize("damage", [_header, _page, _log, _log_gone, _all_gone])
def test_a_damaged_journal_loses_no_job(
    new_house: NewHouse, damage: Callable[[Path, random.Random], None]
) -> None:
    house = new_house("life.crash_pause_s=0")
    with house.client() as wire:
        request = submit(0.3, rate=32_000, seed=5)
        known = wire.ask(request).job
        wire.events(known)
        before = _lived(wire)
    dice = random.Random(SEED)
    for _ in range(3):
        if damage in (_header, _page):
            house.stop()  # after a kill all there is stands in the log
        else:
            house.kill()
        damage(house.state, dice)
        house.start()
        with house.client() as wire:
            hello, ping = wire.ask(m.Hello()), wire.ask(m.Ping())
            assert ping.paused and hello.notice == ping.notice
            for job, events in before.items():
                assert wire.ask(m.Next(job=job, after=0)).events == events
            assert wire.ask(request).job == known
            assert wire.refused(m.Status(job="3")).code == "E_JOB"  # what was forgotten stays so
    with house.client() as wire:
        assert wire.ask(m.Ping()).notice
        assert damage not in (_header, _page) or list(house.state.glob("journal.db.bad-*"))
        wire.ask(m.Resume())
        assert wire.ask(m.Ping()).notice is None
        waiting = list(before)[-1]
        start, audio = joined(wire.events(waiting))
        assert np.array_equal(audio, engine.samples(9, 0, "mix", start, audio.shape[1]))
        fresh = wire.ask(submit(0.2, rate=32_000))
        assert not fresh.again and int(fresh.job) > int(waiting)
        wire.events(fresh.job)


def test_flipped_bits_in_a_running_jobs_spool_are_never_served(new_house: NewHouse) -> None:
    house = new_house()
    dice = random.Random(SEED)
    with house.client() as wire:
        job = wire.ask(submit(20, rate=32_000, text="slow=20")).job
        by, last = time.monotonic() + 30, 0
        while last < 6:
            assert time.monotonic() < by
            last = wire.ask(m.Next(job=job, after=last, wait_ms=500)).last
        wire.ask(m.Cancel(job=job))
        events = [event for event in wire.events(job) if event.event == "audio"]
        (path,) = (house.state / "spool" / job).glob("*.pcm")
        sound = path.read_bytes()
        refused = 0
        for _ in range(40):
            broken = bytearray(sound)
            broken[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
            path.write_bytes(broken)
            for event in events:
                try:
                    (told,) = wire.ask(m.Next(job=job, after=event.seq - 1, max_bytes=1)).events[:1]
                except SegueError as error:
                    assert error.code == "E_TAKE_DAMAGED"
                    refused += 1
                else:
                    assert told.crc == event.crc and bytes(told.block.data) == bytes(event.block.data)
        assert refused >= 20
        path.unlink()
        assert wire.refused(m.Next(job=job, after=events[0].seq - 1)).code == "E_TAKE_MISSING"


def test_two_crashes_over_one_job_start_the_daemon_paused(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        job = wire.ask(submit(5, rate=32_000, text="slow=20")).job
        other = wire.ask(submit(0.2, rate=32_000, priority="batch")).job
    for life in (1, 2):
        with house.client() as wire:
            by = time.monotonic() + 20
            while wire.ask(m.Status(job=job)).info.state != "running":
                assert time.monotonic() < by
                time.sleep(0.02)
        house.kill()
        house.start()
        with house.client() as wire:
            assert wire.ask(m.Ping()).paused == (life == 2)
    with house.client() as wire:
        notice = wire.ask(m.Hello()).notice
        assert notice and f"job {job}" in notice
        wire.ask(m.Cancel(job=job))
        wire.ask(m.Resume())
        assert wire.events(other)[-1].event == "done" and wire.ask(m.Hello()).notice is None
