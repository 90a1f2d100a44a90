"""Reaching a daemon that is ready, and starting one if there is none.

Twenty clients that start at once give one daemon: whoever holds the lock file `start.lock` (flock: the
kernel frees it however its owner ends) looks again, starts the daemon, and keeps the lock until it answers.
The daemon itself holds another lock, so even a client that ignored this one could not start a second.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bridge_clients.connection import Connection, chosen, find, read_key_file, runtime_folders
from bridge_clients.core import Numbering, which
from bridge_clients.link import Link
from bridge_clients.supervised import start_command
from protocol.build import build_id, code_root
from protocol.errors import SegueError
from protocol.framing import version_error
from protocol.limits import MAJOR, MINOR
from protocol.replies import HelloReply
from protocol.requests import Hello

START_LOCK = "start.lock"
LOG_FILE = "start.log"
HELLO_S = 2.0
MANAGER_S = 5.0  # how long a service that was started may take to answer
SILENT_S = 10.0  # a daemon that is there and says nothing for so long hangs
ALREADY_RUNNING = 3  # exit status of a daemon that found another one
_PAUSE_S = 0.05

Say = Callable[[str], None]


def greeting(name: str) -> Hello:
    """The client's own introduction."""
    return Hello(client=name, build=build_id(), protocol=(MAJOR, MINOR))


def say_hello(link: Link, name: str, timeout_s: float) -> HelloReply | None:
    """Ask who is there; None when nobody answers in time. Raises E_VERSION and what else the daemon
    refuses.
    """
    hello, numbering = greeting(name), Numbering()
    number, frames = numbering.frames(hello, link.connection.token)
    answer = link.exchange(frames, timeout_s)
    if answer is None:
        return None
    reply = numbering.answer(hello, number, answer)
    return reply if isinstance(reply, HelloReply) else None


def other_major(hello: HelloReply) -> SegueError:
    """The error for a daemon that speaks another major: which process, and what to do about it."""
    error = version_error(hello.protocol[0])
    command = (
        "systemctl --user restart segue.service" if hello.supervisor == "systemd" else f"kill {hello.pid}"
    )
    error.message += f" It is {which(hello)} ({hello.daemon}); `{command}` ends it politely."
    error.args = (error.message,)
    return error


class Starter:
    """Brings a client to a daemon that is ready (or, without the right to start one, that answers).

    folder: the runtime folder if not the usual one; key_file: of a daemon that is not found but named, and
    never started from here; start: whether a daemon may be started; command: how; on_wait: told, in a
    sentence, what is being waited for.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        key_file: Path | None = None,
        start: bool = True,
        command: Sequence[str] | None = None,
        name: str = "segue-python",
        on_wait: Say | None = None,
        curve_keys: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._folder, self._name = folder, name
        self._key_file = key_file if key_file is not None or folder is not None else chosen()
        self._start = start and self._key_file is None
        self._command = list(command) if command is not None else None
        self._on_wait = on_wait
        self._curve_keys = curve_keys
        self._said = ""
        self._child: Any = None
        self._ask_manager, self._asked_manager = True, False

    def reach(self, timeout_s: float, *, patient: bool = False) -> tuple[Link, HelloReply]:
        """A link to a daemon that has answered hello.

        patient: without the right to start one, wait for a daemon to come back instead of giving up at once.
        Raises E_UNREACHABLE, E_TIMEOUT, E_VERSION.
        """
        deadline = time.monotonic() + timeout_s
        while self._key_file is not None:
            named = read_key_file(self._key_file)
            link, hello = self._try_named(named.resolved(_left_s(deadline, HELLO_S)), deadline)
            if hello is not None:
                return link, hello
            link.close()
            if not patient or time.monotonic() >= deadline:
                raise link.connection.unreachable()
            self._pause(deadline, "Waiting for the daemon to come back.")
        while True:
            found = self._try(deadline)
            if found is not None:
                return found
            if self._start:
                return self._start_one(deadline)
            if not patient:
                raise SegueError("E_UNREACHABLE", "The daemon is not running; `segue serve` starts it.")
            self._pause(deadline, "Waiting for the daemon to come back.")

    def _try_named(self, connection: Connection, deadline: float) -> tuple[Link, HelloReply | None]:
        link = Link(connection, self._curve_keys)
        try:
            hello = say_hello(link, self._name, _left_s(deadline, HELLO_S))
            if hello is not None and hello.protocol[0] != MAJOR:
                raise other_major(hello)
        except BaseException:
            link.close()
            raise
        return link, hello

    def _try(self, deadline: float) -> tuple[Link, HelloReply] | None:
        """The daemon of the connection file when it is ready; None when there is none."""
        silent_since: float | None = None
        while True:
            connection = find(self._folder)
            if connection is None or not connection.alive():
                return None
            link, hello = self._try_named(connection, deadline)
            if hello is not None and (hello.ready or not self._start):
                return link, hello
            link.close()
            if hello is not None:
                silent_since = None
                self._pause(deadline, f"Waiting for the daemon: {hello.waiting_for or 'it is starting'}.")
                continue
            if not connection.alive() or (not connection.replaced() and not connection.listening()):
                return None
            silent_since = silent_since or time.monotonic() - HELLO_S
            who = f"The daemon (process {connection.pid}) does not answer"
            if time.monotonic() >= min(deadline, silent_since + SILENT_S):
                raise SegueError("E_TIMEOUT", f"{who}; `segue doctor` says why and what to do.", detail=who)
            again = time.monotonic() - silent_since > 1.5 * HELLO_S
            self._pause(deadline, f"{who}; still trying." if again else self._said)

    def _start_one(self, deadline: float) -> tuple[Link, HelloReply]:
        self._ask_manager, self._asked_manager = True, False
        folder = _first_private([self._folder] if self._folder is not None else runtime_folders())
        with _lock(
            folder / START_LOCK, deadline, lambda: self._pause(deadline, "Another program is starting it.")
        ):
            while True:
                found = self._try(deadline)  # whoever held the lock before may have started it
                if found is not None:
                    self._child = None  # it lives on its own
                    return found
                if self._child is None:
                    self._say("Starting the daemon.")
                    self._child = self._spawn(folder)
                elif self._child.poll() is not None:
                    status, self._child = self._child.returncode, None
                    if self._asked_manager:
                        self._asked_manager = False
                        found = self._started_by_manager(deadline) if status == 0 else None
                        if found is not None:
                            return found
                        continue  # then one is started from here
                    if status == ALREADY_RUNNING and "does not answer" not in _last_line(folder / LOG_FILE):
                        self._pause(deadline, "Another daemon is starting or ending.")
                        continue
                    raise SegueError(
                        "E_UNREACHABLE",
                        f"The daemon ended while starting (status {status}): {_last_line(folder / LOG_FILE)}",
                        detail=str(folder / LOG_FILE),
                        retry="never",
                    )
                self._pause(deadline, "Waiting for the daemon to answer.")

    def _started_by_manager(self, deadline: float) -> tuple[Link, HelloReply] | None:
        by = min(deadline, time.monotonic() + MANAGER_S)
        while time.monotonic() < by:
            found = self._try(deadline)
            if found is not None:
                return found
            self._pause(deadline, "Waiting for the daemon to answer.")
        return None

    def _spawn(self, folder: Path) -> Any:
        import subprocess

        environment = dict(os.environ)
        root = str(code_root())
        if Path(root).name not in ("site-packages", "dist-packages"):
            known = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
        if self._folder is not None:
            environment["SEGUE_RUNTIME"] = str(folder)
        # -P: the folder the user happens to stand in must not be able to offer a package called "daemon"
        command = self._command or [sys.executable, "-P", "-m", "daemon", "serve"]
        if self._ask_manager and self._command is None and self._folder is None:
            self._ask_manager = False
            service = start_command()
            if service is not None:
                command, self._asked_manager = service, True
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        log = os.open(folder / LOG_FILE, flags, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise SegueError(
                "E_UNREACHABLE", f"The daemon cannot be started: {error}.", retry="never"
            ) from None
        finally:
            os.close(log)

    def _pause(self, deadline: float, said: str) -> None:
        self._say(said)
        if time.monotonic() >= deadline:
            raise SegueError("E_TIMEOUT", f"The daemon was not ready in time. {said}".rstrip(), detail=said)
        time.sleep(_PAUSE_S)

    def _say(self, said: str) -> None:
        if said and said != self._said:
            self._said = said
            if self._on_wait is not None:
                self._on_wait(said)


def _left_s(deadline: float, at_most_s: float) -> float:
    return max(0.05, min(at_most_s, deadline - time.monotonic()))


def _first_private(folders: Sequence[Path]) -> Path:
    """The first of these folders that can be ours alone, made if need be."""
    problem = "no place is known"
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = os.lstat(folder)
            if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
                problem = f"{folder} is not a folder of yours"
                continue
            if info.st_mode & 0o077:
                os.chmod(folder, 0o700)
            return folder
        except OSError as error:
            problem = f"{folder} cannot be made ({error.strerror})"
    raise SegueError("E_UNREACHABLE", f"{problem}; set SEGUE_RUNTIME to a folder of your own.", retry="never")


@contextlib.contextmanager
def _lock(path: Path, deadline: float, wait: Callable[[], None]) -> Iterator[None]:
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait()
        yield
    finally:
        os.close(descriptor)


def _last_line(path: Path) -> str:
    try:
        lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return "no log was written."
    return lines[-1][:400] if lines else "it said nothing."
