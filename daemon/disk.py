"""Every write that a take depends on goes through these few functions, so that faults can be injected in one
place.

All raise `OSError`; a short write is continued, never ignored. `storage_error` turns what a disk or sqlite
says into the sentence that a client gets.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from protocol.errors import SegueError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE


class StorageError(SegueError):
    """The disk did not do what was asked; nothing has changed. E_DISK_FULL, or E_DISK for any other fault."""


def storage_error(error: Exception) -> StorageError:
    """The typed error for an `OSError` or sqlite's; one that is typed already stays as it is."""
    if isinstance(error, StorageError):
        return error
    name = str(getattr(error, "sqlite_errorname", ""))
    if is_full(error) or name.startswith("SQLITE_FULL"):
        return StorageError("E_DISK_FULL", "The disk of Segue's state folder is full.", retry_ms=30_000)
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageError(
        "E_DISK",
        f"Segue's state folder cannot be read or written: {said}.",
        retry_ms=5_000,
        detail=name or None,
    )


def is_full(error: Exception) -> bool:
    """Whether the disk (or the user's share of it) has no room."""
    return getattr(error, "errno", None) in _FULL


def is_damage(error: sqlite3.Error) -> bool:
    """Whether sqlite found the file itself wrong, rather than the disk, its space or a lock."""
    code = getattr(error, "sqlite_errorcode", None)
    # 1: the file lacks a table or column; 8: marked read-only inside; 11, 24, 26: not a sound database
    return code is not None and code & 0xFF in (1, 8, 11, 17, 20, 24, 26)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset` bytes from the file's start."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync(descriptor: int) -> None:
    """The file's content is on the disk when this returns."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """The folder's entries (new names, renames) are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def truncate(descriptor: int, size: int) -> None:
    """Cut (or lengthen) the file to `size` bytes."""
    os.ftruncate(descriptor, size)


def rename(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`; durable after `sync_folder`."""
    os.replace(source, target)


def allocate(descriptor: int, size: int, *, keep_size: bool = False) -> bool:
    """Hold blocks for `size` bytes of a file; False where the file system cannot. Not the C library's
    posix_fallocate, which would write zeros there instead.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None or size <= 0:
        return call is not None
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(_KEEP_SIZE * keep_size), ctypes.c_int64(0))
    while call(*arguments, ctypes.c_int64(size)) != 0:
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True


def reserve(path: Path, size: int) -> bool:
    """A file that holds `size` bytes of the disk and contains nothing; False where that cannot be had."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if allocate(descriptor, size):
            truncate(descriptor, size)
            return True
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    path.unlink(missing_ok=True)
    return False


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes; fewer only at the end of the file."""
    parts: list[bytes] = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def put_file(path: Path, pieces: Iterable[bytes | memoryview], expected_bytes: int = 0) -> int:
    """Put a file in place whole or not at all: part file, sync, rename, sync of the folder. Returns its size.
    `expected_bytes` are held before the first is written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    size = 0
    try:
        try:
            allocate(descriptor, expected_bytes, keep_size=True)
            for piece in pieces:
                write_at(descriptor, piece, size)
                size += memoryview(piece).nbytes
            sync(descriptor)
        finally:
            os.close(descriptor)
        rename(part, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what is said
            part.unlink(missing_ok=True)
        raise
    return size


def used_bytes(folder: Path, but: str = "") -> int:
    """Bytes of all files below `folder` except those named `but`; what vanishes meanwhile or cannot be read
    counts nothing.
    """
    total = 0
    stack = [folder]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(Path(entry.path))
                elif entry.name != but:
                    total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return total
