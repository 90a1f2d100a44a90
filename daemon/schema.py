"""The journal's tables, how older ones are brought up to date, and how a damaged file is told from a strange
one.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path

from daemon.rows import EVENT_COLUMNS, JOB_COLUMNS, EventRow, JobRow, event_values, job_values, pack, unpack
from protocol.errors import SegueError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x53475531  # "SGU1"
JOB = ", ".join((*JOB_COLUMNS, "spec_crc", "crc"))  # the columns in the order of `job_values`
EVENT = ", ".join((*EVENT_COLUMNS, "crc"))

_TABLES = """
CREATE TABLE job(
  id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE CHECK(length(key)=16), digest BLOB NOT NULL,
  session BLOB NOT NULL, project TEXT NOT NULL, priority TEXT NOT NULL, model TEXT NOT NULL,
  spec BLOB NOT NULL, state TEXT NOT NULL, attempt INT NOT NULL DEFAULT 0, strikes INT NOT NULL DEFAULT 0,
  last_seq INT NOT NULL DEFAULT 0, void_seq INT NOT NULL DEFAULT 0, need_bytes INT NOT NULL DEFAULT 0,
  created_ns INT NOT NULL, started_ns INT, finished_ns INT,
  spec_crc INT NOT NULL DEFAULT 0, crc INT NOT NULL DEFAULT 0);
CREATE INDEX job_by_state ON job(state);
CREATE INDEX job_by_session ON job(session);
CREATE INDEX job_by_project ON job(project);
CREATE TABLE event(
  job INT NOT NULL REFERENCES job(id) ON DELETE CASCADE, seq INT NOT NULL, type TEXT NOT NULL,
  at_ns INT NOT NULL, data BLOB NOT NULL, place INT, bytes INT, crc INT NOT NULL DEFAULT 0,
  PRIMARY KEY(job, seq)) WITHOUT ROWID;
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL, crc INT NOT NULL DEFAULT 0);
"""


class JournalDamaged(RuntimeError):
    """The file is there but cannot be trusted."""


def lenient_text(raw: bytes) -> str:
    """Any bytes as text: whether they are the right ones is the checksum's business."""
    return raw.decode(errors="replace")


def meta_crc(name: str, value: str) -> int:
    return zlib.crc32(pack([name, value]))


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Tables as this version wants them, in a file that is sound.

    Raises `JournalDamaged`, `sqlite3.Error`, or E_VERSION for a file of a newer Segue.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if version == 0 and not tables:
        # executescript commits by itself; the version is written last, inside the same transaction
        db.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id={APPLICATION_ID};"
            f" INSERT INTO meta VALUES ('schema', '2', {meta_crc('schema', '2')});"
            f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
        return
    said = _said_version(db) if "meta" in tables else version
    if version != said or not {"job", "event", "meta"} <= tables:
        raise JournalDamaged(f"{path}: its header says schema {version}, its content {said}")
    if version > SCHEMA_VERSION:
        raise SegueError(
            "E_VERSION",
            f"The journal of jobs, {path}, was written by a newer Segue (its schema is {version}, this one"
            f" reads up to {SCHEMA_VERSION}): start that version again, or give this one another folder.",
            value=version,
            allowed=f"1 to {SCHEMA_VERSION}",
        )
    verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise JournalDamaged(f"{path}: {verdict}")
    if version == 1:
        _migrate_1(db)
    # sqlite calls a file sound whose own text names other columns: one flipped bit in it is enough
    for table, columns in (("job", JOB), ("event", EVENT), ("meta", "name, value, crc")):
        lacking = set(columns.split(", ")) - {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        if lacking:
            raise JournalDamaged(f"{path}: its table {table} has no {sorted(lacking)[0]}")


def _said_version(db: sqlite3.Connection) -> int:
    """What the content says: the version of the first release had no checksums and did not name itself."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(meta)")}
    if "crc" not in columns:
        return 1
    row = db.execute("SELECT value FROM meta WHERE name='schema'").fetchone()
    return int(row[0]) if row and str(row[0]).isdigit() else -1


def _migrate_1(db: sqlite3.Connection) -> None:
    """Add the checksums, in one transaction; whatever stops it leaves the file as it was."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for table, column in (("job", "spec_crc"), ("job", "crc"), ("event", "crc"), ("meta", "crc")):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} INT NOT NULL DEFAULT 0")
        for values in db.execute(f"SELECT {', '.join(JOB_COLUMNS)} FROM job").fetchall():
            stored = dict(zip(JOB_COLUMNS, values, strict=True))
            row = JobRow(**{**stored, "spec": unpack(stored["spec"])}).sealed()
            db.execute(
                "UPDATE job SET spec=?, spec_crc=?, crc=? WHERE id=?",
                (pack(row.spec), row.spec_crc, row.crc, row.id),
            )
        for values in db.execute(f"SELECT {', '.join(EVENT_COLUMNS)} FROM event").fetchall():
            job, seq, kind, at_ns, packed, place, size = values
            event = EventRow(job, seq, kind, at_ns, unpack(packed), place, size)
            *_, data, _, _, crc = event_values(event)
            db.execute(
                "UPDATE event SET data=?, crc=? WHERE job=? AND seq=?", (data, crc, event.job, event.seq)
            )
        db.execute("INSERT OR REPLACE INTO meta(name, value) VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        for name, value in db.execute("SELECT name, value FROM meta").fetchall():
            db.execute("UPDATE meta SET crc=? WHERE name=?", (meta_crc(name, value), name))
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


# ---- rows ----


def insert(db: sqlite3.Connection, row: JobRow) -> bool:
    """False when the id or the key is another job's."""
    values = job_values(row)
    marks = ",".join("?" * len(values))
    return db.execute(f"INSERT OR IGNORE INTO job({JOB}) VALUES ({marks})", values).rowcount == 1


def insert_events(db: sqlite3.Connection, events: Sequence[EventRow]) -> None:
    db.executemany(
        f"INSERT INTO event({EVENT}) VALUES (?,?,?,?,?,?,?,?)", [event_values(event) for event in events]
    )


def update(db: sqlite3.Connection, row: JobRow, *, spec: bool = False) -> None:
    """What changes about a job; its spec only when it is forgotten."""
    db.execute(
        "UPDATE job SET state=?, attempt=?, strikes=?, last_seq=?, void_seq=?, need_bytes=?, started_ns=?,"
        " finished_ns=?, crc=? WHERE id=?",
        (
            row.state, row.attempt, row.strikes, row.last_seq, row.void_seq, row.need_bytes, row.started_ns,
            row.finished_ns, row.crc, row.id,
        ),
    )  # fmt: skip
    if spec:
        db.execute("UPDATE job SET spec=?, spec_crc=? WHERE id=?", (pack(row.spec), row.spec_crc, row.id))
