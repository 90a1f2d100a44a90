"""One small piece of everyday work, step by step, on a daemon whose disk may fail under it.

`Script.run` makes a job and follows it to its end, makes another and cancels it, and takes the first again.
What is refused is noted and, when the disk is well again, asked for again (`Script.mend`): it must be there
then, exactly.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import checker, work
from tests.chaos.line import Line, NoAnswer
from tests.chaos.report import Report

TYPED = {"E_DISK", "E_DISK_FULL", "E_TAKE_MISSING", "E_TAKE_DAMAGED", "E_CRASH_LOOP", "E_WORKER_DIED"}
FOLLOW_S = 20.0


class Script:
    """Three jobs and what became of them. `broken` sentences begin with `where`; `mortal`: the daemon may be
    killed under it, which raises `NoAnswer` to the caller.
    """

    def __init__(
        self, line: Line, rng: random.Random, report: Report, where: str, *, mortal: bool = False
    ) -> None:
        self._line, self._report, self._where, self._mortal = line, report, where, mortal
        self.refused: list[tuple[str, str]] = []  # (op, code)
        frames = work.RATE // 10 + rng.randrange(1000)
        self.first = work.Task(rng.randbytes(16).hex(), frames, rng.randrange(2**31), "resumable")
        slow = "slow=3 resumable"
        self.second = work.Task(rng.randbytes(16).hex(), work.RATE, rng.randrange(2**31), slow)
        self.told: dict[str, checker.Told] = {}  # by key
        self._rng = rng

    def broken(self, sentence: str) -> None:
        self._report.broken.append(f"{self._where}: {sentence}")

    def ask(self, request: m.Request) -> Any:
        """The answer, or None when it was refused with a typed error."""
        try:
            return self._line.ask(request, 10.0)
        except SegueError as error:
            self.refused.append((request.op, error.code))
            if error.code not in TYPED and not (error.code == "E_JOB" and request.op in ("retake", "forget")):
                self.broken(f"{request.op} was answered {error.code}: {error.message}")
        except NoAnswer:
            if self._mortal:
                raise
            self.broken(f"{request.op} was not answered")
        return None

    def submit(self, task: work.Task) -> checker.Told | None:
        reply = self.ask(task.request())
        if reply is None:
            return None
        told = self.told.setdefault(task.key, checker.Told(reply.job))
        told.key, told.task = task.key, task
        if told.job != reply.job:
            self.broken(f"the key of job {told.job} gives job {reply.job}")
        return told

    def follow(self, told: checker.Told, until: str = "end") -> str:
        """Read events until the job ends ("end") or has made audio ("audio"); compares all samples."""
        by = time.monotonic() + FOLLOW_S
        after = max(told.events, default=0)
        if after and told.events[after][0] in checker.FINAL:
            return told.events[after][0]
        while time.monotonic() < by:
            reply = self.ask(m.Next(job=told.job, after=after, wait_ms=200))
            if reply is None:
                if self.refused[-1:] and self.refused[-1][1] in ("E_TAKE_MISSING", "E_TAKE_DAMAGED"):
                    return "unreadable"
                time.sleep(0.05)
                continue
            for event in reply.events:
                after += 1
                if event.seq != after:
                    self.broken(f"job {told.job}: event {event.seq} where {after} was due")
                checker.seen(told, event.seq, checker.plain_event(event), self._report)
                if isinstance(event, m.Audio) and event.block is not None:
                    self._compare(told, event)
                    if until == "audio":
                        return "running"
                if isinstance(event, m.Failed) and event.error.retry not in ("never", "new_key"):
                    self.broken(f"job {told.job} failed for good and says retry {event.error.retry}")
                if event.final:
                    if isinstance(event, m.Failed) and event.error.code not in TYPED:
                        self.broken(f"job {told.job} failed with {event.error.code}: {event.error.message}")
                    return event.event
        self.broken(f"job {told.job} did not end within {FOLLOW_S:g} s; it is at event {after}")
        return "late"

    def _compare(self, told: checker.Told, event: m.Audio) -> None:
        assert told.task is not None and event.block is not None
        wanted = work.reference(told.task, event.variation, event.stem, event.position, event.frames)
        if bytes(event.block.data) != wanted:
            self.broken(f"job {told.job}, event {event.seq}: samples of another place")

    def expect_code(self, op: str, code: str) -> None:
        """The last refusal must have been this."""
        if self.refused[-1:] != [(op, code)]:
            self.broken(f"refused as {self.refused[-1:]}, not {code}")

    def cancel(self, told: checker.Told) -> None:
        told.asked_cancel = True
        self.ask(m.Cancel(job=told.job))

    def fetch(self, told: checker.Told) -> bool:
        reply = self.ask(m.Fetch(job=told.job))
        if reply is None or told.task is None:
            return False
        data = Path(reply.path).read_bytes()
        if data[58:] != work.reference(told.task, 0, "mix", 0, told.task.frames):
            self.broken(f"job {told.job}: the file is not its audio")
        return True

    # ---- the work ----

    def run(self) -> None:
        """Everything once, whatever is refused on the way."""
        told = self.submit(self.first)
        if told is not None and self.follow(told) == "done":
            self.fetch(told)
        other = self.submit(self.second)
        if other is not None:
            self.follow(other, "audio")
            self.cancel(other)
        self.ask(m.Pause())
        self.ask(m.Resume())
        if told is not None:
            self.third = work.Task(
                self._rng.randbytes(16).hex(), self.first.frames, self.first.seed + 1, self.first.text,
                of=told.job,
            )  # fmt: skip
            self.submit(self.third)
            self.ask(m.Cancel(job=told.job))  # of a job that has ended: says so, changes nothing

    def mend(self) -> None:
        """The disk is well: what was refused is asked for again, what was acknowledged is there."""
        self.ask(m.Resume())
        before = len(self.refused)
        for task in (self.first, self.second, getattr(self, "third", None)):
            if task is None:
                continue
            told = self.submit(task)
            if told is None:
                if not (task.of and self.refused[-1][1] in ("E_TAKE_MISSING", "E_JOB")):
                    self.broken(f"asked again, the job was refused: {self.refused[-1:]}")
                continue
            if task is self.second:
                self.cancel(told)
            ended = self.follow(told)
            self._report.count(f"jobs {ended}")
            if ended == "done":
                self.fetch(told)
            elif ended == "failed":  # a typed end; as a new job it works
                again = work.Task(**{**work.to_map(task), "key": self._rng.randbytes(16).hex(), "of": None})
                fresh = self.submit(again)
                if fresh is None or self.follow(fresh) != "done":
                    self.broken(f"job {told.job} failed, and so did the same as a new job")
        if len(self.refused) > before and not all(op == "retake" for op, _ in self.refused[before:]):
            self.broken(f"refused although the disk is well: {self.refused[before:]}")

    def judge(self) -> None:
        """The stories of all jobs, against what the daemon says now."""
        begun = len(self._report.broken)
        checker.judge_daemon(
            {told.job: told for told in self.told.values()}, self._line, self._report, failures=True
        )
        for index in range(begun, len(self._report.broken)):
            self._report.broken[index] = f"{self._where}: {self._report.broken[index]}"

    def forget(self) -> None:
        for told in self.told.values():
            self.ask(m.Forget(job=told.job))
            told.asked_forget = told.forgot = True
