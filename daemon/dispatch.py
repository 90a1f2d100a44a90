"""Who gets which job: the queue's order, slots, models that must come first.

A head of the queue that cannot start keeps its worker closed for those behind it, so that nobody small slips
past it for ever.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from daemon import journal as rows
from daemon.config import Settings
from daemon.disk import StorageError
from daemon.jobs import Job, JobBook
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.scheduler import Scheduler, Waiting
from daemon.workers.local import LocalWorker

AGAIN_S = 1.0  # after something could not be started for want of disk or processes
SHARE = 2  # jobs of one session that run at once while others might want to
_LOG = logging.getLogger("segue.dispatch")


class Dispatcher:
    """Owned by the front-end's one thread. `spawn` starts a worker: (name, model, device) -> LocalWorker."""

    def __init__(
        self,
        book: JobBook,
        pool: Pool,
        scheduler: Scheduler,
        settings: Settings,
        metrics: Metrics,
        spawn: Callable[[str, str, str], LocalWorker],
    ) -> None:
        self._book, self._pool, self._scheduler = book, pool, scheduler
        self._settings, self._metrics, self._spawn = settings, metrics, spawn
        self._devices = dict(zip(pool.places, settings.worker.devices, strict=True))
        self._quiet_until_s = 0.0  # nothing is started before

    def turn(self) -> None:
        """Start what may start now, and see to it that the models come that are waited for."""
        now = time.monotonic()
        if self._pool.paused or now < self._quiet_until_s:
            return
        queued = self._book.queued()
        self._scheduler.keep_only({job.session for job in self._book.active.values()})
        order = self._scheduler.order(
            [Waiting(job.id, job.session, job.priority, job.since_s) for job in queued], now
        )
        closed: set[str] = set()  # places that start nothing more in this turn
        for index, waiting in enumerate(order):
            job = self._book.active.get(waiting.job)
            if job is None or job.state != rows.QUEUED:
                continue  # failed meanwhile with its model
            job.position = index
            if self._pool.starting:
                self._place(job, closed, now)
        for model, keep_alive_s in list(self._pool.wanted.items()):
            rests = self._pool.rest.waits_s(model, now) > 0
            if self._pool.starting and not rests and self._pool.with_model(model) is None:
                self._make_room(model, closed, keep_alive_s)

    def _place(self, job: Job, closed: set[str], now: float) -> None:
        """Start a job, or see to it that its model comes."""
        worker = self._pool.with_model(job.model)
        reason = self._pool.rest.reason(job.model, now) if worker is None else None
        if reason is not None:
            self._say(job, reason, now)
        elif worker is not None and worker.state == "loaded":
            if self._has_its_share(worker, job):
                return  # others may pass: this session has enough aboard already
            if worker.name not in closed and self._fits(worker, job):
                self._start(worker, job, now)
            else:
                closed.add(worker.name)
        elif worker is not None:
            self._say_loading(job, worker, now)
            closed.add(worker.name)
        elif not self._make_room(job.model, closed, self._pool.wanted.get(job.model)):
            self._say(job, "waiting for a device", now)

    def _say(self, job: Job, note: str, now: float) -> None:
        """Why a queued job does not start; clients that wait hear of it once."""
        if job.progress.note != note:
            job.progress.state, job.progress.note, job.progress.stamp_s = "queued", note, now

    def _say_loading(self, job: Job, worker: LocalWorker, now: float) -> None:
        state, note = (
            ("loading", f"loading {job.model}") if worker.state == "loading" else ("queued", "making room")
        )
        if job.progress.state != state:
            job.progress.state, job.progress.note, job.progress.stamp_s = state, note, now

    def _fits(self, worker: LocalWorker, job: Job) -> bool:
        """Slots for all variations (one is kept for live work); a job that a worker died under goes alone."""
        aboard = [found for found in map(self._book.active.get, worker.aboard) if found is not None]
        if not worker.aboard:
            return True
        if job.strikes or any(found.strikes > 1 for found in aboard):
            return False
        reserve = 0 if job.priority == "live" else 1
        taken = sum(found.variations for found in aboard) + (len(worker.aboard) - len(aboard))
        return taken + job.variations <= self._settings.worker.slots - reserve

    def _has_its_share(self, worker: LocalWorker, job: Job) -> bool:
        """A session with two jobs aboard leaves the rest of the slots to others who wait or may come."""
        aboard = [found for found in map(self._book.active.get, worker.aboard) if found is not None]
        if sum(found.session == job.session for found in aboard) < SHARE or job.priority == "live":
            return False
        taken = sum(found.variations for found in aboard)
        others_wait = any(found.session != job.session for found in self._book.queued())
        return others_wait or taken + job.variations > self._settings.worker.slots // 2

    def _start(self, worker: LocalWorker, job: Job, now: float) -> None:
        facts = worker.facts
        before = [dataclasses.asdict(found) for found in self._book.to_go_on_from(job)]
        data = {"worker": worker.name, "model": facts["name"]}
        data |= {"device": facts["device"], "precision": facts["precision"]}
        try:
            attempt = self._book.start(job, data)
        except StorageError as error:  # a full disk: nothing began, and it is tried again
            self._quiet_until_s = now + AGAIN_S
            job.progress.note = error.message
            _LOG.error("an attempt could not be written down", extra={"job": job.id}, exc_info=error)
            return
        job.charged_s = self._pool.costs.seconds(job.model, job.audio_s, job.variations)
        self._scheduler.charge(job.session, job.charged_s)
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

    def _make_room(self, model: str, closed: set[str], keep_alive_s: float | None) -> bool:
        """Start a worker with this model on a free device, or end an idle one for it. True
        when it is coming.
        """
        for name, worker in self._pool.places.items():
            if worker is None and name not in closed:
                try:
                    fresh = self._spawn(name, model, self._devices[name])
                except OSError as error:  # no descriptors, no processes, no log file: as if it had died
                    self._pool.rest.died(model, time.monotonic(), f"no process could be started: {error}")
                    return True
                fresh.keep_alive_s = (
                    self._settings.worker.keep_alive_s if keep_alive_s is None else keep_alive_s
                )
                self._pool.places[name] = fresh
                closed.add(name)
                self._metrics.count("worker_starts")
                _LOG.info("worker started", extra={"worker": name, "model": model, "pid": fresh.pid})
                return True
        for worker in self._pool.workers:
            if worker.state == "loaded" and not worker.aboard and worker.name not in closed:
                worker.why = f"room was needed for {model}"
                worker.end()
                closed.add(worker.name)
                return True
        # All at work: the first that is not spoken for finishes what it has and takes nothing new.
        for worker in self._pool.workers:
            if worker.name not in closed:
                closed.add(worker.name)
                break
        return False
