"""The second memory of every job: a file beside its audio, from which a damaged journal is built again.

    <state>/spool/<job>/record       the job's row, then one frame for every transaction, oldest first
    <state>/takes/<job>/record       the same file, moved there when the job is done
    <state>/forgotten                one frame for every job that was forgotten, so that its key stays taken
    <state>/facts                    one frame for every change of what the daemon knows about itself

A frame is its length, a CRC-32 over length and content, and msgpack. The first frames are synced before the
journal commits the job; later ones are only written (10 us): they have to outlive a kill and a damaged
journal, not a power cut, which the journal itself survives. Whatever follows the first bad frame is not read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.rows import FORGOTTEN, EventRow, JobRow, pack, unpack

RECORD_NAME = "record"
TOMBSTONES_NAME = "forgotten"
FACTS_NAME = "facts"
_TOMBSTONES, _FACTS = 0, -1  # stand for those files where a job's number would
_LONG_BYTES = 64 << 10
_FRAME = struct.Struct("<II")
_BORN = ("id", "key", "digest", "session", "project", "priority", "model", "spec", "created_ns")
_MOVING = ("state", "attempt", "strikes", "last_seq", "void_seq", "need_bytes", "started_ns", "finished_ns")
_LOG = logging.getLogger("segue.records")


@dataclass(frozen=True)
class Record:
    """What a record says: the job as of its last whole frame, all its events, and how many bytes were
    sound.
    """

    row: JobRow
    events: tuple[EventRow, ...]
    sound_bytes: int
    whole: bool


def _framed(value: Any) -> bytes:
    content = pack(value)
    size = struct.pack("<I", len(content))
    return size + struct.pack("<I", zlib.crc32(content, zlib.crc32(size))) + content


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(end, content) of each sound frame, up to the first that is not."""
    at = 0
    while at + _FRAME.size <= len(data):
        size, crc = _FRAME.unpack_from(data, at)
        content = data[at + _FRAME.size : at + _FRAME.size + size]
        if len(content) != size or zlib.crc32(content, zlib.crc32(data[at : at + 4])) != crc:
            return
        at += _FRAME.size + size
        yield at, content


def _born(row: JobRow) -> bytes:
    return _framed({name: getattr(row, name) for name in _BORN})


def _step(row: JobRow, events: Sequence[EventRow]) -> bytes:
    """One transaction: where the job stands after it, and the events it made."""
    moving = [getattr(row, name) for name in _MOVING]
    return _framed([moving, [[e.seq, e.type, e.at_ns, e.data, e.place, e.bytes] for e in events]])


def parse(data: bytes) -> Record | None:
    """A record's content; None when not even the job itself can be read.

    A frame whose events begin at a number that is there already takes the place of that event and all after
    it: the transaction before it was written here and then refused by the journal.
    """
    born: dict[str, Any] | None = None
    moving: list[Any] = []
    events: list[EventRow] = []
    sound = 0
    try:
        for end, content in _frames(data):
            value = unpack(content)
            if born is None:
                born = value
            else:
                moving, made = value
                first = made[0][0] if made else len(events) + 1
                if not 1 <= first <= len(events) + 1:
                    break
                events[first - 1 :] = [EventRow(born["id"], *entry) for entry in made]
            sound = end
        if born is None or not moving:
            return None
        row = JobRow(**born, **dict(zip(_MOVING, moving, strict=True))).sealed()
    except (TypeError, ValueError, KeyError):
        return None
    if row.last_seq != len(events):
        return None  # never written so
    return Record(row, tuple(events), sound, sound == len(data))


def reach(data: bytes) -> tuple[int, bool]:
    """How far a record goes, without reading all of it: its last event's number (0: none can be read), and
    whether it is sound to its end.
    """
    last, sound = b"", 0
    for end, content in _frames(data):
        last, sound = content if sound else b"", end
    try:
        return (unpack(last)[0][_MOVING.index("last_seq")] if last else 0), sound == len(data)
    except (TypeError, ValueError, LookupError):
        return 0, False


class Records:
    """All records below one state folder. Owned by the front-end's one thread (`born` by the intake's)."""

    def __init__(self, state: Path) -> None:
        self._spool, self._takes = state / "spool", state / "takes"
        self._tombstones, self._facts = state / TOMBSTONES_NAME, state / FACTS_NAME
        self._torn: dict[int, int] = {}  # records with a bad end that could not be cut: their sound length

    def path(self, job: int) -> Path:
        """Where the record is, or would be if it is nowhere."""
        if job == _FACTS:
            return self._facts
        moved = self._takes / str(job) / RECORD_NAME
        return moved if moved.exists() else self._spool / str(job) / RECORD_NAME

    # ---- writing ----

    def born(self, row: JobRow, accepted: EventRow) -> None:
        """A new job's record; its content is durable when this returns, the caller syncs the folder."""
        path = self._spool / str(row.id) / RECORD_NAME
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            disk.write_at(descriptor, _born(row) + _step(row, [accepted]), 0)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)

    def append(self, row: JobRow, events: Sequence[EventRow]) -> tuple[int, int] | None:
        """One transaction, as it is about to be committed. Returns what `cut` needs to take it back; None
        when the job has no record any more (somebody removed its folder: the journal alone goes on).
        """
        try:
            return row.id, self._append(row.id, self.path(row.id), _step(row, events), 0)
        except FileNotFoundError:
            _LOG.warning("a job has no record", extra={"job": row.id})
            return None

    def _append(self, job: int, path: Path, frame: bytes, flags: int) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
        try:
            if job in self._torn:
                disk.truncate(descriptor, self._torn[job])
                del self._torn[job]
            end = os.fstat(descriptor).st_size
            try:
                disk.write_at(descriptor, frame, end)
            except OSError:
                self._cut(job, descriptor, end)
                raise
        finally:
            os.close(descriptor)
        return end

    def cut(self, mark: tuple[int, int] | None) -> None:
        """Take back what `append` wrote: the journal refused it."""
        if mark is None:
            return
        job, end = mark
        try:
            descriptor = os.open(self.path(job), os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self._torn[job] = end
            return
        try:
            self._cut(job, descriptor, end)
        finally:
            os.close(descriptor)

    def _cut(self, job: int, descriptor: int, end: int) -> None:
        try:
            disk.truncate(descriptor, end)
            self._torn.pop(job, None)
        except OSError:
            self._torn[job] = end  # the next append tries again

    def to_take(self, job: int) -> None:
        """Move the record beside the finished files, if both are there."""
        source, folder = self._spool / str(job) / RECORD_NAME, self._takes / str(job)
        if folder.is_dir() and source.exists():
            disk.rename(source, folder / RECORD_NAME)

    def to_spool(self, job: int) -> None:
        """Back again: the job is not done after all, and its files may be removed."""
        source, folder = self._takes / str(job) / RECORD_NAME, self._spool / str(job)
        with contextlib.suppress(OSError):
            if source.exists() and folder.is_dir():
                disk.rename(source, folder / RECORD_NAME)

    def rewrite(self, row: JobRow, events: Sequence[EventRow], *, done: bool) -> None:
        """The whole record anew from what the journal has. Of a job whose folder is gone nothing is kept."""
        folder = (self._takes if done else self._spool) / str(row.id)
        if done and not folder.is_dir():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        frames = [_born(row), _step(row, events)]
        disk.put_file(folder / RECORD_NAME, frames)
        self._torn.pop(row.id, None)

    def remove(self, job: int) -> None:
        """First of all that goes when a job's folder goes, so that a half removed one is nobody's."""
        for root in (self._spool, self._takes):
            path = root / str(job) / RECORD_NAME
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self._torn.pop(job, None)

    # ---- reading ----

    def read(self, job: int) -> Record | None:
        """Raises `OSError` for what the disk cannot read."""
        with contextlib.suppress(FileNotFoundError):
            record = parse(self.path(job).read_bytes())
            return record if record is not None and record.row.id == job else None
        return None

    def reach(self, job: int) -> tuple[int, bool]:
        """See `reach`; (0, False) for a job without a record. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            return reach(self.path(job).read_bytes())
        return 0, False

    def ids(self) -> set[int]:
        """Jobs that have a folder, in spool or takes."""
        return {
            int(folder.name)
            for root in (self._spool, self._takes)
            for folder in root.iterdir()
            if folder.name.isdigit() and str(int(folder.name)) == folder.name
        }

    # ---- what was forgotten ----

    def bury(self, row: JobRow) -> None:
        """Remember that a job was forgotten."""
        self._append(_TOMBSTONES, self._tombstones, _grave(row), os.O_CREAT)

    def buried(self) -> dict[int, JobRow]:
        """The tombstones by id; those behind a damaged one are lost."""
        try:
            data = self._tombstones.read_bytes()
        except FileNotFoundError:
            return {}
        found: dict[int, JobRow] = {}
        with contextlib.suppress(TypeError, ValueError):
            for _, content in _frames(data):
                row = JobRow(**unpack(content), spec={}).sealed()
                found[row.id] = row
        return found

    def bury_all(self, rows: Sequence[JobRow]) -> None:
        """The whole file of tombstones anew."""
        disk.put_file(self._tombstones, [_grave(row) for row in rows] or [b""])

    # ---- what the daemon knows about itself ----

    def note(self, number: int, facts: dict[str, str]) -> tuple[int, int]:
        """One change, as it is about to be committed; returns what `cut` needs."""
        return _FACTS, self._append(_FACTS, self._facts, _framed([number, facts]), os.O_CREAT)

    def noted(self) -> tuple[int, dict[str, str], bool]:
        """Number of the last change, everything as of then, and whether the file should be written anew: it
        is damaged, or long.
        """
        try:
            data = self._facts.read_bytes()
        except FileNotFoundError:
            return 0, {}, True
        last, facts, sound = 0, dict[str, str](), 0
        with contextlib.suppress(TypeError, ValueError):
            for end, content in _frames(data):
                number, changed = unpack(content)
                facts.update(changed)
                last, sound = number, end
        return last, facts, sound < len(data) or len(data) > _LONG_BYTES

    def note_all(self, number: int, facts: dict[str, str]) -> None:
        """The whole file anew."""
        disk.put_file(self._facts, [_framed([number, facts])])
        self._torn.pop(_FACTS, None)


def _grave(row: JobRow) -> bytes:
    kept = {name: getattr(row, name) for name in (*_BORN, *_MOVING) if name != "spec"}
    return _framed(kept | {"state": FORGOTTEN, "need_bytes": 0})
