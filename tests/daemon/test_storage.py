"""Journal and records: two memories of every job, each good enough to build the other again."""

from __future__ import annotations

import gzip
import random
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import crashes, disk, journal, rebuild, schema
from daemon.journal import EventRow, JobRow, Journal, NewEvent
from daemon.rebuild import open_journal
from daemon.records import Records, parse
from protocol.errors import SegueError

SEED = 20261122


def opened(state: Path) -> Journal:
    return open_journal(state)[0]


def accept(book: Journal, key: bytes | None = None) -> JobRow:
    """A job as submit makes it: record first, then the journal."""
    job = book.next_id()
    row = JobRow(
        id=job, key=key or secrets.token_bytes(16), digest=b"d" * 32, session=b"s" * 16, project="song",
        priority="batch", model="m", spec={"request": {"text": "x" * 40}, "n": [job, {"b": b"c"}]},
        state=journal.QUEUED, attempt=0, strikes=0, last_seq=1, void_seq=0, need_bytes=5, created_ns=job,
    ).sealed()  # fmt: skip
    accepted = EventRow(job, 1, "accepted", job, {"position": 0})
    (book.path.parent / "spool" / str(job)).mkdir()
    book.records.born(row, accepted)
    book.create(row, accepted)
    return row


def chunk(position: int) -> NewEvent:
    return NewEvent("audio", {"attempt": 1, "position": position, "crc": 7}, place=position, bytes=40)


def lived(book: Journal, how: str) -> int:
    """A job with a life: how it ends, or what it is doing."""
    job = accept(book).id
    if how == "queued":
        return job
    book.start(job, {"worker": "w"})
    book.append(job, [chunk(0), chunk(4)])
    if how == "requeued":
        book.requeue(job, {"why": "x", "discard_from": 0}, forgiven=False)
        book.start(job, {"worker": "w"})
        book.requeue(job, {"why": "y"}, forgiven=True, discard=False)
    elif how == "forgotten":
        book.finish(job, journal.CANCELLED, NewEvent("cancelled", {}))
        book.forget(job)
        book.records.remove(job)
        shutil.rmtree(book.path.parent / "spool" / str(job))
    elif how != "running":
        if how == journal.DONE:
            (book.path.parent / "takes" / str(job)).mkdir()
        book.finish(job, how, NewEvent(how, {"manifest": {"n": job}}))
    return job


LIVES = ("queued", "running", "requeued", "done", "failed", "cancelled", "forgotten")


def everything(book: Journal) -> list[object]:
    rows = [book.job(job) for job in sorted(book.states())]
    return [(row, book.events(row.id, 0, 1000)) for row in rows]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with one job of every kind."""
    book = opened(tmp_path)
    for how in LIVES * 2:
        lived(book, how)
    book.set_fact("color", "blue")
    book.close()
    return tmp_path


# ---- records ----


def test_a_record_says_what_the_journal_says(state: Path) -> None:
    book = opened(state)
    for row, events in everything(book):
        record = book.records.read(row.id)
        if row.state == journal.FORGOTTEN:
            assert record is None and book.records.buried()[row.id] == row
        else:
            assert record.whole and record.row == row and list(record.events) == events
        assert (state / "takes" / str(row.id) / "record").exists() == (row.state == journal.DONE)
    book.close()


def test_a_record_is_read_up_to_its_first_bad_frame(state: Path) -> None:
    records = Records(state)
    path = records.path(3)
    sound, whole = path.read_bytes(), records.read(3)
    assert len(whole.events) > 5
    for size in range(len(sound)):
        record = parse(sound[:size])
        if record is None:
            assert size < 700
        else:
            assert record.events == whole.events[: len(record.events)] and record.sound_bytes <= size
            assert record.row.last_seq == len(record.events)
    random_bits = random.Random(SEED)
    for _ in range(300):
        broken = bytearray(sound)
        bit = random_bits.randrange(8 * len(sound))
        broken[bit // 8] ^= 1 << bit % 8
        record = parse(bytes(broken))
        assert record is None or record.events == whole.events[: len(record.events)]
        assert record is None or len(record.events) < len(whole.events)


def test_what_the_journal_refused_is_cut_from_the_record(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = opened(state)
    before = book.records.path(2).read_bytes()

    class Refusing:
        in_transaction = False

        def __init__(self, db: sqlite3.Connection) -> None:
            self.db = db

        def execute(self, sql: str, *more: object) -> object:
            if sql == "COMMIT":
                self.db.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            return self.db.execute(sql, *more)

        def executemany(self, *words: object) -> object:
            return self.db.executemany(*words)

    db = book._db
    for cannot_cut in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(book, "_db", Refusing(db))
            if cannot_cut:
                patch.setattr(disk, "truncate", lambda *_: (_ for _ in ()).throw(OSError(5, "io")))
            with pytest.raises(disk.StorageError):
                book.append(2, [chunk(8)])
        assert (book.records.path(2).read_bytes() == before) != cannot_cut
    book.append(2, [chunk(9)])
    assert [e.place for e in book.events(2, 0)][-1] == 9
    assert list(book.records.read(2).events) == book.events(2, 0)
    # the move of a finished record is taken back as well
    (state / "takes" / "2").mkdir()
    monkeypatch.setattr(book, "_db", Refusing(db))
    with pytest.raises(disk.StorageError):
        book.finish(2, journal.DONE, NewEvent("done", {}))
    assert (state / "spool" / "2" / "record").exists() and not (state / "takes" / "2" / "record").exists()
    monkeypatch.undo()
    book.close()


def test_a_record_that_cannot_be_written_stops_the_transaction(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = opened(state)
    before = everything(book)

    def short(descriptor: int, data: bytes, offset: int) -> None:
        import os

        os.pwrite(descriptor, bytes(data)[:5], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write_at", short)
    for act in (
        lambda: book.start(1, {}),
        lambda: book.append(2, [chunk(9)]),
        lambda: book.requeue(2, {"why": ""}, forgiven=True),
        lambda: book.finish(2, journal.FAILED, NewEvent("failed", {})),
    ):
        with pytest.raises(disk.StorageError) as error:
            act()
        assert error.value.code == "E_DISK_FULL" and error.value.retry == "after"
    monkeypatch.undo()
    assert everything(book) == before and all(
        book.records.read(row.id).whole for row, _ in before if row.state != journal.FORGOTTEN
    )
    book.close()


# ---- a damaged journal ----


def _header(content: bytearray) -> None:
    content[:100] = secrets.token_bytes(100)


def _page(content: bytearray) -> None:
    content[4096:4608] = secrets.token_bytes(512)


def _text(content: bytearray) -> None:
    content[:] = b"not a database"


def _half(content: bytearray) -> None:
    del content[len(content) // 2 :]


def _empty(content: bytearray) -> None:
    content[:] = bytes(len(content))


@pytest.mark.parametrize("damage", [_header, _page, _text, _half, _empty])
def test_a_damaged_journal_is_built_again_exactly(state: Path, damage: Callable[[bytearray], None]) -> None:
    book = opened(state)
    before = everything(book)
    book.close()
    content = bytearray((state / "journal.db").read_bytes())
    damage(content)
    (state / "journal.db").write_bytes(content)
    again, said = open_journal(state)
    assert everything(again) == before
    assert said and "journal.db.bad-" in said and again.fact("notice") == said and again.fact("paused") == "1"
    (aside,) = [path for path in state.glob("journal.db.bad-*") if path.name[-1].isdigit()]
    assert aside.read_bytes() == bytes(content)
    assert again.next_id() == len(before) + 1
    forgotten = next(row for row, _ in before if row.state == journal.FORGOTTEN)
    assert again.by_key(forgotten.key).state == journal.FORGOTTEN
    again.close()
    assert open_journal(state)[1] is None


def test_a_journal_that_is_gone_is_built_again_and_said(state: Path) -> None:
    book = opened(state)
    before = everything(book)
    book.close()
    (state / "journal.db").unlink()
    again, said = open_journal(state)
    assert everything(again) == before and said and again.fact("paused") == "1"
    again.close()


def test_any_flipped_bit_in_the_journal_is_found(state: Path) -> None:
    """Whatever is then read is what was written: the row came back from its record, or the journal did."""
    book = opened(state)
    before = everything(book)
    book.close()
    content = (state / "journal.db").read_bytes()
    chosen = random.Random(SEED)
    for _ in range(120):
        for path in state.glob("journal.db*"):
            path.unlink()
        broken = bytearray(content)
        bit = chosen.randrange(8 * len(content))
        broken[bit // 8] ^= 1 << bit % 8
        (state / "journal.db").write_bytes(broken)
        again, _ = open_journal(state)
        assert everything(again) == before, f"bit {bit}"
        assert again.fact("color") == "blue", f"bit {bit}"
        again.close()


def test_damage_in_the_log_loses_nothing(state: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """sqlite drops what follows the damage without a word; the records bring it back."""
    book = opened(state)
    book.set_facts({"color": "green", "shape": "round"})
    for how in LIVES:
        lived(book, how)
    before = everything(book)
    told, log = 0, (state / "journal.db-wal").read_bytes()
    assert len(log) > 30_000
    for at in range(0, len(log), len(log) // 25):
        copy = tmp_path_factory.mktemp("killed") / "state"
        shutil.copytree(state, copy)  # as a kill would leave it
        broken = bytearray(log)
        broken[at : at + 64] = bytes(64)
        (copy / "journal.db-wal").write_bytes(broken)
        again, said = open_journal(copy)
        assert everything(again) == before, f"damage at {at}"
        assert said is None or "had lost its last changes" in said
        assert again.fact("color") == "green", f"damage at {at}"
        told += said is not None
        again.close()
    assert told >= 5
    book.close()


def test_rows_damaged_while_it_runs_are_restored_when_they_are_read(state: Path) -> None:
    book = opened(state)
    before = everything(book)
    running = 2
    for sql in (
        "UPDATE event SET data=x'00' WHERE job=2 AND seq=3",
        "UPDATE event SET seq=90 WHERE job=2 AND seq=4",
        "DELETE FROM event WHERE job=2 AND seq=4",
        "UPDATE job SET spec=x'80' WHERE id=2",
        "UPDATE job SET attempt=7 WHERE id=2",
        "UPDATE job SET project='songs' WHERE id=2",
    ):
        book._db.execute(sql)
        assert everything(book) == before
    book._db.execute("UPDATE event SET data=x'00' WHERE job=2 AND seq=3")
    book.records.path(running).unlink()
    with pytest.raises(SegueError) as error:
        book.events(running, 0)
    assert error.value.code == "E_TAKE_DAMAGED"
    assert [row.id for row in book.active()] == [1, 2, 3, 8, 9, 10]
    book._db.execute("UPDATE meta SET value='red' WHERE name='color'")
    assert book.fact("color", "none") == "none"
    book.close()


def test_a_page_damaged_while_it_runs_is_no_end(state: Path) -> None:
    book = opened(state)
    assert rebuild.heal(book) is None
    before = everything(book)
    book._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = state / "journal.db"
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(4096 * page)
            file.write(bytes(200))
    book._db.execute("PRAGMA cache_size=1")
    with pytest.raises(disk.StorageError):
        for job in range(1, 15):
            book.job(job)
            book.append(2, [chunk(3)])
    assert book.damage
    said = rebuild.heal(book)
    assert said and "built again with 12 jobs" in said and book.damage is None and rebuild.heal(book) is None
    assert everything(book) == before and book.fact("notice") == said and book.fact("paused") == ""
    book.append(2, [chunk(3)])
    book.close()


def test_each_repairs_the_other(state: Path) -> None:
    book = opened(state)
    before = everything(book)
    book.close()
    records = Records(state)
    records.path(2).write_bytes(records.path(2).read_bytes()[:-3])  # half a frame
    records.path(3).unlink()
    records.path(4).write_bytes(b"")
    (state / "forgotten").unlink()
    (state / "facts").write_bytes((state / "facts").read_bytes()[:-1])
    book = opened(state)
    assert book.fact("color") == "blue" == book.records.noted()[1]["color"] and not book.records.noted()[2]
    assert everything(book) == before
    for job in (2, 3, 4):
        record = book.records.read(job)
        assert record.whole and (record.row, list(record.events)) == before[job - 1]
    assert sorted(book.records.buried()) == [7, 14]
    # the record of a submit that was refused, its folder left behind, its key sent again: nobody's
    row = before[0][0]
    folder = state / "spool" / "90"
    folder.mkdir()
    twin = JobRow(**{**row.__dict__, "id": 90})
    book.records.born(twin, EventRow(90, 1, "accepted", 1, {}))
    book.close()
    book = opened(state)
    assert 90 not in book.states() and book.by_key(row.key).id == row.id
    # the same under another key was accepted, only its commit was cut short
    shutil.rmtree(folder)
    folder.mkdir()
    book.records.born(
        JobRow(**{**row.__dict__, "id": 90, "key": b"k" * 16}), EventRow(90, 1, "accepted", 1, {})
    )
    book.close()
    book = opened(state)
    assert book.by_key(b"k" * 16).id == 90 and book.next_id() == 91
    book.close()


# ---- versions ----


def test_the_journal_of_the_first_release_is_brought_up_to_date(tmp_path: Path) -> None:
    packed = Path(__file__).with_name("journal_schema1.db.gz").read_bytes()
    (tmp_path / "journal.db").write_bytes(gzip.decompress(packed))
    (tmp_path / "takes" / "1").mkdir(parents=True)
    book, said = open_journal(tmp_path)
    assert said is None and book.fact("paused") == "1" and book.fact("schema") == "2"
    rows = [book.job(job) for job in range(1, 7)]
    assert [row.state for row in rows] == ["done", "queued", "failed", "cancelled", "forgotten", "running"]
    assert rows[0].spec["request"]["text"] == "job 1" and rows[1].void_seq == 4 and rows[1].strikes == 1
    assert [e.type for e in book.events(2, 0)] == ["accepted", "started", "audio", "requeued"]
    before = everything(book)
    book.close()
    for path in tmp_path.glob("journal.db*"):  # from here on it has records, as every journal
        path.unlink()
    book = opened(tmp_path)
    assert everything(book) == before
    book.close()


def test_a_journal_of_a_newer_version_is_left_alone_and_explained(state: Path) -> None:
    path = state / "journal.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=3")
        db.execute("UPDATE meta SET value='3', crc=? WHERE name='schema'", (schema.meta_crc("schema", "3"),))
    db.close()
    content = path.read_bytes()
    with pytest.raises(SegueError) as error:
        open_journal(state)
    assert error.value.code == "E_VERSION" and "newer Segue" in error.value.message
    assert path.read_bytes() == content and not list(state.glob("*.bad-*"))


# ---- crashes of the daemon itself ----


def test_two_crashes_over_one_job_make_it_the_suspect(tmp_path: Path) -> None:
    def life(running: list[int], within_s: float = 60.0, *, ends_well: bool = False) -> str | None:
        book = opened(tmp_path)
        said = crashes.note_start(book, running, within_s)
        if ends_well:
            crashes.note_stop(book)
        book.close()
        return said

    assert life([]) is None  # the first of all
    assert life([4, 5]) is None  # one crash
    assert life([6]) is None  # another one, over something else
    said = life([6, 7])
    assert said and "job 6 " in said
    book = opened(tmp_path)
    assert book.fact("paused") == "1" and book.fact("notice") == said
    book.close()
    assert life([6], 0.0, ends_well=True) is None  # switched off
    assert life([6]) is None  # the last life ended well


def test_the_tables_of_a_new_journal_are_those_of_this_version(tmp_path: Path) -> None:
    book = opened(tmp_path)
    assert book.fact("schema") == str(schema.SCHEMA_VERSION) and book.next_id() == 1
    assert rebuild.reconcile(book) == (0, 0)
    book.close()


def test_a_flipped_bit_in_the_text_of_the_tables_loses_no_job(tmp_path: Path) -> None:
    """sqlite takes what it finds there for the truth: another column's name, another constraint."""
    state = tmp_path / "state"
    state.mkdir()
    book = opened(state)
    for how in LIVES:
        lived(book, how)
    before = book.states()
    book.close()
    whole = (state / "journal.db").read_bytes()
    first, last = whole.index(b"CREATE TABLE meta"), whole.index(b"WITHOUT ROWID")
    tables = range(first, whole.index(b"spec_crc INT") + 60)
    assert last in tables
    named = whole.index(b"place INT")
    dice = random.Random(SEED)
    for number, at in enumerate([*range(named, named + 5), *dice.sample(tables, 150)]):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(state, copy)
        damaged = bytearray(whole)
        damaged[at] ^= 1 << dice.randrange(8)
        (copy / "journal.db").write_bytes(damaged)
        again, _ = open_journal(copy)
        assert again.states() == before, f"byte {at} of {whole[at - 20 : at + 20]!r}"
        try:
            fresh = accept(again).id
        except disk.StorageError:  # met only when something was written: the daemon heals it in its next turn
            assert again.damage and rebuild.heal(again)
            assert before.items() <= again.states().items()
            fresh = accept(again).id
        again.close()
        once_more = opened(copy)
        assert once_more.states()[fresh][0] == journal.QUEUED
        once_more.close()
        shutil.rmtree(copy)
