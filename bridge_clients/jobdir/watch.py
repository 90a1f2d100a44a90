"""`segue watch FOLDER`: job directories of hosts that cannot start a program, each given to a `segue job`.

Looks at the folder twelve times a second. A directory is taken up when its `request.json` is there, which a
host renames into place last, so nothing half-written is read. Each child has a session of its own: it
survives the watcher, and a watcher that comes back leaves alone what has a heartbeat.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge_clients.jobdir.folder import DONE, HEARTBEAT, REQUEST, SAFE_NAME, JobDir, check_folder, write_beat
from protocol.errors import SegueError

BEAT = ".watch"
LOOK_S, BEAT_S = 0.08, 0.5
DEAD_S = 5.0
MOST_STARTS = 3
_AGAIN_S = 1.0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    starts: int


class Watch:
    """A watcher on one folder. Raises E_ARGUMENT when the folder is not the user's own, or is watched."""

    def __init__(
        self,
        folder: Path,
        *,
        command: Sequence[str],
        environment: dict[str, str] | None,
        at_most: int,
        say: Callable[[str], None],
    ) -> None:
        """command: what starts a `segue`, to which `job DIR` is added; at_most: children at the same time."""
        self.folder = folder.absolute()
        check_folder(self.folder, any_name=True)
        self._command, self._environment = list(command), environment
        self._at_most, self._say = at_most, say
        self._children: dict[str, _Child] = {}
        self._later: dict[str, tuple[float, int]] = {}  # died without `done`: (not before, starts so far)
        self._left: set[tuple[int, int]] = set()  # refused or given up: said once, never tried again
        self._beat = self._take()

    def _take(self) -> int:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.folder / BEAT, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _refused(self.folder, "is watched already") from None
        except OSError as error:
            raise _refused(self.folder, f"cannot be written to ({error.strerror})") from None
        return descriptor

    def run(self, stop: threading.Event) -> None:
        """Until `stop`, or until the folder is gone. What runs then runs on."""
        beat_s, beats = 0.0, 0
        try:
            while not stop.wait(LOOK_S):
                if time.monotonic() - beat_s >= BEAT_S:
                    beat_s, beats = time.monotonic(), beats + 1
                    write_beat(self._beat, beats)
                if not self.look():
                    self._say(f"{self.folder} is gone.")
                    return
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self.folder / BEAT)
            os.close(self._beat)

    def look(self) -> bool:
        """One look: start what is new, see who has ended. False when the folder is gone."""
        self._reap()
        try:
            with os.scandir(self.folder) as entries:
                found = sorted(
                    (entry for entry in entries if self._is_new(entry)), key=lambda e: _laid_ns(e.path)
                )
        except FileNotFoundError:
            return False
        except OSError as error:
            self._say(f"{self.folder} cannot be read ({error.strerror}).")
            return True
        for entry in found:
            if len(self._children) >= self._at_most:
                break
            self._start(entry)
        return True

    def _is_new(self, entry: os.DirEntry[str]) -> bool:
        if entry.name in self._children or not SAFE_NAME.fullmatch(entry.name):
            return False
        try:
            if not entry.is_dir(follow_symlinks=False):
                return False
            info = entry.stat(follow_symlinks=False)
            if (info.st_dev, info.st_ino) in self._left or not _is_file(entry.path, REQUEST):
                return False
        except OSError:  # no request yet, or the host has just removed it all
            return False
        if os.path.lexists(os.path.join(entry.path, DONE)):
            return False
        if entry.name in self._later:
            return time.monotonic() >= self._later[entry.name][0]
        return not _beats(entry.path)  # somebody else's `segue job` is at it

    def _start(self, entry: os.DirEntry[str]) -> None:
        starts = self._later.pop(entry.name, (0.0, 0))[1] + 1
        try:
            process = subprocess.Popen(
                [*self._command, "job", entry.path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, cwd=self.folder, env=self._environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._leave(entry.path, f"segue could not be started ({error.strerror}).")
            return
        self._children[entry.name] = _Child(process, starts)
        self._say(f"{entry.name}: begun.")

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            status = child.process.poll()
            if status is None:
                continue
            del self._children[name]
            path = os.path.join(self.folder, name)
            if not os.path.isdir(path):
                self._say(f"{name}: removed.")
            elif os.path.lexists(os.path.join(path, DONE)):
                self._say(f"{name}: {'done' if status == 0 else f'ended with status {status}'}.")
            elif child.starts < MOST_STARTS:
                self._say(f"{name}: segue job ended early (status {status}); starting it again.")
                self._later[name] = (time.monotonic() + _AGAIN_S, child.starts)
            else:
                self._leave(path, f"segue job ended {child.starts} times without a result.")

    def _leave(self, path: str, why: str) -> None:
        """Give a directory up, and tell its host."""
        with contextlib.suppress(OSError):
            info = os.lstat(path)
            self._left.add((info.st_dev, info.st_ino))
        self._say(f"{os.path.basename(path)}: {why}")
        with contextlib.suppress(SegueError, OSError):
            place = JobDir(path)
            error = SegueError("E_INTERNAL", why, retry="never")
            place.finish({"state": "failed", **error.to_map(), "takes": []}, None)
            place.close()


def _is_file(folder: str, name: str) -> bool:
    import stat

    return stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode)


def _beats(folder: str) -> bool:
    try:
        return time.time() - os.lstat(os.path.join(folder, HEARTBEAT)).st_mtime < DEAD_S
    except OSError:
        return False


def _laid_ns(folder: str) -> int:
    try:
        return os.lstat(os.path.join(folder, REQUEST)).st_mtime_ns
    except OSError:
        return 0


def _refused(folder: Path, why: str) -> SegueError:
    return SegueError(
        "E_ARGUMENT", f"{folder} {why}.", field="FOLDER", value=str(folder),
        allowed="a folder of your own that only you can write to",
    )  # fmt: skip
