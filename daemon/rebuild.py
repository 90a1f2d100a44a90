"""Opening the journal at start: a damaged one is set aside and built again, and journal and records are held
against each other.

A job's record is written just before the journal commits, so after a kill it may know one transaction more;
after damage in the middle of the write-ahead log, which sqlite drops in silence and calls "ok", many more.
The longer of the two wins, and the other is brought up to it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemon import schema
from daemon.disk import StorageError
from daemon.journal import Journal, JournalDamaged
from daemon.records import Records
from daemon.rows import (
    DONE,
    FORGOTTEN,
    EventRow,
    JobRow,
    RowDamaged,
    event_from,
    job_from,
)
from daemon.space import free_bad_times
from protocol.errors import SegueError

JOURNAL_NAME = "journal.db"
_LOG = logging.getLogger("segue.rebuild")
Found = dict[int, tuple[JobRow, Sequence[EventRow]]]


@dataclass
class Salvage:
    """What could still be read of a damaged journal, every row tested against its checksum."""

    jobs: Found = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def open_journal(state: Path) -> tuple[Journal, str | None]:
    """The journal, in step with the records; and what has to be said when it was damaged.

    Nothing is ever deleted. Raises E_VERSION for the journal of a newer Segue and `StorageError` for a disk
    that fails.
    """
    for name in ("spool", "takes"):
        (state / name).mkdir(mode=0o700, exist_ok=True)
    records = Records(state)
    path = state / JOURNAL_NAME
    there = path.exists()
    try:
        journal = _opened(path, records)
    except JournalDamaged as error:
        _LOG.error("the journal is damaged", extra={"said": str(error)})
        aside = set_aside(path)
        return built_again(Journal(path, records), aside)
    try:
        restored, lost = reconcile(journal)
    except StorageError:
        if journal.damage is None:  # the disk, not the file
            raise
        journal.close()
        aside = set_aside(path)
        return built_again(Journal(path, records), aside)
    if restored and not there:
        what = f"The journal of jobs was gone; {_jobs(restored)} found again beside it."
    elif lost > 1:  # one may be: written, and killed before the commit
        what = f"The journal of jobs had lost its last changes; {_jobs(restored)} brought up to date again."
    else:
        return journal, None
    return journal, _paused(journal, what)


def _opened(path: Path, records: Records) -> Journal:
    """A full disk may use the space kept for bad times: whoever can start can forget takes."""
    try:
        return Journal(path, records)
    except StorageError as error:
        if error.code != "E_DISK_FULL":
            raise
    free_bad_times(path.parent)
    return Journal(path, records)


def heal(journal: Journal) -> str | None:
    """A journal that sqlite found damaged while the daemon runs is built again at once; returns what has to
    be said then. Call it in every turn; jobs in memory go on as if nothing had been. Raises `StorageError`
    when the disk does not let it, to be tried again.
    """
    if journal.damage is None:
        return None
    _LOG.error("the journal is damaged", extra={"said": journal.damage})
    journal.close()
    aside = set_aside(journal.path)
    journal.reopen()
    said = _filled(journal, aside)
    journal.set_fact("notice", said)
    return said


def built_again(journal: Journal, aside: Path) -> tuple[Journal, str]:
    """The same at a start, where nothing goes on before somebody has seen it."""
    return journal, _paused(journal, _filled(journal, aside))


def _filled(journal: Journal, aside: Path) -> str:
    """Fill a new journal from the records and what can be read of the old one; says so."""
    salvage = _salvaged(aside)
    journal.restore(salvage.jobs.values())
    reconcile(journal)
    known = journal.facts()[1]
    journal.set_facts({name: value for name, value in salvage.facts.items() if name not in known})
    count = sum(state != FORGOTTEN for state, _ in journal.states().values())
    return (
        f"The journal of jobs was damaged and was built again with {_jobs(count)}; the damaged one is kept as"
        f" {aside.name}."
    )


def _paused(journal: Journal, what: str) -> str:
    """Say it until somebody has seen it: nothing starts before `resume`."""
    said = f"{what} Segue waits: look at your jobs, then resume."
    journal.set_facts({"notice": said, "paused": "1"})
    return said


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def set_aside(path: Path) -> Path:
    """Rename a damaged journal with its log; returns its new name."""
    aside = path.with_name(f"{path.name}.bad-{time.time_ns()}")
    for suffix in ("-wal", "-shm", ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


def _salvaged(aside: Path) -> Salvage:
    """Read a copy, because reading a write-ahead log writes."""
    found = Salvage()
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(dir=aside.parent, prefix="salvage-") as folder,
    ):
        copy = Path(folder) / "journal.db"
        for suffix in ("", "-wal"):
            source = aside.with_name(aside.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        with contextlib.suppress(sqlite3.Error, ValueError), contextlib.closing(sqlite3.connect(copy)) as db:
            db.text_factory = schema.lenient_text
            _read_what_is_sound(db, found)
    return found


def _read_what_is_sound(db: sqlite3.Connection, found: Salvage) -> None:
    ids: list[int] = []
    # sqlite's own sentence about damage may quote bytes that are no text: a ValueError
    with contextlib.suppress(sqlite3.Error, ValueError):
        for (job,) in db.execute("SELECT id FROM job NOT INDEXED"):
            ids.append(job)
    for job in ids:
        with contextlib.suppress(sqlite3.Error, RowDamaged, TypeError, ValueError):
            row = job_from(db.execute(f"SELECT {schema.JOB} FROM job WHERE id=?", (job,)).fetchone())
            values = db.execute(
                f"SELECT {schema.EVENT} FROM event WHERE job=? ORDER BY seq", (job,)
            ).fetchall()
            events = [event_from(entry) for entry in values]
            complete = [event.seq for event in events] == list(range(1, row.last_seq + 1))
            if row.id == job and (complete or row.state == FORGOTTEN):
                found.jobs[job] = (row, events)
    with contextlib.suppress(sqlite3.Error, ValueError):
        for name, value, crc in db.execute("SELECT name, value, crc FROM meta"):
            if schema.meta_crc(name, value) == crc:
                found.facts[name] = value


# ---- both ways ----


def reconcile(journal: Journal) -> tuple[int, int]:
    """Bring journal and records in step. Returns how many jobs the journal learnt something about, and how
    many transactions on jobs that it must have known it had lost.
    """
    records = journal.records
    _facts(journal)
    known = journal.states()
    _tombstones(journal, known)
    keys = {row.key for row in _forgotten(journal)}
    learnt: list[tuple[JobRow, Sequence[EventRow]]] = []
    behind: list[int] = []
    lost = 0
    there = records.ids()
    for job in sorted(there):
        state, last = known.get(job, ("", -1))
        if state == FORGOTTEN:
            continue
        try:
            reached, whole = records.reach(job)
            record = records.read(job) if reached > last else None
        except OSError:  # one file that the disk does not give back stops nobody else
            _LOG.exception("a job's record cannot be read", extra={"job": job})
            continue
        if record is not None and (state or not _taken(journal, record.row, keys)):
            learnt.append((record.row, record.events))
            keys.add(record.row.key)
            if record.row.last_seq > 1:  # all events of a transaction have the same time
                lost += len({event.at_ns for event in record.events[max(last, 0) :]})
            if not whole:  # what would be appended behind half a frame could never be read
                behind.append(job)
        elif state and (reached < last or not whole):
            behind.append(job)
    journal.restore(learnt)
    behind += [job for job, (state, _) in known.items() if state != FORGOTTEN and job not in there]
    for job in behind:
        _write_record(journal, job)
    if learnt:
        _LOG.warning("the journal was behind the records", extra={"jobs": [row.id for row, _ in learnt]})
    return len(learnt), lost


def _taken(journal: Journal, row: JobRow, keys: set[bytes]) -> bool:
    """Whether the record is what is left of a submit that was refused and sent again."""
    return row.key in keys or journal.by_key(row.key) is not None


def _forgotten(journal: Journal) -> list[JobRow]:
    return journal.jobs(states=[FORGOTTEN], limit=-1)


def _facts(journal: Journal) -> None:
    """Who knows of more changes is right. The version of the tables is nobody's but the journal's."""
    number, facts = journal.facts()
    noted, said, worn = journal.records.noted()
    if noted >= number and not said.items() <= facts.items():  # some lost or damaged here
        journal.set_facts(said)
    elif noted < number or worn:
        kept = {name: value for name, value in facts.items() if name not in ("schema", "last_change")}
        with contextlib.suppress(OSError):
            journal.records.note_all(number, kept)


def _tombstones(journal: Journal, known: dict[int, tuple[str, int]]) -> None:
    """A job that was forgotten stays so, whichever of the two remembers it."""
    buried = journal.records.buried()
    journal.restore((row, ()) for job, row in buried.items() if known.get(job, ("", 0))[0] != FORGOTTEN)
    for job, row in buried.items():
        known[job] = (FORGOTTEN, row.last_seq)
    forgotten = {row.id: row for row in _forgotten(journal)}
    if forgotten.keys() - buried.keys():
        with contextlib.suppress(OSError):
            journal.records.bury_all(list(forgotten.values()))


def _write_record(journal: Journal, job: int) -> None:
    try:
        row = journal.job(job)
        journal.records.rewrite(row, journal.events(job, 0, row.last_seq), done=row.state == DONE)
    except (OSError, SegueError):  # the journal has it; the next start tries again
        _LOG.exception("a job's record could not be written", extra={"job": job})
