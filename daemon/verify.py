"""Finished files are handed out only after they were held against their checksum.

The whole file once, in slices of a few milliseconds so that nobody else waits; the checksums of its blocks
are remembered for as long as the file is the same (inode, size, times), and every range that is read later is
held against them again.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from daemon import disk
from protocol.errors import SegueError

BLOCK_BYTES = 1 << 20
SLICE_BLOCKS = 4  # 4 MiB take 3 to 6 ms
_REMEMBERED = 64  # files; a minute of stereo has 23 blocks


def damaged(name: str) -> SegueError:
    return SegueError("E_TAKE_DAMAGED", f"{name} was damaged on the disk; generate it again.")


def missing() -> SegueError:
    return SegueError("E_TAKE_MISSING", "The audio of this job is no longer on the disk.")


def _identity(descriptor: int) -> tuple[int, ...]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@dataclass
class _Seen:
    """A file as it was when its checksum was computed, as far as that has come."""

    identity: tuple[int, ...]
    crc: int = 0
    blocks: list[int] = field(default_factory=list)


class Verifier:
    """Owned by the front-end's one thread."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Path, _Seen] = OrderedDict()

    def step(self, path: Path, size: int, crc: int) -> bool:
        """Go on testing a file; True when it is known to be whole. `size` (bytes) and `crc` are what the
        manifest says. Raises E_TAKE_DAMAGED, E_TAKE_MISSING.
        """
        descriptor = _opened(path)
        try:
            identity = _identity(descriptor)
            if identity[2] != size:
                raise damaged(path.name)
            seen = self._seen.get(path)
            if seen is None or seen.identity != identity:
                seen = self._seen[path] = _Seen(identity)
            self._seen.move_to_end(path)
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            for _ in range(SLICE_BLOCKS):
                if len(seen.blocks) * BLOCK_BYTES >= size:
                    break
                block = disk.read_at(descriptor, BLOCK_BYTES, len(seen.blocks) * BLOCK_BYTES)
                seen.crc = zlib.crc32(block, seen.crc)
                seen.blocks.append(zlib.crc32(block))
        except OSError as error:
            raise damaged(path.name) from error
        finally:
            os.close(descriptor)
        if len(seen.blocks) * BLOCK_BYTES < size:
            return False
        if seen.crc != crc:
            self._seen.pop(path, None)
            raise damaged(path.name)
        return True

    def read(self, path: Path, offset: int, count: int) -> bytes:
        """Bytes of a file that `step` found whole (fewer at its end), tested again. Raises E_TAKE_DAMAGED."""
        seen = self._seen.get(path)
        descriptor = _opened(path)
        try:
            if seen is None or seen.identity != _identity(descriptor):
                raise damaged(path.name)
            first, last = offset // BLOCK_BYTES, -(-(offset + count) // BLOCK_BYTES)
            data = disk.read_at(descriptor, (last - first) * BLOCK_BYTES, first * BLOCK_BYTES)
        except OSError as error:
            raise damaged(path.name) from error
        finally:
            os.close(descriptor)
        view = memoryview(data)
        for index, crc in enumerate(seen.blocks[first:last]):
            if zlib.crc32(view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]) != crc:
                self._seen.pop(path, None)
                raise damaged(path.name)
        start = offset - first * BLOCK_BYTES
        return bytes(view[start : start + count])


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise missing() from None
    except OSError as error:
        raise damaged(path.name) from error
