"""The journal: which jobs exist, what happened to each, in one sqlite file with one writer.

WAL mode with full synchronisation: a committed row survives a power cut, and costs about 4 ms on a slow disk.
Every public method that changes something is one transaction, written to the job's record (`records`) just
before it is committed. Every row has a checksum; one that does not fit is restored from the record when it is
read, or refused, never believed. Maps (the request, event data) are stored as msgpack.

All methods raise `disk.StorageError` when the disk fails; nothing has changed then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from daemon import schema
from daemon.disk import StorageError, is_damage, storage_error
from daemon.records import Records
from daemon.rows import (
    CANCELLED,
    DONE,
    FAILED,
    FINAL,
    FORGOTTEN,
    QUEUED,
    RUNNING,
    EventRow,
    JobRow,
    NewEvent,
    RowDamaged,
    event_from,
    job_from,
    pack,
    unpack,
)
from daemon.schema import SCHEMA_VERSION, JournalDamaged
from daemon.space import free_bad_times
from protocol.errors import SegueError

__all__ = [
    "CANCELLED", "DONE", "FAILED", "FINAL", "FORGOTTEN", "QUEUED", "RUNNING", "SCHEMA_VERSION", "EventRow",
    "JobRow", "Journal", "JournalDamaged", "NewEvent", "pack", "unpack",
]  # fmt: skip

_LAST_CHANGE = "last_change"  # a fact about the facts: how many changes there were
_LOG = logging.getLogger("segue.journal")


class Journal:
    """Owned by the front-end's one thread."""

    def __init__(self, path: Path, records: Records | None = None) -> None:
        """Raises `JournalDamaged`, or E_VERSION and `StorageError` for what is no damage."""
        self.path = path
        self.records = records or Records(path.parent)
        self.timed: Callable[[float], None] = lambda seconds: None  # told what each commit took
        self.damage: str | None = None  # what sqlite said when it met a damaged page while we ran
        self._db = self._opened()

    def reopen(self) -> None:
        """Begin with what is at the path now."""
        self._db = self._opened()
        self.damage = None

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        db.text_factory = schema.lenient_text
        try:
            # one process, one connection: no shared memory file that a full disk could take from under us
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            db.execute("PRAGMA cell_size_check=ON")
            schema.prepare(db, self.path)
            for values in db.execute(f"SELECT {schema.JOB} FROM job"):
                job_from(values)
            self.path.chmod(0o600)
        except (RowDamaged, TypeError, ValueError) as error:
            db.close()
            raise JournalDamaged(f"{self.path}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            db.close()
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise JournalDamaged(f"{self.path}: {error}") from error
            raise storage_error(error) from error
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # what was committed is there, whatever the disk says now
            self._db.close()

    # ---- the ground ----

    def _fault(self, error: Exception) -> StorageError:
        # sqlite's own sentence about damage may quote bytes that are no text, which Python cannot decode
        quoted = isinstance(error, UnicodeDecodeError)
        if quoted or (isinstance(error, sqlite3.Error) and is_damage(error)):
            self.damage = str(error)
            _LOG.error("the journal is damaged", extra={"path": str(self.path)}, exc_info=error)
        return storage_error(error)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows as they are stored, checksums untested."""
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._fault(error) from error

    def _one(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        found = self.query(sql, values)
        return found[0] if found else None

    def _urgently(self, change: Callable[[sqlite3.Connection], tuple[int, int] | None]) -> None:
        """A transaction that a full disk must not refuse: the space kept for bad times is there for it."""
        try:
            self._commit(change)
        except StorageError as error:
            if error.code != "E_DISK_FULL":
                raise
            free_bad_times(self.path.parent)
            self._commit(change)

    def _commit(self, change: Callable[[sqlite3.Connection], tuple[int, int] | None]) -> None:
        """One transaction. `change` returns what it wrote into a record, to be cut when the commit fails."""
        mark, begun = None, time.monotonic()
        try:
            if self._db.in_transaction:  # a roll-back that failed
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            mark = change(self._db)
            self._db.execute("COMMIT")
            self.timed(time.monotonic() - begun)
        except BaseException as error:
            if self._db.in_transaction:  # a full disk makes sqlite roll back by itself
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            self.records.cut(mark)
            if mark is not None:
                self.records.to_spool(mark[0])
            if isinstance(error, (sqlite3.Error, OSError, UnicodeDecodeError)):
                raise self._fault(error) from error
            raise

    def _advance(self, row: JobRow, events: Sequence[NewEvent], **changes: Any) -> list[EventRow]:
        """The next state of a job, with the events that lead there."""
        now, last = time.time_ns(), row.last_seq
        made = [
            EventRow(row.id, last + 1 + index, event.type, now, event.data, event.place, event.bytes)
            for index, event in enumerate(events)
        ]
        row = dataclasses.replace(row, **changes, last_seq=last + len(made))
        if "void_seq" in changes:
            row = dataclasses.replace(row, void_seq=row.last_seq)

        def change(db: sqlite3.Connection) -> tuple[int, int] | None:
            schema.insert_events(db, made)
            schema.update(db, row)
            mark = self.records.append(row, made)
            if row.state == DONE:
                self.records.to_take(row.id)
            return mark

        self._commit(change)
        return made

    # ---- jobs ----

    def next_id(self) -> int:
        """An id that no job ever had (one writer: nobody comes between)."""
        said = self._one("SELECT seq FROM sqlite_sequence WHERE name='job'")
        used = self._one("SELECT max(id) FROM job")
        return max(said[0] if said else 0, (used[0] if used else 0) or 0) + 1

    def create(self, row: JobRow, accepted: EventRow) -> None:
        """A new job with its first event; its record is there already (`Records.born`)."""

        def change(db: sqlite3.Connection) -> None:
            if not schema.insert(db, row):
                raise sqlite3.IntegrityError(f"job {row.id} or its key is there already")
            schema.insert_events(db, [accepted])

        self._commit(change)

    def start(self, job: int, data: dict[str, Any]) -> tuple[int, EventRow]:
        """Count the attempt and say so, in one transaction, before any worker hears of it."""
        row = self.job(job)
        attempt = row.attempt + 1
        (event,) = self._advance(
            row, [NewEvent("started", {"attempt": attempt, **data})],
            attempt=attempt, strikes=row.strikes + 1, state=RUNNING, started_ns=time.time_ns(),
        )  # fmt: skip
        return attempt, event

    def append(self, job: int, events: Sequence[NewEvent]) -> list[EventRow]:
        """More events of a running job."""
        return self._advance(self.job(job), events)

    def requeue(self, job: int, data: dict[str, Any], *, forgiven: bool, discard: bool = True) -> EventRow:
        """Back into the queue; `forgiven` when the job itself was not at fault (a clean stop, a neighbour).
        With `discard` all audio so far is void; without it the next attempt goes on where this one stopped.
        """
        row = self.job(job)
        changes: dict[str, Any] = {"state": QUEUED, "strikes": max(0, row.strikes - forgiven)}
        if discard:
            changes["void_seq"] = row.last_seq + 1
        (event,) = self._advance(row, [NewEvent("requeued", data)], **changes)
        return event

    def finish(self, job: int, state: str, event: NewEvent) -> EventRow:
        """The job's last event and its final state; the record of a job that is done moves to its take."""
        (made,) = self._advance(self.job(job), [event], state=state, finished_ns=time.time_ns())
        return made

    def forget(self, job: int) -> None:
        """Drop events and request; the row stays as a tombstone, so that its key is never taken for a new
        job.
        """
        row = dataclasses.replace(self.job(job), state=FORGOTTEN, spec={}, need_bytes=0).sealed()

        def change(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM event WHERE job=?", (job,))
            schema.update(db, row, spec=True)

        self._urgently(change)
        try:
            self.records.bury(row)
        except OSError:  # the next start writes it from the journal
            _LOG.exception("a forgotten job could not be noted", extra={"job": job})

    def restore(self, found: Iterable[tuple[JobRow, Sequence[EventRow]]]) -> None:
        """Put jobs in place exactly as given, instead of what is there under their ids. One transaction; a
        job whose key another one has is left out.
        """

        def change(db: sqlite3.Connection) -> None:
            for row, events in found:
                db.execute("DELETE FROM event WHERE job=?", (row.id,))
                db.execute("DELETE FROM job WHERE id=?", (row.id,))
                if schema.insert(db, row):
                    schema.insert_events(db, events)

        self._commit(change)

    def _mended(self, job: int) -> JobRow:
        """The row of a job whose stored one is damaged, both put right from the record."""
        try:
            record = self.records.read(job)
        except OSError as error:
            raise self._fault(error) from error
        (there,) = self._one("SELECT count(*) FROM event WHERE job=?", (job,)) or (0,)
        if record is None or record.row.last_seq < there:
            raise SegueError(
                "E_TAKE_DAMAGED", f"What was kept of job {job} was damaged on the disk; generate it again."
            )
        self.restore([(record.row, record.events)])
        _LOG.warning("a damaged row was restored from the job's record", extra={"job": job})
        return record.row

    def _row(self, values: Sequence[Any]) -> JobRow:
        try:
            return job_from(values)
        except RowDamaged:
            return self._mended(values[0])

    def _rows(self, found: Iterable[Sequence[Any]]) -> list[JobRow]:
        """As many as can be read; a job that cannot does not hide the others."""
        rows = []
        for values in found:
            try:
                rows.append(self._row(values))
            except SegueError:
                _LOG.exception("a job cannot be read", extra={"job": repr(values[0])})
        return rows

    def job(self, job: int) -> JobRow:
        """Raises `KeyError` for an id that never was."""
        values = self._one(f"SELECT {schema.JOB} FROM job WHERE id=?", (job,))
        if values is None:
            raise KeyError(job)
        return self._row(values)

    def by_key(self, key: bytes) -> JobRow | None:
        values = self._one(f"SELECT {schema.JOB} FROM job WHERE key=?", (key,))
        return self._row(values) if values else None

    def active(self) -> list[JobRow]:
        """Queued and running jobs, oldest first."""
        return self._rows(
            self.query(f"SELECT {schema.JOB} FROM job WHERE state IN (?,?) ORDER BY id", (QUEUED, RUNNING))
        )

    def jobs(
        self,
        *,
        session: bytes | None = None,
        project: str | None = None,
        states: Sequence[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[JobRow]:
        """Newest first; forgotten ones only when asked for by state."""
        wheres, values = ["state<>?"], list[Any]([FORGOTTEN])
        if states is not None:
            wheres, values = [f"state IN ({','.join('?' * len(states))})"], list(states)
        for column, sign, value in (
            ("session", "=", session),
            ("project", "=", project),
            ("id", "<", before),
        ):
            if value is not None:
                wheres.append(f"{column}{sign}?")
                values.append(value)
        where = " AND ".join(wheres)
        return self._rows(
            self.query(
                f"SELECT {schema.JOB} FROM job WHERE {where} ORDER BY id DESC LIMIT ?", (*values, limit)
            )
        )

    def states(self) -> dict[int, tuple[str, int]]:
        """State and number of the last event of every job, the forgotten included."""
        return {job: (state, last) for job, state, last in self.query("SELECT id, state, last_seq FROM job")}

    # ---- events ----

    def events(self, job: int, after: int, limit: int = 256) -> list[EventRow]:
        """Events with numbers above `after`, in order and without a gap."""
        try:
            return self._events(job, after, limit)
        except RowDamaged:
            self._mended(job)
        try:
            return self._events(job, after, limit)
        except RowDamaged as error:
            raise storage_error(error) from error

    def _events(self, job: int, after: int, limit: int) -> list[EventRow]:
        values = self.query(
            f"SELECT {schema.EVENT} FROM event WHERE job=? AND seq>? ORDER BY seq LIMIT ?",
            (job, after, limit),
        )
        found = [event_from(entry) for entry in values]
        wanted = limit
        if len(found) < limit:
            (last,) = self._one("SELECT last_seq FROM job WHERE id=? AND state<>?", (job, FORGOTTEN)) or (0,)
            wanted = min(limit, max(0, last - after))
        if [event.seq for event in found] != list(range(after + 1, after + 1 + wanted)):
            raise RowDamaged(f"events of job {job} after {after}")
        return found

    def last_event(self, job: int) -> EventRow | None:
        """The newest event; of a finished job, the one that says how it ended."""
        row = self.job(job)
        return self.events(job, row.last_seq - 1, 1)[0] if row.last_seq and row.state != FORGOTTEN else None

    # ---- facts about the daemon itself ----

    def fact(self, name: str, default: str = "") -> str:
        row = self._one("SELECT value, crc FROM meta WHERE name=?", (name,))
        return row[0] if row and schema.meta_crc(name, row[0]) == row[1] else default

    def facts(self) -> tuple[int, dict[str, str]]:
        """All of them that are sound, and the number of the last change."""
        found = self.query("SELECT name, value, crc FROM meta")
        facts = {name: value for name, value, crc in found if schema.meta_crc(name, value) == crc}
        last = facts.get(_LAST_CHANGE, "")
        return int(last) if last.isdigit() else 0, facts

    def set_fact(self, name: str, value: str) -> None:
        self.set_facts({name: value})

    def set_facts(self, facts: dict[str, str]) -> None:
        """Several at once, or none of them."""
        number = self.facts()[0] + 1

        def change(db: sqlite3.Connection) -> tuple[int, int] | None:
            for name, value in {**facts, _LAST_CHANGE: str(number)}.items():
                db.execute(
                    "INSERT INTO meta VALUES (?,?,?)"
                    " ON CONFLICT(name) DO UPDATE SET value=excluded.value, crc=excluded.crc",
                    (name, value, schema.meta_crc(name, value)),
                )
            return self.records.note(number, facts)

        self._urgently(change)
