"""Room on the disk: a quota, space held for every job that was accepted, and a little for bad times.

A job holds its space in a file of its own (`spool/<job>/reserve`) that shrinks by what is written, so that a
disk that fills up later is a refusal to others and not the end of this take. Where the file system cannot
hold space, what was promised is only counted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.disk import StorageError
from protocol.errors import SegueError

RESERVE_NAME = "reserve"
RESERVE_BYTES = 1 << 20  # enough for the log of a journal that has to say how some hundred jobs ended
_MORE_BYTES = 64 << 10
_LENT_BYTES = 256 << 10  # what a job gives of its own for the journal, when there is nothing else


def need_bytes(audio_bytes: int, input_bytes: int) -> int:
    """What a job may need: spool and finished files lie side by side for a moment; a little for its tokens,
    its record and its part of the journal.
    """
    return 2 * audio_bytes + input_bytes + audio_bytes // 32 + 2 * _LENT_BYTES


def give_back(reserve: Path, count: int) -> bool:
    """Free `count` bytes of a job's space, which are about to be written to another file. False when nothing
    was held any more.
    """
    try:
        descriptor = os.open(reserve, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):
            held = os.fstat(descriptor).st_size
            disk.truncate(descriptor, max(0, held - count))
            return held > 0
    finally:
        os.close(descriptor)
    return False


def within(
    reserve: Path, count: int, write: Callable[[], Any], again: Callable[[], bool] = lambda: True
) -> Any:
    """Do `write`, which needs `count` bytes of a job's space.

    What is given back is anybody's for a moment, and a disk counts whole blocks: at 0 bytes left one take in
    40 met a full disk so. Then some more is given, while there is some and `again` says that `write` can be
    repeated.
    """
    give_back(reserve, count)
    while True:
        try:
            return write()
        except OSError as error:
            if not disk.is_full(error) or not again() or not give_back(reserve, count + _MORE_BYTES):
                raise


def free_bad_times(state: Path) -> None:
    """Give back the space that is kept for saying that there is none."""
    with contextlib.suppress(OSError):
        (state / RESERVE_NAME).unlink(missing_ok=True)


class Space:
    """The front-end's account of the state folder. Not thread-safe (but `hold` is); has one owner."""

    def __init__(self, state: Path, *, quota_bytes: int, keep_free_bytes: int) -> None:
        self._spool, self._takes = state / "spool", state / "takes"
        self._quota_bytes, self._keep_free_bytes = quota_bytes, keep_free_bytes
        self._sizes: dict[str, int] = {}
        self._bad_times = state / RESERVE_NAME
        self._holds = True  # until the file system says that it cannot
        for root in (self._spool, self._takes):
            for folder in root.iterdir():
                self.recount(folder.name)
        self.keep_reserve()

    # ---- for bad times ----

    def keep_reserve(self) -> None:
        """Hold some space so that the end of a job can still be journaled on a full disk."""
        with contextlib.suppress(OSError):
            if not self._bad_times.exists() and not disk.reserve(self._bad_times, RESERVE_BYTES):
                disk.put_file(self._bad_times, [bytes(RESERVE_BYTES)])

    def free_reserve(self) -> None:
        free_bad_times(self._bad_times.parent)

    def lend(self, job: int) -> None:
        """Some of a job's own space, for the journal's words about it."""
        give_back(self._reserve(job), _LENT_BYTES)

    # ---- coming in ----

    def check(self, need: int, promised: int) -> None:
        """Refuse (E_DISK_FULL) what would not fit beside what is there and what was promised to other jobs;
        both in bytes.
        """
        if self.used_bytes + need + promised > self._quota_bytes:
            free = max(0, self._quota_bytes - self.used_bytes - promised)
            raise SegueError(
                "E_DISK_FULL",
                f"The takes folder has room for {_size(free)} more and this job may need {_size(need)}:"
                " forget takes that you have saved, or raise takes.quota_gib.",
                value=need,
                allowed=f"up to {free} bytes",
                retry_ms=30_000,
            )
        free = shutil.disk_usage(self._takes).free - self._keep_free_bytes
        if not self._holds:
            free -= promised
        if need > free:
            raise self._full(need, free)

    def _full(self, need: int, free: int) -> StorageError:
        return StorageError(
            "E_DISK_FULL",
            f"The disk of {self._takes} is too full for this job, which may need {_size(need)}.",
            value=need,
            allowed=f"up to {max(0, free)} bytes",
            retry_ms=30_000,
        )

    def hold(self, job: int, count: int) -> None:
        """Hold `count` bytes for a job whose folder is there. Raises E_DISK_FULL or `OSError`."""
        try:
            self._holds = disk.reserve(self._reserve(job), count)
        except OSError as error:
            raise self._full(count, 0) if disk.is_full(error) else error from error

    def renew(self, job: int, need: int) -> None:
        """Before another attempt: hold again what an earlier one had used and given back. What cannot be held
        is still promised.
        """
        with contextlib.suppress(OSError):
            left = need - disk.used_bytes(self._spool / str(job), RESERVE_NAME)
            disk.reserve(self._reserve(job), max(0, left))

    def release(self, job: int) -> None:
        """The job has ended and needs nothing more."""
        with contextlib.suppress(OSError):
            self._reserve(job).unlink(missing_ok=True)

    def _reserve(self, job: int) -> Path:
        return self._spool / str(job) / RESERVE_NAME

    # ---- counting ----

    def recount(self, job: int | str) -> int:
        """Measure what a job uses now; returns the bytes that it gave back since the last time."""
        name = str(job)
        before = self._sizes.pop(name, 0)
        now = sum(disk.used_bytes(root / name, RESERVE_NAME) for root in (self._spool, self._takes))
        if now:
            self._sizes[name] = now
        return before - now

    def recount_all(self) -> None:
        for name in list(self._sizes):
            self.recount(name)

    def of(self, job: int) -> int:
        """What a job uses, as of its last count."""
        return self._sizes.get(str(job), 0)

    @property
    def quota_bytes(self) -> int:
        """What all jobs together may use."""
        return self._quota_bytes

    @property
    def used_bytes(self) -> int:
        """Of spool and takes, as of each job's last count; space that is only held does not count."""
        return sum(self._sizes.values())


def _size(count: int) -> str:
    """Bytes for a sentence."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"
