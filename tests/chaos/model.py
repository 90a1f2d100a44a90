"""Any order of submit, next, cancel, forget, retake, kills, restarts and a full disk, against a small model.

`hypothesis` makes up the steps and shortens those that fail. The model remembers what was acknowledged; after
each step, and at the end from the disk, the real daemon must agree.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import checker, shim, work
from tests.chaos.line import Line
from tests.chaos.report import Report, Scale
from tests.chaos.settings import known
from tests.daemon.house import House

SETTINGS = (
    "takes.chunk_s=0.1", "worker.attempts=100", "worker.deaths=1000", "worker.backoff_s=0.02",
    "worker.backoff_most_s=0.02", "life.drain_s=0.2", "life.crash_pause_s=0", "log.level=error",
    "takes.keep_free_mib=0", "queue.max_jobs=1000", "queue.max_per_session=1000",
)  # fmt: skip
END_S = 30.0


class World:
    """The daemon that all examples of a run share; each example forgets what it made."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.report = report
        self.house = House(*known(*SETTINGS))
        self.shim: shim.Shim | None = None
        try:
            library = shim.build(folder)
            self.shim = shim.Shim(library, self.house.folder / "control", self.house.state)
            self.house.hook |= self.shim.environment
        except shim.NoShim as error:
            report.skipped.append(f"a full disk: {error}")
        self.house.start()
        self.line = Line(self.house.runtime)

    def alive(self) -> bool:
        return self.house.process is not None and self.house.process.poll() is None

    def close(self) -> None:
        self.line.close()
        self.house.close()


class Machine(RuleBasedStateMachine):
    """The model: what hosts know. `world` is set by `run`."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.jobs: list[checker.Told] = []
        self.full = self.paused = False
        self.lives = 0
        self.world.report.count("examples")
        if not self.world.alive():
            self.world.house.start()
        if self.world.shim is not None:
            self.world.shim.space_bytes = -1
        self.world.line.ask(m.Resume())

    # ---- what a host does ----

    @rule(
        seed=st.integers(0, 2**31 - 1), frames=st.integers(1, work.RATE // 2),
        slow_ms=st.sampled_from((0, 2, 10)), variations=st.integers(1, 3), prompt=st.booleans(),
        resumable=st.booleans(), priority=st.sampled_from(("live", "interactive", "batch")),
    )  # fmt: skip
    def submit(
        self,
        seed: int,
        frames: int,
        slow_ms: int,
        variations: int,
        prompt: bool,
        resumable: bool,
        priority: str,
    ) -> None:
        task = work.Task(
            os.urandom(16).hex(), frames, seed, f"slow={slow_ms}" + " resumable" * resumable,
            "continue" if prompt else "generate", variations, priority=priority,
        )  # fmt: skip
        self._hand_in(task)

    @precondition(lambda self: len(self.jobs) < 3)
    @rule(seed=st.integers(0, 99), slow_ms=st.sampled_from((0, 2, 10)))
    def submit_another(self, seed: int, slow_ms: int) -> None:
        self._hand_in(work.Task(os.urandom(16).hex(), work.RATE // 2, seed, f"slow={slow_ms} resumable"))

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99), seed=st.integers(0, 2**31 - 1))
    def retake(self, index: int, seed: int) -> None:
        sources = [told for told in self.jobs if not told.forgot]
        if sources:
            source = sources[index % len(sources)]
            assert source.task is not None
            changed = {"key": os.urandom(16).hex(), "of": source.job, "seed": seed}
            self._hand_in(work.Task(**{**work.to_map(source.task), **changed, "stems": ("mix",)}))

    def _hand_in(self, task: work.Task) -> None:
        try:
            reply = self.world.line.ask(task.request())
        except SegueError as error:
            assert self.full and error.code == "E_DISK_FULL", (
                f"submit was refused: {error.code} {error.message}"
            )
            return
        assert not reply.again and reply.seed == task.seed
        assert all(told.job != reply.job for told in self.jobs), f"job {reply.job} was given twice"
        told = checker.Told(reply.job)
        told.key, told.task = task.key, task
        self.jobs.append(told)

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99))
    def submit_again(self, index: int) -> None:
        """The same key and body: the same job, or E_JOB when it was forgotten."""
        for told in self._one(index):
            assert told.task is not None
            try:
                reply = self.world.line.ask(told.task.request())
                assert reply.again and reply.job == told.job and not told.forgot
            except SegueError as error:
                assert told.forgot and error.code == "E_JOB", f"{error.code} {error.message}"

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99), other=st.integers(1, 1000))
    def another_body(self, index: int, other: int) -> None:
        for told in self._one(index):
            assert told.task is not None
            changed = work.Task(
                **{**work.to_map(told.task), "seed": told.task.seed + other, "stems": ("mix",)}
            )
            try:
                reply = self.world.line.ask(changed.request())
                raise AssertionError(f"another body for the key of job {told.job} gave job {reply.job}")
            except SegueError as error:
                assert error.code in ("E_JOB" if told.forgot else "E_KEY_REUSE", "E_ARGUMENT"), error.code

    @rule(
        index=st.integers(0, 99), wait_ms=st.sampled_from((0, 50)), max_bytes=st.sampled_from((0, 1, 1 << 20))
    )
    def next(self, index: int, wait_ms: int, max_bytes: int) -> None:
        for told in self._one(index):
            self._ask_next(told, max(told.events, default=0), wait_ms, max_bytes)

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99))
    def next_from_the_beginning(self, index: int) -> None:
        for told in self._one(index):
            self._ask_next(told, 0, 0, 1 << 20)

    def _ask_next(self, told: checker.Told, after: int, wait_ms: int, max_bytes: int) -> bool:
        try:
            reply = self.world.line.ask(
                m.Next(job=told.job, after=after, wait_ms=wait_ms, max_bytes=max_bytes)
            )
        except SegueError as error:
            assert told.forgot and error.code == "E_JOB", f"next: {error.code} {error.message}"
            return True
        assert not told.forgot
        for event in reply.events:
            after += 1
            assert event.seq == after, f"event {event.seq} where {after} was due"
            found = checker.plain_event(event)
            assert told.events.setdefault(after, found) == found
            if isinstance(event, m.Audio) and event.block is not None and told.task is not None:
                place = (event.variation, event.stem, event.position, event.frames)
                assert bytes(event.block.data) == work.reference(told.task, *place), (
                    "samples of another place"
                )
        return self._ended(told)

    @staticmethod
    def _ended(told: checker.Told) -> bool:
        return bool(told.events) and told.events[max(told.events)][0] in checker.FINAL

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99))
    def cancel(self, index: int) -> None:
        for told in self._one(index):
            known = told.events[max(told.events)][0] if self._ended(told) else ""
            try:
                state = self.world.line.ask(m.Cancel(job=told.job)).state
            except SegueError as error:
                assert (told.forgot and error.code == "E_JOB") or (self.full and error.code == "E_DISK_FULL")
                return
            told.asked_cancel = True
            assert state in checker.FINAL and state in (known or state)
            told.cancel_state = told.cancel_state or state
            assert told.cancel_state == state

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99))
    def forget(self, index: int) -> None:
        for told in self._one(index):
            ended = self._ended(told) or bool(told.cancel_state)
            try:
                self.world.line.ask(m.Forget(job=told.job))
                told.forgot = told.asked_forget = True
            except SegueError as error:
                allowed = {"E_JOB"} if told.forgot or not ended else set()
                assert error.code in allowed | ({"E_DISK_FULL"} if self.full else set()), (
                    f"forget: {error.code}"
                )

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 99))
    def fetch(self, index: int) -> None:
        for told in self._one(index):
            if told.task is None or not self._ended(told) or told.forgot:
                continue
            done = told.events[max(told.events)][0] == "done"
            variation = index % told.task.variations
            try:
                reply = self.world.line.ask(m.Fetch(job=told.job, variation=variation))
                wanted = work.reference(told.task, variation, "mix", 0, told.task.frames)
                assert done and Path(reply.path).read_bytes()[58:] == wanted
            except SegueError as error:
                assert not done and error.code == "E_TAKE_MISSING", f"fetch: {error.code} {error.message}"

    def _one(self, index: int) -> list[checker.Told]:
        return [self.jobs[index % len(self.jobs)]] if self.jobs else []

    # ---- what happens to the daemon ----

    @precondition(lambda self: self.jobs and self.lives < 3)
    @rule(politely=st.booleans())
    def another_life(self, politely: bool) -> None:
        self.lives += 1
        if politely:
            assert self.world.house.stop() == 0, "the daemon did not stop politely"
        else:
            self.world.house.kill()
        self.world.report.count("restarts" if politely else "daemons killed")
        self._start()

    def _start(self) -> None:
        try:
            self.world.house.start()
        except AssertionError as error:
            said = str(error).strip()
            assert self.full and said and "Traceback" not in said, f"the start failed: {said[-500:]}"
            self._well()
            self.world.house.start()

    @precondition(lambda self: self.jobs)
    @rule()
    def kill_worker(self) -> None:
        for pid in self.world.house.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
                self.world.report.count("workers killed")

    @rule(release=st.booleans())
    def pause(self, release: bool) -> None:
        with contextlib.suppress(SegueError) if self.full else contextlib.nullcontext():
            self.world.line.ask(m.Pause(release=release))
            self.paused = True

    @rule()
    def resume(self) -> None:
        with contextlib.suppress(SegueError) if self.full else contextlib.nullcontext():
            self.world.line.ask(m.Resume())
            self.paused = False

    @precondition(lambda self: self.jobs and not self.full)
    @rule(left_bytes=st.sampled_from((0, 4096, 100_000)))
    def disk_fills(self, left_bytes: int) -> None:
        if self.world.shim is not None:
            self.world.shim.space_bytes = left_bytes
            self.full = True
            self.world.report.count("times the disk was full")

    @precondition(lambda self: self.full)
    @rule()
    def space_returns(self) -> None:
        self._well()

    def _well(self) -> None:
        if self.world.shim is not None:
            self.world.shim.space_bytes = -1
        self.full = False

    @precondition(lambda self: self.jobs)
    @rule(seconds=st.sampled_from((0.02, 0.1)))
    def time_passes(self, seconds: float) -> None:
        time.sleep(seconds)

    # ---- what must be so ----

    @invariant()
    def it_answers(self) -> None:
        self.world.report.count("steps")
        self.world.line.ask(m.Ping())

    def teardown(self) -> None:
        """All ends well once there is space and nobody pauses; then everything is forgotten."""
        if not hasattr(self, "jobs"):
            return
        self._well()
        self.world.line.ask(m.Resume())
        for told in self.jobs:
            by = time.monotonic() + END_S
            while not self._ask_next(told, max(told.events, default=0), 200, 1 << 20):
                assert time.monotonic() < by, f"job {told.job} does not end"
        judged = Report("model", 0)
        for told in self.jobs:
            if not told.forgot or self._ended(told):
                ended = checker.judge_events(told, judged, failures=True)
                self.world.report.count(f"jobs {ended}")
                if ended == "failed":
                    error: Any = told.events[max(told.events)][1]["error"]
                    assert error["code"] in ("E_DISK_FULL",), f"job {told.job} failed: {error}"
                assert ended != "cancelled" or told.asked_cancel
                assert not told.cancel_state or told.cancel_state == ended
        assert not judged.broken, judged.broken[:3]
        alive = {told.job for told in self.jobs if not told.forgot}
        assert {info.job for info in self.world.line.ask(m.List(limit=500)).jobs} == alive
        for job in alive:
            self.world.line.ask(m.Forget(job=job))


def run(scale: Scale, seed: int, folder: Path) -> Report:
    """20 examples in CI, 200 in a full run, of up to 30 steps, against the real process."""
    report = Report("model", seed)
    world = World(folder, report)
    machine = type("Machine", (Machine,), {"world": world})
    configuration = settings(
        max_examples=scale.pick(20, 200), stateful_step_count=30, deadline=None, print_blob=True,
        database=DirectoryBasedExampleDatabase(folder / "examples"),
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    try:
        from hypothesis import seed as seeded

        run_state_machine_as_test(seeded(seed)(machine), settings=configuration)
    except Exception as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        report.broken.append(f"{type(error).__name__}: {error}\n{notes}")
    finally:
        world.close()
    return report
