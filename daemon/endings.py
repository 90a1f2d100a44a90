"""What becomes of jobs whose worker ended, was refused or was ended: again or for good, in which words.

What the disk does not take is tried again by the job book, so that no job is ever left without a worker and
without a fate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from daemon import journal as rows
from daemon.config import Settings
from daemon.jobs import Job, JobBook
from daemon.metrics import Metrics
from daemon.quarantine import Quarantine
from daemon.workers.local import LocalWorker
from protocol.errors import SegueError

NEIGHBOUR = "a neighbour was cancelled hard"
_LOG = logging.getLogger("segue.pool")


def how(status: int | None) -> str:
    """An exit status in words."""
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


class Endings:
    """Owned by the pool. `refusals`: why a model could not be loaded last time, by name."""

    def __init__(
        self,
        book: JobBook,
        settings: Settings,
        metrics: Metrics,
        rest: Quarantine,
        make_way: Callable[[LocalWorker], bool],
    ) -> None:
        """`make_way`: ends idle workers beside one that ran out of memory; False when there was none."""
        self._book, self._settings, self._metrics, self._rest = book, settings, metrics, rest
        self._make_way = make_way
        self.refusals: dict[str, SegueError] = {}

    # ---- a model that cannot be had ----

    def fail_waiting(self, model: str, error: SegueError) -> None:
        """All queued jobs of a model fail with the same sentence."""
        self.refusals[model] = error
        for job in self._book.queued():
            if job.model == model:
                self._book.fail(job, _copy(error))

    # ---- a worker that ended ----

    def buried(self, worker: LocalWorker, status: int | None, now_s: float) -> None:
        """Its process is gone, asked or not; see to what it had aboard."""
        asked = worker.ending_since_s is not None and not worker.stalled
        self._metrics.count("worker_exits", reason="asked" if asked else "died")
        _LOG.log(
            logging.INFO if asked else logging.WARNING,
            "worker ended",
            extra={
                "worker": worker.name, "model": worker.model, "status": status, "asked": asked,
                "why": worker.why,
            },
        )  # fmt: skip
        cramped = _is_memory(worker)
        if not asked and not worker.slept and not cramped:
            self._rest.died(worker.model, now_s, self._cause(worker, status))
        if cramped:
            self._make_way(worker)
        for job_id, attempt in list(worker.aboard.items()):
            job = self._book.active.get(job_id)
            if job is None or job.state != rows.RUNNING or job.attempt != attempt:
                continue
            if not cramped:
                reason = "stalled" if worker.stalled else "asked" if asked else "died"
                self._metrics.count("requeues", reason=reason)
            if asked:
                self._book.requeue(job, worker.why or "its worker was stopped", forgiven=True)
            elif worker.slept:
                self._book.requeue(job, "the device was lost while the machine slept", forgiven=True)
            elif cramped:
                self._out_of_memory(job, SegueError.from_map(worker.broken), roomier=True)
            else:
                self._strike(job, worker, self._cause(worker, status))
        many = self._rest.lately(worker.model, now_s) >= self._settings.worker.attempts
        if not worker.loaded_s and not asked and many:
            said = self._cause(worker, status)
            message = f"The model {worker.model} could not be loaded: its process ended ({said})."
            self.fail_waiting(
                worker.model, SegueError("E_WORKER_DIED", message, retry="after", retry_ms=60_000)
            )

    def _cause(self, worker: LocalWorker, status: int | None) -> str:
        if worker.broken:
            return SegueError.from_map(worker.broken).message.rstrip(".")
        return worker.why if worker.stalled else how(status)

    def gave_up(self, job: Job, worker: LocalWorker, error: SegueError) -> None:
        """A worker could not do a job and lives on."""
        if error.code == "E_MEMORY":
            self._out_of_memory(job, error, roomier=self._make_way(worker) or bool(worker.aboard))
        else:
            self._book.fail(job, _copy(error))

    def _out_of_memory(self, job: Job, error: SegueError, *, roomier: bool) -> None:
        """Once more, alone, if that gives it more room: neighbours, idle models or a worker of memory in
        pieces are gone then. What is not enough after that never will be.
        """
        if roomier and not job.memory_retries:
            job.memory_retries += 1
            self._metrics.count("requeues", reason="memory")
            self._book.requeue(job, "the memory ran out; it is tried once more, alone", forgiven=True)
        else:
            self._book.fail(job, _copy(error))

    def _strike(self, job: Job, worker: LocalWorker, cause: str) -> None:
        """A job whose worker ended under it: again, or for good after the last attempt."""
        if worker.broken is not None:
            why = f"its worker met a fault ({cause})"
        else:
            why = "its worker stalled" if worker.stalled else f"its worker died ({cause})"
        if job.strikes >= self._settings.worker.attempts:
            code = "E_STALLED" if worker.stalled else "E_CRASH_LOOP"
            message = f"This job was tried {job.strikes} times and is given up: {why}."
            self._book.fail(job, SegueError(code, message, detail=f"attempts: {job.attempt}"))
        else:
            self._book.requeue(job, why, forgiven=False)


def _is_memory(worker: LocalWorker) -> bool:
    return bool(worker.broken) and SegueError.from_map(worker.broken).code == "E_MEMORY"


def _copy(error: SegueError) -> SegueError:
    """Each job gets an error of its own, because it will hold the job's number."""
    return SegueError.from_map(error.to_map())
