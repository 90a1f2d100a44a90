"""Where audio lives on disk: inputs and spool while a job runs, WAV files and a manifest when it is done.

    <state>/spool/<job>/input.raw           the audio of the request, piece after piece as it came
    <state>/spool/<job>/<attempt>.pcm       chunks of one attempt (`spool`)
    <state>/takes/<job>/v<variation>.<stem>.wav, v<variation>.<stem>.handle.wav, manifest.json (`wav`)

and in one of the two folders the job's record (`records`). The worker writes chunks (`SpoolWriter`) and
finished files (`write_wav`); the front-end reads both (`TakeStore`). When a job is done its chunks go and its
audio events are answered from the WAV files, which hold the same samples.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.records import RECORD_NAME
from daemon.space import RESERVE_NAME, Space
from daemon.spool import (
    CHUNK_HEADER_BYTES,
    CHUNK_MAGIC,
    SAMPLE_BYTES,
    Chunk,
    Placed,
    SpoolWriter,
    parse_header,
    read_placed,
)
from daemon.sweeper import Sweeper
from daemon.verify import Verifier, damaged, missing
from daemon.wav import WAV_HEADER_BYTES, wav_name, write_manifest, write_wav
from protocol.errors import SegueError

__all__ = [
    "CHUNK_HEADER_BYTES", "CHUNK_MAGIC", "INPUT_NAME", "RESERVE_NAME", "SAMPLE_BYTES", "WAV_HEADER_BYTES",
    "Chunk", "Placed", "SpoolWriter", "TakeStore", "parse_header", "read_placed", "wav_name",
    "write_manifest", "write_wav",
]  # fmt: skip

INPUT_NAME = "input.raw"
LAST_ATTEMPT = 1_000_000  # more than any job is tried


class TakeStore:
    """The front-end's view of spool and takes below the state folder. Not thread-safe; has one owner."""

    def __init__(self, state: Path, *, quota_bytes: int, keep_free_bytes: int) -> None:
        self.spool = state / "spool"
        self.takes = state / "takes"
        for folder in (self.spool, self.takes):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.space = Space(state, quota_bytes=quota_bytes, keep_free_bytes=keep_free_bytes)
        self.verifier = Verifier()
        self.sweeper = Sweeper(state)

    # ---- inputs and spool ----

    def put_inputs(self, job: int, payloads: Sequence[bytes | bytearray | memoryview]) -> int:
        """Store the request's audio, piece after piece; durable after `sync_spool`. Returns its CRC-32.

        No part file: a folder without a record is removed at the next start.
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
        return crc

    def sync_spool(self, job: int) -> None:
        """The names of a new job's folder and of what is in it are durable."""
        disk.sync_folder(self.spool_folder(job))
        disk.sync_folder(self.spool)

    def link_inputs(self, source: int, job: int) -> None:
        """Give a job the audio of another one, without copying it. Raises E_TAKE_MISSING."""
        self.spool_folder(job).mkdir(mode=0o700)
        try:
            os.link(self.spool_folder(source) / INPUT_NAME, self.spool_folder(job) / INPUT_NAME)
        except FileNotFoundError:
            raise SegueError(
                "E_TAKE_MISSING", "The audio of the first job is no longer here; submit it again."
            ) from None

    def spool_folder(self, job: int) -> Path:
        return self.spool / str(job)

    def take_folder(self, job: int) -> Path:
        return self.takes / str(job)

    def drop_attempts(self, job: int, *, until: int) -> None:
        """Remove what attempts 1 to `until` left in the spool (`<attempt>.pcm`, `<attempt>.tokens`, …)."""
        with contextlib.suppress(OSError):  # what stays is counted, and goes with the job
            for path in self.spool_folder(job).glob("[0-9]*.*"):
                if path.stem.isdigit() and int(path.stem) <= until:
                    self.sweeper.discard(path)

    def drop_spool(self, job: int) -> None:
        self.sweeper.discard(self.spool_folder(job))
        self.space.recount(job)

    def drop_take(self, job: int) -> None:
        """Remove finished files. The record stays with the job, if it was moved here already."""
        record = self.take_folder(job) / RECORD_NAME
        with contextlib.suppress(OSError):
            if record.exists():
                disk.rename(record, self.spool_folder(job) / RECORD_NAME)
        self.sweeper.discard(self.take_folder(job))

    # ---- audio events ----

    def read_chunk(
        self, job: int, event: dict[str, Any], place: int, total_bytes: int, *, done: bool, take_frames: int
    ) -> bytes:
        """The payload of an audio event, from the WAV when the job is done, else from the spool; checked.

        `event` has attempt, variation, stem, position, frames, channels and crc; `take_frames` is the length
        of the job's takes. A handle ends at position 0, however long it is; a tail begins where the take
        ends.
        """
        position, width = event["position"], event["channels"] * SAMPLE_BYTES
        part = "handle" if position < 0 else "take" if position < take_frames else "tail"
        wav = self.take_folder(job) / wav_name(event["variation"], event["stem"], part)
        size = event["frames"] * width
        try:
            if done:
                if part == "handle":
                    offset = wav.stat().st_size + position * width
                else:
                    offset = WAV_HEADER_BYTES + (position - (take_frames if part == "tail" else 0)) * width
                data = _read_range(wav, offset, size)
            else:
                path = self.spool_folder(job) / f"{event['attempt']}.pcm"
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    data = read_placed(descriptor, place, total_bytes)
                finally:
                    os.close(descriptor)
        except FileNotFoundError:
            raise missing() from None
        except OSError as error:  # what the disk does not give back is damaged
            raise damaged("A piece of this take") from error
        if len(data) != size or zlib.crc32(data) != event["crc"]:
            raise damaged("A piece of this take")
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

    # ---- start-up ----

    def highest_id(self) -> int:
        """The highest job number that left anything on the disk, so that a new journal
        does not use it again.
        """
        names = [folder.name for root in (self.spool, self.takes) for folder in root.iterdir()]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def reconcile(self, states: dict[int, str]) -> list[str]:
        """Remove what belongs to no job: folders of forgotten ones, part files, finished files of jobs that
        were not done. Says what it did. `states`: of every job, by id.

        What the journal does not know is kept if there is audio in it that was made here: takes are never
        deleted unasked.
        """
        said: list[str] = []
        for folder in self.spool.iterdir():
            state = states.get(int(folder.name)) if folder.name.isdigit() else None
            if state == "forgotten" or (state is None and not any(folder.glob("*.pcm"))):
                self.sweeper.discard(folder)
                said.append(f"spool of {state or 'unknown'} job {folder.name} removed")
            elif state is None:
                said.append(f"spool of {folder.name} belongs to no job; kept")
            elif state == "done":  # its audio is read from the finished files
                self.drop_attempts(int(folder.name), until=LAST_ATTEMPT)
        for part in (*self.takes.glob("*/.*.part"), *self.spool.glob("*/.*.part")):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            said.append(f"unfinished file {part.name} removed")
        for folder in self.takes.iterdir():
            state = states.get(int(folder.name)) if folder.name.isdigit() else None
            if state is None:
                said.append(f"takes of {folder.name} belong to no job; kept")
            elif state == "forgotten":
                self.sweeper.discard(folder)
            elif state != "done":
                self.drop_take(int(folder.name))
        for job, state in states.items():
            if state == "done" and not self.take_folder(job).is_dir():
                said.append(f"the files of job {job} are gone")
        self.space.recount_all()
        return said


def _read_range(path: Path, offset: int, size: int) -> bytes:
    """Bytes of a file; fewer at its end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return disk.read_at(descriptor, size, offset)
    finally:
        os.close(descriptor)
