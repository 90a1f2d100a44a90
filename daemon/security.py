"""Who may reach the daemon: owner-only folders and files, a socket we bound ourselves, the uid behind each
peer.

Facts that shape this file (measured with libzmq 4.3.5): libzmq's own ipc bind takes the path of a live daemon
and replaces ordinary files, so we bind, chmod and listen ourselves and hand over the descriptor. A folder
with mode 0700 keeps other users out whatever the mode of the socket. A ZAP handler sees
``localhost:uid:gid:pid`` of an ipc peer before any message of it is delivered.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from pathlib import Path

import platformdirs

from daemon.config import Settings

SOCKET_NAME = "segue.sock"
MAX_SOCKET_PATH_BYTES = 103  # sun_path holds 104 bytes on macOS, 108 on Linux, with the closing zero
BACKLOG = 64


class UnsafePath(RuntimeError):
    """A folder or file that other users could read, write or replace."""


def owner_only_folder(path: Path) -> Path:
    """Make the folder (mode 0700) or check that it is ours alone; a folder of ours is tightened."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode) or not stat.S_ISDIR(info.st_mode):
        raise UnsafePath(f"{path} is a link or a file; Segue needs a folder of its own there.")
    if info.st_uid != os.getuid():
        raise UnsafePath(
            f"{path} belongs to another user (uid {info.st_uid}); remove it or set SEGUE_RUNTIME."
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        path.chmod(0o700)
    return path


def runtime_folder(settings: Settings) -> Path:
    """Folder of socket, lock and connection file; /tmp/segue-<uid> where the platform's is missing or too
    long.
    """
    if settings.folders.runtime:
        chosen = Path(settings.folders.runtime).expanduser().absolute()
        if len(os.fsencode(chosen / SOCKET_NAME)) > MAX_SOCKET_PATH_BYTES:
            raise UnsafePath(
                f"{chosen} is too long for a socket; choose a runtime folder of at most 90 characters."
            )
        return owner_only_folder(chosen)
    usual = Path(platformdirs.user_runtime_dir("segue"))
    if usual.parent.is_dir() and len(os.fsencode(usual / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES:
        with contextlib.suppress(OSError):
            return owner_only_folder(usual)
    return owner_only_folder(Path(f"/tmp/segue-{os.getuid()}"))


def state_folder(settings: Settings) -> Path:
    """Folder of journal, takes and logs."""
    chosen = settings.folders.state or platformdirs.user_state_dir("segue")
    return owner_only_folder(Path(chosen).expanduser().absolute())


def write_private_file(path: Path, content: bytes) -> None:
    """Put a file (mode 0600) in place whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def listening_socket(path: Path) -> socket.socket:
    """A unix socket at `path`, mode 0600, listening. The caller holds the lock, so a socket found there is
    dead.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UnsafePath(f"{path} exists and is not a socket; Segue does not replace it.")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(before)
    path.chmod(0o600)
    listener.setblocking(False)
    listener.listen(BACKLOG)
    return listener


def zap_answer(request: list[bytes]) -> list[bytes]:
    """Answer one ZAP request (RFC 27): a peer on ipc passes when it runs under our own uid.

    `request` is the message after the empty delimiter: version, request id, domain, address, identity,
    mechanism.
    """
    if len(request) < 6 or request[0] != b"1.0":
        return [b"1.0", request[1] if len(request) > 1 else b"", b"500", b"malformed", b"", b""]
    address = request[3].decode("latin-1").split(":")
    same_user = len(address) >= 4 and address[0] == "localhost" and address[1] == str(os.getuid())
    if same_user and request[5] == b"NULL":
        return [b"1.0", request[1], b"200", b"ok", address[1].encode(), b""]
    return [b"1.0", request[1], b"400", b"another user", b"", b""]
