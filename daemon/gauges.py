"""What the gauges of the metrics are read from, at the moment somebody asks for them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path

from daemon import vram
from daemon.flow import Flow
from daemon.jobs import JobBook
from daemon.metrics import Metrics
from daemon.pool import Pool
from daemon.takes import TakeStore

PRIORITIES = ("live", "interactive", "batch")


def update(
    metrics: Metrics, *, book: JobBook, pool: Pool, flow: Flow, takes: TakeStore, journal: Path, held: int,
    quota_bytes: int, uptime_s: float, lines_lost: int,
) -> None:  # fmt: skip
    """Read all of them; takes well under a millisecond a worker. `journal`: its file; `lines_lost`: of the
    log, since the start.
    """
    for name, jobs in (("queued", book.queued()), ("running", book.running())):
        found = Counter(job.priority for job in jobs)
        for priority in PRIORITIES:
            metrics.gauge(name, found[priority], priority=priority)
    workers = pool.workers
    for name, value in {
        "workers": len(workers),
        "worker_memory_bytes": sum(worker.memory_bytes for worker in workers),
        "held": held,
        "attached": len(flow.attached),
        "takes_bytes": takes.space.used_bytes,
        "quota_bytes": quota_bytes,
        "journal_bytes": sum(_size(journal.with_name(journal.name + end)) for end in ("", "-wal", "-shm")),
        "uptime_seconds": uptime_s,
        "paused": float(pool.paused),
    }.items():
        metrics.gauge(name, value)
    metrics.gauge("resident_bytes", resident_bytes(os.getpid()), process="front-end")
    metrics.gauge("resident_bytes", sum(resident_bytes(w.pid) for w in workers), process="workers")
    with contextlib.suppress(OSError):
        metrics.gauge("disk_free_bytes", shutil.disk_usage(takes.takes).free)
    with contextlib.suppress(OSError):
        metrics.gauge("open_files", len(os.listdir("/proc/self/fd")))
    used = vram.used_bytes()
    if used is not None:
        metrics.gauge("device_used_bytes", used)
    metrics.count("log_lines_lost", lines_lost - metrics.counted("log_lines_lost"))


def resident_bytes(pid: int) -> int:
    """Memory of a process in the machine, 0 where it is gone or the system does not say (macOS)."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
