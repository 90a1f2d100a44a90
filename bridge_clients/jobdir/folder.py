"""The job directory: how hosts without sockets take part. JOBDIR.md has the contract in words.

Here: the directory itself, opened once, checked, and from then on used only through its descriptor, so that
nobody who moves things about can lead a read or a write elsewhere. What stands in the request is
`request`, the talk with the daemon `talk`, the finished files `takes`, and the whole of
`segue job DIR` `run`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from protocol.errors import SegueError

REQUEST, KEY, PROGRESS, HEARTBEAT = "request.json", "key", "progress", "heartbeat"
CANCEL, DONE, MANIFEST, CHUNKS = "cancel", "done", "manifest.json", "chunks"
RESERVE = ".reserve"
SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
MAX_REQUEST_BYTES = 1 << 20
_BEAT_BYTES = 80  # always as long, so that no reader finds half of it
_FULL = (errno.ENOSPC, errno.EDQUOT)
# NONBLOCK: opening a named pipe that somebody put there would wait for its other end
_SAFE = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class JobDir:
    """One job directory, open. Raises E_ARGUMENT when it is none, or when others could write into it.

    A directory that others may only read is made owner-only. Threads: `tell` may be called from several.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        check_folder(self.path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except AttributeError:
            raise _refused(self.path, "cannot be used on this system: Linux or macOS is needed") from None
        except OSError as error:
            raise _refused(self.path, f"cannot be opened ({error.strerror})") from None
        info = os.fstat(self._fd)
        _check_owner(self.path, info)
        if info.st_mode & 0o077:
            os.fchmod(self._fd, 0o700)
        self._identity = (info.st_dev, info.st_ino)
        self._progress = -1
        self._heartbeat, self._beat = -1, 0
        self._telling = threading.Lock()
        self._torn = False  # the last line found no room for its end
        self._told: set[bytes] = set()

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._progress, self._heartbeat, self._fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._progress = self._heartbeat = self._fd = -1

    def gone(self) -> bool:
        """Whether the host has removed the directory, or moved it away."""
        try:
            info = os.stat(self.path)
        except OSError:
            return True
        return (info.st_dev, info.st_ino) != self._identity

    # ---- reading what the host wrote ----

    def has(self, name: str) -> bool:
        """Whether there is anything of that name, whatever it is."""
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def open(self, name: str, field: str) -> BinaryIO:
        """An ordinary file of our own in the directory. Raises E_ARGUMENT for anything else."""
        try:
            descriptor = os.open(name, os.O_RDONLY | _SAFE, dir_fd=self._fd)
        except FileNotFoundError:
            raise _wrong(field, name, f"There is no {name} in the job directory.") from None
        except OSError as error:
            link = error.errno == errno.ELOOP
            why = "is a link" if link else f"cannot be read ({error.strerror})"
            raise _wrong(field, name, f"{name} {why}.") from None
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
            os.close(descriptor)
            raise _wrong(field, name, f"{name} is not an ordinary file of yours.")
        return os.fdopen(descriptor, "rb")

    def read(self, name: str, field: str, most_bytes: int) -> bytes:
        """All of a small file. Raises E_ARGUMENT when it is missing, strange or too long."""
        with self.open(name, field) as file:
            found = file.read(most_bytes + 1)
        if len(found) > most_bytes:
            raise _wrong(
                field, name, f"{name} is too long.", allowed=f"at most {most_bytes} bytes", code="E_SIZE"
            )
        return found

    # ---- writing for the host ----

    def begin(self) -> bool:
        """Take the directory for this process: heartbeat and progress are open from here on.

        False when another process works on it.
        """
        self._heartbeat = self._create(HEARTBEAT, os.O_RDWR)
        try:
            import fcntl

            fcntl.flock(
                self._heartbeat, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # the kernel frees it with the process
        except BlockingIOError:
            return False
        self.touch()
        self._progress = self._create(PROGRESS, os.O_RDWR | os.O_APPEND)
        self._take_up()
        return True

    def _create(self, name: str, flags: int) -> int:
        try:
            descriptor = os.open(name, flags | os.O_CREAT | _SAFE, 0o600, dir_fd=self._fd)
        except OSError as error:
            raise disk_error(self.path / name, error) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _wrong(name, name, f"{name} is not an ordinary file.")
        return descriptor

    def _take_up(self) -> None:
        """What an earlier run told already is not told again; a line that it could not end is ended."""
        with os.fdopen(os.dup(self._progress), "rb") as file:
            file.seek(0)
            found = file.read()
        self._told = set(found.splitlines())
        if found and not found.endswith(b"\n"):
            os.write(self._progress, b"\n")

    def touch(self) -> None:
        """Say that this process is alive: by the file's time, and by its content, because Lua in hosts cannot
        see times.
        """
        self._beat += 1
        write_beat(self._heartbeat, self._beat)

    def tell(self, event: str, **fields: Any) -> None:
        """Append one line to `progress`; fields that are None are left out. A full disk loses the line, not
        the job.
        """
        line = to_json({"event": event, **fields})
        with self._telling, contextlib.suppress(OSError):
            if event == "tick" or line not in self._told:
                whole = (b"\n" if self._torn else b"") + line + b"\n"
                self._torn = True
                self._torn = os.write(self._progress, whole) < len(whole)  # the host reads while we write

    def put(self, name: str, data: bytes) -> None:
        """Put a file in place, whole or not at all. Raises E_DISK_FULL or E_DISK."""
        folder, _, last = name.rpartition("/")
        part = f"{folder}/.{last}.part" if folder else f".{last}.part"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFE
            descriptor = os.open(part, flags, 0o600, dir_fd=self._fd)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)
            os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self._fd)
            raise disk_error(self.path / name, error) from None

    def make_folder(self, name: str) -> None:
        """A folder in it, if it is not there. Raises E_DISK_FULL or E_DISK."""
        try:
            os.mkdir(name, 0o700, dir_fd=self._fd)
        except FileExistsError:
            info = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                raise _wrong(name, name, f"{name} is not a folder.") from None
        except OSError as error:
            raise disk_error(self.path / name, error) from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._fd)

    def reserve(self, size_bytes: int) -> None:
        """Take room for the last words while there is some. Raises E_DISK_FULL or E_DISK."""
        self.put(RESERVE, os.urandom(size_bytes))  # a file system may store zeros nowhere

    def finish(self, done: dict[str, Any], manifest: dict[str, Any] | None) -> None:
        """Write the manifest, if there is one, and `done` last of all. On a full disk `done` says less, but
        it comes. Raises E_DISK_FULL or E_DISK when even that fails.
        """
        self.remove(RESERVE)
        if manifest is not None:
            with contextlib.suppress(SegueError):
                self.put(MANIFEST, to_json(manifest) + b"\n")
        try:
            self.put(DONE, to_json(done) + b"\n")
        except SegueError:
            self.remove(MANIFEST)
            self.put(DONE, to_json({k: v for k, v in done.items() if k != "settings"}) + b"\n")


def write_beat(descriptor: int, beat: int) -> None:
    """The content of a heartbeat file; a full disk does not matter, because it is as long as it was."""
    found = {"pid": os.getpid(), "beat": beat, "time_s": int(time.time())}
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, to_json(found).ljust(_BEAT_BYTES) + b"\n", 0)
        os.ftruncate(descriptor, _BEAT_BYTES + 1)


def check_folder(path: Path, *, any_name: bool = False) -> None:
    """Refuse (E_ARGUMENT) what is no folder of the user's own, has no safe name, or is open to writers."""
    if not any_name and not SAFE_NAME.fullmatch(path.name):
        raise _refused(path, "has a name with other characters than letters, digits, _ and -")
    try:
        info = os.lstat(path)
    except OSError as error:
        raise _refused(path, f"cannot be used ({error.strerror})") from None
    if not stat.S_ISDIR(info.st_mode):
        raise _refused(path, "is no folder, or a link to one")
    _check_owner(path, info)


def _check_owner(path: Path, info: os.stat_result) -> None:
    if hasattr(os, "getuid") and info.st_uid != os.getuid():
        raise _refused(path, "belongs to another user")
    if info.st_mode & 0o022 and not _only_ours(path, info):
        raise _refused(path, "can be written to by other users: make it with mode 0700")


def _only_ours(path: Path, info: os.stat_result) -> bool:
    """Whether a directory with the group's (or everybody's) write bit could be reached by the user alone all
    the same: it lies in an owner-only folder, or the group has nobody else in it. Hosts make folders with the
    user's umask, which is 002 where users have groups of their own, and cannot change modes.
    """
    try:
        parent = os.stat(path.parent)
        if parent.st_uid == info.st_uid and not parent.st_mode & 0o077:
            return True
        import grp
        import pwd

        group, user = grp.getgrgid(info.st_gid), pwd.getpwuid(info.st_uid)
    except (OSError, KeyError, ImportError):
        return False
    alone = group.gr_gid == user.pw_gid and group.gr_name == user.pw_name
    return alone and set(group.gr_mem) <= {user.pw_name} and not info.st_mode & 0o002


def to_json(found: dict[str, Any]) -> bytes:
    """One line of JSON, UTF-8; what is None is left out, because small readers in hosts have no word for
    it.
    """
    kept = {name: value for name, value in found.items() if value is not None}
    text = json.dumps(kept, ensure_ascii=False, allow_nan=False, default=str)
    return text.encode("utf-8", "backslashreplace")


def disk_error(path: Path, error: OSError) -> SegueError:
    """What a failed write means to the person who asked for it: E_DISK_FULL, or E_DISK."""
    if error.errno in _FULL:
        return SegueError(
            "E_DISK_FULL",
            f"The disk of {path.parent} is full: make room, and ask again.",
            value=str(path.parent),
        )
    return SegueError("E_DISK", f"{path} cannot be written ({error.strerror}).", value=str(path))


def _refused(path: Path, why: str) -> SegueError:
    return SegueError(
        "E_ARGUMENT",
        f"The job directory {path} {why}.",
        field="DIR",
        value=str(path),
        allowed="a folder of your own with mode 0700 and a name of letters, digits, _ and -",
    )


def _wrong(
    field: str, name: str, message: str, *, allowed: str | None = None, code: str = "E_ARGUMENT"
) -> SegueError:
    return SegueError(code, message, field=field, value=name, allowed=allowed)
