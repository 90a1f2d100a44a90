"""Audacity's script pipe: one command at a time, one answer each, every wait with an end.

What was measured with Audacity 3.2.4 and made this file:

- a command takes 40 to 200 ms; one that opens a dialog never answers until the dialog is closed;
- the pipe is there before the window, and then answers with a bare newline;
- a line of more than 1,022 bytes is cut, and its rest is taken for a command of its own. So a command
  with a newline or of that length is refused here, and what a user wrote never stands in a command;
- two clients at once read each other's answers: a lock keeps those of Segue apart;
- the answer to a client that was killed goes to the next one, which would then take each answer for that of
  the command after it (and remove a file that Audacity still reads: a dialog, and no answer any more). So
  every conversation begins with words of its own, and whatever comes before their echo is thrown away.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from bridge_clients.audacity.pipe_ends import Closed, Ends, connect
from protocol.errors import SegueError

MAX_COMMAND_BYTES = 1000
ANSWER_S = 20.0
CONNECT_S = 5.0
LOCK_S = 30.0
EMPTY_S = 0.3
"""A newline with nothing behind it for so long is Audacity's answer while it has no window yet."""
_END = re.compile(rb"(?:\A|\n)BatchCommand finished: ([^\n]{1,60})\n\n")


def quoted(words: str) -> str:
    """A value for a command: quotes and backslashes escaped. Raises ValueError for what no command can
    hold.
    """
    if not words.isprintable():
        raise ValueError(f"{words!r} cannot stand in a command")
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Pipe:
    """A conversation with the Audacity that runs. Raises E_UNREACHABLE without one, E_TIMEOUT when it is
    there and does not answer, E_QUEUE_FULL when another `segue audacity` keeps it for too long.
    """

    def __init__(
        self, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S, ends: Ends | None = None
    ) -> None:
        self._answer_s = answer_s
        self._buffer = b""
        self._over: SegueError | None = None
        self._lock = _Lock() if ends is None else None
        deadline = time.monotonic() + answer_s
        try:
            if self._lock is not None:
                self._lock.take(LOCK_S)
                deadline = time.monotonic() + answer_s
            self._ends = ends if ends is not None else connect(connect_s)
        except BaseException:
            self._unlock()
            raise
        try:
            self._greet(deadline, lambda: connect(connect_s) if ends is None else None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next client in."""
        self._ends.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.give()

    def _greet(self, deadline: float, again: Callable[[], Ends | None]) -> None:
        """Say something until its echo comes. Before Audacity has a window every answer is an empty one; and
        the pipes that were opened may be the last client's, which Audacity is about to make anew.
        """
        while True:
            words = f"segue {secrets.token_hex(8)}"
            try:
                found = self._ask(f"Message: Text={quoted(words)}", deadline)
                while found is not None:
                    # an Audacity without this command names it in its refusal
                    if words in found[1] or (not found[0] and "Message" in found[1]):
                        return
                    found = self._answer(deadline, "Message")
            except SegueError as error:
                if error.code != "E_UNREACHABLE" or time.monotonic() >= deadline:
                    raise
                new = again()
                if new is None:
                    raise
                self._ends.close()
                self._ends, self._buffer, self._over = new, b"", None
            time.sleep(0.1)

    def do(self, command: str, *, timeout_s: float | None = None) -> str:
        """Run one command; the text that it answered. Raises E_INTERNAL when Audacity says that it failed."""
        found = self._ask(command, time.monotonic() + (timeout_s or self._answer_s))
        if found is None:
            raise _failed(command, "an empty answer")
        done, text = found
        if not done:
            raise _failed(command, text)
        return text

    def try_(self, command: str) -> str | None:
        """The same, but None where Audacity says that it failed."""
        found = self._ask(command, time.monotonic() + self._answer_s)
        return found[1] if found is not None and found[0] else None

    def _ask(self, command: str, deadline: float) -> tuple[bool, str] | None:
        """(done, text), or None for an empty answer. After a timeout nothing more is sent: it would be done
        when the dialog is closed, whatever the musician has selected by then.
        """
        data = command.encode()
        if not command.isprintable() or len(data) > MAX_COMMAND_BYTES:
            raise ValueError(f"no command for the pipe: {command[:80]!r}")
        if self._over is not None:
            raise self._over
        name = command.split(":")[0]
        with self._ending_it(name):
            self._ends.write(data + b"\n", deadline)
        return self._answer(deadline, name)

    def _answer(self, deadline: float, name: str) -> tuple[bool, str] | None:
        """The next answer, of the command of that name or of one before it."""
        with self._ending_it(name):
            while (end := _END.search(self._buffer)) is None:
                bare = self._buffer == b"\n"
                until = min(deadline, time.monotonic() + EMPTY_S) if bare else deadline
                found = self._ends.read(until)
                self._buffer += found
                if bare and not found:
                    self._buffer = b""
                    return None
                if not found and time.monotonic() >= deadline:
                    raise TimeoutError
        text = self._buffer[: end.start()].decode("utf-8", "replace").strip()
        self._buffer = self._buffer[end.end() :]
        return end[1] == b"OK", text

    @contextlib.contextmanager
    def _ending_it(self, name: str) -> Iterator[None]:
        """What the ends tell, as the conversation's end."""
        try:
            yield
        except Closed:
            self._over = SegueError("E_UNREACHABLE", "Audacity was closed.", field="audacity", retry="after")
            raise self._over from None
        except TimeoutError:
            self._over = SegueError(
                "E_TIMEOUT",
                "Audacity is there but does not answer: is a dialog open in it? Close it and try again.",
                field="audacity",
                retry="after",
                detail=name,
            )
            raise self._over from None


def _failed(command: str, text: str) -> SegueError:
    said = " ".join(text.split())[:300] or "nothing about why"
    return SegueError(
        "E_INTERNAL", f"Audacity could not do {command.split(':')[0]}; it says: {said}", field="audacity",
        retry="never",
    )  # fmt: skip


class _Lock:
    """One `segue audacity` at a time, of this user; the system frees it with the process."""

    def __init__(self) -> None:
        owner = os.getuid() if hasattr(os, "getuid") else "0"
        self._path = Path(tempfile.gettempdir()) / f"segue-audacity-{owner}.lock"
        self._fd = -1

    def take(self, wait_s: float) -> None:
        """Wait for it. Raises E_QUEUE_FULL."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise SegueError(
                "E_ARGUMENT",
                f"{self._path} cannot be opened ({error.strerror}): remove it.",
                field="audacity",
            ) from None
        deadline = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= deadline:
                self.give()
                raise SegueError(
                    "E_QUEUE_FULL", "Another `segue audacity` talks with Audacity; try again in a moment.",
                    field="audacity", retry="after",
                )  # fmt: skip
            time.sleep(0.02)

    def _try(self) -> bool:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def give(self) -> None:
        """Closing the file frees the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
