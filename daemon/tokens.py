"""What lies between the chunks of a spool file so that another attempt can go on: notes of the tokens.

The first record of an attempt that can be continued says who made it (the identity: build, weights,
precision, …). Before the chunks that were made from them come the token frames of each variation. They share
the file of the audio, so one sync makes both durable. A note is a header of 32 bytes and its data; everything
is little-endian. What the data of token frames means is known to the player that wrote it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from daemon import disk
from daemon.takes import CHUNK_HEADER_BYTES, CHUNK_MAGIC, Placed, parse_header

_NOTE = struct.Struct("<4sBBHqIIII")  # magic, kind, 0, variation, start, count, bytes, data's CRC, own CRC
_MAGIC = b"SGTK"
NOTE_HEADER_BYTES = _NOTE.size
_IDENTITY, _FRAMES = 1, 2
_MAX_NOTE_BYTES = 16 << 20


@dataclass(frozen=True)
class TokenFrames:
    """`count` token frames of one variation from frame `start` on (the player's own count)."""

    variation: int
    start: int
    count: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def frame_bytes(self) -> int:
        return len(self.data) // self.count


@dataclass
class AttemptRead:
    """What a spool file holds from its beginning to the first byte that is not sound (`sound_bytes`)."""

    identity: dict[str, Any] | None = None
    frames: list[TokenFrames] = field(default_factory=list)
    chunks: list[Placed] = field(default_factory=list)
    sound_bytes: int = 0


def identity_note(identity: dict[str, Any]) -> bytes:
    """The record that an attempt begins with."""
    return _note(_IDENTITY, 0, 0, 0, msgpack.packb(identity, use_bin_type=True))


def frames_note(frames: TokenFrames) -> bytes:
    return _note(_FRAMES, frames.variation, frames.start, frames.count, frames.data)


def _note(kind: int, variation: int, start: int, count: int, data: bytes) -> bytes:
    head = _NOTE.pack(_MAGIC, kind, 0, variation, start, count, len(data), zlib.crc32(data), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + data


def can_be_continued(path: Path) -> bool:
    """Whether an attempt's spool begins with a sound identity; whether it fits is the worker's to say."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        found = _read_note(descriptor, 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return found is not None and found[0] == _IDENTITY


def _read_note(descriptor: int, place: int) -> tuple[int, int, int, int, bytes] | None:
    """(kind, variation, start, count, data) of the note at `place`; None where there is no sound one."""
    raw = disk.read_at(descriptor, NOTE_HEADER_BYTES, place)
    if len(raw) < NOTE_HEADER_BYTES or raw[:4] != _MAGIC:
        return None
    _, kind, _, variation, start, count, size, crc, own = _NOTE.unpack(raw)
    if zlib.crc32(raw[:-4]) != own or size > _MAX_NOTE_BYTES:
        return None
    data = disk.read_at(descriptor, size, place + NOTE_HEADER_BYTES)
    if len(data) != size or zlib.crc32(data) != crc:
        return None
    return kind, variation, start, count, data


def read_attempt(path: Path) -> AttemptRead:
    """All sound records of a spool file in order; audio is not read, only its headers.

    Raises `OSError` when the file cannot be read at all.
    """
    found = AttemptRead()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        while found.sound_bytes < size:
            place = found.sound_bytes
            raw = disk.read_at(descriptor, CHUNK_HEADER_BYTES, place)
            if raw[:4] == CHUNK_MAGIC:
                header = parse_header(raw)
                if header is None:
                    break
                placed = Placed(header[0], header[1], place)
                if place + placed.total_bytes > size:
                    break
                found.chunks.append(placed)
                found.sound_bytes += placed.total_bytes
                continue
            note = _read_note(descriptor, place)
            if note is None or not _take_in(found, note):
                break
            found.sound_bytes += NOTE_HEADER_BYTES + len(note[4])
    finally:
        os.close(descriptor)
    return found


def _take_in(found: AttemptRead, note: tuple[int, int, int, int, bytes]) -> bool:
    kind, variation, start, count, data = note
    if kind == _IDENTITY:
        try:
            identity = msgpack.unpackb(data, raw=False)
        except Exception:  # msgpack raises ValueError, TypeError and its own kinds
            return False
        found.identity = identity if isinstance(identity, dict) else None
        return found.identity is not None
    if kind == _FRAMES and count > 0 and data and len(data) % count == 0:
        found.frames.append(TokenFrames(variation, start, count, data))
        return True
    return False


def joined(parts: Iterable[TokenFrames]) -> dict[int, TokenFrames]:
    """The frames of each variation in one piece, from its first frame on.

    Raises `ValueError` when parts contradict each other or leave a gap.
    """
    whole: dict[int, TokenFrames] = {}
    for part in parts:
        before = whole.get(part.variation)
        if before is None:
            whole[part.variation] = part
            continue
        width = before.frame_bytes
        if part.frame_bytes != width or not before.start <= part.start <= before.end:
            raise ValueError(f"the tokens of variation {part.variation} have a gap at frame {before.end}")
        known = min(before.end, part.end) - part.start
        at = (part.start - before.start) * width
        if part.data[: known * width] != before.data[at : at + known * width]:
            raise ValueError(f"two attempts disagree on the tokens of variation {part.variation}")
        fresh = part.count - known
        whole[part.variation] = TokenFrames(
            before.variation, before.start, before.count + fresh, before.data + part.data[known * width :]
        )
    return whole
