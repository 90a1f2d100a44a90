"""Writing, syncing, renaming, removing that fails at the k-th call, for every k until a run completes.

Two phases: the k-th call of everyday work (`scripted`), of the daemon and of the worker, and the k-th call of
a start, of an empty folder and of one with jobs in it. Faults are EIO, ENOSPC and a write that writes half. A
full run tries each of them at every k, CI one of them, in turns. After each: the daemon answers, what it
acknowledged is there, what failed had a typed error, asked again it works, and no two tellings differ.
"""

from __future__ import annotations

import errno
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import checker, shim, work
from tests.chaos.line import Line, NoAnswer
from tests.chaos.report import Report, Scale, side_by_side
from tests.chaos.scripted import Script
from tests.chaos.settings import known
from tests.daemon.house import House

FAULTS = {
    "EIO": (shim.FAIL, errno.EIO),
    "ENOSPC": (shim.FAIL, errno.ENOSPC),
    "short write": (shim.SHORTEN, 0),
}
DISK_CALLS = tuple(call for call in shim.CALLS if call != "send")
SETTINGS = (
    "takes.chunk_s=0.05", "worker.attempts=100", "worker.deaths=1000", "worker.backoff_s=0.02",
    "worker.backoff_most_s=0.02", "life.drain_s=1", "life.crash_pause_s=0", "log.level=error",
)  # fmt: skip
PHASES = ("daemon", "start from nothing", "start with jobs", "worker")
WHOLE_EVERY = 8  # starts; then a job is made to its end
FRESH_EVERY = 40  # rounds; then the daemon is started again and all is looked at from the disk


class Bench:
    """A daemon with the shim under it."""

    def __init__(self, library: Path, seed: int, report: Report) -> None:
        self.rng, self.report = random.Random(seed), report
        self.house = House(*known(*SETTINGS))
        self.shim = shim.Shim(library, self.house.folder / "control", self.house.state)
        self.house.hook |= self.shim.environment
        self.line = Line(self.house.runtime)

    def faults(self, k: int, ci: bool) -> list[str]:
        names = list(FAULTS)
        return [names[(k + self.rng.randrange(3)) % 3]] if ci else names

    def arm(self, role: str, k: int, fault: str) -> None:
        action, error = FAULTS[fault]
        calls = ("write",) if action == shim.SHORTEN else DISK_CALLS
        self.shim.arm(role, k, action, error=error, calls=calls)

    def answers(self, where: str) -> bool:
        """Whether the daemon lives; one that does not is noted and started again."""
        if self.house.process is not None and self.house.process.poll() is None:
            try:
                self.line.ask(m.Ping(), 5.0)
                return True
            except (NoAnswer, SegueError) as error:
                self.report.broken.append(f"{where}: ping was not answered ({error})")
        else:
            said = (self.house.folder / "stderr").read_text()[-600:]
            self.report.broken.append(f"{where}: the daemon is gone: {said}")
        self.house.kill()
        self.house.start()
        return False

    def left(self) -> list[str]:
        """Folders of jobs that are still there after some seconds: they go beside the daemon's loop."""
        by = time.monotonic() + 5.0
        while True:
            found = [path.name for root in ("spool", "takes") for path in (self.house.state / root).iterdir()]
            if not found or time.monotonic() > by:
                return found
            time.sleep(0.02)

    def fired_at(self, role: str) -> str:
        fired = [call for call in self.shim.log() if call.fired]
        return f"{role} {fired[0].call} {shim.plain(fired[0].name)}" if fired else role

    def close(self) -> None:
        self.line.close()
        self.house.close()
        self.shim.close()


def everyday(bench: Bench, role: str, ci: bool) -> None:
    """The k-th call of the script, for every k until it is not reached."""
    report, pending = bench.report, True
    for kind in (None,) if ci else FAULTS:
        k, pending = 0, True
        while pending:
            k += 1
            pending = False
            for fault in bench.faults(k, True) if kind is None else [kind]:
                fired = _round(bench, role, k, fault)
                pending |= fired or (kind is None and fault == "short write")  # of which there are fewer
        report.figures[f"{role}: calls at work, {kind or 'a fault each'}"] = k - 1


def _round(bench: Bench, role: str, k: int, fault: str) -> bool:
    """One fault; False when the work was done before call `k` came."""
    report = bench.report
    where = f"{role}, call {k}, {fault}"
    script = Script(bench.line, bench.rng, report, where)
    bench.shim.log()
    bench.arm(role, k, fault)
    begun = len(report.broken)
    script.run()
    fired = bool(bench.shim.fired(role))
    bench.shim.disarm()
    at = bench.fired_at(role)
    bench.answers(where)
    script.mend()
    script.judge()
    script.forget()
    for index in range(begun, len(report.broken)):
        report.broken[index] = f"[{at}] {report.broken[index]}"
    report.count("faults" if fired else "runs without a fault")
    report.figures["refusals"] = report.figures.get("refusals", 0) + len(script.refused)
    if k % FRESH_EVERY == 0:
        bench.house.kill()
        bench.house.start()
        report.expect(not (left := bench.left()), f"{where}: all was forgotten, and {left[:5]} are left")
    return fired


def starting(bench: Bench, ci: bool, *, empty: bool) -> None:
    """The k-th call of a start. A start may fail, in a sentence; the next one finds everything."""
    report, house = bench.report, bench.house
    house.kill()
    kept = bench.house.folder / "kept"
    told = [] if empty else _prepare(bench)
    house.kill()
    if not empty:
        shutil.copytree(house.state, kept)
    for kind in (None,) if ci else FAULTS:
        k, pending = 0, True
        while pending:
            k += 1
            fault = bench.faults(k, True)[0] if kind is None else kind
            where = f"start {'from nothing' if empty else 'with jobs'}, call {k}, {fault}"
            shutil.rmtree(house.state, ignore_errors=True)
            if not empty:
                shutil.copytree(kept, house.state)
            bench.shim.log()
            bench.arm("daemon", k, fault)
            (house.folder / "stderr").unlink(missing_ok=True)
            _start(bench, where)
            fired = bool(bench.shim.fired("daemon"))
            pending = fired or (kind is None and fault == "short write")
            at = bench.fired_at("daemon")
            bench.shim.disarm()
            begun = len(report.broken)
            if house.process is None or house.process.poll() is not None:
                house.start()
            if bench.answers(where):
                for job in told:
                    _still_there(bench, job, where)
                _goes_on(bench, where, whole=k % WHOLE_EVERY == 0)
            for index in range(begun, len(report.broken)):
                report.broken[index] = f"[{at}] {report.broken[index]}"
            report.count("faults" if fired else "runs without a fault")
            house.kill()
        report.figures[
            f"calls of a start {'from nothing' if empty else 'with jobs'}, {kind or 'a fault each'}"
        ] = k - 1
    house.start()


def _goes_on(bench: Bench, where: str, *, whole: bool) -> None:
    """A job can be handed in; with `whole`, made as well (which costs the start of a worker)."""
    script = Script(bench.line, bench.rng, bench.report, where)
    if whole:
        script.mend()
        return
    script.ask(m.Pause())
    if script.submit(script.first) is None:
        script.broken(f"a job was refused although the disk is well: {script.refused}")


def _start(bench: Bench, where: str) -> None:
    try:
        bench.house.start()
        time.sleep(0.02)
    except AssertionError as error:
        said = str(error).strip()
        bench.report.count("starts refused")
        if "Traceback" in said or not said:
            bench.report.broken.append(f"{where}: the start failed without a sentence: {said[-400:]}")


def _prepare(bench: Bench) -> list[checker.Told]:
    """A folder with a finished job, a cancelled one, one that waits and one under way."""
    bench.house.start()
    script = Script(bench.line, bench.rng, bench.report, "before the starts")
    script.run()
    finished = script.told[script.first.key]
    third = script.told[script.third.key]
    script.follow(third)
    under_way = script.submit(work.Task("ab" * 16, 5 * work.RATE, 5, "slow=5"))
    assert under_way is not None
    script.follow(under_way, "audio")
    waiting = script.submit(work.Task("cd" * 16, work.RATE, 6, "slow=5", priority="batch"))
    assert waiting is not None
    script.ask(m.Pause())  # or every start would start a worker
    told = [finished, third, script.told[script.second.key], under_way, waiting]
    for job in told:
        for seq, event in checker.ask_all(bench.line, job.job).items():
            checker.seen(job, seq, event, bench.report)
    return told


def _still_there(bench: Bench, told: checker.Told, where: str) -> None:
    try:
        now = checker.ask_all(bench.line, told.job)
    except (SegueError, NoAnswer) as error:
        bench.report.broken.append(f"{where}: job {told.job} is lost: {error}")
        return
    for seq, event in told.events.items():
        if now.get(seq) != event:
            bench.report.broken.append(f"{where}: job {told.job}, event {seq} was {event}, is {now.get(seq)}")


def _phase(name: str, library: Path, seed: int, ci: bool) -> Report:
    """One of `PHASES` on a daemon of its own."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    report = Report("io", seed)
    bench = Bench(library, seed, report)
    try:
        if name.startswith("start"):
            starting(bench, ci, empty=name == "start from nothing")
        else:
            bench.house.start()
            everyday(bench, name, ci)
    finally:
        bench.close()
    return report


def run(scale: Scale, seed: int, folder: Path) -> Report:
    """Every k in CI and in full; CI tries one kind of fault at each, a full run all three."""
    report = Report("io", seed)
    try:
        library = shim.build(folder)
    except shim.NoShim as error:
        report.skipped.append(str(error))
        return report
    for found in side_by_side(_phase, [(name, library, seed, scale.ci) for name in PHASES]):
        report.add(found)
    return report
