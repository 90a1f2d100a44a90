"""The life of the process: one daemon per folder, found by its connection file,
started and stopped politely.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import zmq

from daemon import __version__, logs, places, security, standing
from daemon.config import Settings
from daemon.notify import Notifier
from protocol.errors import SegueError
from protocol.framing import decode_reply, encode_request
from protocol.keys import KEYS_FOLDER, write_private
from protocol.limits import MAJOR
from protocol.requests import Drain, Hello, Ping, Request

CONNECTION_FILE = "connection.json"
LOCK_FILE = standing.LOCK_FILE
LOCK_PATIENCE_S, PROBE_S = 0.2, 1.0
START_PATIENCE_S = 30.0
START_AT_MOST_S = 600.0  # rebuilding a damaged journal may take this long under a service manager
_LOG = logging.getLogger("segue.lifecycle")


class AlreadyRunning(RuntimeError):
    """Another daemon has these folders; the message says which."""


class Lock:
    """Held by the kernel for as long as the process lives, whatever ends it. A pid file is never believed."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        by = time.monotonic() + LOCK_PATIENCE_S  # somebody may only be looking whether it is held
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < by:
                    time.sleep(0.02)
                    continue
                holder = standing.told(folder, standing.said(self._file))
                os.close(self._file)
                raise AlreadyRunning(_other(holder)) from None
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(about).encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise OSError(error.errno, error.strerror, str(folder)) from None

    def release(self) -> None:
        os.close(self._file)


def _other(holder: standing.Holder) -> str:
    """One sentence about the daemon that is there already, and what to do if it does not answer."""
    words = f"Segue is already running: {holder.who}"
    connection = _connection(Path(holder.endpoint.removeprefix("ipc://")).parent / CONNECTION_FILE)
    try:
        if connection is not None:
            ask(connection, Ping(), PROBE_S)
        elif holder.process == "runs":
            return f"{words}; it is starting or ending."
        else:
            return f"{words}; it does not answer: {holder.silence}."
    except SegueError as error:
        if error.code == "E_UNREACHABLE":
            return f"{words}; it does not answer: {holder.silence}."
    return f"{words}."


def raise_descriptor_limit() -> None:
    """libzmq aborts the process when descriptors run out on ipc, so take as many as are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_libzmq(version: str, has: Callable[[str], bool]) -> None:
    """Refuse a libzmq with known holes (CVE-2019-13132, CVE-2019-6250), or without ipc or CURVE."""
    if tuple(int(part) for part in version.split(".")[:3]) < (4, 3, 5):
        raise security.UnsafePath(f"libzmq {version} has known holes; 4.3.5 or newer is needed.")
    for what in ("ipc", "curve"):
        if not has(what):
            raise security.UnsafePath(
                f"libzmq {version} was built without {what}; install pyzmq from its wheel."
            )


def serve(settings: Settings, *, foreground: bool) -> int:
    """Run the daemon in this process until it is stopped. Raises `AlreadyRunning` or `UnsafePath`."""
    os.umask(0o077)
    notifier = Notifier()
    check_libzmq(zmq.zmq_version(), zmq.has)
    with _sentences():
        runtime, state = security.runtime_folder(settings), security.state_folder(settings)
        return _serve(settings, runtime, state, notifier, foreground=foreground)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """What the file system refuses at start or end is one sentence, not a number and a name."""
    try:
        yield
    except (SegueError, RuntimeError):
        raise
    except OSError as error:
        place = error.filename or "its folders"
        if isinstance(place, bytes):
            place = os.fsdecode(place)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"Segue cannot start: the disk of {place} is full; make room there."
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            what = (
                f"Segue cannot start: {place} cannot be written ({error.strerror}); make it writable, or set"
                " SEGUE_STATE and SEGUE_RUNTIME to folders that are."
            )
        else:
            what = f"Segue cannot start: {place}: {error.strerror or error}."
        raise RuntimeError(what) from error


def _serve(settings: Settings, runtime: Path, state: Path, notifier: Notifier, *, foreground: bool) -> int:
    network = places.refusal(state)
    if network is not None:
        raise security.UnsafePath(network)
    from daemon.server import Server, new_boot

    boot, since = new_boot(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    endpoint = f"ipc://{runtime / security.SOCKET_NAME}"
    about = {"pid": os.getpid(), "version": __version__, "since": since, "endpoint": endpoint, "boot": boot}
    locks = [Lock(runtime, about)]
    try:
        if state != runtime:
            locks.append(Lock(state, about))
        log = logs.start(state / "logs", settings.log, also_stderr=foreground)
        raise_descriptor_limit()
        notifier.starting_takes(START_AT_MOST_S)
        server = Server(settings, runtime, state, boot, notifier)
        server.lines_lost = lambda: log.lost
        try:
            server.open()
            _stop_on_signals(server, settings)
            connection = {
                "endpoints": server.sockets.endpoints, "token": server.token.hex(),
                "curve_public_key": server.sockets.tcp.public_key, "keys": str(state / KEYS_FOLDER),
                "pid": os.getpid(),
                "boot": boot, "build": server.build, "version": __version__, "protocol": [MAJOR, MAJOR],
                "since": since, "executable": sys.executable,
            }  # fmt: skip
            sign = Sign(runtime / CONNECTION_FILE, json.dumps(connection).encode())
            sign.put_up()
            server.sockets.rebound, server.upkeep.look_after = sign.put_up, sign.check
            _LOG.info("serving", extra={"endpoint": endpoint, "boot": boot, "pid": os.getpid()})
            _run(server)
        finally:
            (runtime / CONNECTION_FILE).unlink(missing_ok=True)
            server.close()
            _LOG.info("stopped", extra={"boot": boot})
    finally:
        for lock in locks:
            lock.release()
    return server.exit_status


def _run(server: Any) -> None:
    try:
        server.run()
    except Exception as error:
        number = logs.incident(_LOG, "the loop ended by a fault", error)
        raise RuntimeError(
            f"Segue ended by a fault of its own; the log has it as incident {number}. Nothing is lost."
        ) from error


class Sign:
    """The connection file: by it clients find the daemon, so it is put up again when it was taken away."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content
        self._signature: tuple[int, int, int] | None = None

    def put_up(self) -> None:
        """Write it anew, whole. Raises `OSError`."""
        write_private(self._path, self._content)
        self._signature = self._seen()

    def check(self) -> None:
        """Whether it is still the one that was written; a cleaner of temporary folders takes such files."""
        if self._seen() == self._signature:
            return
        try:
            self.put_up()
        except OSError as error:
            _LOG.error("the connection file is gone and cannot be written: %s", error)
        else:
            _LOG.warning("the connection file was gone or changed and was written again")

    def _seen(self) -> tuple[int, int, int] | None:
        try:
            info = self._path.lstat()
        except OSError:
            return None
        return info.st_ino, info.st_size, info.st_mtime_ns


def _stop_on_signals(server: Any, settings: Settings) -> None:
    """The first signal stops politely, a second at once (jobs go back into the queue either way)."""
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) == 1:
            server.stop("running", True, settings.life.drain_s)
        else:
            server.stop("none", True)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


def read_connection(settings: Settings) -> dict[str, Any] | None:
    """What the connection file says, or None when there is none that can be read."""
    return _connection(security.runtime_folder(settings) / CONNECTION_FILE)


def _connection(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
        bytes.fromhex(found["token"])
        return found if isinstance(found["endpoints"][0], str) else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None


def ask(connection: dict[str, Any], request: Request, patience_s: float) -> Any:
    """One request on a connection of its own; raises `SegueError` (E_UNREACHABLE when nobody answers)."""
    context = zmq.Context(io_threads=1)
    context.linger = 0
    try:
        with context.socket(zmq.REQ) as client:
            client.setsockopt(zmq.IMMEDIATE, 1)
            client.connect(connection["endpoints"][0])
            by = time.monotonic() + patience_s
            frames = encode_request(request, 1, bytes.fromhex(connection["token"]))
            if client.poll(round(1000 * patience_s), zmq.POLLOUT):
                client.send_multipart(frames, zmq.NOBLOCK)
                if client.poll(max(0, round(1000 * (by - time.monotonic()))), zmq.POLLIN):
                    _, reply = decode_reply(client.recv_multipart(zmq.NOBLOCK))
                    if isinstance(reply, SegueError):
                        raise reply
                    return reply
    except zmq.ZMQError:
        pass
    finally:
        context.term()
    raise SegueError("E_UNREACHABLE", "No Segue daemon answers here.")


def start_background(
    settings: Settings, words: list[str], patience_s: float = START_PATIENCE_S
) -> dict[str, Any]:
    """Start a daemon of its own and wait until it answers hello; returns its connection.

    A daemon that is there already is taken as it is. `words`: what to give `python -m daemon serve`. Raises
    `RuntimeError` with the reason when the new one ends or does not answer in time.
    """
    running = _answering(settings)
    if running is not None:
        return running
    state = security.state_folder(settings)
    log = logs.rotate(security.owner_only_folder(state / "logs") / "segued.err", settings.log)
    package = str(Path(__file__).resolve().parents[1])
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [package, variables.get("PYTHONPATH", "")]))
    with log.open("ab") as errors:
        begin = errors.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "daemon", "serve", "--foreground", *words],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, cwd=state,
            env=variables,
        )  # fmt: skip
    by = time.monotonic() + patience_s
    while time.monotonic() < by:
        found = _answering(settings)
        if found is not None:
            return found
        if process.poll() is not None:
            with log.open("rb") as errors:
                errors.seek(begin)
                said = errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(said[-1] if said else f"The daemon ended with status {process.returncode}.")
        time.sleep(0.02)
    raise RuntimeError(f"The daemon did not answer within {patience_s:g} s; its log is {log}.")


def _answering(settings: Settings) -> dict[str, Any] | None:
    connection = read_connection(settings)
    if connection is None:
        return None
    try:
        ask(connection, Hello(client="segue serve", version=__version__), 1.0)
    except SegueError:
        return None
    return connection


def stop(settings: Settings, *, finish: str = "running", patience_s: float = 60.0) -> bool:
    """Ask the daemon to stop and wait until its process is gone. False when none was running."""
    folder = security.runtime_folder(settings)
    connection = _connection(folder / CONNECTION_FILE)
    try:
        if connection is None:
            raise SegueError("E_UNREACHABLE", "There is no connection file.")
        ask(connection, Drain(stop=True, finish=finish), 2.0)
    except SegueError as error:
        if error.code != "E_UNREACHABLE":
            raise
        holder = standing.holder(folder)
        if holder is None:
            return False
        raise RuntimeError(f"Segue does not answer ({holder.who}): {holder.silence}.") from None
    by = time.monotonic() + patience_s
    while time.monotonic() < by:
        if standing.holder(folder) is None:
            return True
        time.sleep(0.02)
    raise RuntimeError(
        f"The daemon (pid {connection['pid']}) is still finishing its jobs after {patience_s:g} s."
    )
