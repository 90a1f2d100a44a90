"""The preloaded library of faults (`shim.c`) from the harness's side: build it, arm it, read its log."""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
CALLS = ("write", "sync", "rename", "unlink", "truncate", "allocate", "mkdir", "link", "send")
ROLES = ("daemon", "worker")
KILL, FAIL, SHORTEN = 1, 2, 3
_MAGIC = 0x53484D31
_HEAD = struct.Struct("<IIqQQ32x")
_PLAN = struct.Struct("<QQQIIiII20x128s")
_ENTRY = struct.Struct("<IIQII104s")
_ENTRIES = 1 << 15
_SPACE, _LOGGED, _LOGGING = 8, 16, 24


class NoShim(RuntimeError):
    """Why faults cannot be injected here."""


def build(folder: Path) -> Path:
    """Compile the library into `folder`; raises `NoShim` with the reason."""
    if sys.platform != "linux":
        raise NoShim("the library of faults is for Linux")
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoShim("there is no C compiler here (cc, gcc or clang)")
    library = folder / "shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if ended.returncode:
        raise NoShim(f"the library of faults does not compile: {ended.stderr.strip()[:300]}")
    return library


@dataclasses.dataclass(frozen=True)
class Call:
    """One counted call. `k` counts the calls of its role since the last `arm`; 0: it was not counted."""

    role: str
    call: str
    name: str
    k: int
    fired: bool

    @property
    def point(self) -> str:
        """Role, call and name without numbers: the place in the product that made it."""
        return f"{self.role} {self.call} {plain(self.name)}"


def plain(name: str) -> str:
    """A file's name without what differs from job to job."""
    name = re.sub(r"\.[0-9a-f]{8}\.part$", ".part", name)
    name = re.sub(r"\.bad-\d+", ".bad", name)
    name = re.sub(r"(v\d+)\.(bass|drums|other|mix)\.", r"\1.S.", name)
    return re.sub(r"(?<![a-z])v?\d+(?![a-z0-9])", "N", name)


def pattern(name: str) -> str:
    """Matches the names that `plain` makes into `name`."""
    return name.replace("N", "*").replace("S", "*").replace(".part", ".*.part")


class Shim:
    """The mapped file that harness, daemon and workers share."""

    def __init__(self, library: Path, control: Path, below: Path) -> None:
        size = _HEAD.size + 2 * _PLAN.size + _ENTRIES * _ENTRY.size
        with control.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._map[: _HEAD.size] = _HEAD.pack(_MAGIC, _ENTRIES, -1, 0, 1)
        self.environment = {
            "LD_PRELOAD": str(library),
            "CHAOS_CONTROL": str(control),
            "CHAOS_BELOW": os.path.realpath(below),
        }
        self._read = 0

    def arm(
        self,
        role: str,
        at: int,
        action: int,
        *,
        after: bool = False,
        error: int = 0,
        calls: tuple[str, ...] = (),
        pattern: str = "",
        sticky: bool = False,
    ) -> None:
        """Let the `at`-th call from now on (of these kinds, with a name like `pattern`) be the bad one.

        `sticky`: it and all after it, until `disarm`.
        """
        self.disarm(role)
        mask = sum(1 << CALLS.index(call) for call in calls)
        packed = _PLAN.pack(0, 0, 0, action, int(after), error, mask, int(sticky), pattern.encode())
        place = self._place(role)
        self._map[place : place + _PLAN.size] = packed
        self._map[place + 8 : place + 16] = struct.pack("<Q", at)

    def count(self, role: str, calls: tuple[str, ...] = ()) -> None:
        """Start counting calls of these kinds from 0, with nothing armed."""
        self.arm(role, 0, 0, calls=calls)

    def disarm(self, role: str | None = None) -> None:
        for found in ROLES if role is None else (role,):
            place = self._place(found)
            self._map[place + 8 : place + 16] = bytes(8)

    def _place(self, role: str) -> int:
        return _HEAD.size + ROLES.index(role) * _PLAN.size

    def counted(self, role: str) -> int:
        return int(struct.unpack_from("<Q", self._map, self._place(role))[0])

    def fired(self, role: str) -> int:
        """How many calls were bad since `arm`."""
        return int(struct.unpack_from("<Q", self._map, self._place(role) + 16)[0])

    @property
    def space_bytes(self) -> int:
        return int(struct.unpack_from("<q", self._map, _SPACE)[0])

    @space_bytes.setter
    def space_bytes(self, left: int) -> None:
        """What the disk has left; -1: as much as the real one."""
        struct.pack_into("<q", self._map, _SPACE, left)

    def log(self) -> list[Call]:
        """Calls since the last time it was read (the newest, where there were too many)."""
        (logged,) = struct.unpack_from("<Q", self._map, _LOGGED)
        first = max(self._read, logged - _ENTRIES)
        self._read = logged
        start = _HEAD.size + 2 * _PLAN.size
        found = []
        for index in range(first, logged):
            role, call, k, fired, whole, name = _ENTRY.unpack_from(
                self._map, start + index % _ENTRIES * _ENTRY.size
            )
            if whole != (index + 1) & 0xFFFFFFFF:  # still being written, or its writer was killed
                continue
            shown = name.split(b"\0")[0].decode(errors="replace")
            found.append(Call(ROLES[role], CALLS[call], shown, k, bool(fired)))
        return found

    def close(self) -> None:
        self._map.close()
