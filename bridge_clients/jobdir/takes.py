"""Audio for the host: chunks while it is made, and finished takes as one WAV file per variation and stem.

A take's file holds the handle before its first sample and the tail behind its last one as well, so that a
host can pull a crossfade open. It is put together from the daemon's checked files, written under a hidden
name, synced, and only then named; nothing is ever replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge_clients import wav
from bridge_clients.core import PIECE_BYTES
from bridge_clients.jobdir.folder import CHUNKS, JobDir, disk_error
from protocol.errors import SegueError
from protocol.events import Audio
from protocol.requests import Fetch

_WIDTH_BYTES = 4


@dataclasses.dataclass
class _Chunk:
    position: int
    rate: int
    channels: int
    frames: int = 0
    pieces: list[bytes] = dataclasses.field(default_factory=list)


class Chunks:
    """Audio as it is made, in small files: `chunks/v1.mix.00001.wav` and so on, each told when it is whole.

    The same events give the same files, so a run that goes on after a death writes nothing twice.
    """

    def __init__(self, place: JobDir, chunk_s: float) -> None:
        self._place, self._chunk_s = place, chunk_s
        self._open: dict[tuple[int, str], _Chunk] = {}
        self._numbers: dict[tuple[int, str], int] = {}
        place.make_folder(CHUNKS)

    def add(self, event: Audio) -> None:
        """Take in an audio event with its samples. Raises E_DISK_FULL or E_DISK."""
        if event.block is None:
            return
        name = (event.variation, event.stem)
        chunk = self._open.get(name)
        if chunk is not None and event.position != chunk.position + chunk.frames:
            self._write(name)  # after a restart that voids what came before
            chunk = None
        if chunk is None:
            chunk = self._open[name] = _Chunk(event.position, event.rate, event.channels)
        chunk.pieces.append(bytes(event.block.data))
        chunk.frames += event.frames
        if chunk.frames >= self._chunk_s * chunk.rate:
            self._write(name)

    def flush(self) -> None:
        """Write what has come, however short."""
        for name in list(self._open):
            self._write(name)

    def _write(self, name: tuple[int, str]) -> None:
        chunk = self._open.pop(name)
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        file = f"{CHUNKS}/v{name[0] + 1}.{name[1]}.{number:05}.wav"
        if not self._place.has(file):
            head = wav.header(chunk.rate, chunk.channels, chunk.frames)
            self._place.put(file, head + b"".join(chunk.pieces))
        self._place.tell(
            "audio", variation=name[0] + 1, stem=name[1], file=file, position=chunk.position,
            frames=chunk.frames, rate=chunk.rate, channels=chunk.channels,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of the daemon: a piece of a take. position: of its first frame, 0 is the take's own first."""

    name: str
    position: int
    frames: int


@dataclasses.dataclass(frozen=True)
class TakeFiles:
    """What the daemon has of one variation (counted from 0) and stem, in order."""

    variation: int
    stem: str
    parts: tuple[Part, ...]

    @property
    def handle_frames(self) -> int:
        return max(0, -self.parts[0].position)

    @property
    def frames(self) -> int:
        """All of them, handle and tail included."""
        return sum(part.frames for part in self.parts)


def takes_of(manifest: dict[str, Any]) -> list[TakeFiles]:
    """The files that a manifest of the daemon lists, by variation and stem, the mix first. Raises E_INTERNAL
    when their pieces do not follow each other.
    """
    found: dict[tuple[int, str], list[Part]] = {}
    for take in manifest.get("takes") or ():
        for file in take["files"]:
            part = Part(str(file["part"]), int(file["position"]), int(file["frames"]))
            found.setdefault((int(take["variation"]), str(file["stem"])), []).append(part)
    made = []
    for (variation, stem), parts in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != "mix")):
        parts.sort(key=lambda part: part.position)
        for before, after in zip(parts, parts[1:], strict=False):
            if before.position + before.frames != after.position:
                raise SegueError(
                    "E_INTERNAL", f"Take {variation + 1} ({stem}) has a gap at sample {after.position}."
                )
        made.append(TakeFiles(variation, stem, tuple(parts)))
    return made


class Landing:
    """Brings finished takes to where the host wants them."""

    def __init__(self, client: Any, job: str, place: JobDir, folder: Path | None, name: str) -> None:
        """folder: where takes go (None: the job directory); name: what their file names begin with."""
        self._client, self._job, self._place = client, job, place
        self._folder = folder if folder is not None else place.path
        self._outside = folder is not None
        self._prefix = f"{name}." if name else f"{place.path.name}." if self._outside else ""

    def land(self, take: TakeFiles, rate: int, channels: int) -> str:
        """Write one take; returns its file as it is told to the host: a name in the job directory, or an
        absolute path. Raises E_DISK_FULL, E_DISK, E_TAKE_MISSING, E_TAKE_DAMAGED.
        """
        stem = f"{self._prefix}v{take.variation + 1}.{take.stem}"
        # two jobs may have been given the same name for their takes
        hidden = self._folder / f".{stem}.{self._place.path.name}.part"
        try:
            crc = self._write(hidden, take, rate, channels)
            path = self._named(hidden, stem, crc)
        except OSError as error:
            raise disk_error(self._folder / stem, error) from None
        finally:
            with contextlib.suppress(OSError):
                hidden.unlink(missing_ok=True)
        return str(path) if self._outside else path.name

    def _write(self, hidden: Path, take: TakeFiles, rate: int, channels: int) -> int:
        head = wav.header(rate, channels, take.frames)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        crc = zlib.crc32(head)
        with os.fdopen(os.open(hidden, flags, 0o644 if self._outside else 0o600), "wb") as file:
            file.write(head)
            for part in take.parts:
                size_bytes = 0
                for piece in self._samples(take, part, rate, channels):
                    file.write(piece)
                    crc, size_bytes = zlib.crc32(piece, crc), size_bytes + len(piece)
                if size_bytes != part.frames * channels * _WIDTH_BYTES:
                    raise _damaged(take, part)
            file.flush()
            os.fsync(file.fileno())
        return crc

    def _samples(self, take: TakeFiles, part: Part, rate: int, channels: int) -> Iterator[bytes]:
        """The samples of one of the daemon's files, piece by piece; the file's checksum is held against what
        the daemon says of it.
        """
        if self._client.remote:
            got = self._client.fetch(self._job, take.variation, take.stem, part.name, as_="bytes")
            yield got.data[len(got.data) - part.frames * channels * _WIDTH_BYTES :]
            return
        reply = self._client.request(
            Fetch(job=self._job, variation=take.variation, stem=take.stem, part=part.name, as_="path")
        )
        crc = 0
        try:
            with open(reply.path, "rb") as file:
                info = wav.inspect(file, os.path.basename(reply.path))
                if (info.rate_hz, info.channels, info.frames) != (rate, channels, part.frames):
                    raise _damaged(take, part)
                file.seek(0)
                crc = zlib.crc32(file.read(info.data_offset), crc)
                while piece := file.read(PIECE_BYTES):
                    crc = zlib.crc32(piece, crc)
                    yield piece
        except OSError as error:
            raise SegueError(
                "E_TAKE_MISSING", f"The take {reply.path} cannot be read ({error.strerror}).", job=self._job
            ) from None
        if crc != reply.crc:
            raise _damaged(take, part)

    def _named(self, hidden: Path, stem: str, crc: int) -> Path:
        """Give the finished file a name that is free; a file that is the very same is taken as it is."""
        for number in range(1, 1000):
            path = self._folder / f"{stem}{f'-{number}' if number > 1 else ''}.wav"
            if not os.path.lexists(path):
                try:
                    os.link(hidden, path)  # unlike a rename, a link never replaces what is there
                except FileExistsError:
                    continue
                except OSError:  # a file system without links
                    hidden.rename(path)
                _sync_folder(self._folder)
                return path
            if _is_same(path, hidden, crc):
                return path
        raise SegueError(
            "E_DISK", f"There are a thousand files called {stem} in {self._folder}.", field="takes_name"
        )


def _is_same(path: Path, hidden: Path, crc: int) -> bool:
    """Whether an earlier run of the same job has put this file here already."""
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size != hidden.stat().st_size:
            return False
        found = 0
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                found = zlib.crc32(piece, found)
    except OSError:
        return False
    return found == crc


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a file system that cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged(take: TakeFiles, part: Part) -> SegueError:
    return SegueError(
        "E_TAKE_DAMAGED",
        f"Take {take.variation + 1} ({take.stem}, {part.name}) does not fit its description; make it again.",
    )
