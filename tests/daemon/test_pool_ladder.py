"""When a worker is ended, and when a model may be tried again: with a clock of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest

from daemon.config import Worker as Limits
from daemon.ladder import KILL_AFTER_S, Ladder, Pace
from daemon.processes import Activity, activity
from daemon.quarantine import REST_S, Quarantine
from daemon.workers.local import LocalWorker


@dataclass
class _Process:
    pid: int


class _Kernel:
    """What the processes do, as the test says."""

    def __init__(self) -> None:
        self.cpu_s, self.on_disk, self.stopped = 0.0, False, False

    def look(self, pid: int) -> Activity | None:
        return Activity(self.cpu_s, self.on_disk, self.stopped)


@pytest.fixture
def kernel() -> _Kernel:
    return _Kernel()


@pytest.fixture
def ladder(kernel: _Kernel) -> Ladder:
    return Ladder(Limits(stall_s=10, first_step_s=300, cancel_grace_s=2, load_timeout_s=600), kernel.look)


def _worker(state: str = "loaded", pid: int = 1, **more: Any) -> LocalWorker:
    times = {"started_s": 0.0, "progressed_s": 0.0, "idle_since_s": 0.0}
    process: Any = _Process(pid)
    return LocalWorker("w", "cpu", "m", process, state=state, **{**times, **more})


def _judge(ladder: Ladder, worker: LocalWorker, now: float, state: str = "generating", **more: Any) -> Any:
    verdict = ladder.judge(worker, now, states={state}, **{"company": True, "paused": False, **more})
    return verdict and (verdict.act, verdict.cause)


def _ran(ladder: Ladder, worker: LocalWorker, steps: int = 100, ms: float = 50) -> None:
    ladder.told(worker, steps, ms)


def test_the_usual_step_is_the_median_of_what_was_told() -> None:
    pace = Pace()
    assert pace.median_s is None
    for steps in range(1, 10):
        pace.told(steps, 100)
    pace.told(9, 100)  # no step since: nothing to learn
    pace.told(10, 1090)  # one step of 10 s among nine of 0.1
    assert pace.median_s == pytest.approx(0.1)
    pace.told(30, 1000 * (10.9 + 20 * 0.3) / 30)  # twenty steps between two reports count once, as their mean
    assert pace.median_s == pytest.approx(0.1)


def test_a_stall_is_ten_seconds_or_twenty_steps(ladder: Ladder) -> None:
    worker = _worker(aboard={1: 1})
    _ran(ladder, worker)
    assert _judge(ladder, worker, 9.9) is None
    assert _judge(ladder, worker, 10.1) == ("terminate", "stall")
    assert _judge(ladder, worker, 10.1, paused=True) is None
    slow = _worker(aboard={1: 1}, pid=2)
    _ran(ladder, slow, 100, 2000)
    assert _judge(ladder, slow, 39) is None and _judge(ladder, slow, 41) == ("terminate", "stall")
    idle = _worker(pid=3)
    assert _judge(ladder, idle, 1e6) is None


def test_reading_a_prompt_may_take_long_while_it_computes(ladder: Ladder, kernel: _Kernel) -> None:
    worker = _worker(aboard={1: 1})
    _ran(ladder, worker)
    for now in range(300):
        kernel.cpu_s = 0.5 * now
        assert _judge(ladder, worker, now, "prefill") is None, now
    assert _judge(ladder, worker, 301, "prefill") == ("terminate", "stall")


def test_a_prompt_that_is_not_being_read_is_a_stall(ladder: Ladder, kernel: _Kernel) -> None:
    worker = _worker(aboard={1: 1})
    kernel.cpu_s = 7.0
    found = [now for now in range(60) if _judge(ladder, worker, now, "prefill")]
    assert 10 < found[0] <= 17  # no processor time for half a limit, after the limit
    kernel.on_disk = True
    busy = _worker(aboard={1: 1}, pid=2)
    assert not [now for now in range(60) if _judge(ladder, busy, now, "finishing")]


def test_a_stopped_process_is_killed_because_it_hears_nothing_else(ladder: Ladder, kernel: _Kernel) -> None:
    worker = _worker(aboard={1: 1})
    _ran(ladder, worker)
    kernel.stopped = True
    assert _judge(ladder, worker, 10.1) == ("kill", "stall")
    ending = _worker("ending", ending_since_s=0.0, terminated_s=0.1)
    assert _judge(ladder, ending, 0.2) == ("kill", "stop")


def test_told_then_terminated_then_killed(ladder: Ladder) -> None:
    worker = _worker("ending", ending_since_s=0.0)
    assert _judge(ladder, worker, 1.9) is None
    assert _judge(ladder, worker, 2.1) == ("terminate", "stop")
    worker.terminated_s = 2.1
    assert _judge(ladder, worker, 2.1 + KILL_AFTER_S - 0.1) is None
    assert _judge(ladder, worker, 2.1 + KILL_AFTER_S + 0.1) == ("kill", "stop")


def test_a_cancel_is_heard_within_its_grace_or_a_few_steps(ladder: Ladder, kernel: _Kernel) -> None:
    worker = _worker(aboard={1: 1, 2: 1}, dropping={1: 5.0}, progressed_s=5.0)
    _ran(ladder, worker)
    assert _judge(ladder, worker, 6.9) is None
    assert _judge(ladder, worker, 7.1) == ("terminate", "cancel")
    slow = _worker(aboard={1: 1}, dropping={1: 5.0}, progressed_s=5.0, pid=2)
    _ran(ladder, slow, 10, 3000)  # steps of 3 s: it has 12 s
    assert _judge(ladder, slow, 16.9) is None and _judge(ladder, slow, 17.1) == ("terminate", "cancel")


def test_a_neighbours_prompt_is_not_thrown_away_for_a_cancel(ladder: Ladder, kernel: _Kernel) -> None:
    worker = _worker(aboard={1: 1, 2: 1}, dropping={1: 0.0})
    _ran(ladder, worker)
    for now in range(60):
        kernel.cpu_s = float(now)
        assert _judge(ladder, worker, now, "prefill") is None
    assert _judge(ladder, worker, 60, "prefill", company=False) == ("terminate", "cancel")


def test_loading_has_a_limit_and_must_be_alive(ladder: Ladder, kernel: _Kernel) -> None:
    worker = _worker("loading")
    for now in range(601):
        kernel.cpu_s = float(now)
        assert _judge(ladder, worker, now) is None
    assert _judge(ladder, worker, 600.1) == ("terminate", "load")
    frozen = _worker("loading", pid=2)
    found = [now for now in range(100) if _judge(ladder, frozen, now)]
    assert 30 <= found[0] < 40
    kernel.stopped = True
    stopped = _worker("loading", pid=3)
    found = [now for now in range(100) if _judge(ladder, stopped, now)]
    assert 10 <= found[0] < 20


def test_the_kernel_tells_who_computes_and_who_is_stopped() -> None:
    if activity(os.getpid()) is None:
        pytest.skip("this system has no /proc")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.3)
        first = activity(process.pid)
        time.sleep(0.3)
        second = activity(process.pid)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        third = activity(process.pid)
        process.kill()
    assert first is not None and second is not None and third is not None
    assert second.cpu_s > first.cpu_s and not second.stopped and third.stopped
    assert activity(2**22 + 1) is None


# ---- trying again ----


def test_the_wait_doubles_and_a_success_ends_it() -> None:
    rest = Quarantine(100)
    now, waits = 0.0, []
    for _ in range(8):
        rest.died("m", now, "signal 11")
        waits.append(rest.waits_s("m", now))
        now += waits[-1]
        assert rest.waits_s("m", now) == 0 and rest.reason("m", now) is None
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]
    rest.died("m", now, "signal 11")
    assert rest.reason("m", now + 2) == "waits 30 s after a crash (last: signal 11)"
    assert rest.waits_s("other", now) == 0
    rest.succeeded("m")
    rest.died("m", now)
    assert rest.waits_s("m", now) == 1
    rest.died("m", now + 10_000)  # the last was hours ago: a first one again
    assert rest.waits_s("m", now + 10_000) == 1


def test_five_deaths_in_a_minute_are_a_quarantine_that_says_why() -> None:
    rest = Quarantine(5)
    for now in range(4):
        rest.died("m", float(now), "signal 6")
    assert not rest.rests("m", 4)
    rest.died("m", 4.0, "signal 11")
    assert rest.rests("m", 5) and rest.waits_s("m", 5) == REST_S - 1
    reason = rest.reason("m", 5)
    assert reason is not None and "5 times" in reason and "signal 11" in reason
    assert "segue load m" in reason and "59 s" in reason
    assert not rest.rests("m", 4 + REST_S)
    rest.forgive("m")
    assert rest.waits_s("m", 5) == 0


def test_no_wait_where_none_is_wanted() -> None:
    rest = Quarantine(1000, first_s=0)
    for now in range(50):
        rest.died("m", now)
        assert rest.waits_s("m", now) == 0
