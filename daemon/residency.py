"""Which models are in memory: bringing one, making room for it, and saying why it cannot come.

Several models live on a device as long as they fit. The one that was idle longest (measured by how long it
was to be kept) goes first; one with work aboard, or that a live job waits for, does not go; one that was just
loaded stays a while, so that two models that both want the room do not drive each other out at every turn.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from daemon.config import Settings
from daemon.inventory import Inventory
from daemon.jobs import JobBook
from daemon.memory import Memory, Need, enough
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.workers.local import LocalWorker
from protocol.errors import SegueError

SHORT_S = 10.0  # so long somebody else may hold the memory before a job is told that there is none
_LOG = logging.getLogger("segue.residency")


def gb(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB"


class Residency:
    """Owned by the front-end's one thread. `spawn` starts a worker: (name, model, device) -> LocalWorker."""

    def __init__(
        self,
        book: JobBook,
        pool: Pool,
        memory: Memory,
        settings: Settings,
        metrics: Metrics,
        inventory: Inventory | None,
        spawn: Callable[[str, str, str], LocalWorker],
    ) -> None:
        self._book, self._pool, self._memory, self._settings = book, pool, memory, settings
        self._metrics, self._inventory, self._spawn = metrics, inventory, spawn
        self._short_since_s: dict[str, float] = {}
        self._looked_up: set[str] = set()

    def bring(self, model: str, closed: set[str], *, live: bool, now_s: float) -> str | None:
        """See to it that a model comes. None when it is on its way, else what it waits for, in words.

        `closed` gets the names of workers that shall take nothing new, because their room is needed.
        """
        devices = self._settings.worker.devices
        refusals: list[SegueError] = []
        notes: list[str] = []
        for device in devices:
            if self._has_room(model, device):
                self._start(model, device, now_s)
                return None
        for device in devices:
            refusal = self._hopeless(model, device)
            if refusal is not None:
                refusals.append(refusal)
                continue
            note = self._make_room(model, device, closed, live=live, now_s=now_s)
            if note is None:
                return "making room"
            notes.append(note)
        if not notes:
            self._pool.refuse(model, refusals[0])
            return refusals[0].message
        return notes[0]

    # ---- is there room ----

    def _mates(self, device: str) -> list[LocalWorker]:
        return [worker for worker in self._pool.workers if worker.device == device]

    def _has_room(self, model: str, device: str) -> bool:
        mates = self._mates(device)
        if model in self._pool.cramped and any(worker.state == "ending" for worker in mates):
            return False  # it ran out of memory once; what was ended for it must be gone first
        room = self._memory.room_bytes(device, mates)
        if room is None:  # nobody can measure here: one model at a time
            return not mates
        need = self._memory.need(model, device)
        if need.source == "nothing" and mates and self._looking_up(model):
            return False
        # of a model that nobody knows only the driver can say whether it fits, where it is alone
        return room >= need.total_bytes or (need.source == "nothing" and not mates and room > 0)

    def _looking_up(self, model: str) -> bool:
        """Whether the list of models with their sizes is still on its way. It is asked for once for each
        model: one that is not in it, or no list at all, is no reason to wait for ever.
        """
        if self._inventory is None:
            return False
        if model not in self._looked_up:
            self._looked_up.add(model)
            with contextlib.suppress(OSError):  # no process, no log file: then it is a guess
                self._inventory.ask()
        return self._inventory.asking

    def _hopeless(self, model: str, device: str) -> SegueError | None:
        """E_MEMORY for what will never fit, however much is ended."""
        capacity, need = self._memory.capacity_bytes(device), self._memory.need(model, device)
        if capacity is None or need.source == "nothing" or need.total_bytes <= capacity:
            return None
        return self._refusal(model, device, need, "never")

    def _refusal(self, model: str, device: str, need: Need, retry: str) -> SegueError:
        mates = self._mates(device)
        room = self._memory.room_bytes(device, mates) or 0
        going = self._memory.may_go(mates, time.monotonic(), live=True, spared=())
        largest = max((worker.memory_bytes for worker in going), default=0)
        capacity = self._memory.capacity_bytes(device) or 0
        about = "needs" if need.source == "measured" else "needs about"
        reason = (
            f"at most {gb(capacity)} can be given to models here"
            if retry == "never"
            else f"{gb(max(0, room))} are free and other programs hold the rest"
        )
        return SegueError(
            "E_MEMORY",
            f"{model} {about} {gb(need.total_bytes)} of memory, but {reason}.",
            field="model",
            value=model,
            allowed=f"at most {gb(capacity if retry == 'never' else max(0, room))}",
            retry="never" if retry == "never" else "after",
            retry_ms=None if retry == "never" else 30_000,
            detail=f"need_bytes={need.total_bytes} free_bytes={max(0, room)}"
            f" largest_evictable_bytes={largest}",
        )

    # ---- making it ----

    def _make_room(
        self, model: str, device: str, closed: set[str], *, live: bool, now_s: float
    ) -> str | None:
        """End who may go, or say what is waited for."""
        mates, need = self._mates(device), self._memory.need(model, device)
        if need.source == "nothing" and self._looking_up(model):
            return f"looking up how large {model} is"
        room = self._memory.room_bytes(device, mates)
        coming = sum(worker.memory_bytes for worker in mates if worker.state == "ending")
        missing = 1 if room is None else need.total_bytes - room - coming
        if need.source == "nothing":  # alone it is tried whatever the guess says
            missing = min(missing, sum(map(self._memory.weight_bytes, mates)))
        if missing <= 0 or (room is None and any(worker.state == "ending" for worker in mates)):
            return "making room"
        spared = {job.model for job in self._book.queued() if job.priority == "live"} - {model}
        chosen = self._enough(self._memory.may_go(mates, now_s, live=live, spared=spared), missing)
        if chosen is not None:
            for worker in chosen:
                self._pool.unload(worker, f"room was needed for {model}")
                closed.add(worker.name)
            return None
        if live and self._preempt(model, mates, missing, closed):
            return None
        return self._wait_for(model, device, mates, need, missing, closed, now_s=now_s)

    def _preempt(self, model: str, mates: list[LocalWorker], missing: int, closed: set[str]) -> bool:
        """For a live job: end workers that do only batch work; their jobs go on later where they stopped."""
        batch = [worker for worker in mates if worker.state == "loaded" and self._only_batch(worker)]
        chosen = self._enough(batch, missing)
        for worker in chosen or ():
            self._pool.unload(worker, "a live job needed the room")
            closed.add(worker.name)
        return bool(chosen)

    def _enough(self, candidates: list[LocalWorker], missing: int) -> list[LocalWorker] | None:
        return enough(candidates, missing, self._memory.weight_bytes)

    def _only_batch(self, worker: LocalWorker) -> bool:
        aboard = [self._book.active.get(job) for job in worker.aboard]
        return all(job is not None and job.priority == "batch" for job in aboard)

    def _wait_for(
        self,
        model: str,
        device: str,
        mates: list[LocalWorker],
        need: Need,
        missing: int,
        closed: set[str],
        *,
        now_s: float,
    ) -> str:
        """Nobody may go yet: those at work take nothing new until enough of them can."""
        if self._enough(mates, missing) is None and not any(found.state == "loading" for found in mates):
            return self._short(model, device, need, now_s)
        self._short_since_s.pop(model, None)
        stay_s = self._settings.worker.stay_s
        tired = [found for found in mates if found.state == "loaded" and now_s - found.loaded_s >= stay_s]
        for worker in self._enough(tired, missing) or ():
            closed.add(worker.name)
        names = ", ".join(sorted({worker.model for worker in mates}))
        return f"waiting for memory beside {names}: {model} needs {gb(need.total_bytes)}"

    def _short(self, model: str, device: str, need: Need, now_s: float) -> str:
        """All of ours together do not have it: other programs do. They get a moment, then the job learns of
        it.
        """
        since_s = self._short_since_s.setdefault(model, now_s)
        refusal = self._refusal(model, device, need, "after")
        if now_s - since_s > SHORT_S:
            del self._short_since_s[model]
            self._pool.refuse(model, refusal)
        return refusal.message

    def _start(self, model: str, device: str, now_s: float) -> None:
        name = self._pool.free_name()
        self._short_since_s.pop(model, None)
        try:
            fresh = self._spawn(name, model, self._memory.pinned(device))
        except (OSError, ValueError) as error:  # no descriptors, no processes, no log file: as if it had died
            said = getattr(error, "strerror", None) or type(error).__name__  # no path: it travels
            self._pool.rest.died(model, now_s, f"no process could be started: {said}")
            return
        fresh.device = device
        wanted_s = self._pool.wanted.get(model)
        fresh.keep_alive_s = self._settings.worker.keep_alive_s if wanted_s is None else wanted_s
        self._pool.workers.append(fresh)
        self._metrics.count("worker_starts")
        _LOG.info("worker started", extra={"worker": name, "model": model, "pid": fresh.pid})
