"""Whose job starts when, against a real daemon; what clients are told; and a machine that slept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from daemon.config import Settings
from daemon.costs import CostEstimate
from daemon.job import Progress
from daemon.memory import Memory
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.workers.link import encode
from daemon.workers.local import LocalWorker
from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit

NewHouse = Callable[..., House]


def _exact(events: list, seed: int = 7) -> None:
    start, audio = joined(events)
    assert np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1]))


def _started(wire: Wire, job: str, wait_s: float = 30.0) -> float:
    """Waits for the first attempt; seconds that this took."""
    begun = time.monotonic()
    while time.monotonic() - begun < wait_s:
        if any(e.event == "started" for e in wire.ask(m.Next(job=job, after=1, wait_ms=2000)).events):
            return time.monotonic() - begun
    raise AssertionError(f"job {job} did not start")


def test_sixty_batch_jobs_of_one_host_do_not_keep_another_waiting(new_house: NewHouse) -> None:
    house = new_house("queue.max_per_session=64")
    with house.client() as wire:
        mill = [
            wire.ask(submit(10, rate=32_000, text="slow=2", session=b"m" * 16, priority="batch")).job
            for _ in range(60)
        ]
        _started(wire, mill[0])
        for n in range(3):
            job = wire.ask(submit(0.5, rate=32_000, session=b"h" * 16, seed=n)).job
            assert _started(wire, job) < 2  # 0.02 s where nobody else computes
            _exact(wire.events(job), n)
        waiting = wire.ask(m.List(session=b"m" * 16, states=["queued"], limit=100)).jobs
        assert len(waiting) > 30  # and they were not done first
        for job in mill:
            wire.ask(m.Cancel(job=job))


def test_a_slot_is_kept_for_live_work(new_house: NewHouse) -> None:
    house = new_house("worker.slots=3")
    with house.client() as wire:
        first = [wire.ask(submit(20, text="slow=5", session=bytes([n]) * 16)).job for n in range(2)]
        for job in first:
            _started(wire, job)
        third = wire.ask(submit(0.3, rate=32_000, session=b"t" * 16, seed=3)).job
        live = wire.ask(submit(0.3, rate=32_000, session=b"l" * 16, seed=4, priority="live")).job
        _started(wire, live)
        _exact(wire.events(live), 4)
        assert wire.ask(m.Status(job=third)).info.state == "queued"
        wire.ask(m.Cancel(job=first[0]))
        _exact(wire.events(third), 3)


def test_a_batch_job_makes_way_for_a_live_one_and_goes_on_where_it_was(new_house: NewHouse) -> None:
    house = new_house("worker.slots=1")
    with house.client() as wire:
        batch = wire.ask(submit(6, rate=32_000, text="resumable slow=5", priority="batch")).job
        while not any(e.event == "audio" for e in wire.ask(m.Next(job=batch, wait_ms=500)).events):
            pass
        live = wire.ask(submit(0.4, rate=32_000, session=b"l" * 16, seed=4, priority="live")).job
        _started(wire, live, 5)
        _exact(wire.events(live), 4)
        events = wire.events(batch)
        back = [e for e in events if e.event == "requeued"]
        assert [(e.why, e.discard_from) for e in back] == [("a live job needed its slot", None)]
        assert [e.event for e in events].count("started") == 2 and events[-1].event == "done"
        assert wire.ask(m.Status(job=batch)).info.attempt == 2
        path = wire.ask(m.Fetch(job=batch)).path
        made = np.frombuffer(Path(path).read_bytes()[58:], "<f4")
        assert np.array_equal(made, engine.samples(7, 0, "mix", 0, len(made))[0])


def test_a_batch_job_that_could_not_go_on_keeps_its_slot(new_house: NewHouse) -> None:
    house = new_house("worker.slots=1")
    with house.client() as wire:
        batch = wire.ask(submit(1.5, rate=32_000, text="slow=5", priority="batch")).job
        _started(wire, batch)
        while not any(e.event == "audio" for e in wire.ask(m.Next(job=batch, wait_ms=500)).events):
            pass
        live = wire.ask(submit(0.3, rate=32_000, session=b"l" * 16, seed=4, priority="live")).job
        events = wire.events(batch)
        assert "requeued" not in [e.event for e in events]
        _exact(events)
        _exact(wire.events(live), 4)


def test_a_session_has_two_aboard_while_others_wait(new_house: NewHouse) -> None:
    house = new_house("queue.running_per_session=2")
    with house.client() as wire:
        wire.ask(m.Pause())
        mine = [wire.ask(submit(2, text="slow=5", session=b"a" * 16)).job for _ in range(5)]
        others = [wire.ask(submit(2, text="slow=5", session=bytes([n]) * 16)).job for n in (1, 2)]
        wire.ask(m.Resume())
        for job in others:
            _started(wire, job)
        running = wire.ask(m.List(states=["running"])).jobs
        assert sum(info.session == b"a" * 16 for info in running) == 2
        assert {info.worker for info in running} == {"worker0"}
        for job in (*mine, *others):
            wire.ask(m.Cancel(job=job))


def test_a_deadline_that_cannot_be_kept_is_said_before_any_work(new_house: NewHouse) -> None:
    with new_house().client() as wire:
        wire.events(wire.ask(submit(1, rate=32_000, text="slow=20")).job)  # about 1 s: learnt
        wire.ask(submit(30, text="slow=20", session=b"x" * 16))
        begun = time.monotonic()
        job = wire.ask(submit(30, text="slow=20", deadline_ms=5000)).job
        events = wire.events(job)
        assert time.monotonic() - begun < 3
        assert [e.event for e in events] == ["accepted", "failed"]
        assert events[-1].error.code == "E_DEADLINE" and "needs about" in events[-1].error.message
        generous = wire.ask(submit(0.5, rate=32_000, deadline_ms=60_000, session=b"g" * 16)).job
        left_ms = wire.ask(m.Status(job=generous)).info.deadline_left_ms
        assert left_ms is None or 30_000 < left_ms <= 60_000
        _exact(wire.events(generous))


def test_costs_and_pause_survive_a_restart(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        wire.events(wire.ask(submit(1, rate=32_000, text="slow=20")).job)
        wire.ask(m.Pause())
        house.kill()
        house.start()
    with house.client() as wire:
        assert wire.ask(m.Ping()).paused
        job = wire.ask(submit(60, text="slow=20", deadline_ms=5000)).job
        assert wire.events(job)[-1].error.code == "E_DEADLINE"  # judged although it is paused
        wire.ask(m.Resume())
        house.kill()
        house.start()
    with house.client() as wire:
        assert not wire.ask(m.Ping()).paused


def test_who_works_on_what_is_told(new_house: NewHouse) -> None:
    house = new_house("worker.keep_alive_s=60")
    with house.client() as wire:
        wire.ask(m.Models())  # the first answer takes as long as looking them up
        job = wire.ask(submit(60, text="slow=10", session=b"s" * 16, project="song", priority="live")).job
        _started(wire, job)
        info = wire.ask(m.Status(job=job)).info
        assert (info.session, info.project, info.priority) == (b"s" * 16, "song", "live")
        assert info.worker == "worker0" and info.attempt == 1
        (model,) = [found for found in wire.ask(m.Models()).models if found.name == "coded"]
        assert model.jobs == (job,) and model.worker == "worker0" and model.memory_bytes
        assert model.keep_alive_left_ms is None  # it works
        wire.ask(m.Cancel(job=job))
        time.sleep(0.5)
        (model,) = [found for found in wire.ask(m.Models()).models if found.name == "coded"]
        assert model.jobs == () and model.keep_alive_ms == 60_000
        assert 50_000 < (model.keep_alive_left_ms or 0) < 60_000
        assert wire.ask(m.Status(job=job)).info.worker is None


# ---- a machine that slept ----


class _Book:
    """Nobody's jobs but one."""

    def __init__(self) -> None:
        self.job = type("J", (), {
            "id": 1, "attempt": 1, "state": "running", "model": "m", "deadline_s": None, "strikes": 3,
            "memory_retries": 0, "progress": Progress(),
        })()  # fmt: skip
        self.active = {1: self.job}
        self.said: list[tuple[str, bool]] = []

    def queued(self) -> list[Any]:
        return []

    def running(self) -> list[Any]:
        return []

    def requeue(self, job: Any, why: str, *, forgiven: bool, discard: bool = False) -> None:
        self.said.append((why, forgiven))
        job.state = "queued"

    def fail(self, job: Any, error: m.SegueError) -> None:
        self.said.append((error.code, False))
        job.state = "failed"


def _pool() -> tuple[Pool, _Book]:
    book: Any = _Book()
    settings = Settings()
    pool = Pool(book, CostEstimate(), Memory(settings.worker), settings, Metrics())
    return pool, book


def _worker(says: list[dict[str, Any]], device: str) -> LocalWorker:
    """A process that says its part and ends."""
    data = b"".join(map(encode, says))
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.write(1, {data!r}); os._exit(7)"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    process.wait()
    made = LocalWorker("worker0", device, "m", process, state="loaded", aboard={1: 1}, loaded_s=1.0)
    made.facts = {"device": device}
    return made


def test_a_gpu_that_the_sleep_took_is_nobodys_strike() -> None:
    pool, book = _pool()
    broken = {"op": "broken", "error": {"code": "E_INTERNAL", "message": "The device is lost."}}
    pool.workers = [_worker([broken], "cuda:0 x")]
    pool.woke(3600.0)
    pool.turn()
    assert book.said == [("the device was lost while the machine slept", True)]
    assert not pool.workers and pool.rest.waits_s("m", time.monotonic()) == 0


def test_without_a_sleep_or_a_gpu_it_is_one() -> None:
    for device, slept in (("cuda:0 x", False), ("cpu", True)):
        pool, book = _pool()
        pool.workers = [_worker([], device)]
        if slept:
            pool.woke(3600.0)
        pool.turn()
        assert book.said == [("E_CRASH_LOOP", False)]
        assert pool.rest.waits_s("m", time.monotonic()) > 0


def test_a_gpu_that_is_not_awake_yet_is_waited_for_and_not_replaced_by_the_cpu() -> None:
    pool, book = _pool()
    gone = {"op": "load_failed", "error": {"code": "E_ARGUMENT", "message": "There is no CUDA device."}}
    worker = _worker([gone], "auto")
    worker.aboard, worker.state, worker.facts = {}, "loading", {"device": "cuda:0 x"}
    pool.memory.loaded(worker)  # it was on a GPU before
    book.job.state = "queued"
    pool.workers = [worker]
    pool.woke(3600.0)
    pool.turn()
    assert not book.said and "m" not in pool.refusals
    assert "There is no CUDA device" in (pool.rest.reason("m", time.monotonic()) or "")
    assert pool.memory.pinned("auto") == "cuda"


def test_nobody_is_stalled_for_having_slept() -> None:
    pool, _ = _pool()
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    ) as process:  # fmt: skip
        try:
            os.set_blocking(process.stdout.fileno(), False)  # type: ignore[union-attr]
            long_ago = time.monotonic() - 3600
            worker = LocalWorker("w", "cpu", "m", process, state="loaded", aboard={1: 1})
            worker.progressed_s, worker.dropping, worker.keep_alive_s = long_ago, {1: long_ago}, -1
            pool.workers = [worker]
            pool._turned_s = long_ago  # this process was stopped too
            pool.turn()
            assert worker.ending_since_s is None and not worker.stalled
            pool.turn()
            assert worker.ending_since_s is None
        finally:
            process.kill()
