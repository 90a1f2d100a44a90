"""A state folder with one job of every kind in it, and what must be read from it whatever its bytes suffer.

Two takes that are done, one that was cancelled with audio, one under way (its worker was killed after some
chunks), one that waits, one that was forgotten. The daemon was paused when it was killed, so that a start
changes nothing until `resume`.
"""

from __future__ import annotations

import random
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import checker, work
from tests.chaos.line import Line, NoAnswer
from tests.chaos.report import Report
from tests.chaos.scripted import TYPED, Script
from tests.chaos.settings import known
from tests.daemon.house import House

SETTINGS = (
    "takes.chunk_s=0.05", "worker.attempts=100", "worker.deaths=1000", "worker.backoff_s=0.02",
    "worker.backoff_most_s=0.02", "life.drain_s=1", "life.crash_pause_s=0", "log.level=error",
)  # fmt: skip
DAMAGED = {"E_TAKE_DAMAGED", "E_TAKE_MISSING", "E_DISK"}
STEADY = ("job", "mode", "model", "text", "project", "priority", "seed", "variations", "stems", "rate",
          "channels", "frames", "created_ms")  # fmt: skip


class Shelf:
    """The folder, a copy of it to go back to, and the truth about its jobs."""

    def __init__(self, seed: int, report: Report) -> None:
        self.rng, self.report = random.Random(seed), report
        self.house = House(*known(*SETTINGS))
        self.kept, self.settled = self.house.folder / "kept", self.house.folder / "settled"
        self.line = Line(self.house.runtime)
        self.told: dict[str, checker.Told] = {}
        self.infos: dict[str, dict[str, Any]] = {}
        self.active: set[str] = set()
        self.forgotten: checker.Told | None = None
        self._fill()

    def _fill(self) -> None:
        self.house.start()
        script = Script(self.line, self.rng, self.report, "filling the shelf")
        frames = work.RATE // 8
        tasks = [
            work.Task(self._key(), frames, 11, "resumable"),
            work.Task(self._key(), frames, 12, "resumable", mode="generate", variations=2),
            work.Task(self._key(), 2 * work.RATE, 13, "slow=4 resumable"),
            work.Task(self._key(), frames, 14, "resumable"),
            work.Task(self._key(), 2 * work.RATE, 15, "slow=4 resumable", variations=2),
            work.Task(self._key(), frames, 16, "resumable", priority="batch"),
        ]
        jobs = []
        for index, task in enumerate(tasks):
            told = self._need(script.submit(task))
            jobs.append(told)
            if index in (0, 1, 3):
                script.follow(told)
            elif index in (2, 4):
                self._some_audio(told)
                if index == 2:
                    script.cancel(told)
        script.ask(m.Forget(job=jobs[3].job))
        self.forgotten = jobs[3]
        script.ask(m.Pause())
        for told in (jobs[0], jobs[1], jobs[2], jobs[4], jobs[5]):
            told.events = checker.ask_all(self.line, told.job)
            self.told[told.job] = told
            self.infos[told.job] = self.line.ask(m.Status(job=told.job)).info.to_map()
        self.active = {jobs[4].job, jobs[5].job}
        self.house.kill()
        for told in self.told.values():  # the kill adds events to what is under way; take it as it is then
            told.events = {seq: e for seq, e in told.events.items() if told.job not in self.active or seq < 6}
        shutil.copytree(self.house.state, self.kept)
        self.house.start()  # once more, politely: the log is written into the database, so its pages matter
        self.house.stop()
        shutil.copytree(self.house.state, self.settled)

    def _key(self) -> str:
        return self.rng.randbytes(16).hex()

    @staticmethod
    def _need(told: checker.Told | None) -> checker.Told:
        if told is None:
            raise RuntimeError("the shelf could not be filled")
        return told

    def _some_audio(self, told: checker.Told) -> None:
        after, by = 0, time.monotonic() + 20
        while after < 8 and time.monotonic() < by:
            reply = self.line.ask(m.Next(job=told.job, after=after, wait_ms=200))
            after = reply.events[-1].seq if reply.events else after

    def restore(self, *, settled: bool = False) -> None:
        """The folder as it was after a kill, or after a polite stop (no daemon runs)."""
        shutil.rmtree(self.house.state)
        shutil.copytree(self.settled if settled else self.kept, self.house.state)

    # ---- reading ----

    def read(self, where: str) -> set[str]:
        """Ask for everything; whatever is answered must be true. Returns what was refused as damaged."""
        refused: set[str] = set()
        for told in self.told.values():
            try:
                self._read_events(told, where)
            except SegueError as error:
                refused.add(self._refused(error, told, where))
            if told.job not in self.active and told.events[max(told.events)][0] == "done":
                refused |= self._read_files(told, where)
            try:
                info = self.line.ask(m.Status(job=told.job)).info.to_map()
                for name in STEADY:
                    if info.get(name) != self.infos[told.job].get(name):
                        self._wrong(
                            where, told, f"{name} is {info.get(name)}, not {self.infos[told.job].get(name)}"
                        )
            except SegueError as error:
                refused.add(self._refused(error, told, where))
        return refused - {""}

    def _wrong(self, where: str, told: checker.Told, sentence: str) -> None:
        self.report.count("served as good")
        self.report.broken.append(f"{where}: job {told.job}: {sentence}")

    def _refused(self, error: SegueError, told: checker.Told, where: str) -> str:
        if error.code not in DAMAGED:
            self.report.broken.append(f"{where}: job {told.job}: {error.code}: {error.message}")
        self.report.count("refused as damaged")
        return told.job

    def _read_events(self, told: checker.Told, where: str) -> None:
        """All events with their samples, and those of the truth that are missing."""
        after, seen = 0, set()
        task = told.task
        while task is not None:
            reply = self.line.ask(m.Next(job=told.job, after=after, max_bytes=self.rng.choice((1, 1 << 20))))
            for event in reply.events:
                after += 1
                found = checker.plain_event(event)
                wanted = told.events.get(after)
                if event.seq != after or (wanted is not None and wanted != found):
                    self._wrong(where, told, f"event {event.seq} is {found}, was {wanted}")
                if wanted is None and told.job not in self.active:
                    self._wrong(where, told, f"event {event.seq} {found} was not there before")
                if isinstance(event, m.Audio) and event.block is not None:
                    place = (event.variation, event.stem, event.position, event.frames)
                    if bytes(event.block.data) != work.reference(task, *place):
                        self._wrong(where, told, f"event {event.seq} has other samples")
                    self.report.count("samples compared", event.frames)
                seen.add(event.seq)
            if not reply.events:
                break
        missing = set(told.events) - seen
        if missing:
            self.report.broken.append(f"{where}: job {told.job}: events {sorted(missing)} are gone")

    def _read_files(self, told: checker.Told, where: str) -> set[str]:
        refused = set()
        task = told.task
        assert task is not None
        parts = [("take", 0, task.frames)] + ([("handle", task.first, -task.first)] if task.first else [])
        for variation, stem in task.voices:
            for part, position, frames in parts:
                wanted = work.reference(task, variation, stem, position, frames)
                try:
                    data = self._file(m.Fetch(job=told.job, variation=variation, stem=stem, part=part))
                except SegueError as error:
                    refused.add(self._refused(error, told, where))
                    continue
                if data is not None and data[58:] != wanted:
                    self._wrong(where, told, f"v{variation}.{stem}.{part}.wav has other samples")
        return refused

    def _file(self, request: m.Fetch) -> bytes | None:
        """A whole file, in one of three ways; None if a path's reader sees by the checksum that it is bad."""
        more = {
            "job": request.job,
            "variation": request.variation,
            "stem": request.stem,
            "part": request.part,
        }
        way = self.rng.choice(("path", "bytes", "pieces"))
        if way == "path":
            reply = self.line.ask(request)
            data = Path(reply.path).read_bytes()
            if zlib.crc32(data) != reply.crc:
                self.report.count("found by a reader's own checksum")
                return None
            return data
        found = b""
        step = 1 << 20 if way == "bytes" else 4096
        while True:
            reply = self.line.ask(m.Fetch(**more, as_="bytes", offset=len(found), max_bytes=step))
            found += bytes(reply.data)
            if len(found) >= reply.total_bytes or not reply.data:
                return found

    # ---- going on ----

    def same_keys(self, where: str) -> None:
        """Every key gives its own job again, and what was forgotten stays so."""
        script = Script(self.line, self.rng, self.report, where)
        for told in self.told.values():
            assert told.task is not None
            try:
                reply = self.line.ask(told.task.request())
                self.report.expect(
                    reply.job == told.job and reply.again, f"{where}: the key of {told.job} gives {reply.job}"
                )
            except SegueError as error:
                self._refused(error, told, where)
        assert self.forgotten is not None and self.forgotten.task is not None
        try:
            reply = self.line.ask(self.forgotten.task.request())
            self.report.broken.append(f"{where}: a forgotten key made job {reply.job}")
        except SegueError as error:
            self.report.expect(
                error.code == "E_JOB", f"{where}: a forgotten key: {error.code} {error.message}"
            )
        fresh = script.submit(work.Task(self._key(), 3000, 1, ""))
        if fresh is not None:
            top = max(map(int, (*self.told, self.forgotten.job)))
            self.report.expect(int(fresh.job) > top, f"{where}: a new job took the number {fresh.job}")

    def go_on(self, where: str) -> None:
        """What was under way and what waited come to their end: exactly, or with a typed error."""
        script = Script(self.line, self.rng, self.report, where)
        script.ask(m.Resume())
        for job in self.active:
            told = checker.Told(job)
            told.key, told.task = self.told[job].key, self.told[job].task
            ended = script.follow(told)
            if ended == "unreadable":
                self.report.count("under way: refused as damaged")
                continue
            checker.judge_events(told, self.report, failures=True)
            self.report.count(f"under way: {ended}")
            if ended == "failed":
                code = told.events[max(told.events)][1]["error"]["code"]
                self.report.expect(code in TYPED, f"{where}: job {job} failed with {code}")

    def answers(self, where: str) -> bool:
        try:
            self.line.ask(m.Ping(), 5.0)
            return True
        except (NoAnswer, SegueError) as error:
            self.report.broken.append(f"{where}: the daemon does not answer ({error!r})")
            return False

    def start(self, where: str) -> bool:
        """Start the daemon; False (and noted) when it does not come up."""
        (self.house.folder / "stderr").unlink(missing_ok=True)
        try:
            self.house.start()
        except AssertionError as error:
            self.report.broken.append(f"{where}: the daemon did not start: {str(error)[-300:]}")
            return False
        return self.answers(where)

    def close(self) -> None:
        self.line.close()
        self.house.close()
