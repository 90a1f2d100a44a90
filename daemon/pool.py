"""The worker processes: what they say, and when they are ended. Who gets which job is `dispatch`.

One worker per device, one model per worker. Giving memory back is ending a process. Called from the front-
end's loop after every turn (`turn`); nothing here waits.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

from daemon import journal as rows
from daemon.config import Settings
from daemon.jobs import Job, JobBook
from daemon.metrics import Metrics
from daemon.quarantine import Quarantine
from daemon.scheduler import CostEstimate, Scheduler
from daemon.workers.local import LocalWorker
from protocol.errors import SegueError

KILL_AFTER_S = 3.0
_LOG = logging.getLogger("segue.pool")


class Pool:
    """Owns the workers, in named places: one per device."""

    def __init__(
        self,
        book: JobBook,
        scheduler: Scheduler,
        costs: CostEstimate,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._book, self._scheduler, self.costs = book, scheduler, costs
        self._settings, self._metrics = settings, metrics
        self.places: dict[str, LocalWorker | None] = {
            f"worker{index}": None for index in range(len(settings.worker.devices))
        }
        self.paused = False
        self.starting = True  # False: no queued job is started any more (a stop is under way)
        self.wanted: dict[str, float] = {}  # models that were asked for by `load`, with their keep-alive
        self.known: dict[str, dict[str, Any]] = {}  # what loaded models said about themselves, by name
        self.refusals: dict[str, SegueError] = {}  # why a model could not be loaded last time
        self._quarantine = Quarantine(settings.worker.deaths)

    # ---- looking ----

    @property
    def workers(self) -> list[LocalWorker]:
        return [worker for worker in self.places.values() if worker is not None]

    def with_model(self, model: str) -> LocalWorker | None:
        """The worker that has (or is loading) a model and is not on its way out, else one that is."""
        found = [worker for worker in self.workers if worker.model == model]
        return min(found, key=lambda worker: worker.state == "ending", default=None)

    def quarantined(self, model: str) -> bool:
        return self._quarantine.rests(model, time.monotonic())

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
        self._quarantine.forgive(model)
        worker = self.with_model(model)
        if worker is not None:
            worker.keep_alive_s = keep_alive_s

    # ---- one turn ----

    def turn(self) -> None:
        """Read what workers said, see who died, end who must go, start what may start."""
        now = time.monotonic()
        for worker in self.workers:
            worker.flush()
            self._listen(worker)
            if worker.poll() is not None:
                self._listen(worker)
                self._buried(worker, now)
        self._watch(now)
        self._judge_deadlines(now)

    def _listen(self, worker: LocalWorker) -> None:
        for message in worker.receive():
            try:
                self._hear(worker, message)
            except (sqlite3.Error, OSError) as error:
                self._not_journaled(worker, message, error)
            except (KeyError, TypeError, ValueError, SegueError):
                _LOG.exception("a worker said what nobody understands", extra={"worker": worker.name})
                worker.kill()

    def _not_journaled(self, worker: LocalWorker, message: dict[str, Any], error: Exception) -> None:
        """The disk did not take what a worker said about a job: end the job, with the space kept for that."""
        _LOG.error("a job's news could not be written", extra={"op": message["op"]}, exc_info=error)
        job = self._book.active.get(message.get("job", -1))
        if job is None:
            return
        attempt = job.attempt
        self._book.free_reserve()
        self._book.fail(job, SegueError("E_DISK_FULL", "The disk filled up while this job was made."))
        self._drop(job.id, attempt, time.monotonic())

    def _hear(self, worker: LocalWorker, message: dict[str, Any]) -> None:
        op, now = message["op"], time.monotonic()
        job = self._book.active.get(message.get("job", -1))
        attempt = message.get("attempt")
        current = job if job is not None and job.attempt == attempt and job.state == rows.RUNNING else None
        if op == "loaded":
            worker.state, worker.facts, worker.memory_bytes = (
                "loaded",
                message["model"],
                int(message["bytes"]),
            )
            worker.idle_since_s = worker.progressed_s = now
            self.known[worker.model] = worker.facts | {"memory_bytes": worker.memory_bytes}
            self.refusals.pop(worker.model, None)
            self.wanted.pop(worker.model, None)
            self._metrics.observe("load_seconds", float(message["load_s"]))
            _LOG.info("model loaded", extra={"model": worker.model, "seconds": message["load_s"]})
        elif op == "broken":
            worker.broken = message["error"]
        elif op == "load_failed":
            self._load_failed(worker, SegueError.from_map(message["error"]))
        elif op == "progress":
            self._progress(worker, message, now)
        elif op == "audio" and current is not None:
            worker.progressed_s = now
            self._book.audio(current, attempt, message["chunks"])  # type: ignore[arg-type]
            self._metrics.count("chunks", len(message["chunks"]))
        elif op == "done":
            self._leave(worker, message["job"], now)
            if current is None:
                self._book.disown(message["job"])
            else:
                self._charge_exactly(current)
                self._book.done(current, message["manifest"])
        elif op == "failed":
            self._leave(worker, message["job"], now)
            if current is not None:
                self._charge_exactly(current)
                self._book.fail(current, SegueError.from_map(message["error"]))
        elif op == "dropped":
            self._leave(worker, message["job"], now)

    def _progress(self, worker: LocalWorker, message: dict[str, Any], now: float) -> None:
        for entry in message["jobs"]:
            job = self._book.active.get(entry["job"])
            if job is None or job.attempt != entry["attempt"] or job.state != rows.RUNNING:
                continue
            progress = job.progress
            state = "prefill" if entry["state"] == "waiting" else entry["state"]
            if (state, entry["step"]) != (progress.state, progress.step):
                worker.progressed_s = now
            progress.state, progress.stamp_s = state, now
            # absolute and never backwards, so that a bar goes from 0 to 100 once
            progress.step, progress.steps = max(progress.step, entry["step"]), entry["steps"]
            progress.samples = max(progress.samples, entry["samples"])
            if progress.first_step is None and progress.step:
                progress.first_step = (now, progress.step)
        self._metrics.gauge("step_ms", float(message["step_ms"]))

    def _leave(self, worker: LocalWorker, job: int, now: float) -> None:
        worker.aboard.pop(job, None)
        worker.dropping.pop(job, None)
        if not worker.aboard:
            worker.idle_since_s = now

    def _charge_exactly(self, job: Job) -> None:
        took = time.monotonic() - job.progress.begun_s
        self._scheduler.charge(job.session, took - job.charged_s)
        self.costs.learn(job.model, job.audio_s, job.variations, took)

    # ---- endings ----

    def _load_failed(self, worker: LocalWorker, error: SegueError) -> None:
        worker.end()
        self._fail_waiting(worker.model, error)

    def _fail_waiting(self, model: str, error: SegueError) -> None:
        self.refusals[model] = error
        self.wanted.pop(model, None)
        for job in self._book.queued():
            if job.model == model:
                self._book.fail(job, SegueError.from_map(error.to_map()))

    def _buried(self, worker: LocalWorker, now: float) -> None:
        """A process has ended, asked or not."""
        status = worker.poll()
        self.places[worker.name] = None
        worker.close()
        asked = worker.ending_since_s is not None
        self._metrics.count("worker_exits", reason="asked" if asked else "died")
        _LOG.log(
            logging.INFO if asked else logging.WARNING,
            "worker ended",
            extra={"worker": worker.name, "model": worker.model, "status": status, "asked": asked},
        )
        if not asked or worker.stalled:
            self._quarantine.died(worker.model, now)
        for job_id in list(worker.aboard):
            job = self._book.active.get(job_id)
            if job is None or job.state != rows.RUNNING or job.attempt != worker.aboard[job_id]:
                continue
            reason = "stalled" if worker.stalled else "asked" if asked else "died"
            self._metrics.count("requeues", reason=reason)
            if asked and not worker.stalled:
                self._book.requeue(job, worker.why or "its worker was stopped", forgiven=True)
            else:
                self._strike(job, worker, status)
        if worker.state == "loading" and not asked:
            if self._quarantine.lately(worker.model, now) >= self._settings.worker.attempts:
                message = f"The model {worker.model} could not be loaded: its process died ({_how(status)})."
                error = SegueError("E_WORKER_DIED", message, retry="after", retry_ms=60_000)
                self._fail_waiting(worker.model, error)

    def _strike(self, job: Job, worker: LocalWorker, status: int | None) -> None:
        """A job whose worker ended under it: again, or for good after the last attempt.

        Memory that was not enough for the job alone will not be enough the next time either.
        """
        broken = SegueError.from_map(worker.broken) if worker.broken else None
        if broken is not None:
            why = f"its worker met a fault ({broken.message})"
        else:
            why = "its worker stalled" if worker.stalled else f"its worker died ({_how(status)})"
        alone = len(worker.aboard) == 1
        if broken is not None and broken.code == "E_MEMORY" and alone:
            self._book.fail(job, broken)
        elif job.strikes >= self._settings.worker.attempts:
            code = "E_STALLED" if worker.stalled else "E_CRASH_LOOP"
            message = f"This job was tried {job.strikes} times and is given up: {why}."
            self._book.fail(job, SegueError(code, message, detail=f"attempts: {job.attempt}"))
        else:
            self._book.requeue(job, why, forgiven=False)

    def cancel(self, job: Job, why: str = "") -> None:
        """End a job; if a worker has it aboard its slot is free after the step in progress."""
        attempt, now = job.attempt, time.monotonic()
        self._book.cancel(job, why)
        self._drop(job.id, attempt, now)

    def _drop(self, job: int, attempt: int, now: float) -> None:
        for worker in self.workers:
            if worker.aboard.get(job) == attempt and worker.ending_since_s is None:
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
        limits = self._settings.worker
        for worker in self.workers:
            if worker.ending_since_s is not None:
                waited = now - worker.ending_since_s
                if waited > limits.cancel_grace_s + KILL_AFTER_S:
                    worker.kill()
                elif waited > limits.cancel_grace_s and not worker.terminated:
                    worker.terminate()
                continue
            stall_s = limits.load_timeout_s if worker.state == "loading" else limits.stall_s
            working = worker.state == "loading" or (worker.aboard and not self.paused)
            since = worker.started_s if worker.state == "loading" else worker.progressed_s
            if working and now - since > stall_s:
                worker.why, worker.stalled = "it made no progress", True
                _LOG.warning("worker stalled", extra={"worker": worker.name, "model": worker.model})
                worker.kill()
                if worker.state == "loading":
                    self._fail_waiting(
                        worker.model,
                        SegueError("E_STALLED", f"Loading {worker.model} took over {stall_s:g} s."),
                    )
            elif any(now - told > limits.cancel_grace_s for told in worker.dropping.values()):
                worker.why = "a neighbour's cancel was not heard in time"
                worker.terminate()
            elif worker.state == "loaded" and not worker.aboard and not self._has_work_for(worker.model):
                if 0 <= worker.keep_alive_s <= now - worker.idle_since_s:
                    self.unload(worker, "it was idle")

    def _has_work_for(self, model: str) -> bool:
        return not self.paused and self.starting and any(job.model == model for job in self._book.queued())

    def _judge_deadlines(self, now: float) -> None:
        for job in [found for found in self._book.active.values() if found.deadline_s is not None]:
            left = (job.deadline_s or 0.0) - now
            waiting = job.state == rows.QUEUED
            needs = self.costs.seconds(job.model, job.audio_s, job.variations)
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


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"signal {-status}"
    return f"exit status {status}"
