"""What each operation does. Every method answers at once, or with a `Held` that answers when there is
something.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from daemon import __version__
from daemon import journal as rows
from daemon.config import Settings
from daemon.flow import ANSWER_BYTES, Flow, Held
from daemon.intake import Arrival, Intake
from daemon.inventory import Inventory
from daemon.jobs import JobBook, fairness_key
from daemon.journal import Journal
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.release import Release
from daemon.takes import TakeStore
from daemon.views import Views
from protocol import replies, requests
from protocol.errors import SegueError
from protocol.framing import Incoming
from protocol.limits import MAJOR, MAX_WAIT_MS, MINOR
from protocol.replies import Reply
from protocol.submit import Retake, Submit

RELEASE_PATIENCE_S = 15.0
LISTING_PATIENCE_S = 20.0
VERIFY_PATIENCE_S = 20.0
ARRIVAL_PATIENCE_S = 20.0


class Operations:
    """The daemon's answers. `stop(finish, leave)` begins a polite stop."""

    def __init__(
        self,
        *,
        boot: str,
        build: str,
        supervisor: str | None,
        settings: Settings,
        journal: Journal,
        takes: TakeStore,
        book: JobBook,
        intake: Intake,
        pool: Pool,
        flow: Flow,
        inventory: Inventory,
        metrics: Metrics,
        stop: Callable[[str, bool], None],
        update_gauges: Callable[[], None],
    ) -> None:
        self.boot, self._build, self._supervisor = boot, build, supervisor
        self._settings, self._journal, self._takes = settings, journal, takes
        self._intake = intake
        self._book, self._pool, self._flow, self._inventory = book, pool, flow, inventory
        self._metrics, self._stop, self._update_gauges = metrics, stop, update_gauges
        self._views = Views(settings, journal, takes, book, pool, flow, inventory)
        self._begun_s = time.monotonic()
        self.draining = False
        self.notice = journal.fact("notice") or None

    def handle(self, incoming: Incoming) -> Reply | Held:
        """Raises `SegueError` for what is refused."""
        method: Callable[[Incoming, Any], Reply | Held] = getattr(
            self, "_metrics_" if incoming.op == "metrics" else f"_{incoming.op}"
        )
        return method(incoming, incoming.request)

    # ---- who are you ----

    def _hello(self, incoming: Incoming, request: requests.Hello) -> Reply:
        devices = [str(worker.facts.get("device")) for worker in self._pool.workers if worker.facts]
        return replies.HelloReply(
            daemon=f"segued {__version__}",
            build=self._build,
            protocol=(MAJOR, MINOR),
            boot=self.boot,
            pid=os.getpid(),
            executable=sys.executable,
            uptime_ms=round(1000 * (time.monotonic() - self._begun_s)),
            supervisor=self._supervisor,
            ready=not self.draining,
            waiting_for="the daemon is stopping" if self.draining else None,
            notice=self.notice,
            device=", ".join(devices or self._settings.worker.devices),
            models=tuple(worker.model for worker in self._pool.workers if worker.state == "loaded"),
            default_model=self._settings.worker.default_model,
            limits=replies.Limits(credit_bytes=self._settings.limits.credit_bytes),
        )

    def _ping(self, incoming: Incoming, request: requests.Ping) -> Reply:
        return replies.PingReply(
            boot=self.boot,
            ready=not self.draining,
            queued=len(self._book.queued()),
            running=len(self._book.running()),
            paused=self._pool.paused,
            draining=self.draining,
            notice=self.notice,
            clock_ms=round(1000 * (time.monotonic() - self._begun_s)),
        )

    def _metrics_(self, incoming: Incoming, request: requests.Metrics) -> Reply:
        self._update_gauges()
        return replies.MetricsReply(data=self._metrics.text().encode())

    # ---- models ----

    def _models(self, incoming: Incoming, request: requests.Models) -> Reply | Held:
        self._inventory.ask()

        def answer(over: bool) -> Reply | None:
            if self._inventory.asking and not over:
                return None
            return replies.ModelsReply(
                models=tuple(self._views.models()), default=self._settings.worker.default_model
            )

        return self._held(incoming, LISTING_PATIENCE_S, answer)

    def _load(self, incoming: Incoming, request: requests.Load) -> Reply | Held:
        if self.draining:
            raise _draining()
        if self._pool.paused:
            raise SegueError("E_PAUSED", "Segue is paused; resume it before loading a model.", retry_ms=5_000)
        keep_alive_s = request.keep_alive_s
        if keep_alive_s is None:
            keep_alive_s = self._settings.worker.keep_alive_s
        worker = self._pool.with_model(request.model)
        if worker is not None and worker.state == "loaded":
            worker.keep_alive_s = keep_alive_s
        else:
            self._pool.want(request.model, keep_alive_s)

        def answer(over: bool) -> Reply | None:
            refusal = self._pool.refusals.get(request.model)
            if refusal is not None:
                raise SegueError.from_map(refusal.to_map())
            worker = self._pool.with_model(request.model)
            state = "ready_to_load" if worker is None else self._views.worker_state(worker)
            if state != "loaded" and not over:
                return None
            return replies.LoadReply(
                model=request.model,
                state=state,
                memory_bytes=worker.memory_bytes or None if worker is not None else None,
                waiting_for=None
                if state == "loaded"
                else "a device"
                if worker is None
                else f"{request.model} to load",
            )

        return self._held(incoming, request.wait_ms / 1000, answer)

    def _unload(self, incoming: Incoming, request: requests.Unload) -> Reply | Held:
        worker = self._pool.with_model(request.model)
        self._pool.wanted.pop(request.model, None)
        if worker is not None and any(job in self._book.active for job in worker.aboard):
            raise SegueError(
                "E_MEMORY",
                f"{request.model} is at work; cancel its jobs or wait for them, then unload it.",
                field="model",
                value=request.model,
                retry_ms=2_000,
            )
        release = Release([worker] if worker is not None else [])
        if worker is not None:
            self._pool.unload(worker, "it was unloaded")

        def answer(over: bool) -> Reply | None:
            if not release.complete() and not over:
                return None
            return replies.UnloadReply(
                model=request.model,
                state="ready_to_load" if release.gone else "unloading",
                freed_bytes=release.freed_bytes if release.gone else None,
                used_bytes=sum(found.memory_bytes for found in self._pool.workers),
                measured=release.measured,
            )

        return self._held(incoming, request.wait_ms / 1000, answer)

    # ---- jobs ----

    def _submit(self, incoming: Incoming, request: Submit) -> Held:
        return self._arriving(
            incoming, self._intake.submit(request, refuse=self._refuse), replies.SubmitReply
        )

    def _retake(self, incoming: Incoming, request: Retake) -> Held:
        return self._arriving(
            incoming, self._intake.retake(request, refuse=self._refuse), replies.RetakeReply
        )

    def _arriving(self, incoming: Incoming, arrival: Arrival, kind: type[replies.SubmitReply]) -> Held:
        """Answered when the job is durable."""

        def answer(over: bool) -> Reply | None:
            outcome = arrival.outcome()
            if outcome is not None:
                return kind(**self._accepted(*outcome))
            if over:
                message = "The disk has not taken this job yet; ask again with the same key."
                raise SegueError("E_DISK", message, retry_ms=1_000)
            return None

        return self._held(incoming, ARRIVAL_PATIENCE_S, answer)

    def _accepted(self, row: rows.JobRow, again: bool) -> dict[str, Any]:
        active = self._book.active.get(row.id)
        return {
            "job": str(row.id),
            "state": self._flow.state_of(row),
            "position": active.position if active is not None and active.state == rows.QUEUED else 0,
            "seed": int(row.spec["seed"]),
            "again": again,
            "lead_frames": int(row.spec.get("lead", 0)),
            "frames": int(row.spec["frames"]),
            "rate": int(row.spec["rate"]),
        }

    def _refuse(self, submit: Submit) -> None:
        """Why no new job may come in now."""
        if self.draining:
            raise _draining()
        queue = self._settings.queue
        waiting, coming = self._book.queued(), self._intake.coming.values()
        session = fairness_key(submit)
        mine = [job for job in waiting if job.session == session]
        total = len(waiting) + len(coming)
        own = len(mine) + sum(other.session == session for other in coming)
        if total < queue.max_jobs and own < queue.max_per_session:
            return
        whole = total >= queue.max_jobs
        count, limit = (total, queue.max_jobs) if whole else (own, queue.max_per_session)
        jobs = waiting if whole else mine
        costs = [self._pool.costs.seconds(job.model, job.audio_s, job.variations) for job in jobs]
        raise SegueError(
            "E_QUEUE_FULL",
            f"{count} jobs {'' if whole else 'of this session '}are waiting already; try again when one has"
            " started.",
            value=count,
            allowed=f"at most {limit}",
            retry_ms=round(1000 * min(60.0, max(0.5, sum(costs) / max(1, len(costs))))),
        )

    def _next(self, incoming: Incoming, request: requests.Next) -> Held:
        since = time.monotonic()
        self._book.row(request.job)  # E_JOB at once

        def answer(over: bool) -> Reply | None:
            return self._flow.next_reply(request, over=over, since_s=since)

        return self._held(incoming, request.wait_ms / 1000, answer, job=request.job)

    def _attach(self, incoming: Incoming, request: requests.Attach) -> Reply:
        row = self._book.row(request.job)
        if request.detach:
            self._flow.detach(incoming.envelope, row.id)
            return replies.AttachReply(job=request.job, state=self._flow.state_of(row), last=row.last_seq)
        if len(incoming.envelope) != 2:
            raise SegueError(
                "E_ARGUMENT", "Only a DEALER can be pushed to; a REQ client asks with next.", field="op"
            )
        attachment = self._flow.attach(incoming.envelope, row, request.after, request.credit)
        return replies.AttachReply(
            job=request.job, state=self._flow.state_of(row), last=row.last_seq, credit=attachment.credit
        )

    def _credit(self, incoming: Incoming, request: requests.Credit) -> Reply:
        row = self._book.row(request.job)
        credit = self._flow.grant(incoming.envelope, row, request.bytes_, request.after)
        return replies.CreditReply(job=request.job, credit=credit)

    def _cancel(self, incoming: Incoming, request: requests.Cancel) -> Reply:
        row = self._book.row(request.job)
        active = self._book.active.get(row.id)
        if active is not None:
            self._pool.cancel(active, "the client asked")
        return replies.CancelReply(job=request.job, state=self._flow.state_of(self._book.row(request.job)))

    def _status(self, incoming: Incoming, request: requests.Status) -> Reply:
        return replies.StatusReply(info=self._views.job(self._book.row(request.job), whole=True))

    def _list(self, incoming: Incoming, request: requests.List) -> Reply:
        return self._views.jobs(request)

    def _fetch(self, incoming: Incoming, request: requests.Fetch) -> Held:
        row = self._book.row(request.job)
        if row.state != rows.DONE:
            raise SegueError(
                "E_TAKE_MISSING",
                f"Job {request.job} has no finished files: it is {row.state}."
                + (" Its audio so far can be read with next." if row.state in rows.FINAL else ""),
                field="job",
                value=row.state,
                allowed="a job that is done",
            )
        path = self._takes.finished(row.id, request.variation, request.stem, request.part)
        entry = self._views.file_entry(row, path.name)
        verifier = self._takes.verifier

        def answer(over: bool) -> Reply | None:
            if not verifier.step(path, entry["bytes"], entry["crc"]):
                if over:
                    raise SegueError("E_DISK", "The disk is too slow to test this file.", retry_ms=1_000)
                return None
            wanted, size = request.as_ == "bytes", min(request.max_bytes, ANSWER_BYTES)
            return replies.FetchReply(
                job=request.job,
                path=None if wanted else str(path),
                offset=request.offset if wanted else 0,
                total_bytes=entry["bytes"],
                crc=entry["crc"],
                rate=row.spec["rate"],
                channels=row.spec["channels"],
                frames=entry["frames"],
                position=entry["position"],
                data=verifier.read(path, request.offset, size) if wanted else None,
            )

        held = self._held(incoming, VERIFY_PATIENCE_S, answer)
        held.eager = True
        return held

    def _forget(self, incoming: Incoming, request: requests.Forget) -> Reply:
        freed = self._book.forget(self._book.row(request.job))
        return replies.ForgetReply(job=request.job, freed_bytes=freed)

    # ---- the whole daemon ----

    def _pause(self, incoming: Incoming, request: requests.Pause) -> Reply | Held:
        self._journal.set_fact("paused", "1")
        released = list(self._pool.workers) if request.release else []
        release = Release(released)
        self._pool.pause(release=request.release)

        def answer(over: bool) -> Reply | None:
            done = release.complete()
            if not done and not over:
                return None
            freed = release.freed_bytes if request.release and done else None
            return replies.PauseReply(paused=True, released_bytes=freed)

        return self._held(incoming, RELEASE_PATIENCE_S if released else 0.0, answer)

    def _resume(self, incoming: Incoming, request: requests.Resume) -> Reply:
        self._journal.set_facts({"paused": "0", "notice": ""})
        self.notice = None
        self._pool.resume()
        return replies.ResumeReply(paused=False)

    def _drain(self, incoming: Incoming, request: requests.Drain) -> Reply:
        running, queued = len(self._book.running()), len(self._book.queued())
        self._stop(request.finish, request.stop)
        return replies.DrainReply(running=running, queued=queued, stopping=request.stop, pid=os.getpid())

    def _held(
        self,
        incoming: Incoming,
        wait_s: float,
        answer: Callable[[bool], Reply | None],
        job: str | None = None,
    ) -> Held:
        until = time.monotonic() + min(wait_s, MAX_WAIT_MS / 1000)
        return Held(incoming.envelope, incoming.op, incoming.request_id, until, answer, job)


def _draining() -> SegueError:
    return SegueError(
        "E_DRAINING", "Segue is stopping and takes nothing new; start it again afterwards.", retry_ms=2_000
    )
