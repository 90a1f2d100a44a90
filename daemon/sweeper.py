"""Files that nobody needs any more, removed beside the loop: 100 MB take 40 ms to go, and 1 GB 400.

They leave their place at once, by a rename, and with it everybody's sight. Threading model: one thread that
removes what lies in the trash; what a kill leaves there goes at the next start.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import threading
import time
from pathlib import Path

from daemon import disk

TRASH_NAME = "trash"


class Sweeper:
    """`discard` belongs to the front-end's thread, `wait` may be called from any."""

    def __init__(self, state: Path) -> None:
        self._trash = state / TRASH_NAME
        self._count = itertools.count()
        self._todo: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._left = 0
        self._lock = threading.Lock()
        self._trash.mkdir(mode=0o700, exist_ok=True)
        for path in self._trash.iterdir():
            self._hand_over(path)
        self._thread = threading.Thread(target=self._serve, name="segue-sweeper", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return not self._idle.is_set()

    def wait(self, patience_s: float = 10.0) -> None:
        """Until everything discarded so far is gone, or the time is over."""
        self._idle.wait(patience_s)

    def discard(self, path: Path) -> None:
        """Remove a file or a folder; what is not there is as good. What the disk refuses stays, and is
        looked at again at the next start.
        """
        target = self._trash / f"{time.time_ns()}-{next(self._count)}"
        try:
            disk.rename(path, target)
        except FileNotFoundError:
            return
        except OSError:  # no way into the trash: then here and now
            _remove(path)
            return
        self._hand_over(target)

    def close(self) -> None:
        """Finish, as far as a few seconds allow."""
        self._todo.put(None)
        self._thread.join(5.0)

    def _hand_over(self, path: Path) -> None:
        with self._lock:
            self._left += 1
            self._idle.clear()
        self._todo.put(path)

    def _serve(self) -> None:
        while (path := self._todo.get()) is not None:
            _remove(path)
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._idle.set()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
