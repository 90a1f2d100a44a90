"""The parts that make jobs into audio, put together: memory, costs, workers, residency, order, dispatch."""

from __future__ import annotations

import logging
from collections.abc import Callable

from daemon.config import Settings
from daemon.costs import CostEstimate
from daemon.disk import StorageError
from daemon.dispatch import Dispatcher
from daemon.inventory import Inventory
from daemon.jobs import JobBook
from daemon.journal import Journal
from daemon.memory import Memory
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.residency import Residency
from daemon.scheduler import Scheduler
from daemon.workers.local import LocalWorker

_LOG = logging.getLogger("segue.works")


def assemble(
    journal: Journal,
    book: JobBook,
    settings: Settings,
    metrics: Metrics,
    inventory: Inventory,
    spawn: Callable[[str, str, str], LocalWorker],
) -> tuple[Pool, Dispatcher]:
    """`spawn` starts a worker: (name, model, device) -> LocalWorker. What was learnt about needs and costs
    comes from the journal and is kept there; whether it was paused too.
    """

    def remember(name: str, value: str) -> None:
        """Worth keeping, but no reason to stop when the disk is full."""
        try:
            journal.set_fact(name, value)
        except StorageError as error:
            _LOG.info("not remembered", extra={"what": name, "error": str(error)})

    def recall(name: str) -> str:
        try:
            return journal.fact(name)
        except StorageError:
            return ""  # as if nothing had been learnt

    memory = Memory(settings.worker, recall=recall, remember=remember, files_bytes=inventory.files_bytes)
    pool = Pool(book, CostEstimate(recall=recall, remember=remember), memory, settings, metrics)
    pool.paused = journal.fact("paused") == "1"
    if settings.worker.preload:
        pool.wanted[settings.worker.default_model] = settings.worker.keep_alive_s
    turns = Scheduler(settings.queue.ageing_s, settings.queue.batch_ageing_s)
    residency = Residency(book, pool, memory, settings, metrics, inventory, spawn)
    return pool, Dispatcher(book, pool, turns, residency, settings, metrics)
