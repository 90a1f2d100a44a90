"""The journal: which jobs exist, what happened to each, in one sqlite file with one writer.

WAL mode with full synchronisation: a committed row survives a power cut, and costs about 4 ms. Every public
method that changes something is one transaction. Maps (the request, event data) are stored as msgpack.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

SCHEMA_VERSION = 1
APPLICATION_ID = 0x53475531  # "SGU1"
QUEUED, RUNNING, DONE, FAILED, CANCELLED, FORGOTTEN = (
    "queued",
    "running",
    "done",
    "failed",
    "cancelled",
    "forgotten",
)
FINAL = frozenset({DONE, FAILED, CANCELLED, FORGOTTEN})

_SCHEMA = """
CREATE TABLE job(
  id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE CHECK(length(key)=16), digest BLOB NOT NULL,
  session BLOB NOT NULL, project TEXT NOT NULL, priority TEXT NOT NULL, model TEXT NOT NULL,
  spec BLOB NOT NULL, state TEXT NOT NULL, attempt INT NOT NULL DEFAULT 0, strikes INT NOT NULL DEFAULT 0,
  last_seq INT NOT NULL DEFAULT 0, void_seq INT NOT NULL DEFAULT 0, need_bytes INT NOT NULL DEFAULT 0,
  created_ns INT NOT NULL, started_ns INT, finished_ns INT);
CREATE INDEX job_by_state ON job(state);
CREATE INDEX job_by_session ON job(session);
CREATE INDEX job_by_project ON job(project);
CREATE TABLE event(
  job INT NOT NULL REFERENCES job(id) ON DELETE CASCADE, seq INT NOT NULL, type TEXT NOT NULL,
  at_ns INT NOT NULL, data BLOB NOT NULL, place INT, bytes INT, PRIMARY KEY(job, seq)) WITHOUT ROWID;
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class JournalDamaged(RuntimeError):
    """The file is there but cannot be trusted."""


@dataclass(frozen=True)
class JobRow:
    """One job as journaled. `spec` is the whole request as accepted, with everything resolved. Audio events
    up to `void_seq` belong to attempts that were given up.
    """

    id: int
    key: bytes
    digest: bytes
    session: bytes
    project: str
    priority: str
    model: str
    spec: dict[str, Any]
    state: str
    attempt: int
    strikes: int
    last_seq: int
    void_seq: int
    need_bytes: int
    created_ns: int
    started_ns: int | None
    finished_ns: int | None


@dataclass(frozen=True)
class EventRow:
    """One durable event. For audio, `place` and `bytes` say where in the attempt's spool its chunk lies."""

    job: int
    seq: int
    type: str
    at_ns: int
    data: dict[str, Any]
    place: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Announced:
    """An attempt's audio that counts: so many chunks, the last of which ends at byte `end` of its spool."""

    attempt: int
    chunks: int
    end: int


@dataclass(frozen=True)
class NewEvent:
    type: str
    data: dict[str, Any]
    place: int | None = None
    bytes: int | None = None


def pack(value: Any) -> bytes:
    """msgpack as the journal stores it."""
    return msgpack.packb(value, use_bin_type=True)


def unpack(data: bytes) -> Any:
    """Inverse of `pack`."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


_EVENT_COLUMNS = "job, seq, type, at_ns, data, place, bytes"
_JOB_COLUMNS = (
    "id, key, digest, session, project, priority, model, spec, state, attempt, strikes, last_seq, void_seq,"
    " need_bytes, created_ns, started_ns, finished_ns"
)


def _job(row: Sequence[Any]) -> JobRow:
    values = list(row)
    values[7] = unpack(values[7])
    return JobRow(*values)


class Journal:
    """Owned by the front-end's one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise JournalDamaged(f"{path}: {error}") from error

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            # executescript commits by itself; the version is written last, inside the same transaction
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id={APPLICATION_ID};"
                f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise JournalDamaged(f"{self.path} was written by another version of Segue (schema {version}).")
        verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise JournalDamaged(f"{self.path}: {verdict}")
        self.path.chmod(0o600)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            if self._db.in_transaction:  # a full disk makes sqlite roll back by itself
                self._db.execute("ROLLBACK")
            raise
        try:
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _append(self, db: sqlite3.Connection, job: int, events: Sequence[NewEvent]) -> list[EventRow]:
        (last,) = db.execute("SELECT last_seq FROM job WHERE id=?", (job,)).fetchone()
        now = time.time_ns()
        rows = [
            EventRow(job, last + 1 + index, event.type, now, event.data, event.place, event.bytes)
            for index, event in enumerate(events)
        ]
        db.executemany(
            "INSERT INTO event(job, seq, type, at_ns, data, place, bytes) VALUES (?,?,?,?,?,?,?)",
            [(r.job, r.seq, r.type, r.at_ns, pack(r.data), r.place, r.bytes) for r in rows],
        )
        db.execute("UPDATE job SET last_seq=? WHERE id=?", (last + len(rows), job))
        return rows

    # ---- jobs ----

    def create(
        self,
        *,
        key: bytes,
        digest: bytes,
        session: bytes,
        project: str,
        priority: str,
        model: str,
        spec: dict[str, Any],
        need_bytes: int,
        accepted: dict[str, Any],
    ) -> JobRow:
        """A new job with its first event."""
        with self._write() as db:
            cursor = db.execute(
                "INSERT INTO job(key, digest, session, project, priority, model, spec, state, need_bytes,"
                " created_ns) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    key,
                    digest,
                    session,
                    project,
                    priority,
                    model,
                    pack(spec),
                    QUEUED,
                    need_bytes,
                    time.time_ns(),
                ),
            )
            job = int(cursor.lastrowid or 0)
            self._append(db, job, [NewEvent("accepted", accepted)])
        return self.job(job)

    def skip_ids(self, used: int) -> None:
        """Give no id up to `used` again."""
        if self.next_id() > used:
            return
        with self._write() as db:
            if db.execute("UPDATE sqlite_sequence SET seq=? WHERE name='job'", (used,)).rowcount == 0:
                db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('job', ?)", (used,))

    def next_id(self) -> int:
        """The id that the next `create` will give (one writer: nobody comes between)."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='job'").fetchone()
        return (row[0] if row else 0) + 1

    def start(self, job: int, data: dict[str, Any]) -> tuple[int, EventRow]:
        """Count the attempt and say so, in one transaction, before any worker hears of it."""
        with self._write() as db:
            db.execute(
                "UPDATE job SET attempt=attempt+1, strikes=strikes+1, state=?, started_ns=? WHERE id=?",
                (RUNNING, time.time_ns(), job),
            )
            (attempt,) = db.execute("SELECT attempt FROM job WHERE id=?", (job,)).fetchone()
            (row,) = self._append(db, job, [NewEvent("started", {"attempt": attempt, **data})])
        return attempt, row

    def append(self, job: int, events: Sequence[NewEvent]) -> list[EventRow]:
        """More events of a running job."""
        with self._write() as db:
            return self._append(db, job, events)

    def requeue(self, job: int, data: dict[str, Any], *, forgiven: bool, discard: bool = True) -> EventRow:
        """Back into the queue; `forgiven` when the job itself was not at fault (a clean stop, a neighbour).
        With `discard` all audio so far is void; without it the next attempt goes on where this one stopped.
        """
        with self._write() as db:
            db.execute(
                "UPDATE job SET state=?, strikes=max(0, strikes-?) WHERE id=?",
                (QUEUED, 1 if forgiven else 0, job),
            )
            (row,) = self._append(db, job, [NewEvent("requeued", data)])
            if discard:
                db.execute("UPDATE job SET void_seq=? WHERE id=?", (row.seq, job))
        return row

    def finish(self, job: int, state: str, event: NewEvent) -> EventRow:
        """The job's last event and its final state."""
        with self._write() as db:
            db.execute("UPDATE job SET state=?, finished_ns=? WHERE id=?", (state, time.time_ns(), job))
            (row,) = self._append(db, job, [event])
        return row

    def forget(self, job: int) -> None:
        """Drop events and request; the row stays as a tombstone, so that its key is never taken for a new
        job.
        """
        with self._write() as db:
            db.execute("DELETE FROM event WHERE job=?", (job,))
            db.execute("UPDATE job SET state=?, spec=?, need_bytes=0 WHERE id=?", (FORGOTTEN, pack({}), job))

    def void_attempts(self, row: JobRow) -> int:
        """How many attempts of a job were given up for good; the audio of later ones still counts."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM event WHERE job=? AND type='started' AND seq<=?", (row.id, row.void_seq)
        ).fetchone()
        return int(count)

    def job(self, job: int) -> JobRow:
        """Raises `KeyError` for an id that never was."""
        row = self._db.execute(f"SELECT {_JOB_COLUMNS} FROM job WHERE id=?", (job,)).fetchone()
        if row is None:
            raise KeyError(job)
        return _job(row)

    def by_key(self, key: bytes) -> JobRow | None:
        row = self._db.execute(f"SELECT {_JOB_COLUMNS} FROM job WHERE key=?", (key,)).fetchone()
        return _job(row) if row else None

    def active(self) -> list[JobRow]:
        """Queued and running jobs, oldest first."""
        rows = self._db.execute(
            f"SELECT {_JOB_COLUMNS} FROM job WHERE state IN (?,?) ORDER BY id", (QUEUED, RUNNING)
        ).fetchall()
        return [_job(row) for row in rows]

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
        rows = self._db.execute(
            f"SELECT {_JOB_COLUMNS} FROM job WHERE {where} ORDER BY id DESC LIMIT ?", (*values, limit)
        ).fetchall()
        return [_job(row) for row in rows]

    def ids(self) -> dict[int, str]:
        """State of every job that is not forgotten."""
        return dict(self._db.execute("SELECT id, state FROM job WHERE state<>?", (FORGOTTEN,)).fetchall())

    # ---- events ----

    def events(self, job: int, after: int, limit: int = 256) -> list[EventRow]:
        """Events with numbers above `after`, in order."""
        rows = self._db.execute(
            f"SELECT {_EVENT_COLUMNS} FROM event WHERE job=? AND seq>? ORDER BY seq LIMIT ?",
            (job, after, limit),
        ).fetchall()
        return [EventRow(r[0], r[1], r[2], r[3], unpack(r[4]), r[5], r[6]) for r in rows]

    def announced(self, job: int) -> list[Announced]:
        """What each attempt has announced that is not void, oldest first; attempts without audio are left
        out.
        """
        (void,) = self._db.execute("SELECT void_seq FROM job WHERE id=?", (job,)).fetchone()
        starts = self._db.execute(
            "SELECT seq, data FROM event WHERE job=? AND seq>? AND type='started' ORDER BY seq", (job, void)
        ).fetchall()
        found = []
        for (first, data), (last, _) in itertools.pairwise([*starts, (2**62, b"")]):
            chunks, end = self._db.execute(
                "SELECT count(*), max(place+bytes) FROM event"
                " WHERE job=? AND seq>? AND seq<? AND type='audio'",
                (job, first, last),
            ).fetchone()
            if chunks:
                found.append(Announced(unpack(data)["attempt"], chunks, end))
        return found

    def reached(self, row: JobRow) -> tuple[int, int, int]:
        """Step, steps and samples that a job had made at its last audio that counts."""
        found = self._db.execute(
            "SELECT data FROM event WHERE job=? AND seq>? AND type='audio' ORDER BY seq DESC LIMIT 1",
            (row.id, row.void_seq),
        ).fetchone()
        step, steps, samples = (unpack(found[0]).get("reached") if found else None) or (0, 0, 0)
        return step, steps, samples

    def last_event(self, job: int) -> EventRow | None:
        """The newest event; of a finished job, the one that says how it ended."""
        row = self._db.execute(
            f"SELECT {_EVENT_COLUMNS} FROM event WHERE job=? ORDER BY seq DESC LIMIT 1",
            (job,),
        ).fetchone()
        return EventRow(row[0], row[1], row[2], row[3], unpack(row[4]), row[5], row[6]) if row else None

    # ---- facts about the daemon itself ----

    def fact(self, name: str, default: str = "") -> str:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else default

    def set_fact(self, name: str, value: str) -> None:
        with self._write() as db:
            db.execute(
                "INSERT INTO meta VALUES (?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value",
                (name, value),
            )


def open_or_replace(path: Path) -> tuple[Journal, Path | None]:
    """The journal, and where a damaged one was set aside (None: it was sound or new). Nothing is ever
    deleted.
    """
    try:
        return Journal(path), None
    except JournalDamaged:
        aside = path.with_name(f"{path.name}.bad-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(aside.with_name(aside.name + suffix))
        return Journal(path), aside
