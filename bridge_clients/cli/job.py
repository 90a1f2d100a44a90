"""``segue job DIR``: one job directory (JOBDIR.md), for hosts that can start a program and read files."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from bridge_clients.cli.exits import BUSY, DONE, sentence_of, status_of
from bridge_clients.cli.incident import write_incident
from protocol.errors import SegueError

_CANCELLED = 130


def run(args: Any) -> int:
    """See the directory's job to its end. What there is to say stands in it, and once on stderr."""
    from bridge_clients.jobdir.folder import JobDir
    from bridge_clients.jobdir.run import Busy, Run

    _stand_alone()
    path = Path(args.directory)
    try:
        place = JobDir(path)
    except SegueError as error:
        _refuse_there(path, error)
        raise
    run = Run(place, write_incident)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: run.interrupt())
    try:
        ended = run.wait()
    except Busy:
        sys.stderr.write(f"segue: Another segue job works on {path.name} already.\n")
        return BUSY
    if ended is None:
        status = DONE
    else:
        sys.stderr.write(f"segue: {sentence_of(ended)}\n")
        status = _CANCELLED if ended.code == "E_CANCELLED" else status_of(ended)
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name.startswith("segue-") for thread in threading.enumerate()):
        os._exit(status)  # a talk with a daemon that hangs is not waited for: `done` is written
    return status


def _stand_alone() -> None:
    """A host may start us with nothing open, and end, and take its terminal along: the job outlives it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else the next file would be what libraries take for their stderr
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _refuse_there(path: Path, error: SegueError) -> None:
    """Say it in the directory too, where a host looks for it, if the directory is ours; nothing is read."""
    from bridge_clients.jobdir.folder import DONE as DONE_FILE
    from bridge_clients.jobdir.folder import to_json

    with contextlib.suppress(OSError):
        info = os.lstat(path)
        if not hasattr(os, "getuid") or info.st_uid != os.getuid() or info.st_mode & 0o170000 != 0o040000:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path / DONE_FILE, flags, 0o600)
        try:
            os.write(descriptor, to_json({"state": "failed", **error.to_map(), "takes": []}) + b"\n")
        finally:
            os.close(descriptor)
