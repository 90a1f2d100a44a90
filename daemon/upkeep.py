"""What the loop does besides serving: it feeds the watchdog, notices lost time, keeps the logs small and
gives memory back.

Called by the loop after every turn; nothing here waits. The watchdog is fed from nowhere else, so a loop that
hangs, or whose turns fail one after the other, stops feeding and is started again by the service manager.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from daemon import logs
from daemon.clock import ClockWatch, Jump
from daemon.config import Log
from daemon.heap import Heap
from daemon.jobs import JobBook
from daemon.metrics import Metrics
from daemon.notify import Notifier
from daemon.pool import Pool

LOGS_EVERY_S, LOOK_EVERY_S = 1.0, 5.0
_LOG = logging.getLogger("segue.upkeep")


class Upkeep:
    """Owned by the front-end's one thread."""

    def __init__(
        self,
        notifier: Notifier,
        pool: Pool,
        book: JobBook,
        metrics: Metrics,
        folder: Path,
        settings: Log,
        clocks: ClockWatch | None = None,
    ) -> None:
        """`folder`: where the logs of the workers lie."""
        self._notifier, self._pool, self._book, self._metrics = notifier, pool, book, metrics
        self._folder, self._settings = folder, settings
        self._clocks = clocks or ClockWatch()
        self._heap = Heap()
        self._said = ""
        self._logs_s = float("-inf")
        self._looked_s = float("-inf")
        self._stopping = False
        self.look_after: Callable[[], None] = lambda: None  # called every few seconds

    @property
    def patience_s(self) -> float:
        """How long the loop may wait, so that a watchdog with little patience is fed in time."""
        return self._notifier.feed_every_s or float("inf")

    def ready(self, endpoint: str) -> None:
        """The loop is about to turn for the first time."""
        self._clocks.restart()
        self._notifier.ready(f"Answering at {endpoint}.")

    def stopping(self) -> None:
        """The daemon ends as soon as its jobs allow."""
        if not self._stopping:
            self._stopping = True
            self._notifier.stopping("Finishing what runs, then leaving.")

    def turn(self, *, sound: bool, waited_s: float) -> None:
        """`sound`: whether the turn went well; `waited_s`: how long the loop meant to wait before it."""
        now = time.monotonic()
        try:
            self._look(now, waited_s)
        except Exception as error:
            logs.incident(_LOG, "the upkeep met a fault", error)
            self._metrics.count("faults")
            sound = False
        if sound and self._notifier.feed(now):
            self._tell_state()

    def _look(self, now: float, waited_s: float) -> None:
        jump = self._clocks.look(waited_s)
        if jump is not None:
            self._jumped(jump)
        self._heap.turn(now)
        if now - self._logs_s >= LOGS_EVERY_S:
            self._logs_s = now
            self._keep_logs_small()
        if now - self._looked_s >= LOOK_EVERY_S and not self._stopping:
            self._looked_s = now
            self.look_after()

    def _jumped(self, jump: Jump) -> None:
        about = {"slept_s": round(jump.slept_s, 1), "clock_set_by_s": round(jump.set_s, 1),
                 "stopped_s": round(jump.stopped_s, 1)}  # fmt: skip
        if jump.slept_s:
            _LOG.warning("the machine slept; workers are looked at again", extra=about)
            self._metrics.count("clock_jumps", what="slept")
            self._pool.woke(jump.slept_s)
        if jump.set_s:
            _LOG.warning("the clock was set; nothing here depends on it", extra=about)
            self._metrics.count("clock_jumps", what="set")
        if jump.stopped_s:
            _LOG.warning("the daemon did not run for a while", extra=about)
            self._metrics.count("clock_jumps", what="stopped")

    def _tell_state(self) -> None:
        running, queued = len(self._book.running()), len(self._book.queued())
        said = f"{'Paused' if self._pool.paused else 'Ready'}: {running} running, {queued} waiting."
        if said != self._said and not self._stopping:
            self._said = said
            self._notifier.status(said)

    def _keep_logs_small(self) -> None:
        for worker in self._pool.workers:
            if logs.rotate_open(self._folder / f"{worker.name}.log", self._settings):
                _LOG.info("a worker's log was full and was shifted", extra={"worker": worker.name})
        logs.rotate_open(self._folder / "inventory.log", self._settings)
        logs.trim_stderr(self._settings)
