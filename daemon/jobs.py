"""The jobs: one state machine over the journal, and what is known about the ones that are under way.

    queued -> running -> done | failed | cancelled
      ^          |
      +- requeued+   (a worker died, a stop, a pause that gives memory back)

Everything that comes in or starts is durable before it returns, or refused with `StorageError` and nothing
has changed. What has happened to a job (its end, its way back into the queue) cannot be refused: when the
disk does not take it, it is journaled with the space kept for that, or tried every turn until it is there.
Whoever wants to hear of news registers one listener; it is called with the job's id after the commit.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from daemon import history, tokens
from daemon import journal as rows
from daemon.config import Settings
from daemon.disk import StorageError
from daemon.job import UNSETTLED, Job, Progress
from daemon.journal import EventRow, JobRow, Journal, NewEvent
from daemon.takes import TakeStore
from protocol.errors import SegueError
from protocol.events import Tick
from protocol.submit import Submit

_KEEP_S = 5.0  # how often the space for bad times is looked after
_RETRY_S = 0.25  # between two tries to journal what the disk refused
_LOG = logging.getLogger("segue.jobs")


def fairness_key(submit: Submit) -> bytes:
    """Whose turn a job takes: the session if the host named one, else its project."""
    return submit.session or (submit.project or "").encode()


class JobBook:
    """All jobs. Owned by the front-end's one thread."""

    def __init__(self, journal: Journal, takes: TakeStore, settings: Settings) -> None:
        self._journal, self._takes, self._settings = journal, takes, settings
        self.active: dict[int, Job] = {}
        self.listener: Callable[[int], None] = lambda job: None
        self.ended: Callable[[Job, str], None] = lambda job, state: None
        self._owed: dict[int, Callable[[], None]] = {}  # what could not be journaled yet, by job
        self._retry_s = 0.0
        self._kept_s = time.monotonic()
        now = time.monotonic()
        for row in journal.active():
            self._remember(row, now)

    def recover(self) -> list[int]:
        """At start: what ran when the last daemon ended goes back into the queue. Returns those jobs."""
        found = [job for job in self.active.values() if job.state == rows.RUNNING]
        for job in found:
            self.requeue(job, "the daemon was restarted", forgiven=False)
        return [job.id for job in found]

    def _remember(self, row: JobRow, now_s: float) -> Job:
        deadline_ms = row.spec["request"].get("deadline_ms")
        session = row.spec.get("turn", row.session)
        job = Job(
            row.id, session, row.priority, row.model, row.spec, row.state, row.attempt, row.strikes,
            row.last_seq, row.need_bytes, now_s, None if deadline_ms is None else now_s + deadline_ms / 1000,
        )  # fmt: skip
        job.progress.stamp_s = now_s
        job.void_attempts = history.void_attempts(self._journal, row)
        progress = job.progress
        progress.step, progress.steps, progress.samples = history.reached(self._journal, row)
        self.active[row.id] = job
        return job

    def welcome(self, row: JobRow) -> None:
        """A new job is durable (see `intake`)."""
        job = self._remember(row, time.monotonic())
        job.position = len(self.queued()) - 1
        self._takes.space.recount(row.id)
        self.listener(row.id)

    # ---- under way ----

    def start(self, job: Job, data: dict[str, Any]) -> int:
        """Count the attempt and announce it; the worker hears of it after this."""
        self._takes.drop_take(job.id)
        self._takes.drop_attempts(job.id, until=job.void_attempts)
        self._takes.space.renew(job.id, job.need_bytes)
        job.attempt, row = self._journal.start(job.id, data)
        job.strikes += 1
        job.state, job.last_seq = rows.RUNNING, row.seq
        job.progress = job.progress.kept("prefill")
        job.progress.begun_s = job.progress.stamp_s
        self.listener(job.id)
        return job.attempt

    def audio(
        self, job: Job, attempt: int, chunks: Sequence[dict[str, Any]], reached: Sequence[int] = (0, 0, 0)
    ) -> None:
        """Chunks that the worker has put on the disk become events, all in one transaction. `reached`: step,
        steps and samples then, so that a bar does not go back when the daemon is started again.
        """
        events = [
            NewEvent(
                "audio",
                {"attempt": attempt, **{name: chunk[name] for name in _AUDIO_FIELDS}, "reached": [*reached]},
                place=chunk["place"],
                bytes=chunk["bytes"],
            )
            for chunk in chunks
        ]
        try:
            made = self._journal.append(job.id, events)
        except StorageError:  # others filled the disk: this job has room of its own for the journal's words
            self._takes.space.lend(job.id)
            made = self._journal.append(job.id, events)
        job.last_seq = made[-1].seq
        self.listener(job.id)

    def to_go_on_from(self, job: Job) -> list[history.Announced]:
        """The attempts whose audio counts, for the next one to continue; none before the first audio."""
        return history.announced(self._journal, job.id)

    def can_go_on(self, job: Job) -> bool:
        """Whether the next attempt could continue this one to the bit; raises `StorageError`."""
        folder = self._takes.spool_folder(job.id)
        attempts = self.to_go_on_from(job)
        return all(tokens.can_be_continued(folder / f"{found.attempt}.pcm") for found in attempts)

    def requeue(self, job: Job, why: str, *, forgiven: bool, discard: bool = False) -> None:
        """Back into the queue. With `discard`, and where an attempt left no tokens to go on from, all audio
        so far is void (nothing is ever spliced in silence). Else the audio stays, with whatever else its
        attempts left in the spool, and the next attempt goes on exactly where this one stopped.
        """
        if job.state == UNSETTLED:
            return

        def back() -> None:
            void = discard or not self.can_go_on(job)
            data = {"why": why} | ({"discard_from": -job.handle_frames} if void else {})
            row = self._journal.requeue(job.id, data, forgiven=forgiven, discard=void)
            job.state, job.last_seq = rows.QUEUED, row.seq
            job.strikes -= int(forgiven and job.strikes > 0)
            job.progress = Progress(stamp_s=time.monotonic()) if void else job.progress.kept("queued")
            if void:
                job.void_attempts = job.attempt
                self._takes.drop_attempts(job.id, until=job.attempt)
            self._takes.space.keep_reserve()
            self.listener(job.id)

        self._durably(job, back)

    def done(self, job: Job, manifest: dict[str, Any]) -> None:
        self._finish(job, rows.DONE, NewEvent("done", {"manifest": manifest}))

    def disown(self, job: int) -> None:
        """A worker finished what was cancelled meanwhile: its files belong to no take."""
        known = self.active.get(job)
        if known is None or known.state != UNSETTLED:
            with contextlib.suppress(SegueError, KeyError):
                if self._journal.job(job).state != rows.DONE:
                    self._takes.drop_take(job)
                    self._takes.space.recount(job)

    def fail(self, job: Job, error: SegueError) -> None:
        error.job = str(job.id)
        if error.retry != "never":  # what could be sent again as it is has failed for good under this key
            error.retry = "new_key"
        self._finish(job, rows.FAILED, NewEvent("failed", {"error": error.to_map()}))

    def cancel(self, job: Job, why: str = "") -> None:
        """Durable at once, if the disk lets it; a worker that still has the job aboard is told separately
        and its audio no longer counts.
        """
        self._finish(job, rows.CANCELLED, NewEvent("cancelled", {"why": why}))

    def _finish(self, job: Job, state: str, event: NewEvent) -> None:
        if job.state == UNSETTLED:
            return
        was_running, job.cancelling = job.state == rows.RUNNING, state == rows.CANCELLED

        def end() -> None:
            row = self._journal.finish(job.id, state, event)
            self._end(job, state, row, was_running)

        self._durably(job, end)

    def free_reserve(self) -> None:
        """Give back the space that is kept for saying that there is none."""
        self._takes.space.free_reserve()

    def _end(self, job: Job, state: str, row: EventRow, was_running: bool) -> None:
        job.state, job.last_seq = state, row.seq
        del self.active[job.id]
        if state == rows.DONE:
            self._takes.drop_attempts(job.id, until=job.attempt)
        else:
            self._takes.drop_take(job.id)
        self._takes.space.release(job.id)
        self._takes.space.recount(job.id)
        self._takes.space.keep_reserve()
        if was_running or state != rows.CANCELLED:
            self.ended(job, state)
        self.listener(job.id)

    # ---- what the disk refused ----

    def _durably(self, job: Job, act: Callable[[], None]) -> None:
        """Journal what has happened to a job, now or as soon as the disk takes it."""
        try:
            act()
            return
        except SegueError as error:
            _LOG.error("a job's news could not be journaled", extra={"job": job.id, "code": error.code})
        self._takes.space.free_reserve()
        job.state = UNSETTLED
        self._owed[job.id] = act
        self.turn(at_once=True)

    def turn(self, *, at_once: bool = False) -> None:
        """Try again what could not be journaled. Called in every turn of the loop."""
        now = time.monotonic()
        if now - self._kept_s > _KEEP_S:
            self._kept_s = now
            self._takes.space.keep_reserve()
        if not self._owed or (now < self._retry_s and not at_once):
            return
        self._retry_s = now + _RETRY_S
        for job, act in list(self._owed.items()):
            try:
                act()
            except SegueError as error:
                _LOG.debug("still refused", extra={"job": job, "code": error.code})
            else:
                del self._owed[job]

    def forget(self, row: JobRow) -> int:
        """Delete what is kept of a job that has ended; returns the bytes that were given back."""
        if row.id in self.active:
            raise SegueError(
                "E_JOB",
                "This job has not ended; cancel it before it is forgotten.",
                field="job",
                value=str(row.id),
            )
        before = self._takes.space.used_bytes
        self._journal.forget(row.id)
        self._journal.records.remove(row.id)
        self._takes.drop_take(row.id)
        self._takes.drop_spool(row.id)
        self.listener(row.id)
        return max(0, before - self._takes.space.used_bytes)

    # ---- asking ----

    def spool_folder(self, job: int) -> Path:
        return self._takes.spool_folder(job)

    def take_folder(self, job: int) -> Path:
        return self._takes.take_folder(job)

    def row(self, job: str) -> JobRow:
        """Raises E_JOB for what is not, or is no longer, a job here."""
        row = None
        if job.isdigit() and len(job) < 16:
            try:
                row = self._journal.job(int(job))
            except KeyError:
                row = None
        if row is None or row.state == rows.FORGOTTEN or str(row.id) != job:
            said = "was forgotten" if row is not None and row.state == rows.FORGOTTEN else "is not known here"
            raise SegueError("E_JOB", f"Job {job} {said}.", field="job", value=job)
        return row

    def queued(self) -> list[Job]:
        return [job for job in self.active.values() if job.state == rows.QUEUED]

    def running(self) -> list[Job]:
        return [job for job in self.active.values() if job.state == rows.RUNNING]

    def tick(self, job: Job) -> Tick:
        """Where a job stands now."""
        progress, now = job.progress, time.monotonic()
        running = job.state == rows.RUNNING
        spent = now - progress.begun_s if running else 0.0
        made_s = progress.samples / job.spec["rate"]
        eta = progress.eta_s(now) if running else None
        return Tick(
            state=progress.state,
            attempt=job.attempt if running else 0,
            position=0 if running else job.position,
            step=progress.step,
            steps=progress.steps,
            samples=progress.samples,
            seconds=round(spent, 3),
            xrt=round(made_s / spent, 3) if made_s and spent > 0 else None,
            eta_ms=None if eta is None else round(1000 * eta),
            note=progress.note,
        )


_AUDIO_FIELDS = ("variation", "stem", "position", "frames", "crc", "rate", "channels")
