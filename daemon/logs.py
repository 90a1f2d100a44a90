"""The log: one JSON object a line, rotated by size, control characters escaped, no texts of prompts.

A log that cannot be written never hurts: the line is dropped and counted, and the next one is tried again.
That is why this is not `logging.handlers.RotatingFileHandler`: when the disk is full its close fails, after
which it writes to a closed file for the rest of the process's life.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import stat
import sys
import time
from pathlib import Path

from daemon.config import Log

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
MAX_LINE_BYTES = 64 * 1024
TAIL_BYTES = 4 << 20  # of a log that another process writes: copying so much takes about 2 ms


class JsonLines(logging.Formatter):
    """ISO time in UTC, level, logger, message, and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=repr)  # ASCII only: nothing in it can steer a terminal


class Plain(logging.Formatter):
    """One line for a person in front of a terminal, with nothing in it that could steer one."""

    def format(self, record: logging.LogRecord) -> str:
        words = record.getMessage()
        return "segued: " + "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in words
        )


class LineFile(logging.Handler):
    """Lines appended to `path` with one write each; at `max_bytes` the file is shifted to ``.1``, ``.2`` …

    `lost` counts the lines that could not be written. A file that was removed or replaced is made anew.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        super().__init__()
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._file: int | None = None
        self._size = 0
        self._torn = False  # the last line was cut by a full disk
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")
        except Exception:  # an `extra` that cannot be told is no reason to fail
            line = json.dumps({"level": "error", "message": "a log line could not be made"}).encode()
        if len(line) > MAX_LINE_BYTES:
            start = line[: MAX_LINE_BYTES // 2].decode("utf-8", "replace")
            line = json.dumps({"level": record.levelname.lower(), "cut": True, "message": start}).encode()
        try:
            self._append(line + b"\n")
        except OSError:
            self.lost += 1
            self._shut()

    def _append(self, line: bytes) -> None:
        if self._file is not None and self._gone():
            self._shut()
        if self._file is None:
            self._open()
        if self._size and self._size + len(line) > self._max_bytes:
            self._shift()
        if self._file is None:
            self._open()
        if self._size > 2 * self._max_bytes:
            raise OSError("the full log could not be shifted away")
        if self._torn:
            line = b"\n" + line
        descriptor = -1 if self._file is None else self._file
        written = os.write(descriptor, line)
        self._size += written
        self._torn = written != len(line)
        if self._torn:
            self.lost += 1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _gone(self) -> bool:
        return self._file is not None and os.fstat(self._file).st_nlink == 0

    def _shift(self) -> None:
        self._shut()
        with contextlib.suppress(OSError):
            shift(self._path, self._keep)

    def _shut(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def close(self) -> None:
        self._shut()
        super().close()


def start(folder: Path, settings: Log, *, also_stderr: bool) -> LineFile:
    """Send the package's log to `folder`/segued.log and, in the foreground, warnings to stderr."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = logging.getLogger("segue")
    root.setLevel(settings.level.upper())
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    file = LineFile(folder / "segued.log", max_bytes=max_bytes(settings), keep=settings.keep)
    file.setFormatter(JsonLines())
    root.addHandler(file)
    if also_stderr:
        logging.raiseExceptions = False  # a terminal that has gone is no reason for a traceback
        screen = logging.StreamHandler(sys.stderr)
        screen.setLevel(logging.WARNING)
        screen.setFormatter(Plain())
        root.addHandler(screen)
    return file


def incident(logger: logging.Logger, what: str, error: BaseException, **more: object) -> str:
    """Log a fault of ours with its trace under a number that the user can be told; returns the number."""
    number = secrets.token_hex(4)
    trace = (type(error), error, error.__traceback__)
    logger.error(what, extra={"incident": number, **more}, exc_info=trace)
    return number


def max_bytes(settings: Log) -> int:
    """How long one log file may become."""
    return round(settings.max_mib * 1024 * 1024)


def shift(path: Path, keep: int) -> None:
    """Rename `path` to ``.1``, ``.1`` to ``.2`` … and let go of what is older than `keep`."""
    for number in range(keep, 0, -1):
        newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        if newer.exists():
            newer.replace(path.with_name(f"{path.name}.{number}"))
    if keep == 0:
        path.unlink(missing_ok=True)


def rotate(path: Path, settings: Log) -> Path:
    """Make room in a log before another process opens it, if it is over the size. Returns `path`."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > max_bytes(settings):
            shift(path, settings.keep)
    return path


def rotate_open(path: Path, settings: Log) -> bool:
    """The same while another process appends to it: its newest part is copied away, then it is emptied.

    What is written between the two is lost, and so is all but the newest `TAIL_BYTES`. True when it was done.
    """
    try:
        if path.stat().st_size <= max_bytes(settings):
            return False
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        if settings.keep:
            with contextlib.suppress(OSError):
                size = os.fstat(descriptor).st_size
                tail = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
                part = path.with_name(f".{path.name}.part")
                with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as copy:
                    copy.write(tail)
                for number in range(settings.keep, 1, -1):
                    newer = path.with_name(f"{path.name}.{number - 1}")
                    if newer.exists():
                        newer.replace(path.with_name(f"{path.name}.{number}"))
                part.replace(path.with_name(f"{path.name}.1"))
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            return True
    return False


def trim_stderr(settings: Log) -> None:
    """Empty our own stderr when it is a file that has grown over the size (a start by a client)."""
    with contextlib.suppress(OSError, ValueError):
        info = os.fstat(2)
        if stat.S_ISREG(info.st_mode) and info.st_size > max_bytes(settings):
            os.ftruncate(2, 0)
