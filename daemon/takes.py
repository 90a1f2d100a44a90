"""Where audio lives on disk: inputs and spool while a job runs, WAV files and a manifest when it is done.

    <state>/spool/<job>/input.raw           the audio of the request, piece after piece as it came
    <state>/spool/<job>/<attempt>.pcm       chunks of one attempt, append-only, each with its checksum
    <state>/takes/<job>/v<variation>.<stem>.wav, v<variation>.<stem>.handle.wav, manifest.json

The worker writes chunks (`SpoolWriter`) and finished files (`write_wav`); the front-end reads both
(`TakeStore`). A chunk is a header of 40 bytes and interleaved float32 samples; everything is little-endian.
When a job is done its spool goes and its audio events are answered from the WAV files, which hold the same
samples.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import disk
from protocol.errors import SegueError

_CHUNK = struct.Struct("<4sIHBBIqIIII")  # see Chunk.header
CHUNK_MAGIC = b"SGCK"
_WAV = struct.Struct("<4sI4s4sIHHIIHHH4sII4sI")
WAV_HEADER_BYTES = _WAV.size
SAMPLE_BYTES = 4
INPUT_NAME = "input.raw"
RESERVE_BYTES = 1 << 20
LAST_ATTEMPT = 1_000_000  # more than any job is tried


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
        disk.sync_folder(path.parent)

    def append(self, chunk: Chunk, data: bytes | memoryview) -> Placed:
        """Write one chunk. `data`: interleaved float32, exactly `chunk.data_bytes` long."""
        if memoryview(data).nbytes != chunk.data_bytes:
            raise ValueError(f"{memoryview(data).nbytes} bytes for a chunk of {chunk.data_bytes}")
        placed = Placed(chunk, zlib.crc32(data), self._end)
        disk.write_at(self._file, chunk.header(placed.crc), self._end)
        disk.write_at(self._file, data, self._end + CHUNK_HEADER_BYTES)
        self._end += placed.total_bytes
        return placed

    def append_note(self, note: bytes) -> None:
        """Write a record that is no audio (see `tokens`)."""
        disk.write_at(self._file, note, self._end)
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


def write_wav(
    path: Path, pieces: Iterable[bytes], *, rate: int, channels: int, frames: int
) -> tuple[int, int]:
    """A float32 WAV of exactly `frames` frames, put in place whole. Returns its size in bytes and CRC-32.

    The header has the fact chunk that the format asks of anything but integer PCM. Sizes are known
    beforehand, so nothing is patched afterwards.
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

    written = disk.put_file(path, content())
    if written != len(header) + size:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path.name}: {written - len(header)} bytes of audio where {size} were announced")
    return written, crc


def wav_name(variation: int, stem: str, part: str = "take") -> str:
    """File name of one result; `part` is "take" or "handle"."""
    return f"v{variation}.{stem}{'.handle' if part == 'handle' else ''}.wav"


class TakeStore:
    """The front-end's view of spool and takes below the state folder. Not thread-safe; has one owner."""

    def __init__(self, state: Path, *, quota_bytes: int, keep_free_bytes: int) -> None:
        self.spool = state / "spool"
        self.takes = state / "takes"
        for folder in (self.spool, self.takes):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._quota_bytes = quota_bytes
        self._keep_free_bytes = keep_free_bytes
        self._sizes: dict[str, int] = {}
        for root in (self.spool, self.takes):
            for folder in root.iterdir():
                self.recount(folder.name)

        self._reserve = state / "reserve"
        self.keep_reserve()

    # ---- space ----

    def keep_reserve(self) -> None:
        """Hold some space so that the end of a job can still be journaled on a full disk."""
        with contextlib.suppress(OSError):
            if not self._reserve.exists():
                disk.put_file(self._reserve, [bytes(RESERVE_BYTES)])

    def free_reserve(self) -> None:
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def check_space(self, need_bytes: int, promised_bytes: int) -> None:
        """Refuse (E_DISK_FULL) what would not fit beside what is there and what was
        promised to other jobs.
        """
        wanted = need_bytes + promised_bytes
        if self.used_bytes + wanted > self._quota_bytes:
            free = max(0, self._quota_bytes - self.used_bytes - promised_bytes)
            raise SegueError(
                "E_DISK_FULL",
                f"The takes folder has room for {_size(free)} more and this job may need {_size(need_bytes)}:"
                " forget takes that you have saved, or raise takes.quota_gib.",
                value=need_bytes,
                allowed=f"up to {free} bytes",
                retry_ms=30_000,
            )
        free = shutil.disk_usage(self.takes).free - self._keep_free_bytes
        if wanted > free:
            raise SegueError(
                "E_DISK_FULL",
                f"The disk of {self.takes} is too full for this job, which may need {_size(need_bytes)}.",
                value=need_bytes,
                allowed=f"up to {max(0, free - promised_bytes)} bytes",
                retry_ms=30_000,
            )

    def recount(self, job: int | str) -> int:
        """Measure what a job uses now; returns the bytes that it gave back since the last time."""
        name = str(job)
        before = self._sizes.pop(name, 0)
        now = disk.used_bytes(self.spool / name) + disk.used_bytes(self.takes / name)
        if now:
            self._sizes[name] = now
        return before - now

    @property
    def used_bytes(self) -> int:
        """Of spool and takes, as of each job's last count."""
        return sum(self._sizes.values())

    # ---- inputs and spool ----

    def put_inputs(self, job: int, payloads: Sequence[bytes | bytearray | memoryview]) -> int:
        """Store the request's audio, piece after piece; durable when this returns. Returns its CRC-32.

        No part file: a folder that the journal does not know is removed at the next start.
        """
        folder, crc, size = self.spool_folder(job), 0, 0
        folder.mkdir(mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(folder / INPUT_NAME, flags, 0o600)
        try:
            for payload in payloads:
                disk.write_at(descriptor, memoryview(payload), size)
                crc, size = zlib.crc32(payload, crc), size + memoryview(payload).nbytes
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        disk.sync_folder(folder)
        disk.sync_folder(self.spool)
        self._sizes[str(job)] = size
        return crc

    def link_inputs(self, source: int, job: int) -> None:
        """Give a job the audio of another one, without copying it. Raises E_TAKE_MISSING."""
        self.spool_folder(job).mkdir(mode=0o700)
        try:
            os.link(self.spool_folder(source) / INPUT_NAME, self.spool_folder(job) / INPUT_NAME)
        except FileNotFoundError:
            raise SegueError(
                "E_TAKE_MISSING", "The audio of the first job is no longer here; submit it again."
            ) from None
        disk.sync_folder(self.spool_folder(job))
        disk.sync_folder(self.spool)
        self.recount(job)

    def spool_folder(self, job: int) -> Path:
        return self.spool / str(job)

    def take_folder(self, job: int) -> Path:
        return self.takes / str(job)

    def drop_attempts(self, job: int, *, until: int) -> None:
        """Remove what attempts 1 to `until` left in the spool (`<attempt>.pcm`, `<attempt>.tokens`, …)."""
        for path in self.spool_folder(job).glob("[0-9]*.*"):
            if path.stem.isdigit() and int(path.stem) <= until:
                with contextlib.suppress(OSError):
                    path.unlink()

    def drop_spool(self, job: int) -> None:
        shutil.rmtree(self.spool_folder(job), ignore_errors=True)
        self.recount(job)

    def drop_take(self, job: int) -> None:
        shutil.rmtree(self.take_folder(job), ignore_errors=True)

    # ---- audio events ----

    def read_chunk(
        self, job: int, event: dict[str, Any], place: int, total_bytes: int, *, done: bool, handle_frames: int
    ) -> bytes:
        """The payload of an audio event, from the WAV when the job is done, else from the spool; checked.

        `event` has attempt, variation, stem, position, frames, channels and crc; `handle_frames` is the
        length of the job's handles, whose files begin at position -handle_frames.
        """
        wav = self.take_folder(job) / wav_name(
            event["variation"], event["stem"], "handle" if event["position"] < 0 else "take"
        )
        size = event["frames"] * event["channels"] * SAMPLE_BYTES
        try:
            if done:
                first = event["position"] + (handle_frames if event["position"] < 0 else 0)
                data = self.read_range(wav, WAV_HEADER_BYTES + first * event["channels"] * SAMPLE_BYTES, size)
            else:
                path = self.spool_folder(job) / f"{event['attempt']}.pcm"
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    data = read_placed(descriptor, place, total_bytes)
                finally:
                    os.close(descriptor)
        except FileNotFoundError:
            raise SegueError("E_TAKE_MISSING", "The audio of this job is no longer on the disk.") from None
        if len(data) != size or zlib.crc32(data) != event["crc"]:
            raise SegueError(
                "E_TAKE_DAMAGED", "A piece of this take was damaged on the disk; generate it again."
            )
        return data

    # ---- finished files ----

    def finished(self, job: int, variation: int, stem: str, part: str) -> Path:
        """The WAV of a finished take; raises E_TAKE_MISSING."""
        path = self.take_folder(job) / wav_name(variation, stem, part)
        if not path.is_file():
            raise SegueError(
                "E_TAKE_MISSING",
                f"This job has no file {path.name}.",
                field="stem",
                value=f"{variation}, {stem}, {part}",
            )
        return path

    def read_range(self, path: Path, offset: int, size: int) -> bytes:
        """Bytes of a finished file; fewer at its end."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return disk.read_at(descriptor, size, offset)
        finally:
            os.close(descriptor)

    # ---- start-up ----

    def highest_id(self) -> int:
        """The highest job number that left anything on the disk, so that a new journal
        does not use it again.
        """
        names = [folder.name for root in (self.spool, self.takes) for folder in root.iterdir()]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def reconcile(self, jobs: dict[int, str]) -> list[str]:
        """Remove what the journal does not need: spools of unknown jobs, part files, and files of jobs that
        were not done. Says what it did. `jobs`: state by id, without the
        forgotten.

        Finished files of jobs that the journal does not know are kept: takes are never deleted unasked.
        """
        said: list[str] = []
        for folder in self.spool.iterdir():
            state = jobs.get(int(folder.name)) if folder.name.isdigit() else None
            if state is None:
                shutil.rmtree(folder, ignore_errors=True)
                said.append(f"spool of unknown job {folder.name} removed")
            elif state == "done":  # its audio is read from the finished files
                self.drop_attempts(int(folder.name), until=LAST_ATTEMPT)
        for part in self.takes.glob("*/.*.part"):
            part.unlink(missing_ok=True)
            said.append(f"unfinished file {part.name} removed")
        for folder in self.takes.iterdir():
            state = jobs.get(int(folder.name)) if folder.name.isdigit() else None
            if state is None:
                said.append(f"takes of {folder.name} belong to no job; kept")
            elif state != "done":
                shutil.rmtree(folder, ignore_errors=True)
        for name in list(self._sizes):
            self.recount(name)
        return said


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """manifest.json, put in place last: a folder that has one is complete."""
    disk.put_file(
        folder / "manifest.json", [json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"]
    )


def _size(count: int) -> str:
    """Bytes for a sentence."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"
