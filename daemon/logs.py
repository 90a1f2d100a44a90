"""The log: one JSON object a line, rotated by size, control characters escaped, no texts of prompts."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

from daemon.config import Log

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


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


def start(folder: Path, settings: Log, *, also_stderr: bool) -> None:
    """Send the package's log to `folder`/segued.log and, in the foreground, warnings to stderr."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = logging.getLogger("segue")
    root.setLevel(settings.level.upper())
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    size = round(settings.max_mib * 1024 * 1024)
    file = logging.handlers.RotatingFileHandler(
        folder / "segued.log", maxBytes=size, backupCount=settings.keep, encoding="utf-8", delay=True
    )
    file.setFormatter(JsonLines())
    root.addHandler(file)
    if also_stderr:
        screen = logging.StreamHandler(sys.stderr)
        screen.setLevel(logging.WARNING)
        screen.setFormatter(logging.Formatter("segued: %(message)s"))
        root.addHandler(screen)


def rotate(path: Path, settings: Log) -> Path:
    """Make room in a log that another process writes: shift it when it is over the size. Returns `path`."""
    if path.exists() and path.stat().st_size > settings.max_mib * 1024 * 1024:
        for number in range(settings.keep, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            if newer.exists():
                newer.replace(older)
        if settings.keep == 0:
            path.unlink()
    return path
