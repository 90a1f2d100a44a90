"""Waiting until memory is really back: the processes are gone, and the driver says so."""

from __future__ import annotations

import time
from collections.abc import Sequence

from daemon import vram
from daemon.workers.local import LocalWorker

MOST = 0.75  # of what was held counts as back; other programs come and go meanwhile
DRIVER_PATIENCE_S = 5.0  # the driver takes 0.5 to 1.5 s after the end of a process


class Release:
    """Made before the workers are told to end; `complete` is asked until it is true."""

    def __init__(self, workers: Sequence[LocalWorker]) -> None:
        self._workers = list(workers)
        self._held_bytes = sum(worker.memory_bytes for worker in workers)
        self._on_gpu = any(str(worker.facts.get("device", "")).startswith("cuda") for worker in workers)
        self._before = vram.used_bytes() if self._on_gpu else None
        self._gone_s: float | None = None
        self.freed_bytes = 0
        self.measured = False

    @property
    def gone(self) -> bool:
        """Whether the processes have ended."""
        return all(worker.poll() is not None for worker in self._workers)

    def complete(self) -> bool:
        """Whether the memory is back, or nothing more will be learnt by waiting."""
        if not self.gone:
            return False
        if not self._on_gpu:  # an ended process holds no memory: that is what was to be seen
            self.freed_bytes, self.measured = self._held_bytes, True
            return True
        now = time.monotonic()
        self._gone_s = self._gone_s or now
        after = vram.used_bytes()
        if self._before is None or after is None:
            self.freed_bytes = self._held_bytes
            return True
        self.freed_bytes = max(0, self._before - after)
        self.measured = self.freed_bytes >= MOST * self._held_bytes
        return self.measured or now - self._gone_s > DRIVER_PATIENCE_S
