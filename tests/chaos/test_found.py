"""What kills and failing disks have found, each kept as a test of its own (with the part and its seed)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol import messages as m
from tests.chaos import shim
from tests.chaos.checker import plain_event
from tests.daemon.house import House, submit

NewHouse = Callable[..., tuple[House, shim.Shim]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return shim.build(tmp_path_factory.mktemp("shim"))
    except shim.NoShim as error:
        pytest.skip(str(error))


@pytest.fixture
def on_bad_disk(library: Path) -> Iterator[NewHouse]:
    """Daemons whose calls can be made to fail."""
    made: list[tuple[House, shim.Shim]] = []

    def make(*settings: str) -> tuple[House, shim.Shim]:
        house = House(*settings)
        faults = shim.Shim(library, house.folder / "control", house.state)
        house.hook |= faults.environment
        made.append((house.start(), faults))
        return made[-1]

    yield make
    for house, faults in made:
        house.close()
        faults.close()


def test_a_retake_sent_again_after_its_first_job_was_forgotten_is_the_same_job() -> None:
    """kills, seed 1: the key was looked at after the job, so a host that resent got E_JOB for ever."""
    house = House().start()
    try:
        with house.client() as wire:
            first = wire.ask(submit(0.1, rate=32_000)).job
            wire.events(first)
            again = m.Retake(job=first, key=b"k" * 16, seed=3)
            job = wire.ask(again).job
            wire.events(job)
            wire.ask(m.Forget(job=first))
            reply = wire.ask(again)
            assert reply.job == job and reply.again
            other = wire.refused(m.Retake(job=first, key=b"k" * 16, seed=4))
            assert other.code == "E_KEY_REUSE"
    finally:
        house.close()


def test_a_kill_while_files_are_forgotten_leaves_none(on_bad_disk: NewHouse) -> None:
    """kills, seed 5: the journal had forgotten the job, and its files stayed as those of no job."""
    house, faults = on_bad_disk()
    with house.client() as wire:
        job = wire.ask(submit(0.1, rate=32_000)).job
        wire.events(job)
        faults.arm("daemon", 1, shim.KILL, calls=("unlink",), pattern=f"takes/{job}/*")
        wire.send(m.Forget(job=job))
        assert house.process is not None and house.process.wait(10) == -9
        assert (house.state / "takes" / job).exists()
    faults.disarm()
    house.start()
    with house.client() as wire:
        assert wire.refused(m.Status(job=job)).code == "E_JOB"
    by = time.monotonic() + 5
    while (house.state / "takes" / job).exists() and time.monotonic() < by:
        time.sleep(0.05)
    assert not (house.state / "takes" / job).exists() and not (house.state / "spool" / job).exists()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("pattern", ["spool/*/*.pcm", "takes/*"])
def test_a_worker_whose_disk_fails_says_so(on_bad_disk: NewHouse, error: int, pattern: str) -> None:
    """io, seed 1: EIO in a worker was called a defect of Segue."""
    house, faults = on_bad_disk()
    with house.client() as wire:
        faults.arm("worker", 1, shim.FAIL, error=error, calls=("write", "sync"), pattern=pattern, sticky=True)
        last = wire.events(wire.ask(submit(0.2, rate=32_000)).job)[-1]
        assert last.event == "failed" and faults.fired("worker")
        assert last.error.code == ("E_DISK_FULL" if error == errno.ENOSPC else "E_DISK")
        faults.disarm()
        assert wire.events(wire.ask(submit(0.2, rate=32_000)).job)[-1].event == "done"


@pytest.mark.parametrize("name", ["spool/*/*.pcm", "takes/*/.v0.mix.wav.*", "takes/*/.manifest.json.*"])
@pytest.mark.parametrize("calls", ["write", "allocate"])
def test_a_disk_that_is_full_for_a_moment_costs_no_take(on_bad_disk: NewHouse, name: str, calls: str) -> None:
    """disk-full, seed 5001: space that a job had given back for its own next write was taken by others."""
    house, faults = on_bad_disk()
    with house.client() as wire:
        faults.arm("worker", 1, shim.FAIL, error=errno.ENOSPC, calls=(calls,), pattern=name)
        assert wire.events(wire.ask(submit(0.2, rate=32_000)).job)[-1].event == "done"
        assert faults.fired("worker") or calls == "allocate"  # not every file is held beforehand


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_start_on_a_failing_disk_costs_no_job(on_bad_disk: NewHouse, error: int) -> None:
    """io, seed 1: a journal that could not be written at the start was taken for a damaged one."""
    house, faults = on_bad_disk("life.crash_pause_s=0")
    with house.client() as wire:
        job = wire.ask(submit(0.1, rate=32_000)).job
        before = wire.events(job)
        wire.ask(submit(5, rate=32_000, text="slow=5"))
    for call in (1, 3, 6, 9, 13, 20):
        house.kill()
        (house.folder / "stderr").unlink(missing_ok=True)
        faults.arm("daemon", call, shim.FAIL, error=error, pattern="journal.db*")
        try:
            house.start()
        except AssertionError as refusal:
            assert str(refusal).strip() and "Traceback" not in str(refusal)
            faults.disarm()
            house.start()
        faults.disarm()
        assert not list(house.state.glob("journal.db.bad-*"))
        with house.client() as wire:
            assert [plain_event(e) for e in wire.events(job)] == [plain_event(e) for e in before]
