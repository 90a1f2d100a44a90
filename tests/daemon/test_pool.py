"""Workers that die, stop, hang or do not listen: the daemon goes on, neighbours lose nothing."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from daemon.workers.local import LocalWorker
from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit

NewHouse = Callable[..., House]


def _exact(events: list, seed: int = 7) -> None:
    start, audio = joined(events)
    assert np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1]))


def _until(wire: Wire, job: str, kind: str) -> None:
    after, by = 0, time.monotonic() + 20
    while time.monotonic() < by:
        reply = wire.ask(m.Next(job=job, after=after, wait_ms=2000))
        if any(e.event == kind for e in reply.events):
            return
        after = reply.events[-1].seq if reply.events else after
    raise AssertionError(f"job {job} has no {kind} event")


def _until_note(wire: Wire, job: str, words: str, wait_s: float = 20.0) -> m.Tick:
    by, tick = time.monotonic() + wait_s, None
    while time.monotonic() < by:
        tick = wire.ask(m.Status(job=job)).info.tick
        if tick is not None and words in (tick.note or ""):
            return tick
        time.sleep(0.02)
    raise AssertionError(f"{words!r} was not said; the last tick is {tick}")


def _bucket(wire: Wire, name: str, bound: str) -> int:
    found = re.search(rf'segue_{name}_bucket{{le="{re.escape(bound)}"}} (\d+)', wire.ask(m.Metrics()).text)
    assert found is not None
    return int(found[1])


def test_a_cancel_is_heard_at_the_next_step(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        kept = wire.ask(submit(4, rate=32_000, text="slow=10", session=b"k" * 16, seed=3)).job
        for _ in range(6):
            job = wire.ask(submit(20, text="slow=10", session=b"c" * 16)).job
            _until(wire, job, "started")
            assert wire.ask(m.Cancel(job=job)).state == "cancelled"
        events = wire.events(kept)
        assert events[-1].event == "done" and [e.event for e in events].count("started") == 1
        _exact(events, 3)
        assert _bucket(wire, "cancel_seconds", "+Inf") == 6
        assert _bucket(wire, "cancel_seconds", "0.5") >= 5  # 0.02 s each where nobody else computes


def test_a_hard_cancel_forgives_the_neighbour_and_keeps_its_attempts(new_house: NewHouse) -> None:
    house = new_house("worker.cancel_grace_s=0.3", "worker.attempts=1")
    with house.client() as wire:
        stuck = wire.ask(submit(2, text="hang=40 slow=5", session=b"a" * 16)).job
        good = wire.ask(submit(2, rate=32_000, text="slow=5", session=b"b" * 16, seed=8)).job
        _until(wire, good, "audio")
        time.sleep(1)  # by now a step hangs
        assert wire.ask(m.Cancel(job=stuck)).state == "cancelled"
        events = wire.events(good)
        # with one attempt allowed, a strike would have ended it
        assert events[-1].event == "done"
        assert [e.why for e in events if e.event == "requeued"] == ["a neighbour was cancelled hard"]
        _exact(events, 8)
        assert "requeued" not in [e.event for e in wire.events(stuck)]


def test_a_stopped_worker_is_found_and_replaced_while_others_are_answered(new_house: NewHouse) -> None:
    house = new_house("worker.stall_s=1")
    with house.client() as wire:
        job = wire.ask(submit(3, rate=32_000, text="slow=5")).job
        _until(wire, job, "audio")
        (worker,) = house.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        waiting = wire.ask(submit(0.3, rate=32_000, seed=5, session=b"w" * 16)).job
        begun, slow = time.monotonic(), []
        while house.worker_pids() == [worker] and time.monotonic() - begun < 20:
            asked = time.monotonic()
            wire.ask(m.Status(job=waiting))
            slow.append(time.monotonic() - asked)
            time.sleep(0.01)
        assert time.monotonic() - begun < 10
        assert sorted(slow)[len(slow) // 2] < 0.05
        events = wire.events(job)
        assert [e.why for e in events if e.event == "requeued"] == ["its worker stalled"]
        _exact(events)
        _exact(wire.events(waiting), 5)


def test_a_stopped_daemon_takes_nobody_for_stalled(new_house: NewHouse) -> None:
    house = new_house("worker.stall_s=1")
    with house.client() as wire:
        job = wire.ask(submit(6, rate=32_000, text="slow=8")).job
        _until(wire, job, "audio")
        (worker,) = house.worker_pids()
        assert house.process is not None
        for pid in (worker, house.process.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(6)
        for pid in (house.process.pid, worker):  # the daemon first: it sees a worker that stood still
            os.kill(pid, signal.SIGCONT)
        events = wire.events(job)
        assert [e.event for e in events].count("started") == 1 and events[-1].event == "done"
        _exact(events)


def test_after_a_crash_the_next_worker_waits_and_says_so(new_house: NewHouse) -> None:
    house = new_house("worker.backoff_s=1.5")
    with house.client() as wire:
        job = wire.ask(submit(1, rate=32_000, text="crash=30 crashes=1")).job
        _until(wire, job, "requeued")
        tick = _until_note(wire, job, "after a crash (last: signal 9)")
        assert tick.state == "queued"
        began = time.monotonic()
        events = wire.events(job)
        assert events[-1].event == "done" and time.monotonic() - began > 0.5
        _exact(events)


def test_a_model_that_kills_five_workers_is_left_alone_and_says_how_to_go_on(new_house: NewHouse) -> None:
    house = new_house("worker.backoff_s=0", "worker.attempts=100")
    with house.client() as wire:
        job = wire.ask(submit(1, rate=32_000, text="crash=2 crashes=5")).job
        tick = _until_note(wire, job, "5 times within a minute")
        assert "signal 9" in tick.note and "segue load coded" in tick.note
        (info,) = [info for info in wire.ask(m.Models()).models if info.name == "coded"]
        assert info.state == "quarantined"
        other = wire.ask(submit(0.3, rate=32_000, seed=2, model="other")).job  # other models work on
        _exact(wire.events(other), 2)
        assert wire.ask(m.Load(model="coded", wait_ms=20_000)).state == "loaded"
        events = wire.events(job)
        assert [e.event for e in events].count("started") == 6
        _exact(events)


@pytest.mark.parametrize("seed", [11])
def test_workers_killed_at_any_moment_never_fell_the_daemon(new_house: NewHouse, seed: int) -> None:
    draw = random.Random(seed)
    house = new_house("worker.backoff_s=0", "worker.deaths=1000", "worker.attempts=100")
    with house.client() as wire:
        jobs = [wire.ask(submit(1.5, rate=32_000, text="slow=2", seed=n)).job for n in range(6)]
        killed = 0
        by = time.monotonic() + 30
        while killed < 12 and time.monotonic() < by:
            time.sleep(draw.uniform(0, 0.25))
            for pid in house.worker_pids():
                os.kill(pid, signal.SIGKILL)
                killed += 1
            wire.ask(m.Ping())
        for seed_of, job in enumerate(jobs):
            events = wire.events(job)
            assert [e.seq for e in events] == list(range(1, len(events) + 1))
            _exact(events, seed_of)
        assert house.process is not None and house.process.poll() is None


def test_writing_to_a_worker_that_is_gone_is_nobodys_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "pass"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        process.wait()
        worker = LocalWorker("w", "cpu", "m", process)
        for _ in range(3):
            worker.send({"op": "drop", "job": 1, "attempt": 1})
            worker.flush()
        assert worker.receive() == [] and worker.closed and not worker.pending
        worker.end()
        worker.terminate()
        worker.kill()
        assert worker.poll() == 0
        worker.close()
        worker.send({"op": "end"})  # after its pipes were given back
