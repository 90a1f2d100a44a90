"""SIGKILL of daemon, worker and host: at random moments, and before and after every call that matters.

Hosts are processes of their own with three jobs each in flight; whatever dies comes back at once and goes on.
At the end every host finishes what it began, and the whole history is judged (`checker`).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import checker, shim
from tests.chaos.host import POINTS, Host
from tests.chaos.line import Line, NoAnswer
from tests.chaos.report import Report, Scale, side_by_side
from tests.chaos.settings import known
from tests.chaos.sweep import Points, run_sweep
from tests.daemon.house import House

LANES = 2
HOSTS = 3
NEVER = (
    "worker.attempts=100",
    "worker.deaths=1000",
    "worker.backoff_s=0.05",
    "worker.backoff_most_s=0.05",
    "life.crash_pause_s=0",
    "queue.max_jobs=1000",
    "queue.max_per_session=1000",
)
FIRE_WITHIN_S = 1.0
WORK_WITHIN_S = 4.0
LATELY = 4  # lives of the daemon: what was not called in them is hardly going to be
SETTLE_S = 90.0


class Lane:
    """One daemon, its hosts, and who is killed next."""

    def __init__(self, folder: Path, library: Path | None, number: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seed, self.folder = seed, folder
        self.model = ("stems", "coded")[number % 2]
        self.house = House(*known("takes.chunk_s=0.2", "life.drain_s=2", *NEVER), model=self.model)
        self.shim = None
        if library is not None:
            self.shim = shim.Shim(library, self.house.folder / "control", self.house.state)
            self.house.hook |= self.shim.environment
        self.hosts: dict[str, int] = {}
        self.seen: Counter[tuple[str, str]] = Counter()  # (point, before or after) -> how often tried
        self.lately: dict[str, int] = {}  # point -> the life of the daemon in which it was last seen
        self.lives = 0
        self.hit: set[tuple[str, str]] = set()
        self.report = Report("kills", seed)
        self.slowest_start_s = 0.0

    # ---- processes ----

    def start_daemon(self) -> None:
        begun = time.monotonic()
        self.lives += 1
        self.house.start()
        self.slowest_start_s = max(self.slowest_start_s, time.monotonic() - begun)

    def start_host(self, name: str, die_at: tuple[str, int] | None = None) -> None:
        pid = os.fork()
        if pid:
            self.hosts[name] = pid
            return
        status = 1
        try:
            push = name.endswith("push")
            host = Host(self.folder, self.house.runtime, name, self.seed, model=self.model, push=push)
            if die_at is not None:
                host.die_at(*die_at)
            host.run()
            status = 0
        except BaseException:
            import traceback

            (self.folder / f"{name}.fault").write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def reap(self) -> None:
        """Hosts that have died at the point that was set for them come back."""
        for name, process in list(self.hosts.items()):
            pid, status = os.waitpid(process, os.WNOHANG)
            if not pid:
                continue
            if os.WIFSIGNALED(status):
                self.report.count("hosts killed at a point")
                self.report.count("kills")
            else:
                self._fell_over(name, status)
            self.start_host(name)

    def _fell_over(self, name: str, status: int) -> None:
        fault = self.folder / f"{name}.fault"
        said = fault.read_text() if fault.exists() else f"status {status}"
        self.report.broken.append(f"{name} fell over: {said}")

    # ---- killing ----

    def kill_one(self) -> None:
        self.reap()
        target = self.rng.choices(("daemon", "worker", "host"), (5, 3, 2))[0]
        if target == "host":
            self._kill_host()
        elif self.shim is not None and self.rng.random() < 0.7:
            self._let_work()
            self._kill_at_point(target)
        else:
            self._let_work()
            time.sleep(self.rng.uniform(0.02, 0.4))
            self._kill_now(target)
        self.report.count("kills")

    def _let_work(self) -> None:
        """Mostly something is made between two kills, however slow the machine is; sometimes nothing is."""
        chunks = self.rng.choice((0, 1, 1, 2, 3, 5))
        if self.shim is None:
            time.sleep(self.rng.uniform(0.0, 0.8))
            return
        by = time.monotonic() + WORK_WITHIN_S
        while chunks > 0 and time.monotonic() < by:
            for call in self._calls():
                chunks -= (call.role, call.call, shim.plain(call.name)) == ("worker", "sync", "spool/N/N.pcm")
            time.sleep(0.005)

    def _calls(self) -> list[shim.Call]:
        """What was called lately; every point in it is remembered."""
        assert self.shim is not None
        found = self.shim.log()
        for call in found:
            self.lately[call.point] = self.lives
            for when in ("before", "after"):
                self.seen.setdefault((call.point, when), 0)
        return found

    def _kill_host(self) -> None:
        name = self.rng.choice(list(self.hosts))
        os.kill(self.hosts[name], signal.SIGKILL)
        os.waitpid(self.hosts[name], 0)
        self.report.count("hosts killed at random")
        at_point = self.rng.random() < 0.6
        self.start_host(name, (self.rng.choice(POINTS), self.rng.randint(1, 3)) if at_point else None)

    def _kill_now(self, target: str) -> None:
        if target == "worker":
            pids = self.house.worker_pids()
            for pid in pids[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.report.count("workers killed at random" if pids else "no worker to kill")
        else:
            self.house.kill()
            self.report.count("daemons killed at random")
            self.start_daemon()

    def _kill_at_point(self, target: str) -> None:
        """Arm the least visited point that the log has shown; if nothing comes by, kill anyway."""
        assert self.shim is not None
        self._calls()
        points = [
            found
            for found in self.seen
            if found[0].startswith(target) and self.lately[found[0]] >= self.lives - LATELY
        ]
        if not points:
            self._kill_now(target)
            return
        least = min(self.seen[found] for found in points)
        point, when = self.rng.choice([found for found in points if self.seen[found] == least])
        _, call_name, name = point.split(" ", 2)
        pattern = shim.pattern(name)
        self.shim.arm(
            target,
            self.rng.randint(1, 3),
            shim.KILL,
            after=when == "after",
            calls=(call_name,),
            pattern=pattern,
        )
        by = time.monotonic() + FIRE_WITHIN_S
        while not self.shim.fired(target) and time.monotonic() < by:
            time.sleep(0.003)
        self.seen[point, when] += 1
        if not self.shim.fired(target) and target == "daemon":  # one of those on the way up?
            self.house.kill()
            with contextlib.suppress(AssertionError):
                self.start_daemon()
        if not self.shim.fired(target):
            self.shim.disarm()
            self.report.count(f"{target} points that did not come by")
            if target == "worker":
                self._kill_now(target)
            return
        self.shim.disarm()
        self.hit.add((point, when))
        self.report.count(f"{target}s killed at a point")
        if target == "daemon":
            self.house.kill()
            self.start_daemon()

    # ---- the whole ----

    def run(self, kills: int) -> Report:
        try:
            self.start_daemon()
            for number in range(HOSTS):
                self.start_host(f"host{number}-{'push' if number == 1 else 'poll'}")
            time.sleep(0.5)
            while self.report.figures.get("kills", 0) < kills:
                self.kill_one()
            self._settle()
            self._judge()
        finally:
            for pid in self.hosts.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.house.close()
        return self.report

    def _settle(self) -> None:
        """Nobody is killed any more: everything that was begun comes to its end."""
        if self.shim is not None:
            self.shim.disarm()
        (self.folder / "stop").touch()
        by = time.monotonic() + SETTLE_S
        waiting = set(self.hosts)
        while waiting and time.monotonic() < by:
            for name in list(waiting):
                pid, status = os.waitpid(self.hosts[name], os.WNOHANG)
                if not pid:
                    continue
                if os.WIFSIGNALED(status):  # at a point that was still set
                    self.start_host(name)
                    continue
                waiting.discard(name)
                if status:
                    self._fell_over(name, status)
            time.sleep(0.02)
        for name in waiting:
            self.report.broken.append(
                f"{name} still waits for jobs after {SETTLE_S:g} s: {self._waits_for(name)}"
            )
            os.kill(self.hosts[name], signal.SIGKILL)
            os.waitpid(self.hosts[name], 0)
        self.hosts = {}

    def _waits_for(self, name: str) -> str:
        """What a host that does not end saw last, and what the daemon says of the jobs that it waits for."""
        seen = [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_bytes().splitlines()]
        ended = {e["job"] for e in seen if e["what"] == "event" and e["kind"] in checker.FINAL}
        jobs = sorted({e["job"] for e in seen if e["what"] == "ack"} - ended, key=int)
        fetched = {e["job"] for e in seen if e["what"] == "fetched"}
        done = {e["job"] for e in seen if e["what"] == "event" and e["kind"] == "done"}
        said: list[str] = []
        line = Line(self.house.runtime)
        try:
            for job in jobs + sorted(done - fetched, key=int):
                last = max((e["seq"] for e in seen if e["what"] == "event" and e["job"] == job), default=0)
                reply = line.ask(m.Next(job=job, after=last, max_bytes=0, wait_ms=0))
                more = [event.event for event in reply.events]
                said.append(f"job {job}, seen until event {last}: is {reply.state}, has {more}")
        except (NoAnswer, SegueError) as error:
            said.append(f"the daemon does not say: {error!r}")
        finally:
            line.close()
        unanswered = {e["key"] for e in seen if e["what"] == "submit"} - {
            e["key"] for e in seen if e["what"] == "ack"
        }
        said += [f"{key} was never acknowledged" for key in sorted(unanswered)]
        return "; ".join(said + ["last of all", *(json.dumps(e)[:200] for e in seen[-6:])])

    def _judge(self) -> None:
        report = self.report
        jobs = checker.read_histories(sorted(self.folder.glob("*.jsonl")), report)
        line = Line(self.house.runtime)
        try:
            checker.judge_daemon(jobs, line, report)
            checker.judge_list(jobs, line, report)
        finally:
            line.close()
        report.expect(self.house.stop() == 0, "the daemon did not stop politely")
        checker.judge_disk(jobs, self.house.state, report)
        self.house.start()  # once more: what was reconciled stays as it is
        line = Line(self.house.runtime)
        again = Report("kills", self.seed)
        try:
            checker.judge_daemon(jobs, line, again)
            checker.judge_list(jobs, line, again)
        finally:
            line.close()
        report.broken += [f"after one more start: {sentence}" for sentence in again.broken]
        report.figures["jobs"] = len(jobs)
        report.figures["slowest start s"] = round(self.slowest_start_s, 2)


def run_lane(
    folder: Path, library: Path | None, number: int, seed: int, kills: int
) -> tuple[Report, Points, Points]:
    """What came of it, the points that were seen, and those at which somebody was killed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    folder.mkdir(parents=True, exist_ok=True)
    lane = Lane(folder, library, number, seed)
    return lane.run(kills), set(lane.seen), lane.hit


def _call(task: Callable[..., Any], *given: Any) -> Any:
    return task(*given)


def run(scale: Scale, seed: int, folder: Path) -> Report:
    """100 kills in CI, 1,000 in a full run: two thirds in two busy daemons, the others point by point."""
    report = Report("kills", seed)
    library = None
    try:
        library = shim.build(folder)
    except shim.NoShim as error:
        report.skipped.append(f"kills at named points: {error}")
    kills = scale.pick(100, 1000) if library is None else scale.pick(72, 700)
    seen: Points = set()
    hit: Points = set()
    share = [kills // LANES + (number < kills % LANES) for number in range(LANES)]
    tasks: list[tuple[Any, ...]] = [
        (run_lane, folder / f"lane{n}", library, n, seed + n, share[n]) for n in range(LANES)
    ]
    if library is not None:
        tasks.append((run_sweep, library, seed, scale.ci))
    for found, there, killed in side_by_side(_call, tasks, LANES):
        report.add(found)
        seen, hit = seen | there, hit | killed
    report.figures["points (before and after each call) that were seen"] = len(seen)
    report.figures["points killed at"] = len(hit)
    if not scale.ci:
        report.figures["points never killed at"] = sorted(f"{when} {point}" for point, when in seen - hit)
    return report
