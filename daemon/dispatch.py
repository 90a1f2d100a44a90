"""Who gets which job: the queue's order, slots, models that must come first.

A head of the queue that cannot start keeps its worker closed for those behind it, so that nobody small slips
past it for ever. Live jobs pass: their slot is kept free.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass

from daemon import journal as rows
from daemon.config import Settings
from daemon.disk import StorageError
from daemon.jobs import Job, JobBook
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.residency import Residency
from daemon.scheduler import Scheduler, Waiting
from daemon.workers.local import LocalWorker

AGAIN_S = 1.0  # after something could not be started because the disk was full
_ROOMY = 4  # slots from which on one more is kept from batch work
_LOG = logging.getLogger("segue.dispatch")


@dataclass
class _Begun:
    """An attempt under way. `whole`: it began at the beginning and nobody paused, so its time says what such
    a job costs.
    """

    job: Job
    attempt: int
    begun_s: float
    whole: bool


class Dispatcher:
    """Owned by the front-end's one thread."""

    def __init__(
        self,
        book: JobBook,
        pool: Pool,
        scheduler: Scheduler,
        residency: Residency,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._book, self._pool, self._scheduler, self._residency = book, pool, scheduler, residency
        self._settings, self._metrics = settings, metrics
        self._quiet_until_s = 0.0  # nothing is started before
        self._begun: dict[int, _Begun] = {}
        self._notes: dict[tuple[str, bool], str | None] = {}  # what models wait for, in this turn

    def turn(self) -> None:
        """Start what may start now, and see to it that the models come that are waited for."""
        now = time.monotonic()
        self._settle(now)
        if self._pool.paused:
            for begun in self._begun.values():
                begun.whole = False
            return
        if now < self._quiet_until_s:
            return
        self._scheduler.keep_only({job.session for job in self._book.active.values()})
        order = self._scheduler.order([self._waiting(job) for job in self._book.queued()], now)
        closed: set[str] = set()  # workers that start nothing more in this turn
        self._notes.clear()
        for index, waiting in enumerate(order):
            job = self._book.active.get(waiting.job)
            if job is None or job.state != rows.QUEUED:
                continue  # failed meanwhile with its model
            job.position = index
            if self._pool.starting and now >= self._quiet_until_s:
                self._place(job, waiting, closed, now)
        for model in list(self._pool.wanted):
            rests = self._pool.rest.waits_s(model, now) > 0
            if self._pool.starting and not rests and self._pool.with_model(model) is None:
                self._residency.bring(model, closed, live=False, now_s=now)

    def _waiting(self, job: Job) -> Waiting:
        """What is left of a job that goes on counts, not what is made already."""
        left = 1 - job.progress.step / job.progress.steps if job.progress.steps else 1.0
        cost_s = left * self._pool.costs.seconds(job.model, job.audio_s, job.variations)
        return Waiting(job.id, job.session, job.priority, job.since_s, cost_s)

    def _settle(self, now: float) -> None:
        """Attempts that are over: what they took is charged, and learnt from where it says something."""
        for begun in list(self._begun.values()):
            job = begun.job
            if job.state == rows.RUNNING and job.attempt == begun.attempt and job.id in self._book.active:
                continue
            took_s = now - begun.begun_s
            self._scheduler.finished(job.id, took_s)
            if job.state == rows.DONE and begun.whole:
                self._pool.costs.learn(job.model, job.audio_s, job.variations, took_s)
            del self._begun[job.id]

    def _place(self, job: Job, waiting: Waiting, closed: set[str], now: float) -> None:
        """Start a job, or see to it that its model comes."""
        worker = self._pool.with_model(job.model)
        reason = self._pool.rest.reason(job.model, now) if worker is None else None
        if reason is not None:
            self._say(job, reason, now)
        elif worker is not None and worker.state == "loaded":
            self._say(job, None, now)  # it waits for its turn, no longer for the model
            if self._has_its_share(worker, job):
                return  # others may pass: this session has enough aboard already
            passes = worker.name not in closed or job.priority == "live"
            if passes and self._fits(worker, job):
                self._start(worker, job, waiting, now)
            else:
                if job.priority == "live":
                    self._ask_for_slots(worker, job)
                closed.add(worker.name)
        elif worker is not None:
            self._say_loading(job, worker, now)
            closed.add(worker.name)
        else:
            note = self._bring(job.model, closed, live=job.priority == "live", now=now)
            if note is not None and job.state == rows.QUEUED:
                self._say(job, note, now)

    def _bring(self, model: str, closed: set[str], *, live: bool, now: float) -> str | None:
        """Asked once a turn for each model, however many jobs wait for it."""
        if (model, live) not in self._notes:
            self._notes[model, live] = self._residency.bring(model, closed, live=live, now_s=now)
        return self._notes[model, live]

    def _ask_for_slots(self, worker: LocalWorker, job: Job) -> None:
        """Batch jobs that can go on later to the bit make way for a live one, those that made least first."""
        aboard = [found for found in map(self._book.active.get, worker.aboard) if found is not None]
        if job.strikes or job.memory_retries or worker.dropping:
            return  # it goes alone, or slots are on their way already
        missing = sum(found.variations for found in aboard) + job.variations - self._settings.worker.slots
        batch = [found for found in aboard if found.priority == "batch" and found.state == rows.RUNNING]
        chosen: list[Job] = []
        for found in sorted(batch, key=lambda found: found.progress.step):
            if missing > 0 and self._can_go_on(found):
                chosen.append(found)
                missing -= found.variations
        for found in chosen if missing <= 0 else ():
            self._pool.put_back(found, "a live job needed its slot")

    def _can_go_on(self, job: Job) -> bool:
        try:
            return self._book.can_go_on(job)
        except StorageError:
            return False

    def _say(self, job: Job, note: str | None, now: float) -> None:
        """Why a queued job does not start; clients that wait hear of it once."""
        if (job.progress.state, job.progress.note) != ("queued", note):
            job.progress.state, job.progress.note, job.progress.stamp_s = "queued", note, now

    def _say_loading(self, job: Job, worker: LocalWorker, now: float) -> None:
        state, note = (
            ("loading", f"loading {job.model}") if worker.state == "loading" else ("queued", "making room")
        )
        if (job.progress.state, job.progress.note) != (state, note):
            job.progress.state, job.progress.note, job.progress.stamp_s = state, note, now

    def _fits(self, worker: LocalWorker, job: Job) -> bool:
        """Slots for all variations; one is kept for live work and, where there are many, one more from batch
        work. A job that a worker died under, or that ran out of memory, goes alone.
        """
        aboard = [found for found in map(self._book.active.get, worker.aboard) if found is not None]
        if not worker.aboard:
            return True
        alone = any(found.strikes > 1 or found.memory_retries for found in aboard)
        if job.strikes or job.memory_retries or alone:
            return False
        slots = self._settings.worker.slots
        kept = {"live": 0, "interactive": 1}.get(job.priority, 2 if slots >= _ROOMY else 1)
        taken = sum(found.variations for found in aboard) + (len(worker.aboard) - len(aboard))
        return taken + job.variations <= slots - kept

    def _has_its_share(self, worker: LocalWorker, job: Job) -> bool:
        """A session with its number of jobs aboard leaves the rest of the slots to others who wait or may
        come.
        """
        aboard = [found for found in map(self._book.active.get, worker.aboard) if found is not None]
        mine = sum(found.session == job.session for found in aboard)
        if mine < self._settings.queue.running_per_session or job.priority == "live":
            return False
        taken = sum(found.variations for found in aboard)
        others_wait = any(found.session != job.session for found in self._book.queued())
        return others_wait or taken + job.variations > self._settings.worker.slots // 2

    def _start(self, worker: LocalWorker, job: Job, waiting: Waiting, now: float) -> None:
        facts = worker.facts
        data = {"worker": worker.name, "model": facts["name"]}
        data |= {"device": facts["device"], "precision": facts["precision"]}
        try:
            before = [dataclasses.asdict(found) for found in self._book.to_go_on_from(job)]
            attempt = self._book.start(job, data)
        except StorageError as error:  # nothing began, and it is tried again
            self._quiet_until_s = now + AGAIN_S
            job.progress.note = error.message
            _LOG.error("an attempt could not be written down", extra={"job": job.id}, exc_info=error)
            return
        self._scheduler.started(waiting, now)
        self._begun[job.id] = _Begun(job, attempt, now, whole=not before)
        if not worker.aboard:
            worker.progressed_s = now
        worker.aboard[job.id] = attempt
        worker.keep_alive_s = self._pool.wanted.get(worker.model, worker.keep_alive_s)
        self._metrics.observe("wait_seconds", now - job.since_s)
        folders = self._folders(job.id)
        worker.send(
            {
                "op": "start", "job": job.id, "attempt": attempt, "spec": job.spec,
                "chunk_s": self._settings.takes.chunk_s, "resume": before, **folders,
            }
        )  # fmt: skip

    def _folders(self, job: int) -> dict[str, str]:
        return {"spool": str(self._book.spool_folder(job)), "takes": str(self._book.take_folder(job))}
