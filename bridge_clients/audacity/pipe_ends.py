"""The two ends of Audacity's script pipe: FIFOs in /tmp on Linux and macOS, `\\\\.\\pipe\\…` on Windows.

Both give bytes with a deadline, so that an Audacity that hangs cannot hang its client.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from protocol.errors import SegueError

POSIX_FOLDER = Path("/tmp")
WINDOWS_TO, WINDOWS_FROM = r"\\.\pipe\ToSrvPipe", r"\\.\pipe\FromSrvPipe"
_PAUSE_S = 0.005
_ENABLE = "`segue install audacity` switches the script pipe on; then start Audacity again"


class Closed(Exception):
    """Audacity has gone, or has closed its ends."""


class Ends(Protocol):
    """What both kinds can do."""

    def write(self, data: bytes, deadline: float) -> None:
        """Send all of it. Raises Closed, or TimeoutError at `deadline` (monotonic seconds)."""

    def read(self, deadline: float) -> bytes:
        """Some bytes, or b"" at the deadline. Raises Closed."""

    def close(self) -> None:
        """Give both ends back."""


def posix_paths(folder: Path = POSIX_FOLDER) -> tuple[Path, Path]:
    """(to Audacity, from Audacity) of this user."""
    return tuple(folder / f"audacity_script_pipe.{way}.{os.getuid()}" for way in ("to", "from"))  # type: ignore[return-value]


def connect(wait_s: float) -> Ends:
    """Open both ends. Raises E_UNREACHABLE when Audacity does not serve its pipe within `wait_s`."""
    deadline = time.monotonic() + wait_s
    return _WindowsEnds(deadline) if sys.platform == "win32" else _PosixEnds(*posix_paths(), deadline)


def _unreachable(message: str, detail: str = "") -> SegueError:
    return SegueError("E_UNREACHABLE", message, field="audacity", retry="after", detail=detail)


class _PosixEnds:
    """Two FIFOs. Nothing here blocks: a FIFO whose other end nobody holds would keep its opener for ever."""

    def __init__(self, to: Path, back: Path, deadline: float) -> None:
        self._to = self._open_to(to, back, deadline)
        try:
            self._back = os.open(back, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            os.close(self._to)
            raise _unreachable(f"Audacity's pipe {back} cannot be opened ({error.strerror}).") from None
        self._heard = False

    @staticmethod
    def _open_to(to: Path, back: Path, deadline: float) -> int:
        """The end to write to, as soon as somebody reads there: between two clients Audacity makes the pipes
        anew.
        """
        there = False
        while True:
            try:
                for path in (to, back):
                    info = path.lstat()
                    if not stat.S_ISFIFO(info.st_mode) or info.st_uid != os.getuid():
                        raise _unreachable(
                            f"{path} is not a pipe of yours: remove it and start Audacity again."
                        )
                there = True
                return os.open(to, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                if time.monotonic() >= deadline:
                    if there:  # ENXIO: nobody reads
                        raise _unreachable(
                            "Audacity has left its script pipe behind, and nobody reads from it: start "
                            "Audacity again.",
                            "The first start after switching the pipe on looks through all plug-ins and may "
                            "leave a pipe that nobody reads.",
                        ) from None
                    raise _unreachable(
                        f"Audacity's script pipe is not there: start Audacity. {_ENABLE}."
                    ) from error
                time.sleep(0.05)

    def _gone(self) -> bool:
        """Whether nobody reads what is written any more."""
        watch = select.poll()
        watch.register(self._to, 0)
        return bool(watch.poll(0))

    def write(self, data: bytes, deadline: float) -> None:
        while data:
            try:
                data = data[os.write(self._to, data) :]
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(_PAUSE_S)
            except OSError:
                raise Closed from None

    def read(self, deadline: float) -> bytes:
        while True:
            with contextlib.suppress(BlockingIOError):
                found = os.read(self._back, 1 << 16)
                if found:
                    self._heard = True
                    return found
            left_s = deadline - time.monotonic()
            if self._gone():
                raise Closed
            if left_s <= 0:
                return b""
            # Before Audacity has opened its end, poll() says nothing useful: look again soon.
            if self._heard:
                select.select([self._back], [], [], min(left_s, 0.1))
            time.sleep(_PAUSE_S)

    def close(self) -> None:
        os.close(self._to)
        os.close(self._back)


class _WindowsEnds:
    """Two named pipes; Python can only read them blocking, so that a thread does."""

    def __init__(self, deadline: float, opener: Any = open) -> None:
        while True:
            try:
                self._to = opener(WINDOWS_TO, "wb", buffering=0)
                self._back = opener(WINDOWS_FROM, "rb", buffering=0)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise _unreachable(
                        f"Audacity's script pipe is not there: start Audacity. {_ENABLE}."
                    ) from None
                time.sleep(0.05)
        self._found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._pump, name="segue-audacity-pipe", daemon=True).start()

    def _pump(self) -> None:
        """Read to the end; b"" says that there is no more."""
        found = b"more"
        while found:
            try:
                found = self._back.read(1 << 16) or b""
            except (OSError, ValueError):
                found = b""
            self._found.put(found)

    def write(self, data: bytes, deadline: float) -> None:
        try:
            self._to.write(data.replace(b"\n", b"\r\n\0"))
        except (OSError, ValueError):
            raise Closed from None

    def read(self, deadline: float) -> bytes:
        try:
            found = self._found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return b""
        if not found:
            self._found.put(b"")
            raise Closed
        return found.replace(b"\r", b"").replace(b"\0", b"")

    def close(self) -> None:
        for end in (self._to, self._back):
            with contextlib.suppress(OSError):
                end.close()
