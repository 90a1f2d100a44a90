"""Kills one by one: before and after every call that everyday work and a first start make.

The script of `scripted` is run once to see which calls there are; then again for each named point, with a
SIGKILL before or after its first, middle and last call. Whatever was killed comes back, the script goes on
from what its host knows, and the whole story is judged.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from pathlib import Path

from protocol import messages as m
from tests.chaos import shim
from tests.chaos.io_faults import Bench
from tests.chaos.line import NoAnswer
from tests.chaos.report import Report
from tests.chaos.scripted import Script

Points = set[tuple[str, str]]  # point, before or after
Aim = tuple[str, str, str, int]  # role, call, name without numbers, which of them
LIVES = 5  # one is killed, and a few more never are


class Sweep:
    """All kills of one bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.report = bench, bench.report
        self.seen: Points = set()
        self.hit: Points = set()

    def _count(self) -> Counter[tuple[str, str, str]]:
        """How often each point comes by in one run of the script."""
        self.bench.shim.log()
        self._script("counting")
        found = Counter((c.role, c.call, shim.plain(c.name)) for c in self.bench.shim.log())
        for role, call, name in found:
            self.seen |= {(f"{role} {call} {name}", when) for when in ("before", "after")}
        return found

    def aims(self, ci: bool) -> list[tuple[Aim, str]]:
        """What to kill at: in CI some points at their first call, else all at first, middle and last."""
        found = self._count()
        aims = []
        for (role, call, name), count in sorted(found.items()):
            for at in sorted({1} if ci else {1, (count + 1) // 2, count}):
                aims += [((role, call, name, at), when) for when in ("before", "after")]
        return self.bench.rng.sample(aims, 24) if ci else aims

    def _script(self, where: str) -> None:
        """Work, mending and forgetting; each goes on after a kill as a host would."""
        bench = self.bench
        script = Script(bench.line, bench.rng, self.report, where, mortal=True)
        stages = [script.run, script.mend, script.judge, script.forget]
        for _ in range(LIVES):
            try:
                while stages:
                    stages[0]()
                    stages.pop(0)
                return
            except NoAnswer:
                if stages[0] == script.run:  # what came through of it is known; the rest is asked for again
                    stages.pop(0)
                self._back(where)
        script.broken("it was never done")

    def _back(self, where: str) -> None:
        house = self.bench.house
        if house.process is not None and house.process.poll() is None:
            self.report.broken.append(f"{where}: the daemon lives and did not answer")
        house.kill()
        self.bench.shim.disarm()
        house.start()

    def at(self, aim: Aim, when: str) -> None:
        role, call, name, at = aim
        where = f"killed {when} {role} {call} {name}, time {at}"
        bench = self.bench
        bench.shim.arm(
            role, at, shim.KILL, after=when == "after", calls=(call,), pattern=shim.pattern(name)
        )  # fmt: skip
        begun = len(self.report.broken)
        self._script(where)
        self._fired(role, f"{role} {call} {name}", when)
        bench.shim.disarm()
        for index in range(begun, len(self.report.broken)):
            if not self.report.broken[index].startswith(where):
                self.report.broken[index] = f"{where}: {self.report.broken[index]}"
        if left := bench.left():
            self.report.broken.append(f"{where}: all was forgotten, and {left[:5]} are left")

    def _fired(self, role: str, point: str, when: str) -> bool:
        if not self.bench.shim.fired(role):
            self.report.count("sweep: points that did not come by again")
            return False
        self.hit.add((point, when))
        self.report.count(f"{role}s killed in the sweep")
        self.report.count("kills")
        return True

    def first_start(self, ci: bool) -> None:
        """The k-th call of a start in an empty folder; the next start works."""
        bench, k, fired = self.bench, 0, True
        while fired:
            k += 1
            for when in (bench.rng.choice(("before", "after")),) if ci else ("before", "after"):
                bench.house.kill()
                shutil.rmtree(bench.house.state, ignore_errors=True)
                bench.shim.log()
                bench.shim.arm("daemon", k, shim.KILL, after=when == "after")
                with contextlib.suppress(AssertionError):
                    bench.house.start()
                calls = [call for call in bench.shim.log() if call.fired]
                fired = bool(calls)
                bench.shim.disarm()
                bench.house.kill()
                bench.house.start()
                if calls:
                    self._fired("daemon", calls[0].point, when)
                    self.seen.add((calls[0].point, when))
                script = Script(bench.line, bench.rng, self.report, f"first start killed {when} call {k}")
                script.ask(m.Pause())
                if script.submit(script.first) is None:
                    script.broken("no job can be handed in")
            if ci:
                k += bench.rng.randrange(8)
        bench.house.kill()
        shutil.rmtree(bench.house.state, ignore_errors=True)
        bench.house.start()


def run_sweep(library: Path, seed: int, ci: bool) -> tuple[Report, Points, Points]:
    """The report, the points that were seen, and those at which somebody was killed."""
    report = Report("kills", seed)
    bench = Bench(library, seed, report)
    sweep = Sweep(bench)
    bench.line.alive = lambda: bench.house.process is not None and bench.house.process.poll() is None
    try:
        bench.house.start()
        sweep.first_start(ci)
        for aim, when in sweep.aims(ci):
            sweep.at(aim, when)
    finally:
        bench.close()
    return report, sweep.seen, sweep.hit
