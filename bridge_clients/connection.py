"""Where the daemon is: the connection file, read only when nobody else could have written it.

The daemon renames `connection.json` (mode 0600) into its runtime folder (mode 0700) when it is ready to
answer. It holds the token, so a file or folder that others may write or read is refused, not used. A key file
(`segue keys new`, mode 0600, anywhere) has the same form and leads to a daemon on another machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

from protocol.errors import SegueError
from protocol.limits import TOKEN_BYTES

FILE_NAME = "connection.json"
VARIABLE = "SEGUE_CONNECTION"
# NONBLOCK: opening a named pipe would wait for its other end
_READ_ONLY = os.O_RDONLY | sum(getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "CLOEXEC", "NONBLOCK"))
_MAX_FILE_BYTES = 64 * 1024
_MAX_SOCKET_PATH_BYTES = 103
_MEND_FOLDER = "remove it, or set SEGUE_RUNTIME to a folder of your own."


@dataclasses.dataclass(frozen=True)
class Connection:
    """One daemon as its connection file tells it. signature changes whenever the file is replaced.

    client_keys: (public, secret) from a key file; keys_folder: where a daemon of this machine keeps the list
    of its clients; tcp_endpoint: where it listens for them.
    """

    endpoint: str
    token: bytes = dataclasses.field(repr=False)
    pid: int = 0
    boot: str = ""
    build: str = ""
    server_key: bytes | None = None
    client_keys: tuple[bytes, bytes] | None = dataclasses.field(default=None, repr=False)
    keys_folder: Path | None = None
    tcp_endpoint: str | None = None
    path: Path | None = None
    signature: tuple[int, int, int] = (0, 0, 0)

    def replaced(self) -> bool:
        """Whether the file is another one by now, or gone: the daemon has stopped or restarted."""
        return self.path is not None and _signature(self.path) != self.signature

    @property
    def remote(self) -> bool:
        """Whether it is reached over the network: no paths, no processes, nothing to start."""
        return self.endpoint.startswith("tcp://")

    def resolved(self, timeout_s: float) -> Connection:
        """The same with a number for the host's name. Raises E_UNREACHABLE when nobody knows it in time.

        libzmq would look it up itself, in a thread that its own end waits for: a name server that does not
        answer would hold a closing client for as long as it likes.
        """
        host, _, port = self.endpoint.removeprefix("tcp://").rpartition(":")
        if not self.remote or host.replace(".", "").isdecimal():
            return self
        import socket
        import threading

        found: list[str] = []

        def look() -> None:
            with contextlib.suppress(OSError, UnicodeError):
                found.append(str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0]))

        looking = threading.Thread(target=look, name="segue-name", daemon=True)
        looking.start()
        looking.join(timeout_s)
        if not found:
            raise SegueError(
                "E_UNREACHABLE", f"The name {host} cannot be found in the network.", field="connection",
                value=self.endpoint,
            )  # fmt: skip
        return dataclasses.replace(self, endpoint=f"tcp://{found[0]}:{port}")

    def unreachable(self) -> SegueError:
        """Why a daemon on the network gave no answer, as far as it can be told from here."""
        import socket

        host, _, port = self.endpoint.removeprefix("tcp://").rpartition(":")
        named = self.tcp_endpoint or self.endpoint
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except (OSError, ValueError) as error:
            said = f"No daemon listens at {named} ({error})."
        else:
            said = f"{named} does not let this key in: it was revoked, or is for another daemon."
        return SegueError("E_UNREACHABLE", said, field="connection", value=self.endpoint)

    def alive(self) -> bool:
        """False when the daemon's process is surely gone; True may be wrong (the pid may have a new
        owner).
        """
        if self.pid <= 0 or not self.endpoint.startswith("ipc://"):
            return True
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                # our own child seems alive when it is dead; this look reaps nothing
                return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True

    def listening(self) -> bool:
        """Whether anybody accepts connections; a socket file says nothing, it outlives its daemon."""
        if not self.endpoint.startswith("ipc://"):
            return True
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(self.endpoint[len("ipc://") :])
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:
                return True
        return True


def runtime_folders() -> list[Path]:
    """Where a daemon of this user may be, the usual place first."""
    chosen = os.environ.get("SEGUE_RUNTIME")
    if chosen:
        return [Path(chosen).expanduser().absolute()]
    import warnings

    import platformdirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without $XDG_RUNTIME_DIR it warns of its fall-back, on every start
        usual = Path(platformdirs.user_runtime_dir("segue"))
    found = [Path(f"/tmp/segue-{os.getuid()}")] if hasattr(os, "getuid") else []
    if usual.parent.is_dir() and len(os.fsencode(usual / "segue.sock")) <= _MAX_SOCKET_PATH_BYTES:
        found.insert(0, usual)
    return found


def find(folder: Path | None = None) -> Connection | None:
    """The connection file of a running (or dead) daemon, or None. Raises E_UNREACHABLE when it is not
    safe.
    """
    for place in [folder] if folder is not None else runtime_folders():
        found = read(place / FILE_NAME)
        if found is not None:
            return found
    return None


def read(path: Path) -> Connection | None:
    """Read one connection file; None when there is none. Raises E_UNREACHABLE when others could have written
    it.
    """
    try:
        _check_private(path.parent, os.lstat(path.parent), stat.S_ISDIR)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unsafe(path, f"cannot be read ({error.strerror})") from None
    return _read(path, _MEND_FOLDER)


def read_key_file(path: Path) -> Connection:
    """Read a key file. Raises E_UNREACHABLE when there is none, or others could have read it."""
    found = _read(path, f"`chmod 600 {path}` closes it, `segue keys` on the daemon's machine makes another.")
    if found is None:
        raise SegueError(
            "E_UNREACHABLE",
            f"There is no key file {path}.",
            field="connection",
            value=str(path),
            retry="never",
        )
    return found


def chosen() -> Path | None:
    """The key file that the environment names, if any."""
    name = os.environ.get(VARIABLE)
    return Path(name).expanduser() if name else None


def _read(path: Path, mend: str) -> Connection | None:
    try:
        descriptor = os.open(path, _READ_ONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unsafe(path, f"cannot be read ({error.strerror})", mend) from None
    try:
        info = os.fstat(descriptor)
        _check_private(path, info, stat.S_ISREG, mend)
        raw = os.read(descriptor, _MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(raw) > _MAX_FILE_BYTES:
        raise _unsafe(path, "is too long", mend)
    return _parsed(path, raw, mend, (info.st_ino, info.st_mtime_ns, info.st_size))


def _parsed(path: Path, raw: bytes, mend: str, signature: tuple[int, int, int]) -> Connection:
    try:
        found: Any = json.loads(raw)
        endpoints = [e for e in found["endpoints"] if isinstance(e, str)]
        endpoint = next((e for e in endpoints if e.startswith("ipc://")), endpoints[0])
        token = bytes.fromhex(found["token"])
        pid = found.get("pid")
        key = found.get("curve_public_key")
        keys_folder = found.get("keys")
        if len(token) != TOKEN_BYTES or not endpoint.startswith(("ipc://", "tcp://")):
            raise ValueError("token or endpoint")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _unsafe(path, "is damaged", mend) from None
    return Connection(
        endpoint=endpoint,
        token=token,
        pid=pid if isinstance(pid, int) and not isinstance(pid, bool) else 0,
        boot=str(found.get("boot") or ""),
        build=str(found.get("build") or ""),
        server_key=_key(key),
        client_keys=_pair(found),
        keys_folder=Path(keys_folder) if isinstance(keys_folder, str) else None,
        tcp_endpoint=next((e for e in endpoints if e.startswith("tcp://")), None),
        path=path,
        signature=signature,
    )


def _key(found: Any) -> bytes | None:
    return found.encode("ascii", "replace") if isinstance(found, str) and len(found) == 40 else None


def _pair(found: dict[str, Any]) -> tuple[bytes, bytes] | None:
    public, secret = _key(found.get("client_public_key")), _key(found.get("client_secret_key"))
    return (public, secret) if public is not None and secret is not None else None


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        info = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (info.st_ino, info.st_mtime_ns, info.st_size)


def _check_private(path: Path, info: os.stat_result, right_kind: Any, mend: str = _MEND_FOLDER) -> None:
    if not right_kind(info.st_mode):
        raise _unsafe(path, "is not what it should be (a link?)", mend)
    if hasattr(os, "getuid"):
        if info.st_uid != os.getuid():
            raise _unsafe(path, "belongs to another user", mend)
        if info.st_mode & 0o077:
            raise _unsafe(path, "is open to other users", mend)


def _unsafe(path: Path, why: str, mend: str = _MEND_FOLDER) -> SegueError:
    return SegueError(
        "E_UNREACHABLE",
        f"{path} {why}; {mend}",
        field="connection",
        value=str(path),
        retry="never",
    )
