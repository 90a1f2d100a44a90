"""A host of the chaos suite: a DAW that keeps its keys in a file, resends, and writes down all that it saw.

It runs in a process of its own and is killed like the daemon is; its next life goes on from the file. The
file's lines are the history that `checker` judges: {"t", "what": "submit" | "ack" | "event" | "cancel" |
"cancel answered" | "fetched" | "forget" | "forgot" | "refused" | "nothing" | "paused" | "wrong", …}.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import zmq

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import work
from tests.chaos.line import Line, NoAnswer

POINTS = (
    "submit noted", "submit answered", "events received", "events noted", "credit given", "cancel answered",
    "fetch answered", "forget noted", "forget answered",
)  # fmt: skip
CREDIT = 4_194_304


class Known:
    """What the host knows of one of its jobs."""

    def __init__(self, task: work.Task) -> None:
        self.task = task
        self.job = ""
        self.last = 0
        self.cancelled = self.ended = self.fetched = self.forgotten = False
        self.final = ""
        self.attached = -1  # the line's generation
        rng = random.Random(task.key)
        self.cancel_at = rng.randint(0, 6) if rng.random() < 0.2 else None  # after so many events

    @property
    def settled(self) -> bool:
        return self.ended and (self.fetched or self.final != "done")


class Host:
    """One life of a host."""

    def __init__(self, folder: Path, runtime: Path, name: str, seed: int, *, model: str, push: bool) -> None:
        self._path = folder / f"{name}.jsonl"
        self._rng = random.Random(f"{seed} {name} {time.time_ns()}")
        self._session, self._project = name.encode().ljust(16, b".")[:16], f"song of {name}"
        self._model = model
        self._known: dict[str, Known] = {}
        self._by_job: dict[str, Known] = {}
        self._die_at: tuple[str, int] | None = None
        self._stop = folder / "stop"
        for line in self._path.read_bytes().splitlines() if self._path.exists() else []:
            self._remember(json.loads(line))
        self._out = self._path.open("ab", buffering=0)
        self._line = Line(runtime)
        self._push = Line(runtime, zmq.DEALER) if push else None

    def die_at(self, point: str, time_at_it: int) -> None:
        self._die_at = (point, time_at_it)

    def _point(self, name: str) -> None:
        if self._die_at is None or self._die_at[0] != name:
            return
        self._die_at = (name, self._die_at[1] - 1)
        if self._die_at[1] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, what: str, **more: Any) -> None:
        """One line, in one write: a killed process leaves whole lines."""
        entry = {"t": time.time(), "what": what, **more}
        self._out.write(json.dumps(entry).encode() + b"\n")
        self._remember(entry)

    def _remember(self, entry: dict[str, Any]) -> None:
        what = entry["what"]
        if what == "submit":
            self._known[entry["key"]] = Known(work.from_map(entry["task"]))
        elif what == "ack":
            known = self._known[entry["key"]]
            known.job = entry["job"]
            self._by_job[known.job] = known
        elif what in ("event", "cancel", "fetched", "forget", "forgot"):
            known = self._by_job[entry["job"]]
            if what == "event":
                known.last = max(known.last, entry["seq"])
                if entry["kind"] in ("done", "failed", "cancelled"):
                    known.ended, known.final = True, entry["kind"]
            known.cancelled |= what == "cancel"
            known.fetched |= what == "fetched"
            known.forgotten |= what in ("forget", "forgot")

    # ---- one life ----

    def run(self) -> None:
        """Until the file "stop" is there and everything that was begun has come to its end."""
        kept = [known for known in self._known.values() if not known.forgotten]
        for known in kept:  # after a crash a host sends again whatever it is not sure of, and some more
            if not known.settled or self._rng.random() < 3 / len(kept):
                self._submit(known)
        while True:
            stopping = self._stop.exists()
            live = [known for known in self._known.values() if not known.settled]
            if stopping and not live:
                break
            try:
                if len(live) < 3 and not stopping:
                    self._new()
                for known in live:
                    self._follow(known)
                if self._push is not None:
                    self._listen(0.05)
            except NoAnswer:
                self._note("nothing")
                self._unpause()
            except SegueError as error:
                self._note("refused", code=error.code, message=error.message)
                time.sleep(0.02)
        self._line.close()
        if self._push is not None:
            self._push.close()

    def _unpause(self) -> None:
        """A daemon that came back paused is told to go on, as its user would do."""
        try:
            if self._line.ask(m.Ping()).paused:
                self._note("paused")
                self._line.ask(m.Resume())
        except NoAnswer:
            pass

    def _new(self) -> None:
        task = work.draw(self._rng, self._model)
        done = [known for known in self._known.values() if known.final == "done" and not known.forgotten]
        if done and self._rng.random() < 0.15:
            source = self._rng.choice(done)
            base = source.task
            task = work.Task(
                key=task.key, frames=base.frames, seed=task.seed, text=base.text, mode=base.mode,
                variations=task.variations, stems=base.stems, priority=base.priority, model=base.model,
                of=source.job,
            )  # fmt: skip
        self._note("submit", key=task.key, task=work.to_map(task))
        self._point("submit noted")
        self._submit(self._known[task.key])

    def _submit(self, known: Known) -> None:
        """Until it is acknowledged: a host does not give a take up."""
        task = known.task
        request = task.request(self._session, self._project)
        while True:
            try:
                reply = self._line.ask(request)
                if self._rng.random() < 0.1:
                    reply = self._line.ask(request)  # sent twice by a nervous host
                break
            except NoAnswer:
                self._note("nothing", key=task.key)
                self._unpause()
            except SegueError as error:
                self._note("refused", key=task.key, code=error.code, message=error.message)
                time.sleep(0.05)
                if self._stop.exists() and known.job == "":
                    raise
        self._point("submit answered")
        self._note("ack", key=task.key, job=reply.job, again=reply.again, seed=reply.seed)

    # ---- following ----

    def _follow(self, known: Known) -> None:
        if not known.job:
            self._submit(known)
        if known.ended:
            self._fetch(known)
            return
        if known.cancel_at is not None and known.last >= known.cancel_at and not known.cancelled:
            self._cancel(known)
        if self._push is None:
            after = known.last
            again = self._rng.random() < 0.05
            reply = self._line.ask(
                m.Next(
                    job=known.job,
                    after=0 if again else after,
                    max_bytes=self._rng.choice((0, 1, 65_536, 1_048_576)),
                    wait_ms=self._rng.choice((0, 10, 100)),
                )
            )
            self._point("events received")
            self._take(known, reply.events, after=0 if again else after)
        elif known.attached != self._push.generation or not self._push.same:
            self._push.ask(m.Attach(job=known.job, after=known.last, credit=CREDIT))
            known.attached = self._push.generation

    def _listen(self, wait_s: float) -> None:
        """Pushes that have come, and those that come in time."""
        push = self._push
        if push is None or not push.same:
            return
        by = time.monotonic() + wait_s
        try:
            while time.monotonic() < by:
                found = push.receive(by)
                if isinstance(found, tuple):
                    push.pushed.append(found)
        except NoAnswer:
            pass
        while push.pushed:
            job, what = push.pushed.pop(0)
            known = self._by_job.get(job)
            if known is None or not isinstance(what, m.Event) or known.ended:
                continue
            self._point("events received")
            self._take(known, [what], after=known.last if what.seq > known.last else what.seq - 1)
            if isinstance(what, m.Audio) and what.block is not None:
                self._credit(known, what.format.total_bytes)

    def _credit(self, known: Known, count: int) -> None:
        assert self._push is not None
        try:
            self._push.ask(m.Credit(job=known.job, bytes_=count, after=known.last))
        except SegueError as error:
            if error.code != "E_JOB":  # the job has said its last word, which is on its way
                raise
        self._point("credit given")

    def _take(self, known: Known, events: Any, after: int) -> None:
        """Look at events, the samples above all, and write them down."""
        for event in events:
            after += 1
            if event.seq != after:
                self._note("wrong", job=known.job, why=f"event {event.seq} came where {after} was due")
                after = event.seq
            if isinstance(event, m.Audio) and event.block is not None:
                self._compare(known, event)
            data = event.to_map()
            for name in ("event", "seq", "payload"):
                data.pop(name, None)
            self._note("event", job=known.job, seq=event.seq, kind=event.event, data=data)
        if events:
            self._point("events noted")

    def _compare(self, known: Known, event: m.Audio) -> None:
        wanted = work.reference(known.task, event.variation, event.stem, event.position, event.frames)
        assert event.block is not None
        if bytes(event.block.data) != wanted:
            self._note("wrong", job=known.job, why=f"event {event.seq} has samples of another place")

    # ---- the end of a job ----

    def _fetch(self, known: Known) -> None:
        if known.final != "done" or known.fetched:
            return
        task = known.task
        parts = [("take", 0, task.frames)] + ([("handle", task.first, -task.first)] if task.first else [])
        for variation, stem in task.voices:
            for part, position, frames in parts:
                data = self._file(known.job, variation, stem, part)
                wanted = work.reference(task, variation, stem, position, frames)
                if data[58:] != wanted:
                    self._note("wrong", job=known.job, why=f"v{variation}.{stem}.{part}.wav is not its audio")
        self._point("fetch answered")
        self._note("fetched", job=known.job)
        if self._rng.random() < 0.3:
            self._note("forget", job=known.job)
            self._point("forget noted")
            self._forget(known)

    def _file(self, job: str, variation: int, stem: str, part: str) -> bytes:
        as_ = self._rng.choice(("path", "bytes"))
        reply = self._line.ask(m.Fetch(job=job, variation=variation, stem=stem, part=part, as_=as_))
        if as_ == "path":
            return Path(reply.path).read_bytes()
        found = bytes(reply.data)
        while len(found) < reply.total_bytes:
            more = m.Fetch(job=job, variation=variation, stem=stem, part=part, as_="bytes", offset=len(found))
            found += bytes(self._line.ask(more).data)
        return found

    def _cancel(self, known: Known) -> None:
        self._note("cancel", job=known.job)
        while True:
            try:
                reply = self._line.ask(m.Cancel(job=known.job))
                break
            except NoAnswer:
                self._note("nothing", job=known.job)
                self._unpause()
        self._point("cancel answered")
        self._note("cancel answered", job=known.job, state=reply.state)

    def _forget(self, known: Known) -> None:
        while True:
            try:
                self._line.ask(m.Forget(job=known.job))
                break
            except NoAnswer:
                continue
            except SegueError as error:
                if error.code == "E_JOB":  # forgotten already: the answer of the first time was lost
                    break
                raise
        self._point("forget answered")
        self._note("forgot", job=known.job)
