"""The front-end: one ROUTER, one poll loop. Read this file from top to bottom: it is a request's way through.

    frames -> `decode_request` -> `Operations.handle` -> reply, now or when there is something to say (`Held`)

Threading model: one thread. Nothing in the loop waits for a worker, a model or a slow client; torch is never
imported here. The promise is an answer within 50 ms whatever the workers do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from daemon import crashes, gauges, heap, inventory, jobs, logs, pool, rebuild, remote, takes, works
from daemon.config import Settings
from daemon.disk import StorageError
from daemon.flow import Flow, Held
from daemon.intake import Intake
from daemon.metrics import Metrics
from daemon.notify import Notifier
from daemon.operations import Operations
from daemon.outbox import Outbox, key_of
from daemon.sockets import Received, Sockets
from daemon.upkeep import Upkeep
from daemon.waiting import BULKY, Waiting
from daemon.weight import Weight
from daemon.workers.local import LocalWorker, spawn
from protocol.build import build_id
from protocol.errors import SegueError
from protocol.framing import Refusal, decode_request, encode_error, encode_reply
from protocol.replies import Reply

BURST, RECEIVE_TURN_S = 64, 0.01  # requests, and time, taken in one turn before workers are looked at again
BUSY_TURN_S, IDLE_TURN_S = 0.05, 1.0
MANY_FAULTS = 20
TOO_HEAVY = 4  # the exit status that asks a service manager for a fresh start
LAST_WORDS_S, LAST_WORDS_AT_MOST_S = 0.3, 5.0
LATE_TURN_S = 0.005
_LOG = logging.getLogger("segue.server")


class Server:
    """The daemon, from an open state folder to its end. The caller holds the locks of both folders."""

    def __init__(
        self, settings: Settings, runtime: Path, state: Path, boot: str, notifier: Notifier | None = None
    ) -> None:
        self.settings, self.runtime, self.state, self.boot = settings, runtime, state, boot
        self.build, self.notifier = build_id(), notifier or Notifier({})
        self.lines_lost: Callable[[], int] = lambda: 0  # of the log, since the start
        self.token = secrets.token_bytes(32)
        self.metrics = Metrics()
        self._context = zmq.Context(io_threads=2 if settings.tcp.bind else 1)
        self._context.linger = 0
        self._context.max_sockets = 4096
        self.sockets = Sockets(
            self._context, runtime, state, token=self.token, tcp_bind=settings.tcp.bind, metrics=self.metrics
        )
        self.outbox = Outbox(self.sockets.router, self.metrics, self.sockets.allowed)
        self._logs = state / "logs"
        self._begun_s = self._last_request_s = time.monotonic()
        self.journal, damage = rebuild.open_journal(state)
        if damage is not None:
            _LOG.error(damage)
        self.journal.timed = lambda seconds: self.metrics.observe("commit_seconds", seconds)
        gib, mib = 2**30, 2**20
        self.takes = takes.TakeStore(
            state,
            quota_bytes=round(settings.takes.quota_gib * gib),
            keep_free_bytes=round(settings.takes.keep_free_mib * mib),
        )
        for line in self.takes.reconcile({job: state for job, (state, _) in self.journal.states().items()}):
            _LOG.info(line)
        self.book = jobs.JobBook(self.journal, self.takes, settings)
        self.intake = Intake(self.book, self.journal, self.takes, settings, self._nudge)
        under_way = [job.id for job in self.book.running()]
        suspicion = crashes.note_start(self.journal, under_way, settings.life.crash_pause_s)
        if suspicion is not None:
            _LOG.error(suspicion)
        recovered = self.book.recover()
        if recovered:
            _LOG.warning("jobs of the last run go again", extra={"jobs": recovered})
        self.inventory = inventory.Inventory(self._environment(), self._worker_log("inventory"))
        self.pool, self.dispatcher = works.assemble(
            self.journal, self.book, settings, self.metrics, self.inventory, self._spawn
        )
        self.flow = Flow(self.book, self.journal, self.takes, settings, self.metrics, self.outbox.send)
        self.operations = Operations(
            boot=boot, build=self.build, supervisor=self.notifier.supervisor,
            settings=settings, journal=self.journal, takes=self.takes,
            book=self.book, intake=self.intake, pool=self.pool, flow=self.flow, inventory=self.inventory,
            metrics=self.metrics, stop=self.stop, update_gauges=self._update_gauges,
        )  # fmt: skip
        self.upkeep = Upkeep(self.notifier, self.pool, self.book, self.metrics, self._logs, settings.log)
        self.weight = Weight(round(settings.life.front_max_mib * mib), heap.resident_bytes, heap.trim)
        self.exit_status = 0
        self.book.ended = self._job_ended
        self._held = Waiting(
            lambda held, reply: self._give(held.envelope, held.op, held.request_id, reply),
            lambda held, error: self._refuse(held.envelope, held.op, held.request_id, error),
        )
        self._faults = 0.0
        self._finish: str | None = None  # what a stop under way still waits for: "none", "running" or "all"
        self._leave = False
        self._stop_by_s: float | None = None
        self._finished_s: float | None = None

    # ---- processes ----

    def _environment(self) -> dict[str, str]:
        return {"SEGUE_MODELS": self.settings.folders.models} if self.settings.folders.models else {}

    def _worker_log(self, name: str) -> Path:
        self._logs.mkdir(mode=0o700, exist_ok=True)
        return logs.rotate(self._logs / f"{name}.log", self.settings.log)

    def _spawn(self, name: str, model: str, device: str) -> LocalWorker:
        wanted = self.settings.worker
        return spawn(
            name=name, model=model, device=device, precision=wanted.precision, slots=wanted.slots,
            capture=wanted.capture, threads=wanted.threads, nice=wanted.nice, log=self._worker_log(name),
            environment=self._environment(), folder=self.state,
        )  # fmt: skip

    def _job_ended(self, job: jobs.Job, state: str) -> None:
        self.metrics.count("jobs", how=state)
        _LOG.info("job ended", extra={"job": job.id, "state": state, "attempt": job.attempt})
        if job.progress.begun_s:
            self.metrics.observe("job_seconds", time.monotonic() - job.progress.begun_s)

    def open(self) -> None:
        """Bind. From here on clients are answered as soon as `run` is entered."""
        self.sockets.open()

    # ---- the loop ----

    def run(self) -> None:
        """Serve until a stop is complete."""
        poller = zmq.Poller()
        poller.register(self.sockets.router, zmq.POLLIN)
        poller.register(self.sockets.zap, zmq.POLLIN)
        wake, self._wake = socket.socketpair()
        wake.setblocking(False)
        self._wake.setblocking(False)
        before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        poller.register(wake, zmq.POLLIN)
        watched: set[int] = set()
        self.upkeep.ready(" and ".join(self.sockets.endpoints))
        try:
            while not self._over():
                current = {worker.fileno for worker in self.pool.workers if not worker.closed}
                for fileno in current - watched:
                    poller.register(fileno, zmq.POLLIN)
                for fileno in watched - current:
                    poller.unregister(fileno)
                watched = current
                patience_s = min(self._patience_s(), self.upkeep.patience_s)
                ready = dict(poller.poll(round(1000 * patience_s)))
                begun = time.monotonic()
                if wake.fileno() in ready:
                    wake.recv(4096)
                if self.sockets.zap in ready:
                    self.sockets.answer_handshakes()
                if self.sockets.router in ready:
                    self._receive()
                sound = self._guarded_turn()
                self.metrics.observe("turn_seconds", time.monotonic() - begun)
                self.upkeep.turn(sound=sound, waited_s=patience_s)
        finally:
            signal.set_wakeup_fd(before)
            wake.close()
            self._wake.close()

    def _nudge(self) -> None:
        """Called from another thread: the loop has something to look at."""
        with contextlib.suppress(AttributeError, OSError):  # not running, or woken many times over already
            self._wake.send(b"\0")

    def _guarded_turn(self) -> bool:
        """True when all went well. A fault of ours is logged and survived; one that comes back at once ends
        the process, which loses nothing that was acknowledged and is better than a daemon that only seems to
        live.
        """
        try:
            self._turn()
            self._faults = max(0.0, self._faults - 0.01)
            return True
        except StorageError as error:  # the disk's fault, not ours: what was asked comes round again
            _LOG.error("the disk refused", extra={"code": error.code, "said": error.message})
            return True
        except Exception as error:
            self._faults += 1
            logs.incident(_LOG, "a turn met a fault", error, faults=self._faults)
            self.metrics.count("faults")
            if self._faults > MANY_FAULTS:
                raise
            return False

    def _turn(self) -> None:
        self.inventory.poll()
        self.operations.notice = rebuild.heal(self.journal) or self.operations.notice
        self.intake.turn()
        self.book.turn()
        self.pool.turn()
        self.dispatcher.turn()
        self.outbox.send_late()
        self._held.answer()
        self._held.crowded |= self.flow.push()
        self.sockets.check()
        self._weigh()

    def _patience_s(self) -> float:
        if any(held.eager for held in self._held):
            return 0.0
        if self.outbox.pending or self._held.crowded:
            return LATE_TURN_S
        active = self._held or self.flow.attached or self.pool.busy or self.inventory.asking or self._finish
        return BUSY_TURN_S if active or (self.book.active and not self.pool.paused) else IDLE_TURN_S

    def _receive(self) -> None:
        self._held.begin_turn()
        by = time.monotonic() + RECEIVE_TURN_S
        for _ in range(BURST):
            received = self.sockets.receive() if time.monotonic() < by else None
            if received is None:
                return
            self._last_request_s = time.monotonic()
            try:
                self._answer(received)
            except Exception as error:  # a fault of ours in the answering itself
                logs.incident(_LOG, "a request met a fault", error, frames=len(received.frames))

    def _answer(self, received: Received) -> None:
        if received.token is None:
            self.metrics.count("silent_refusals", what="key")
            return
        try:
            incoming = decode_request(received.frames, received.token)
        except Refusal as refusal:
            if refusal.silent is not None:
                self.metrics.count("silent_refusals", what=refusal.silent)
                return
            self.metrics.count("requests", op=_known_op(refusal.op), outcome=refusal.code)
            self.metrics.count("refused", code=refusal.code)
            back = received.back(refusal.envelope)
            self.outbox.reply(back, encode_error(refusal, refusal.op, refusal.request_id))
            return
        if incoming.op in BULKY and self.outbox.behind(incoming.envelope):  # it does not read: so we do not
            self.metrics.count("peers_lost", why="full")
            return
        incoming = dataclasses.replace(incoming, envelope=received.back(incoming.envelope))
        envelope, op, request_id = incoming.envelope, incoming.op, incoming.request_id
        try:
            if received.key:
                remote.check(incoming.request)
            outcome = self.operations.handle(incoming)
        except Exception as error:
            self._refuse(envelope, op, request_id, error)
            return
        if isinstance(outcome, Held):
            self._held.hold(outcome)
        else:
            self._give(envelope, op, request_id, outcome)

    def _give(self, envelope: list[bytes], op: str, request_id: int, reply: Reply) -> None:
        if key_of(envelope):
            reply = remote.without_paths(reply)
        try:
            frames = encode_reply(reply, request_id)
        except SegueError as error:
            self._refuse(envelope, op, request_id, error)
            return
        self.metrics.count("requests", op=op, outcome="ok")
        self.outbox.reply(envelope, frames)

    def _refuse(self, envelope: list[bytes], op: str, request_id: int, error: Exception) -> None:
        if not isinstance(error, SegueError):
            if "disk is full" in str(error) or getattr(error, "errno", None) in (28, 122):
                error = SegueError(
                    "E_DISK_FULL", "The disk of Segue's state folder is full.", retry_ms=30_000
                )
            else:
                number = logs.incident(_LOG, "an answer met a fault", error, op=op)
                self.metrics.count("faults")
                error = SegueError(
                    "E_INTERNAL", f"Segue met a fault of its own; the log has it as incident {number}.",
                    detail=number, retry_ms=1_000,
                )  # fmt: skip
        self.metrics.count("requests", op=op, outcome=error.code)
        self.metrics.count("refused", code=error.code)
        self.outbox.reply(envelope, encode_error(error, op, request_id))

    # ---- the end ----

    def stop(self, finish: str, leave: bool, patience_s: float | None = None) -> None:
        """Take nothing new; finish "none", "running" or "all" jobs; then leave, if `leave`."""
        _LOG.info("stopping", extra={"finish": finish, "leave": leave})
        self._finish, self._leave = finish, leave
        if leave:
            self.upkeep.stopping()
        self.operations.draining = True
        self.pool.starting = finish == "all"
        self._stop_by_s = None if patience_s is None else time.monotonic() + patience_s

    def _over(self) -> bool:
        now, idle_s = time.monotonic(), self.settings.life.idle_exit_s
        if idle_s and self._finish is None and not self.book.active and now - self._last_request_s > idle_s:
            self.stop("none", True)
        if self._finish is None or not self._leave:
            return False
        running, active = len(self.book.running()), len(self.book.active)
        late = self._stop_by_s is not None and now > self._stop_by_s
        if {"none": 0, "running": running, "all": active}[self._finish] and not late:
            self._finished_s = None
            return False
        self._finished_s = self._finished_s or now
        self._held.end()
        # clients that followed a job hear of its end before the daemon is gone
        quiet = now - self._last_request_s > LAST_WORDS_S or self._finish == "none" or late
        return (quiet and not self._held) or now - self._finished_s > LAST_WORDS_AT_MOST_S

    def close(self) -> None:
        """End the workers, put what ran back into the queue, leave nothing behind but journal and takes."""
        for job in self.book.running():
            self.book.requeue(job, "the daemon was stopped", forgiven=True)
        for worker in self.pool.workers:
            worker.terminate()
        patience = time.monotonic() + pool.KILL_AFTER_S
        for worker in self.pool.workers:
            while worker.poll() is None and time.monotonic() < patience:
                time.sleep(0.01)
            worker.kill()
            worker.process.wait()
            worker.close()
        self.inventory.close()
        self.sockets.close()
        self._context.term()
        self.intake.close()
        with contextlib.suppress(SegueError):  # a disk that fails now takes the next start for a crash
            self.book.turn(at_once=True)
            crashes.note_stop(self.journal)
        self.journal.close()

    # ---- housekeeping ----

    def _weigh(self) -> None:
        what = self.weight.look(time.monotonic())
        if what == "renew":
            _LOG.error("the front-end has grown: all connections end", extra={"bytes": self.weight.bytes})
            self.sockets.renew()
        elif what and (self._finish is None or (what == "now" and self._finish != "none")):
            _LOG.error("the front-end has grown: it starts over", extra={"bytes": self.weight.bytes})
            self.exit_status = TOO_HEAVY
            self.stop("none" if what == "now" else "running", True, self.settings.life.drain_s)

    def _update_gauges(self) -> None:
        gauges.update(
            self.metrics, book=self.book, pool=self.pool, flow=self.flow, takes=self.takes,
            journal=self.journal.path, held=len(self._held), lines_lost=self.lines_lost(),
            quota_bytes=round(self.settings.takes.quota_gib * 2**30),
            uptime_s=time.monotonic() - self._begun_s,
        )  # fmt: skip


def _known_op(op: str) -> str:
    """Labels never come from strangers' words."""
    from protocol.messages import REQUESTS

    return op if op in REQUESTS else "unknown"


def new_boot() -> str:
    """A name for one life of the daemon."""
    return f"{int(time.time()):x}-{os.getpid():x}-{secrets.token_hex(4)}"
