"""Who may reach the daemon: owner-only folders and files, a socket we bound ourselves, the uid behind each
peer.

Facts that shape this file (measured with libzmq 4.3.5): libzmq's own ipc bind takes the path of a live daemon
and replaces ordinary files, so we bind, chmod and listen ourselves and hand over the descriptor. A folder
with mode 0700 keeps other users out whatever the mode of the socket; the uid behind each peer is checked at
the handshake all the same (`daemon.zap`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import warnings
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
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UnsafePath(
            f"{path}, or a folder on the way to it, is a file; Segue needs a folder of its own there."
        ) from None
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


def runtime_places(settings: Settings) -> list[Path]:
    """Where socket, lock and connection file may be, the wanted place first; nothing is made or checked."""
    if settings.folders.runtime:
        return [Path(settings.folders.runtime).expanduser().absolute()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without $XDG_RUNTIME_DIR it warns of its fall-back, on every start
        usual = Path(platformdirs.user_runtime_dir("segue"))
    short = len(os.fsencode(usual / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES
    own = Path(f"/tmp/segue-{os.getuid()}")
    return [usual, own] if usual.parent.is_dir() and short else [own]


def runtime_folder(settings: Settings) -> Path:
    """Folder of socket, lock and connection file; /tmp/segue-<uid> where the platform's is missing or too
    long.
    """
    *usual, last = runtime_places(settings)
    if settings.folders.runtime and len(os.fsencode(last / SOCKET_NAME)) > MAX_SOCKET_PATH_BYTES:
        raise UnsafePath(
            f"{last} is too long for a socket; choose a runtime folder of at most 90 characters."
        )
    for place in usual:
        with contextlib.suppress(OSError):
            return owner_only_folder(place)
    return owner_only_folder(last)


def state_place(settings: Settings) -> Path:
    """Where journal, takes and logs are, or would be; nothing is made."""
    chosen = settings.folders.state or platformdirs.user_state_dir("segue")
    return Path(chosen).expanduser().absolute()


def state_folder(settings: Settings) -> Path:
    """Folder of journal, takes and logs."""
    return owner_only_folder(state_place(settings))


def check_replaceable(path: Path) -> None:
    """Refuse to put a socket where something else lies."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UnsafePath(f"{path} exists and is not a socket; Segue does not replace it.")


def listening_socket(path: Path) -> socket.socket:
    """A unix socket at `path`, mode 0600, listening. The caller holds the lock, so a socket found there is
    dead.
    """
    check_replaceable(path)
    path.unlink(missing_ok=True)
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
