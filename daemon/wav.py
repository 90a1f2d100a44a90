"""Finished files: float32 WAV, put in place whole, and the manifest that comes last."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.space import within
from daemon.spool import SAMPLE_BYTES

_WAV = struct.Struct("<4sI4s4sIHHIIHHH4sII4sI")
WAV_HEADER_BYTES = _WAV.size


def write_wav(
    path: Path,
    pieces: Iterable[bytes],
    *,
    rate: int,
    channels: int,
    frames: int,
    reserve: Path | None = None,
) -> tuple[int, int]:
    """A float32 WAV of exactly `frames` frames, put in place whole. Returns its size in bytes and CRC-32.

    The header has the fact chunk that the format asks of anything but integer PCM. Sizes are known
    beforehand, so nothing is patched afterwards. `reserve` holds the job's space, some of which is used here.
    """
    size = frames * channels * SAMPLE_BYTES
    width = channels * SAMPLE_BYTES
    header = _WAV.pack(
        b"RIFF", WAV_HEADER_BYTES - 8 + size, b"WAVE",
        b"fmt ", 18, 3, channels, rate, rate * width, width, 8 * SAMPLE_BYTES, 0,
        b"fact", 4, frames,
        b"data", size,
    )  # fmt: skip

    crc = zlib.crc32(header)

    def content() -> Iterator[bytes]:
        nonlocal crc
        yield header
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
            yield piece

    def put() -> int:
        return disk.put_file(path, content(), len(header) + size)

    untouched = crc
    written = put() if reserve is None else within(reserve, len(header) + size, put, lambda: crc == untouched)
    if written != len(header) + size:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path.name}: {written - len(header)} bytes of audio where {size} were announced")
    return written, crc


def wav_name(variation: int, stem: str, part: str = "take") -> str:
    """File name of one result; `part` is "take", "handle" or "tail"."""
    return f"v{variation}.{stem}{'' if part == 'take' else f'.{part}'}.wav"


def write_manifest(folder: Path, manifest: dict[str, Any], reserve: Path | None = None) -> None:
    """manifest.json, put in place last: a folder that has one is complete. `reserve` as for `write_wav`."""
    content = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"

    def put() -> int:
        return disk.put_file(folder / "manifest.json", [content])

    if reserve is None:
        put()
    else:
        within(reserve, len(content), put)
