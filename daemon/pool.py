"""The worker processes: what they say, and when they are ended. Who gets which job is `dispatch`.

One model per worker. Giving memory back is ending a process. Called from the front-end's loop after every
turn (`turn`); nothing here waits.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from daemon import journal as rows
from daemon.config import Settings
from daemon.costs import CostEstimate
from daemon.disk import StorageError
from daemon.endings import NEIGHBOUR, Endings
from daemon.jobs import Job, JobBook
from daemon.ladder import KILL_AFTER_S, Ladder, Verdict
from daemon.memory import Memory
from daemon.metrics import Metrics
from daemon.quarantine import Quarantine
from daemon.workers.local import LocalWorker
from protocol.errors import SegueError

__all__ = ["KILL_AFTER_S", "Pool"]
AWAKE_S = 60.0  # after a sleep; so long a GPU may be absent without that being anybody's fault
GAP_S = 5.0  # a loop that comes round at least once a second was itself stopped for so long
_LOG = logging.getLogger("segue.pool")


class Pool:
    """Owns the workers: several on a device, as many as its memory holds."""

    def __init__(
        self,
        book: JobBook,
        costs: CostEstimate,
        memory: Memory,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._book, self.costs, self.memory = book, costs, memory
        self._settings, self._metrics = settings, metrics
        self.workers: list[LocalWorker] = []
        self.paused = False
        self.starting = True  # False: no queued job is started any more (a stop is under way)
        self.wanted: dict[str, float] = {}  # models that were asked for by `load`, with their keep-alive
        self.known: dict[str, dict[str, Any]] = {}  # what loaded models said about themselves, by name
        limits = settings.worker
        self.rest = Quarantine(limits.deaths, limits.backoff_s, limits.backoff_most_s)
        self.ladder = Ladder(limits)
        self.cramped: set[str] = set()  # models that ran out of memory while loading and are tried once more
        self._endings = Endings(book, settings, metrics, self.rest, self._make_way)
        self._woke_s = float("-inf")
        self._turned_s = time.monotonic()

    # ---- looking ----

    def free_name(self) -> str:
        """For a further worker; also its log's."""
        taken = {worker.name for worker in self.workers}
        return next(f"worker{n}" for n in range(len(taken) + 1) if f"worker{n}" not in taken)

    @property
    def refusals(self) -> dict[str, SegueError]:
        """Why a model could not be loaded last time, by name."""
        return self._endings.refusals

    def with_model(self, model: str) -> LocalWorker | None:
        """The worker that has (or is loading) a model and is not on its way out, else one that is."""
        found = [worker for worker in self.workers if worker.model == model]
        return min(found, key=lambda worker: worker.state == "ending", default=None)

    def worker_of(self, job: int) -> str | None:
        """The name of the worker that has a job aboard."""
        return next((worker.name for worker in self.workers if job in worker.aboard), None)

    def quarantined(self, model: str) -> bool:
        return self.rest.rests(model, time.monotonic())

    @property
    def busy(self) -> bool:
        """Whether the loop should come round often."""
        return any(
            worker.aboard or worker.state != "loaded" or worker.pending or worker.closed
            for worker in self.workers
        )

    def want(self, model: str, keep_alive_s: float) -> None:
        """A user asked for a model by name: whatever spoke against it before is tried again."""
        self.wanted[model] = keep_alive_s
        self.refusals.pop(model, None)
        self.rest.forgive(model)
        worker = self.with_model(model)
        if worker is not None:
            worker.keep_alive_s = keep_alive_s

    # ---- one turn ----

    def turn(self) -> None:
        """Read what workers said, see who died, end who must go, start what may start."""
        now = time.monotonic()
        if now - self._turned_s > GAP_S:
            self.woke(now - self._turned_s, suspended=False)
        self._turned_s = now
        for worker in list(self.workers):
            worker.flush()
            self._listen(worker)
            status = worker.poll()
            if status is not None:
                self._listen(worker)
                self._buried(worker, status, now)
        self._watch(now)
        self._judge_deadlines(now)

    def woke(self, slept_s: float, *, suspended: bool = True) -> None:
        """The machine slept, or this process was stopped: nobody is late for having slept too.

        After a true suspend a GPU may have lost what it held: the first end of a worker on one is the
        machine's fault, not the job's.
        """
        now = time.monotonic()
        _LOG.info("woke up", extra={"slept_s": round(slept_s, 1), "suspended": suspended})
        self.ladder.rest()
        self._woke_s = now if suspended else self._woke_s
        for worker in self.workers:
            worker.progressed_s = now
            worker.slept = suspended and str(worker.facts.get("device", "")).startswith("cuda")
            worker.dropping = dict.fromkeys(worker.dropping, now)
            if worker.state == "loading":
                worker.started_s += slept_s if not suspended else 0.0
        if not suspended:  # this clock went on while nobody here could work
            for job in self._book.active.values():
                if job.deadline_s is not None:
                    job.deadline_s += slept_s

    def _listen(self, worker: LocalWorker) -> None:
        for message in worker.receive():
            try:
                self._hear(worker, message)
            except StorageError as error:
                self._not_journaled(message, error)
            except (KeyError, TypeError, ValueError, AttributeError, SegueError):
                _LOG.exception("a worker said what nobody understands", extra={"worker": worker.name})
                worker.why, worker.stalled = "it said what nobody understands", True
                worker.kill()

    def _not_journaled(self, message: dict[str, Any], error: StorageError) -> None:
        """The disk did not take what a worker said about a job: end the job, with the space kept for that."""
        _LOG.error("a job's news could not be written", extra={"op": message["op"], "code": error.code})
        job = self._book.active.get(message.get("job", -1))
        if job is None:
            return
        attempt = job.attempt
        self._book.fail(job, error)
        self._drop(job.id, attempt, time.monotonic())

    def _hear(self, worker: LocalWorker, message: dict[str, Any]) -> None:
        op, now = message["op"], time.monotonic()
        job = self._book.active.get(message.get("job", -1))
        attempt = message.get("attempt")
        current = job if job is not None and job.attempt == attempt and job.state == rows.RUNNING else None
        if op == "loaded":
            self._loaded(worker, message, now)
        elif op == "broken":
            worker.broken = message["error"]
        elif op == "load_failed":
            self._load_failed(worker, SegueError.from_map(message["error"]), now)
        elif op == "progress":
            self._progress(worker, message, now)
        elif op == "audio" and current is not None:
            worker.progressed_s = now
            self._book.audio(current, attempt, message["chunks"], message.get("reached", (0, 0, 0)))  # type: ignore[arg-type]
            self._metrics.count("chunks", len(message["chunks"]))
            if not current.heard:
                current.heard = True
                self._metrics.observe("first_audio_seconds", now - current.since_s)
        elif op == "done":
            self._leave(worker, message, now)
            self.rest.succeeded(worker.model)
            if current is None:
                self._book.disown(message["job"])
            else:
                self._book.done(current, message["manifest"])
        elif op == "failed":
            self._leave(worker, message, now)
            if current is not None:
                self._endings.gave_up(current, worker, SegueError.from_map(message["error"]))
        elif op == "resume_refused":
            self._leave(worker, message, now)
            if current is not None:
                why = str(message["why"])
                self._book.requeue(current, why, forgiven=True, discard=True)
        elif op == "dropped":
            told_s = worker.dropping.get(message["job"])
            if told_s is not None:
                self._metrics.observe("cancel_seconds", now - told_s)
            self._leave(worker, message, now)

    def _loaded(self, worker: LocalWorker, message: dict[str, Any], now: float) -> None:
        if worker.state == "loading":
            worker.state = "loaded"
        worker.facts, worker.memory_bytes = message["model"], int(message["bytes"])
        worker.peak_bytes = int(message.get("peak_bytes", worker.memory_bytes))
        self.memory.loaded(worker)
        self.cramped.discard(worker.model)
        worker.idle_since_s = worker.progressed_s = worker.loaded_s = now
        self.known[worker.model] = worker.facts | {"memory_bytes": worker.memory_bytes}
        self.refusals.pop(worker.model, None)
        self.wanted.pop(worker.model, None)
        self._metrics.observe("load_seconds", float(message["load_s"]))
        _LOG.info("model loaded", extra={"model": worker.model, "seconds": message["load_s"]})

    def _progress(self, worker: LocalWorker, message: dict[str, Any], now: float) -> None:
        self.ladder.told(worker, int(message["steps"]), float(message["step_ms"]))
        worker.memory_bytes = int(message.get("bytes", worker.memory_bytes))
        worker.peak_bytes = max(worker.peak_bytes, int(message.get("peak_bytes", 0)))
        self.memory.grew(worker)
        for entry in message["jobs"]:
            job = self._book.active.get(entry["job"])
            if job is None or job.attempt != entry["attempt"] or job.state != rows.RUNNING:
                continue
            progress = job.progress
            state = "prefill" if entry["state"] == "waiting" else entry["state"]
            if self.ladder.moved(worker, job.id, (job.attempt, state, int(entry["step"]))):
                worker.progressed_s, worker.slept = now, False
            progress.state, progress.stamp_s = state, now
            # absolute and never backwards, so that a bar goes from 0 to 100 once
            progress.step, progress.steps = max(progress.step, entry["step"]), entry["steps"]
            progress.samples = max(progress.samples, entry["samples"])
            if progress.first_step is None and progress.step:
                progress.first_step = (now, progress.step)
        self._metrics.gauge("step_ms", float(message["step_ms"]))

    def _leave(self, worker: LocalWorker, message: dict[str, Any], now: float) -> None:
        job = message["job"]
        if worker.aboard.get(job) == message["attempt"]:
            del worker.aboard[job]
        worker.dropping.pop(job, None)
        worker.progressed_s = now
        if not worker.aboard:
            worker.idle_since_s = now

    # ---- endings ----

    def _load_failed(self, worker: LocalWorker, error: SegueError, now: float) -> None:
        """For good, but for two reasons: memory that others here can give back, and a GPU that is not awake
        yet.
        """
        worker.end()
        if error.code == "E_MEMORY" and worker.model not in self.cramped and self._make_way(worker):
            self.cramped.add(worker.model)
        elif now - self._woke_s < AWAKE_S and self.memory.pinned(worker.device) != worker.device:
            self.rest.died(worker.model, now, error.message.rstrip("."))
        else:
            self.refuse(worker.model, error)

    def refuse(self, model: str, error: SegueError) -> None:
        """A model cannot be had: those who wait for it are told, and so is whoever loads it."""
        self.wanted.pop(model, None)
        self.cramped.discard(model)
        self._endings.fail_waiting(model, error)

    def _make_way(self, worker: LocalWorker) -> bool:
        """A worker ran out of memory: idle ones beside it are ended. False: there is none."""
        idle = [
            other
            for other in self.workers
            if other is not worker
            and other.device == worker.device
            and other.state == "loaded"
            and not other.aboard
        ]
        for other in idle:
            self.unload(other, f"{worker.model} ran out of memory")
        return bool(idle)

    def _buried(self, worker: LocalWorker, status: int, now: float) -> None:
        self.workers.remove(worker)
        worker.close()
        self.ladder.gone(worker)
        self.memory.ended(worker)
        self._endings.buried(worker, status, now)
        if worker.model in self.refusals:
            self.wanted.pop(worker.model, None)

    def cancel(self, job: Job, why: str = "") -> None:
        """End a job; if a worker has it aboard its slot is free after the step in progress."""
        attempt, now, state = job.attempt, time.monotonic(), job.state
        self._book.cancel(job, why)
        self._metrics.count("cancels", state=state)
        self._drop(job.id, attempt, now)

    def put_back(self, job: Job, why: str) -> None:
        """Into the queue, through no fault of its own; its slot is free after the step in progress."""
        attempt = job.attempt
        self._metrics.count("requeues", reason="preempted")
        self._book.requeue(job, why, forgiven=True)
        self._drop(job.id, attempt, time.monotonic())

    def _drop(self, job: int, attempt: int, now: float) -> None:
        for worker in self.workers:
            told = job in worker.dropping
            if worker.aboard.get(job) == attempt and worker.ending_since_s is None and not told:
                worker.send({"op": "drop", "job": job, "attempt": attempt})
                worker.dropping[job] = now

    def unload(self, worker: LocalWorker, why: str) -> None:
        """End a worker between two steps; what it had aboard goes back into the queue."""
        worker.why = why
        self.wanted.pop(worker.model, None)
        worker.end()

    def pause(self, *, release: bool) -> None:
        self.paused = True
        for worker in self.workers:
            if release:
                self.unload(worker, "the GPU was given back")
            else:
                worker.send({"op": "pause"})

    def resume(self) -> None:
        self.paused = False
        now = time.monotonic()
        for worker in self.workers:
            worker.progressed_s = now
            worker.send({"op": "resume"})

    # ---- watching ----

    def _watch(self, now: float) -> None:
        for worker in self.workers:
            found = [self._book.active.get(job) for job in worker.aboard]
            aboard = [job for job in found if job is not None and job.state == rows.RUNNING]
            verdict = self.ladder.judge(
                worker, now, states={job.progress.state for job in aboard}, company=bool(aboard),
                paused=self.paused,
            )  # fmt: skip
            if verdict is not None:
                self._carry_out(worker, verdict)
            elif worker.state == "loaded" and not worker.aboard and not self._has_work_for(worker.model):
                if 0 <= worker.keep_alive_s <= now - worker.idle_since_s:
                    self.unload(worker, "it was idle")

    def _carry_out(self, worker: LocalWorker, verdict: Verdict) -> None:
        if verdict.cause == "cancel":
            worker.why = NEIGHBOUR
        elif verdict.cause != "stop":
            worker.why, worker.stalled = verdict.why, True
            self._metrics.count("stalls")
        _LOG.warning(
            "a worker is ended",
            extra={"worker": worker.name, "model": worker.model, "act": verdict.act, "why": verdict.why},
        )
        if verdict.act == "kill":
            worker.kill()
        else:
            worker.terminate()
        if verdict.cause == "load":  # the next load would take as long
            self.refuse(worker.model, SegueError("E_STALLED", f"{worker.model}: {verdict.why}."))

    def _has_work_for(self, model: str) -> bool:
        return not self.paused and self.starting and any(job.model == model for job in self._book.queued())

    def _judge_deadlines(self, now: float) -> None:
        for job in [*self._book.queued(), *self._book.running()]:
            if job.deadline_s is None:
                continue
            left = job.deadline_s - now
            waiting = job.state == rows.QUEUED
            made = job.progress.step / job.progress.steps if job.progress.steps else 0.0
            needs = (1 - made) * self.costs.seconds(job.model, job.audio_s, job.variations)
            hopeless = waiting and self.costs.known(job.model) and left < needs
            if left > 0 and not hopeless:
                continue
            message = (
                f"This job cannot be done before its deadline any more (it needs about {needs:.1f} s)."
                if left > 0
                else "This job's deadline has passed."
            )
            attempt = job.attempt
            self._book.fail(job, SegueError("E_DEADLINE", message))
            self._drop(job.id, attempt, now)
