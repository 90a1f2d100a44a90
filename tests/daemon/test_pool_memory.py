"""Which models fit together, who goes for whom, and what is said when nothing helps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from daemon import memory, ram, vram
from daemon.config import Settings, Worker
from daemon.memory import GIB, Memory, Need, enough
from daemon.metrics import Metrics
from daemon.quarantine import Quarantine
from daemon.residency import Residency
from daemon.workers.local import LocalWorker
from protocol import messages as m
from protocol.errors import SegueError
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit

NewHouse = Callable[..., House]
MIB = 1 << 20


def _exact(events: list, seed: int = 7) -> None:
    start, audio = joined(events)
    assert np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1]))


class _Process:
    pid = 1


def _worker(
    model: str, held: int = 0, state: str = "loaded", device: str = "cpu", **more: Any
) -> LocalWorker:
    times = {"started_s": 0.0, "idle_since_s": 0.0, "loaded_s": 0.01}
    found = LocalWorker(model, device, model, _Process(), state=state, **{**times, **more})  # type: ignore
    found.memory_bytes = found.peak_bytes = held
    found.facts = {"device": device}
    return found


# ---- measuring ----


def test_the_machine_is_measured_or_nobody_claims_it() -> None:
    found = ram.free_and_total()
    if found is None:
        pytest.skip("this system has no /proc/meminfo")
    assert 0 < found[0] <= found[1]
    assert memory.kind("cuda:1 NVIDIA") == "cuda:1" and memory.kind("cpu") == "cpu"
    assert memory.kind("cuda") == "cuda:0"


def test_visible_devices_are_counted_as_cuda_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert vram._physical(1) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert [vram._physical(index) for index in (0, 1, 2)] == [3, 1, None]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert vram._physical(0) is None


def test_needs_are_guessed_then_measured_then_remembered() -> None:
    kept: dict[str, str] = {}

    def make(**more: Any) -> Memory:
        files = {"big": 4 * GIB}
        return Memory(
            Worker(precision="auto"), recall=lambda name: kept.get(name, ""), remember=kept.__setitem__,
            files_bytes=files.get, **more,
        )  # fmt: skip

    first = make()
    assert first.need("unknown", "cpu").source == "nothing"
    guess = first.need("big", "cpu")
    assert guess.source == "files" and 4 * GIB < guess.total_bytes < 7 * GIB
    worker = _worker("big", 3 * GIB)
    first.loaded(worker)
    assert first.need("big", "cpu") == Need(3 * GIB, "measured")
    worker.peak_bytes = 4 * GIB
    first.grew(worker)
    second = make()
    assert second.need("big", "cpu") == Need(4 * GIB, "measured")
    worker.peak_bytes = 2 * GIB  # a run with a lower peak: moved towards it, not believed at once
    second.ended(worker)
    assert 3 * GIB < make().need("big", "cpu").total_bytes < 4 * GIB
    kept["memory/big/auto/cpu"] = "nonsense"
    assert make().need("big", "cpu").source == "files"


def test_the_budget_leaves_room_for_the_daw() -> None:
    measured = Memory(Worker(), meter=lambda device: (10 * GIB, 16 * GIB))
    reserve = round(0.08 * 16 * GIB)
    assert measured.capacity_bytes("cpu") == 16 * GIB - reserve
    assert measured.room_bytes("cpu", []) == 10 * GIB - reserve
    small = Memory(Worker(), meter=lambda device: (2 * GIB, 4 * GIB))
    assert small.room_bytes("cpu", []) == 2 * GIB - 10**9
    # a model that is still loading will take what it needs, though it does not hold it yet
    measured._known["memory/a/auto/cpu"] = 3 * GIB
    loading = _worker("a", 0, "loading")
    assert measured.room_bytes("cpu", [loading]) == 10 * GIB - reserve - 3 * GIB
    told = Memory(Worker(memory_gib=4.0), meter=lambda device: None)
    told._known["memory/a/auto/cpu"] = 3 * GIB
    assert told.capacity_bytes("cpu") == 4 * GIB and told.room_bytes("cpu", [loading]) == GIB
    assert told.room_bytes("cpu", [_worker("a", 2 * GIB)]) == GIB
    nobody = Memory(Worker(), meter=lambda device: None)
    assert nobody.room_bytes("cpu", []) is None is nobody.capacity_bytes("cpu")


def test_a_gpu_that_was_there_is_never_swapped_for_the_cpu_in_silence() -> None:
    found = Memory(Worker(), meter=lambda device: None)
    assert found.pinned("auto") == "auto"
    worker = _worker("a", 1, device="auto")
    worker.facts = {"device": "cuda:0 Something"}
    found.loaded(worker)
    assert found.pinned("auto") == "cuda" and found.pinned("cpu") == "cpu"


# ---- who may go ----


def test_the_longest_idle_goes_first_by_how_long_it_was_to_be_kept() -> None:
    kept = Memory(Worker(stay_s=30))
    long = _worker("long", keep_alive_s=3600, idle_since_s=0.0)
    short = _worker("short", keep_alive_s=60, idle_since_s=50.0)
    always = _worker("always", keep_alive_s=-1, idle_since_s=0.0)
    busy = _worker("busy", aboard={1: 1})
    fresh = _worker("fresh", loaded_s=80.0)
    everyone = [always, long, short, busy, fresh, _worker("coming", state="loading")]
    names = [w.model for w in kept.may_go(everyone, 100.0, live=False, spared=())]
    assert names == ["short", "long", "always"]
    names = [w.model for w in kept.may_go(everyone, 100.0, live=True, spared={"short"})]
    assert names == ["fresh", "long", "always"]


def test_no_more_go_than_must() -> None:
    workers = [_worker("a", 100), _worker("b", 50), _worker("c", 500)]

    def weigh(worker: LocalWorker) -> int:
        return worker.memory_bytes

    assert [w.model for w in enough(workers, 120, weigh) or ()] == ["a", "b"]
    assert enough(workers, 1000, weigh) is None and enough(workers, 0, weigh) == []


class _Book:
    def __init__(self) -> None:
        self.active: dict[int, Any] = {}

    def queued(self) -> list[Any]:
        return list(self.active.values())


class _Pool:
    """What residency asks of the pool, with workers that are not processes."""

    def __init__(self) -> None:
        self.workers: list[LocalWorker] = []
        self.cramped: set[str] = set()
        self.wanted: dict[str, float] = {}
        self.refused: dict[str, SegueError] = {}
        self.unloaded: list[str] = []

    def free_name(self) -> str:
        return f"worker{len(self.workers)}"

    def unload(self, worker: LocalWorker, why: str) -> None:
        self.unloaded.append(worker.model)
        worker.state = "ending"

    def refuse(self, model: str, error: SegueError) -> None:
        self.refused[model] = error


class _Home:
    """A device of 8 GiB with the models a: 3, b: 3, c: 5 and huge: 20 GiB."""

    def __init__(self, gib: float = 8.0) -> None:
        self.book, self.pool, self.free = _Book(), _Pool(), None
        settings = Settings(worker=Worker(devices=["cpu"], memory_gib=gib, stay_s=30))
        self.memory = Memory(settings.worker, meter=lambda device: None)
        for model, size in {"a": 3, "b": 3, "c": 5, "huge": 20}.items():
            self.memory._known[f"memory/{model}/auto/cpu"] = size * GIB
        made: Any = self.book, self.pool, self.memory, settings, Metrics(), None, self._spawn
        self.residency = Residency(*made)

    def _spawn(self, name: str, model: str, device: str) -> LocalWorker:
        return _worker(model, 0, "loading", device)

    def bring(self, model: str, now: float = 100.0, live: bool = False) -> tuple[str | None, set[str]]:
        closed: set[str] = set()
        return self.residency.bring(model, closed, live=live, now_s=now), closed

    def settle(self) -> None:
        """Loads complete, ended ones are gone."""
        self.pool.workers[:] = [worker for worker in self.pool.workers if worker.state != "ending"]
        for worker in self.pool.workers:
            worker.state = "loaded"
            worker.memory_bytes = self.memory.need(worker.model, "cpu").total_bytes

    @property
    def models(self) -> list[str]:
        return [worker.model for worker in self.pool.workers]


def test_models_live_together_as_long_as_they_fit() -> None:
    home = _Home()
    assert home.bring("a")[0] is None and home.bring("b")[0] is None
    assert home.models == ["a", "b"]
    home.settle()
    home.pool.workers[0].idle_since_s = 90.0
    assert home.bring("c") == ("making room", {"b"})  # 2 are free; b, idle for longest, gives 3: enough
    assert home.pool.unloaded == ["b"]
    assert home.bring("c")[0] == "making room"  # still on its way out: nobody else has to go
    assert home.pool.unloaded == ["b"]
    home.settle()
    assert home.bring("c")[0] is None and home.models == ["a", "c"]


def test_one_at_work_finishes_first_and_takes_nothing_new() -> None:
    home = _Home()
    home.bring("a")
    home.bring("b")
    home.settle()
    for number, worker in enumerate(home.pool.workers):
        worker.aboard = {number: 1}
        home.book.active[number] = type("J", (), {"model": worker.model, "priority": "interactive"})()
    note, closed = home.bring("c")
    assert note is not None and "c needs 5.4 GB" in note and closed == {"a"} and not home.pool.unloaded
    assert home.bring("c", live=True)[0] != "making room"  # not even for a live job: somebody waits for it
    home.book.active[1].priority = "batch"
    assert home.bring("c", live=True) == ("making room", {"b"})  # batch work goes on later


def test_one_just_loaded_stays_unless_a_live_job_needs_the_room() -> None:
    home = _Home()
    home.bring("a")
    home.bring("b")
    home.settle()
    for worker in home.pool.workers:
        worker.loaded_s = 90.0
    note, closed = home.bring("c", 100.0)
    assert note is not None and note.startswith("waiting for memory") and not closed
    assert home.bring("c", 100.0, live=True)[0] == "making room"


def test_a_model_that_a_live_job_waits_for_does_not_go() -> None:
    home = _Home()
    home.bring("a")
    home.bring("b")
    home.settle()
    home.pool.workers[1].idle_since_s = 50.0
    home.book.active[9] = type("J", (), {"model": "a", "priority": "live"})()
    assert home.bring("c") == ("making room", {"b"})


def test_what_will_never_fit_is_refused_with_the_numbers() -> None:
    home = _Home()
    home.bring("a")
    home.settle()
    home.bring("huge")
    error = home.pool.refused["huge"]
    assert (error.code, error.retry, error.field) == ("E_MEMORY", "never", "model")
    assert error.message == "huge needs 21.5 GB of memory, but at most 8.6 GB can be given to models here."
    assert error.detail == (f"need_bytes={20 * GIB} free_bytes={5 * GIB} largest_evictable_bytes={3 * GIB}")
    assert not home.pool.unloaded


def test_memory_that_others_hold_is_waited_for_a_moment_then_said() -> None:
    home = _Home(0.0)
    home.memory._meter = lambda device: (4 * GIB, 16 * GIB)
    note = home.bring("c", 100.0)[0]
    assert note is not None and "other programs hold the rest" in note and not home.pool.refused
    home.bring("c", 109.0)
    assert not home.pool.refused
    home.bring("c", 111.0)
    assert home.pool.refused["c"].retry == "after" and home.pool.refused["c"].retry_ms
    home.memory._meter = lambda device: (8 * GIB, 16 * GIB)
    assert home.bring("c", 112.0)[0] is None


def test_where_nobody_can_measure_there_is_one_model_at_a_time() -> None:
    home = _Home(0.0)
    assert home.bring("a")[0] is None
    home.settle()
    assert home.bring("b") == ("making room", {"a"})
    home.settle()
    assert home.bring("b")[0] is None and home.models == ["b"]


def test_a_model_that_nobody_knows_is_tried_where_it_is_alone() -> None:
    home = _Home(0.5)  # less than the guess
    assert home.bring("new")[0] is None
    home.settle()
    assert home.bring("newer") == ("making room", {"new"})
    home.settle()
    assert home.bring("newer")[0] is None


def test_a_process_that_cannot_be_started_is_a_death_with_its_reason_and_others_go_on() -> None:
    home = _Home()
    home.pool.rest = Quarantine(5)
    refused = [OSError(11, "Resource temporarily unavailable"), UnicodeEncodeError("ascii", "é", 0, 1, "no")]
    works = home.residency._spawn
    for error in refused:

        def fail(name: str, model: str, device: str, error: Exception = error) -> LocalWorker:
            raise error

        home.residency._spawn = fail
        assert home.bring("a")[0] is None and not home.pool.workers
        reason = home.pool.rest.reason("a", 100.0)
        assert reason is not None and "no process could be started" in reason
        home.pool.rest.forgive("a")
    home.residency._spawn = works
    assert home.bring("b")[0] is None and home.models == ["b"]


class _List:
    """An inventory that never comes to an end, or fails."""

    def __init__(self, asking: bool, fails: bool = False) -> None:
        self.asking, self.asked, self._fails = asking, 0, fails

    def ask(self) -> None:
        self.asked += 1
        if self._fails:
            raise OSError(24, "Too many open files")


def test_sizes_are_looked_up_once_and_nobody_waits_for_a_list_that_does_not_come() -> None:
    home = _Home()
    home.bring("a")
    home.settle()
    home.residency._inventory = listing = _List(asking=True)
    assert home.bring("new")[0] == "looking up how large new is"
    listing.asking = False  # and new is not in it
    assert home.bring("new")[0] is None and listing.asked == 1
    home.settle()
    home.residency._inventory = _List(asking=False, fails=True)
    assert home.bring("newer")[0] is None


# ---- with real processes ----


def _resident(wire: Wire) -> set[str]:
    return {info.name for info in wire.ask(m.Models()).models if info.state == "loaded"}


def test_two_models_stay_and_a_third_drives_out_the_one_idle_longest(new_house: NewHouse) -> None:
    house = new_house("worker.memory_gib=0.6", "worker.stay_s=0", "worker.keep_alive_s=300")
    with house.client() as wire:
        _exact(wire.events(wire.ask(submit(0.3, rate=32_000, model="fat")).job))
        # fat holds about 0.35 of 0.6 GiB; nobody knows coded, so it is tried alone, and measured
        _exact(wire.events(wire.ask(submit(0.3, rate=32_000, model="coded")).job))
        _exact(wire.events(wire.ask(submit(0.3, rate=32_000, model="fat")).job))
        assert _resident(wire) == {"coded", "fat"}  # both are measured now, and fit
        _exact(wire.events(wire.ask(submit(0.3, rate=32_000, model="coded")).job))
        assert len(house.worker_pids()) == 2
        assert wire.ask(m.Load(model="fatter", wait_ms=20_000)).state == "loaded"
        assert "fat" not in _resident(wire)
        house.kill()
        house.settings[-3] = "worker.memory_gib=0.2"
        house.start()
    with house.client() as wire:  # what was measured is remembered
        last = wire.events(wire.ask(submit(0.3, model="fat")).job)[-1]
        assert last.error.code == "E_MEMORY" and last.error.retry == "never"
        assert "need_bytes=" in last.error.detail and "largest_evictable_bytes=" in last.error.detail
        assert wire.refused(m.Load(model="fat", wait_ms=20_000)).code == "E_MEMORY"


def test_a_load_without_memory_ends_idle_ones_and_is_tried_once_more(new_house: NewHouse) -> None:
    house = new_house("worker.stay_s=1000")
    with house.client() as wire:
        _exact(wire.events(wire.ask(submit(0.3, rate=32_000)).job))
        _exact(wire.events(wire.ask(submit(0.3, rate=32_000, model="greedy")).job))
        assert _resident(wire) == {"greedy"}
        last = wire.events(wire.ask(submit(0.3, model="glutton")).job)[-1]
        assert last.error.code == "E_MEMORY"
        last = wire.events(wire.ask(submit(0.3, model="glutton")).job)[-1]  # nobody left to end: at once
        assert last.error.code == "E_MEMORY"


def test_a_step_without_memory_is_tried_once_more_alone(new_house: NewHouse) -> None:
    with new_house("worker.backoff_s=30").client() as wire:
        poor = wire.ask(submit(1, rate=32_000, text="oom=40 ooms=1 slow=2", session=b"a" * 16)).job
        good = wire.ask(submit(1, rate=32_000, text="slow=4", session=b"b" * 16, seed=8)).job
        began = time.monotonic()
        events = wire.events(poor)
        assert [e.why for e in events if e.event == "requeued"] == [
            "the memory ran out; it is tried once more, alone"
        ]
        _exact(events)
        _exact(wire.events(good), 8)
        assert time.monotonic() - began < 25  # no crash: nobody waits for one
        last = wire.events(wire.ask(submit(1, text="oom=10")).job)[-1]
        assert last.error.code == "E_MEMORY"
