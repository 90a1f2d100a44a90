"""Whatever dies, what was acknowledged is kept and nothing is spliced in silence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, alive, joined, submit

NewHouse = Callable[..., House]


def _exact(events: list, seed: int = 7) -> None:
    start, audio = joined(events)
    assert np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1]))


def _until_audio(wire: Wire, job: str) -> None:
    after = 0
    while True:
        reply = wire.ask(m.Next(job=job, after=after, wait_ms=2000))
        if any(e.event == "audio" and e.position >= 0 for e in reply.events):
            return
        after = reply.events[-1].seq if reply.events else after


def test_a_worker_that_dies_is_replaced(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        job = wire.ask(submit(2, rate=32_000, text="crash=40 crashes=2 slow=1")).job
        events = wire.events(job)
        kinds = [e.event for e in events]
        assert kinds.count("started") == 3 and kinds.count("requeued") == 2 and kinds[-1] == "done"
        assert all(e.discard_from == -2560 for e in events if e.event == "requeued")
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        _exact(events)


def test_a_job_that_kills_its_worker_is_given_up_and_its_neighbour_is_not(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        poison = wire.ask(submit(2, rate=32_000, text="crash=30 slow=1", session=b"p" * 16)).job
        good = wire.ask(submit(2, rate=32_000, text="slow=2", session=b"g" * 16, seed=9)).job
        last = wire.events(poison)[-1]
        assert last.event == "failed" and last.error.code == "E_CRASH_LOOP"
        _exact(wire.events(good), 9)
        _exact(wire.events(wire.ask(submit(0.5, rate=32_000)).job))


def test_a_killed_daemon_finds_its_jobs_again(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        running = wire.ask(submit(2, rate=32_000, text="slow=5")).job
        _until_audio(wire, running)
        waiting = wire.ask(submit(0.5, rate=32_000, seed=8, priority="batch")).job
        request = submit(0.4, rate=32_000, seed=9)
        done = wire.ask(request).job
        wire.events(done)
        pids = house.worker_pids()
        house.kill()
    time.sleep(0.2)
    for pid in pids:  # a worker does not outlive its daemon
        assert not alive(pid)
    house.start()
    with house.client() as wire:
        assert wire.ask(request).again
        _exact(wire.events(done), 9)
        events = wire.events(running)
        assert "requeued" in [e.event for e in events] and events[-1].event == "done"
        _exact(events)
        _exact(wire.events(waiting), 8)
        assert np.array_equal(
            np.frombuffer(Path(wire.ask(m.Fetch(job=running)).path).read_bytes()[58:], "<f4"),
            joined(events)[1][0, 2560:],
        )


def test_a_polite_stop_puts_the_work_back_without_a_strike(new_house: NewHouse) -> None:
    house = new_house("life.drain_s=0.2")
    with house.client() as wire:
        job = wire.ask(submit(3, rate=32_000, text="slow=20")).job
        _until_audio(wire, job)
        assert house.stop() == 0
    assert not (house.runtime / "connection.json").exists() and not (house.runtime / "segue.sock").exists()
    house.start()
    with house.client() as wire:
        wire.ask(m.Cancel(job=job))
        events = wire.events(job)
        assert [e.why for e in events if e.event == "requeued"] == ["the daemon was stopped"]


def test_a_step_that_never_ends_is_noticed(new_house: NewHouse) -> None:
    house = new_house("worker.stall_s=0.6", "worker.attempts=2")
    with house.client() as wire:
        last = wire.events(wire.ask(submit(2, text="hang=10")).job)[-1]
        assert last.event == "failed" and "stalled" in last.error.message
        _exact(wire.events(wire.ask(submit(0.5, rate=32_000)).job))


def test_a_cancel_that_is_not_heard_ends_the_worker_but_no_neighbour(new_house: NewHouse) -> None:
    house = new_house("worker.cancel_grace_s=0.3")
    with house.client() as wire:
        stuck = wire.ask(submit(2, text="hang=20 slow=5", session=b"a" * 16)).job
        good = wire.ask(submit(1, rate=32_000, text="slow=20", session=b"b" * 16)).job
        _until_audio(wire, stuck)
        time.sleep(0.5)
        assert wire.ask(m.Cancel(job=stuck)).state == "cancelled"
        events = wire.events(good)
        assert events[-1].event == "done"
        _exact(events)


def test_a_model_that_dies_while_loading_is_said(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        last = wire.events(wire.ask(submit(1, model="die")).job)[-1]
        assert last.error.code == "E_WORKER_DIED"
        _exact(wire.events(wire.ask(submit(0.5, rate=32_000)).job))


def test_a_full_disk_refuses_before_any_work(new_house: NewHouse) -> None:
    house = new_house("takes.quota_gib=0.002")
    with house.client() as wire:
        error = wire.refused(submit(60, rate=48_000, channels=2))
        assert error.code == "E_DISK_FULL" and error.retry == "after" and error.retry_ms
        assert list((house.state / "spool").iterdir()) == []
        assert not wire.ask(m.List()).jobs
        small = wire.ask(submit(0.5, rate=32_000, stems=["mix"])).job
        _exact(wire.events(small))


def test_the_queue_has_limits_and_says_when_to_come_back(new_house: NewHouse) -> None:
    house = new_house("queue.max_jobs=6", "queue.max_per_session=3")
    with house.client() as wire:
        wire.ask(m.Pause())
        for _ in range(3):
            wire.ask(submit(0.3, session=b"a" * 16))
        error = wire.refused(submit(0.3, session=b"a" * 16))
        assert error.code == "E_QUEUE_FULL" and error.retry_ms
        for _ in range(3):
            wire.ask(submit(0.3, session=b"b" * 16))
        assert wire.refused(submit(0.3, session=b"c" * 16)).code == "E_QUEUE_FULL"
        tick = wire.ask(m.Next(job="6", after=1, wait_ms=1000)).tick
        assert tick.state == "queued"
        wire.ask(m.Resume())
        for job in "123456":
            assert wire.events(job)[-1].event == "done"


def test_pause_holds_and_gives_memory_back(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        job = wire.ask(submit(2, rate=32_000, text="slow=10")).job
        _until_audio(wire, job)
        assert wire.ask(m.Pause()).paused
        time.sleep(0.3)
        before = wire.ask(m.Status(job=job)).info.tick.step
        time.sleep(0.3)
        assert wire.ask(m.Status(job=job)).info.tick.step == before
        reply = wire.ask(m.Pause(release=True))
        assert reply.released_bytes and not house.worker_pids()
        house.kill()
        house.start()
    with house.client() as wire:
        assert wire.ask(m.Ping()).paused  # a restart does not take the GPU back
        assert wire.refused(m.Load(model="coded")).code == "E_PAUSED"
        wire.ask(m.Resume())
        events = wire.events(job)
        assert events[-1].event == "done"
        _exact(events)


def test_live_goes_before_batch_and_sessions_take_turns(new_house: NewHouse) -> None:
    house = new_house("worker.slots=1")
    with house.client() as wire:
        wire.ask(m.Pause())
        first = [wire.ask(submit(0.3, session=b"a" * 16)).job for _ in range(4)]
        second = [wire.ask(submit(0.3, session=b"b" * 16)).job for _ in range(2)]
        batch = wire.ask(submit(0.3, session=b"c" * 16, priority="batch")).job
        live = wire.ask(submit(0.3, session=b"a" * 16, priority="live")).job
        wire.ask(m.Resume())
        started = {job: wire.events(job)[1].time_ms for job in (*first, *second, batch, live)}
        order = sorted(started, key=lambda job: (started[job], int(job)))
        assert order[0] == live and order[-1] == batch
        assert order.index(second[1]) < order.index(
            first[3]
        )  # the later session did not wait for the whole first


def test_stopped_and_continued(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        job = wire.ask(submit(1, rate=32_000, text="slow=5")).job
        _until_audio(wire, job)
        (worker,) = house.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        for _ in range(5):
            wire.ask(m.Ping())
        os.kill(worker, signal.SIGCONT)
        _exact(wire.events(job))


def test_a_daemon_that_nobody_needs_leaves(new_house: NewHouse) -> None:
    house = new_house("life.idle_exit_s=0.4")
    with house.client() as wire:
        wire.events(wire.ask(submit(0.2)).job)
    assert house.process is not None and house.process.wait(15) == 0
    assert not (house.runtime / "connection.json").exists()


def test_drain_takes_nothing_new_and_finishes_what_it_said(new_house: NewHouse) -> None:
    house = new_house("worker.slots=1")
    with house.client() as wire, house.client() as other:
        jobs = [wire.ask(submit(0.6, rate=32_000, seed=seed, text="slow=10")).job for seed in (1, 2)]
        _until_audio(wire, jobs[0])
        reply = wire.ask(m.Drain(finish="all"))
        assert reply.stopping and reply.running + reply.queued == 2
        assert wire.refused(submit(0.2)).code == "E_DRAINING"
        assert not wire.ask(m.Hello()).ready
        for seed, job in zip((1, 2), jobs, strict=True):
            _exact(other.events(job), seed)
    assert house.process is not None and house.process.wait(15) == 0
