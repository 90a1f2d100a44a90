"""What is known of the daemon that holds a folder's lock: who it is, and whether it answers.

The lock is the kernel's (flock), so whoever holds it lives; what the file says is only believed about a
process that does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK_FILE = "segued.lock"
_MAX_BYTES = 65536


@dataclass(frozen=True)
class Holder:
    """The process behind a lock, as its lock file tells it. `process`: "runs", "stopped", "stuck" (waits for
    a disk), "zombie", "gone" or "unknown".
    """

    pid: int
    version: str
    since: str
    endpoint: str
    process: str

    @property
    def who(self) -> str:
        """pid, version, since when, where."""
        pid = self.pid or "?"
        return f"pid {pid}, version {self.version or '?'}, since {self.since or '?'}, at {self.endpoint}"

    @property
    def silence(self) -> str:
        """Why it does not answer, and what to do, in words."""
        if self.process == "stopped":
            return f"it is stopped (kill -CONT {self.pid} lets it go on)"
        if self.process == "stuck":
            return "it waits for a disk that does not answer"
        if self.process in ("gone", "zombie"):
            return "its process has ended, but another one holds its lock (fuser names it)"
        return f"it hangs (kill -9 {self.pid} ends it; nothing that was accepted is lost)"


def holder(folder: Path) -> Holder | None:
    """Who holds the folder's lock; None when nobody does. Changes nothing and makes no file."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return told(folder, said(descriptor))
    finally:
        os.close(descriptor)
    return None


def said(descriptor: int) -> dict[str, Any]:
    """What a lock file says of its owner."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        return found if isinstance(found, dict) else {}
    return {}


def told(folder: Path, about: dict[str, Any]) -> Holder:
    """A lock file's content as a `Holder`."""
    pid = about.get("pid")
    pid = pid if isinstance(pid, int) and pid > 0 else 0
    words = {name: str(about.get(name) or "") for name in ("version", "since")}
    return Holder(pid, **words, endpoint=str(about.get("endpoint") or folder), process=process_state(pid))


def process_state(pid: int) -> str:
    """See `Holder`."""
    if pid <= 0:
        return "unknown"
    letter = ""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        if sys.platform.startswith("linux"):
            return "gone"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, IndexError):
            letter = subprocess.run(
                ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=2, check=False
            ).stdout.strip()[0]
        if not letter:
            return "gone"
    return {"T": "stopped", "t": "stopped", "D": "stuck", "U": "stuck", "Z": "zombie"}.get(letter, "runs")
