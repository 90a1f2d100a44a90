"""The spool file of one attempt: chunks of audio, append-only, each with its checksum.

A chunk is a header of 40 bytes and interleaved float32 samples; everything is little-endian.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from daemon import disk
from daemon.space import RESERVE_NAME, within
from protocol.errors import SegueError

_CHUNK = struct.Struct("<4sIHBBIqIIII")  # see Chunk.header
CHUNK_MAGIC = b"SGCK"
SAMPLE_BYTES = 4


@dataclass(frozen=True)
class Chunk:
    """Where a piece of audio belongs. `position` counts host samples from the seam; a
    handle's are negative.
    """

    attempt: int
    variation: int
    stem: int  # index into the job's stems
    position: int
    frames: int
    rate: int
    channels: int

    @property
    def data_bytes(self) -> int:
        return self.frames * self.channels * SAMPLE_BYTES

    def header(self, crc: int) -> bytes:
        fields = (
            self.attempt,
            self.variation,
            self.stem,
            self.channels,
            self.rate,
            self.position,
            self.frames,
            crc,
        )
        body = _CHUNK.pack(CHUNK_MAGIC, *fields, self.data_bytes, 0)
        return body[:-4] + struct.pack("<I", zlib.crc32(body[:-4]))


CHUNK_HEADER_BYTES = _CHUNK.size


@dataclass(frozen=True)
class Placed:
    """A chunk that is on the disk: its checksum, and where in the spool its header begins."""

    chunk: Chunk
    crc: int
    place: int

    @property
    def total_bytes(self) -> int:
        return CHUNK_HEADER_BYTES + self.chunk.data_bytes


class SpoolWriter:
    """Appends chunks of one attempt; `sync` before any of them is announced."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.path = path
        self._file = os.open(path, flags, 0o600)
        self._end = 0
        self._reserve = path.with_name(RESERVE_NAME)
        disk.sync_folder(path.parent)

    def append(self, chunk: Chunk, data: bytes | memoryview) -> Placed:
        """Write one chunk. `data`: interleaved float32, exactly `chunk.data_bytes` long."""
        if memoryview(data).nbytes != chunk.data_bytes:
            raise ValueError(f"{memoryview(data).nbytes} bytes for a chunk of {chunk.data_bytes}")
        placed = Placed(chunk, zlib.crc32(data), self._end)

        def write() -> None:
            disk.write_at(self._file, chunk.header(placed.crc), self._end)
            disk.write_at(self._file, data, self._end + CHUNK_HEADER_BYTES)

        within(self._reserve, placed.total_bytes, write)
        self._end += placed.total_bytes
        return placed

    def append_note(self, note: bytes) -> None:
        """Write a record that is no audio (see `tokens`)."""
        within(self._reserve, len(note), lambda: disk.write_at(self._file, note, self._end))
        self._end += len(note)

    def sync(self) -> None:
        disk.sync(self._file)

    def read(self, placed: Placed) -> bytes:
        """The samples of a chunk written before, checked."""
        return read_placed(self._file, placed.place, placed.total_bytes)

    def close(self) -> None:
        os.close(self._file)


def parse_header(raw: bytes) -> tuple[Chunk, int] | None:
    """A chunk's header and the CRC of its samples; None when it is not a sound one."""
    if len(raw) < CHUNK_HEADER_BYTES:
        return None
    magic, attempt, variation, stem, channels, rate, position, frames, crc, size, own = _CHUNK.unpack_from(
        raw
    )
    chunk = Chunk(attempt, variation, stem, position, frames, rate, channels)
    sound = zlib.crc32(raw[: CHUNK_HEADER_BYTES - 4]) == own and size == chunk.data_bytes
    return (chunk, crc) if magic == CHUNK_MAGIC and sound else None


def read_placed(descriptor: int, place: int, total_bytes: int) -> bytes:
    """The samples of one chunk, both checksums tested; raises E_TAKE_DAMAGED."""
    raw = disk.read_at(descriptor, total_bytes, place)
    damaged = SegueError("E_TAKE_DAMAGED", "A piece of this take was damaged on the disk; generate it again.")
    if len(raw) != total_bytes or total_bytes < CHUNK_HEADER_BYTES:
        raise damaged
    header = parse_header(raw)
    data = raw[CHUNK_HEADER_BYTES:]
    if header is None or header[0].data_bytes != len(data) or zlib.crc32(data) != header[1]:
        raise damaged
    return data
