"""The disk refuses, at every single call: what was asked is refused in words or done later, never half."""

from __future__ import annotations

import errno
import itertools
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import disk, journal
from daemon.config import Settings
from daemon.disk import StorageError
from daemon.intake import Arrival, Intake
from daemon.job import UNSETTLED
from daemon.jobs import JobBook
from daemon.journal import Journal
from daemon.rebuild import open_journal
from daemon.takes import TakeStore
from protocol.errors import SegueError
from protocol.submit import Retake, Submit
from tests.daemon.house import submit, tone


class Desk:
    """What stands behind the socket, without it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.journal: Journal = open_journal(state)[0]
        self.takes = TakeStore(state, quota_bytes=1 << 30, keep_free_bytes=0)
        self.takes.reconcile({job: found for job, (found, _) in self.journal.states().items()})
        self.book = JobBook(self.journal, self.takes, Settings())
        self.woken = threading.Event()
        self.intake = Intake(self.book, self.journal, self.takes, Settings(), self.woken.set)

    def close(self) -> None:
        self.intake.close()
        self.journal.close()

    def wait(self, arrival: Arrival) -> tuple[journal.JobRow, bool]:
        by = time.monotonic() + 10
        while (found := arrival.outcome()) is None:
            assert time.monotonic() < by
            self.woken.wait(0.05)
            self.woken.clear()
            self.intake.turn()
        return found

    def begin(self, request: Submit) -> Arrival:
        return self.intake.submit(request, refuse=lambda _: None)

    def submit(self, request: Submit | None = None) -> journal.JobRow:
        return self.wait(self.begin(request or submit(0.1, rate=8000)))[0]

    def seen(self) -> list[Any]:
        rows = [self.journal.job(job) for job in sorted(self.journal.states())]
        return [(row, self.journal.events(row.id, 0, 100)) for row in rows]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


CHUNK = {"variation": 0, "stem": "mix", "position": 0, "frames": 10, "crc": 1, "rate": 8000, "channels": 1,
         "place": 0, "bytes": 80}  # fmt: skip
CALLS = ("write_at", "sync", "sync_folder", "truncate", "rename", "allocate", "put_file")


class Bad:
    """From the k-th call on (or at it alone) the disk refuses; COMMITs count as calls."""

    def __init__(self, patch: pytest.MonkeyPatch, desk: Desk, k: int, number: int, *, for_ever: bool) -> None:
        self.left, self.number, self.for_ever, self.fired = k, number, for_ever, ""
        for name in CALLS:
            patch.setattr(disk, name, self.wrapped(name, getattr(disk, name)))
        patch.setattr(desk.journal, "_db", self.Db(self, desk.journal._db))

    def hit(self, name: str) -> bool:
        self.left -= 1
        if self.left == 0 or (self.for_ever and self.left < 0):
            self.fired = self.fired or name
            return True
        return False

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            if self.hit(name):
                if name == "write_at":  # a short write, then nothing more
                    real(words[0], bytes(words[1])[:7], words[2])
                raise OSError(self.number, "refused")
            return real(*words, **more)

        return call

    class Db:
        def __init__(self, bad: Bad, db: sqlite3.Connection) -> None:
            self.bad, self.db = bad, db

        @property
        def in_transaction(self) -> bool:
            return self.db.in_transaction

        def execute(self, sql: str, *more: Any) -> Any:
            if sql == "COMMIT" and self.bad.hit("COMMIT"):
                self.db.execute("ROLLBACK")
                error = sqlite3.OperationalError("as sqlite says it")
                full = self.bad.number == errno.ENOSPC
                error.sqlite_errorcode, error.sqlite_errorname = (
                    (13, "SQLITE_FULL") if full else (10, "SQLITE_IOERR")
                )
                raise error
            return self.db.execute(sql, *more)

        def executemany(self, *words: Any) -> Any:
            return self.db.executemany(*words)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_submit_that_fails_at_any_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    where = set()
    for k in itertools.count(1):
        state = tmp_path / str(k)
        state.mkdir()
        desk = Desk(state)
        request = submit(0.1, rate=8000, audio=(tone(0.2),))
        with monkeypatch.context() as patch:
            bad = Bad(patch, desk, k, number, for_ever=False)
            try:
                desk.submit(request)
            except SegueError as error:
                assert error.code == ("E_DISK_FULL" if number == errno.ENOSPC else "E_DISK"), bad.fired
                assert error.retry == "after" and error.retry_ms
                assert not desk.journal.states() and not list((state / "spool").iterdir())
                assert not desk.book.active and not desk.intake.coming
        where.add(bad.fired)
        row = desk.submit(request)  # the same again is one job, whatever happened before
        assert desk.seen()[0][0] == row and len(desk.seen()) == 1 and list(desk.book.active) == [row.id]
        desk.close()
        again = Desk(state)
        assert [found.id for found, _ in again.seen()] == [row.id]
        again.close()
        if not bad.fired:
            break
    assert {"write_at", "sync", "sync_folder", "COMMIT"} <= where


def _life(desk: Desk, job: int, end: str) -> None:
    """What happens to a job; each step either happens or is refused with a typed error."""
    found = desk.book.active[job]
    for _ in range(3):
        try:
            attempt = desk.book.start(found, {"worker": "w"})
            break
        except StorageError:
            assert found.state == "queued"
    else:
        return
    try:
        desk.book.audio(found, attempt, [CHUNK])
    except StorageError as error:
        desk.book.fail(found, error)
        return
    if end == "done":
        (desk.state / "takes" / str(job)).mkdir()
        desk.book.done(found, {"n": 1})
    elif end == "cancelled":
        desk.book.cancel(found, "asked")
    elif end == "failed":
        desk.book.fail(found, SegueError("E_STALLED", "x"))
    else:
        desk.book.requeue(found, "again", forgiven=False)


@pytest.mark.parametrize("end", ["done", "cancelled", "failed", "queued"])
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_life_in_which_any_call_fails_ends_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, for_ever: bool
) -> None:
    """Once, or from then on until the disk is well again: journal, record and memory agree, and the end of
    the job is what happened to it.
    """
    for k in itertools.count(1):
        state = tmp_path / str(k)
        state.mkdir()
        desk = Desk(state)
        job = desk.submit().id
        with monkeypatch.context() as patch:
            bad = Bad(patch, desk, k, errno.EIO, for_ever=for_ever)
            _life(desk, job, end)
            found = desk.book.active.get(job)
            if found is not None and found.state == UNSETTLED:
                killed = shutil.copytree(state, tmp_path / f"{k}-killed")
                assert found.shown_state == ("cancelling" if found.cancelling else "running")
                desk.book.cancel(found)  # changes nothing: what happened first counts
                desk.book.turn(at_once=True)
                if for_ever:
                    assert found.state == UNSETTLED
            else:
                killed = None
        desk.book.turn(at_once=True)
        row = desk.journal.job(job)
        assert (row.state if row.state in journal.FINAL else desk.book.active[job].state) == row.state
        events = [event.type for event in desk.journal.events(job, 0)]
        assert row.state in (end, "failed", "queued"), bad.fired
        assert events[-1] == {"queued": events[-1]}.get(row.state, row.state)
        record = desk.journal.records.read(job)
        torn = job in desk.journal.records._torn  # refused, and could not be cut yet
        assert record is not None and (record.row == row or torn), bad.fired
        assert (row.state == "done") == (state / "takes" / str(job) / "record").exists()
        desk.close()
        for folder in filter(None, (state, killed)):
            again = Desk(folder)
            told = again.journal.job(job)
            assert told.state == row.state or folder == killed or torn
            record = again.journal.records.read(job)
            assert record.whole and record.row == told
            assert list(record.events) == again.journal.events(job, 0)
            again.close()
        if not bad.fired:
            break


def test_a_forget_that_fails_forgets_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    row = desk.submit()
    desk.book.cancel(desk.book.active[row.id])
    before = desk.seen()
    with monkeypatch.context() as patch:
        Bad(patch, desk, 1, errno.EIO, for_ever=True)
        with pytest.raises(StorageError):
            desk.book.forget(desk.journal.job(row.id))
    assert desk.seen() == before and (desk.state / "spool" / str(row.id)).exists()
    desk.book.forget(desk.journal.job(row.id))
    assert not (desk.state / "spool" / str(row.id)).exists()


def test_a_full_disk_refuses_no_forget_and_no_pause(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = desk.state / "reserve"
    row = desk.submit()
    desk.book.cancel(desk.book.active[row.id])
    for act in (
        lambda: desk.book.forget(desk.journal.job(row.id)),
        lambda: desk.journal.set_fact("paused", "1"),
    ):
        assert kept.exists()
        with monkeypatch.context() as patch:
            bad = Bad(patch, desk, 1, errno.ENOSPC, for_ever=False)
            act()
            assert bad.fired and not kept.exists()
        monkeypatch.setattr(desk.book, "_kept_s", 0.0)
        desk.book.turn()
    assert desk.journal.job(row.id).state == journal.FORGOTTEN and desk.journal.fact("paused") == "1"


# ---- the intake ----


def test_a_slow_disk_keeps_nobody_waiting_and_one_key_is_one_job(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, slow = disk.sync, threading.Event()

    def sync(descriptor: int) -> None:
        slow.wait(5)
        real(descriptor)

    monkeypatch.setattr(disk, "sync", sync)
    request = submit(0.1, rate=8000, audio=(tone(0.3),))
    begun = time.monotonic()
    first, second = desk.begin(request), desk.begin(request)
    other = desk.begin(submit(0.1, rate=8000, audio=(tone(0.3),), key=request.key, seed=99))
    third = desk.begin(submit(0.1, rate=8000))
    for _ in range(50):
        desk.intake.turn()
    assert time.monotonic() - begun < 1 and len(desk.intake.coming) == 2
    assert not any(found.settled for found in (first, second, other, third))
    assert not desk.journal.states()
    slow.set()
    row, again = desk.wait(first)
    assert not again and desk.wait(second) == (row, True) and desk.wait(third)[0].id == row.id + 1
    with pytest.raises(SegueError) as error:
        desk.wait(other)
    assert error.value.code == "E_KEY_REUSE" and not desk.intake.coming
    assert [found.id for found, _ in desk.seen()] == [row.id, row.id + 1]


def test_the_second_of_two_with_one_key_is_made_when_the_first_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [OSError(errno.EIO, "io")]
    real = disk.sync

    def sync(descriptor: int) -> None:
        if refusals:
            raise refusals.pop()
        real(descriptor)

    monkeypatch.setattr(disk, "sync", sync)
    request = submit(0.1, rate=8000)
    first, second = desk.begin(request), desk.begin(request)
    with pytest.raises(StorageError):
        desk.wait(first)
    row, again = desk.wait(second)
    assert not again and [found.id for found, _ in desk.seen()] == [row.id]


def test_a_retake_is_known_by_its_key_even_when_the_first_job_is_forgotten(desk: Desk) -> None:
    first = desk.submit()
    retake = Retake(job=str(first.id), key=b"r" * 16)
    row, again = desk.wait(desk.intake.retake(retake, refuse=lambda _: None))
    assert not again and row.spec["crc"] == first.spec["crc"]
    desk.book.cancel(desk.book.active[first.id])
    desk.book.forget(desk.journal.job(first.id))
    assert desk.wait(desk.intake.retake(retake, refuse=lambda _: None)) == (desk.journal.job(row.id), True)
    with pytest.raises(SegueError) as error:
        desk.wait(desk.intake.retake(Retake(job=str(first.id), key=b"q" * 16), refuse=lambda _: None))
    assert error.value.code == "E_JOB"


def test_what_was_on_its_way_when_the_daemon_ended_is_one_job_all_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    request = submit(0.1, rate=8000)
    arrival = desk.begin(request)
    desk.woken.wait(5)  # on the disk, not in the journal: killed here
    assert not arrival.settled
    desk.journal.close()
    again = Desk(tmp_path)
    row, known = again.wait(again.begin(request))
    assert known and [found.id for found, _ in again.seen()] == [row.id]
    again.close()
    desk.intake._todo.put(None)


def test_a_job_that_starts_before_its_submit_is_answered_has_no_place_before_the_first(desk: Desk) -> None:
    rows = [desk.submit() for _ in range(3)]
    assert [desk.book.active[row.id].position for row in rows] == [0, 1, 2]
    for row in rows:
        desk.book.start(desk.book.active[row.id], {"worker": "w"})
    late = desk.submit()
    assert desk.book.active[late.id].position == 0
    desk.book.start(desk.book.active[late.id], {"worker": "w"})
    for job in list(desk.book.active.values()):
        desk.book.requeue(job, "again", forgiven=True)
    assert all(job.position >= 0 for job in desk.book.active.values())
