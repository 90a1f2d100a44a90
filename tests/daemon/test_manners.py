"""The daemon under a service manager, and what it does when time goes by without it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from daemon.clock import ClockWatch, Jump
from daemon.notify import Notifier
from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit

YEAR_S = 365.25 * 86_400
SHIM = Path(__file__).with_name("clock_shim.c")


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self, wait_s: float) -> list[str]:
        """All lines said within `wait_s`."""
        by, lines = time.monotonic() + wait_s, list[str]()
        while (left := by - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                lines += self.socket.recv(4096).decode().splitlines()
        return lines

    def until(self, line: str, wait_s: float = 20.0) -> None:
        by = time.monotonic() + wait_s
        while time.monotonic() < by:
            if line in self.heard(0.1):
                return
        raise AssertionError(f"{line} was not said within {wait_s} s")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@segue-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    made = Manager(name)
    yield made
    made.socket.close()


def test_a_service_manager_is_told_when_the_daemon_answers_turns_and_stops(manager: Manager) -> None:
    house = House()
    house.hook |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "800000"}
    try:
        house.start()
        manager.until("READY=1")
        said = manager.heard(1.5)
        assert said.count("WATCHDOG=1") >= 3, said
        with house.client() as wire:
            wire.events(wire.ask(submit(0.3)).job)  # a worker has been started: it got none of the variables
            (worker,) = house.worker_pids()
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{worker}/environ").read_bytes()
        house.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        manager.until("STOPPING=1")
        assert house.process is not None and house.process.wait(20) == 0
    finally:
        house.close()


def test_a_loop_that_does_not_turn_stops_feeding(tmp_path: Path) -> None:
    manager, house = Manager(str(tmp_path / "notify")), House()
    house.hook |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    try:
        house.start()
        manager.until("WATCHDOG=1")
        assert house.process is not None
        house.process.send_signal(signal.SIGSTOP)
        manager.heard(0.3)  # what was under way
        assert manager.heard(1.5) == []
        house.process.send_signal(signal.SIGCONT)
        manager.until("WATCHDOG=1", 3)
    finally:
        house.close()


def test_a_turn_that_fails_does_not_feed(tmp_path: Path) -> None:
    """Only a turn that went well says that the daemon is well."""
    from daemon.config import Log
    from daemon.metrics import Metrics
    from daemon.upkeep import Upkeep

    class Nothing:
        workers: tuple[()] = ()
        paused = False

        def running(self) -> list[int]:
            return []

        queued = running

    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4"})
    nothing = Nothing()
    upkeep = Upkeep(notifier, nothing, nothing, Metrics(), tmp_path, Log())  # type: ignore[arg-type]
    upkeep.turn(sound=False, waited_s=1.0)
    assert manager.heard(0.1) == []
    upkeep.turn(sound=True, waited_s=1.0)
    assert manager.heard(0.1) == ["WATCHDOG=1", "STATUS=Ready: 0 running, 0 waiting."]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
        {"NOTIFY_SOCKET": "@", "WATCHDOG_USEC": "soon"},
    ],
)
def test_nobody_to_tell_hurts_nobody(variables: dict[str, str]) -> None:
    given = dict(variables)
    notifier = Notifier(given)
    assert not given
    assert not notifier.ready("x") and not notifier.feed() and not notifier.stopping("x")
    notifier.close()


def test_a_manager_that_does_not_read_costs_nothing(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4"})
    begun = time.monotonic()
    outcomes = {notifier.feed(float(turn)) for turn in range(5000)}
    assert outcomes == {True, False} and time.monotonic() - begun < 2


def test_a_watchdog_meant_for_another_process_is_not_fed(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4", "WATCHDOG_PID": "1"})
    assert notifier.ready("x") and not notifier.feed()


# ---- clocks ----


class Clocks:
    """Three clocks that a test moves."""

    def __init__(self, *, sleeps: bool = True) -> None:
        self.wall = self.steady = self.boot = 1000.0
        self.watch = ClockWatch(
            lambda: self.wall, lambda: self.steady, (lambda: self.boot) if sleeps else None
        )

    def go(self, seconds: float) -> None:
        self.wall, self.steady, self.boot = self.wall + seconds, self.steady + seconds, self.boot + seconds


def test_a_turn_like_any_other_is_no_jump() -> None:
    clocks = Clocks()
    for seconds in (0.0, 0.05, 1.0, 1.2, 4.9):
        clocks.go(seconds)
        assert clocks.watch.look(1.0) is None
    clocks.wall -= 4.9  # a clock that is steered by the network
    assert clocks.watch.look(1.0) is None


@pytest.mark.parametrize("set_by_s", [-YEAR_S, YEAR_S, 3600.0, -6.0])
def test_a_clock_that_was_set_is_not_sleep(set_by_s: float) -> None:
    clocks = Clocks()
    clocks.wall += set_by_s
    assert clocks.watch.look(1.0) == Jump(set_s=pytest.approx(set_by_s))
    assert clocks.watch.look(1.0) is None


def test_sleep_is_seen_by_the_clock_that_runs_on() -> None:
    clocks = Clocks()
    clocks.go(0.5)
    clocks.wall, clocks.boot = clocks.wall + 7200, clocks.boot + 7200
    assert clocks.watch.look(1.0) == Jump(slept_s=pytest.approx(7200))
    without = Clocks(sleeps=False)
    without.wall += 60
    assert without.watch.look(1.0) == Jump(slept_s=pytest.approx(60))
    without.wall -= 60
    assert without.watch.look(1.0) == Jump(set_s=pytest.approx(-60))


def test_a_process_that_was_stopped_knows_it() -> None:
    clocks = Clocks()
    clocks.go(11.0)
    assert clocks.watch.look(1.0) == Jump(stopped_s=pytest.approx(10.0))


class MovingHouse(House):
    """A daemon whose clocks a test moves while it runs."""

    def __init__(self, *settings: str) -> None:
        super().__init__(*settings)
        library = self.folder / "clock.so"
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True, timeout=60
        )
        self._file = self.folder / "clock"
        self.move()
        self.hook |= {"LD_PRELOAD": str(library), "SEGUE_TEST_CLOCK": str(self._file)}

    def move(self, *, wall_s: float = 0.0, slept_s: float = 0.0) -> None:
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("dd", wall_s, slept_s))


@pytest.fixture
def moving_house() -> Iterator[Callable[..., MovingHouse]]:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to build the clocks that a test can move")
    made: list[MovingHouse] = []

    def make(*settings: str) -> MovingHouse:
        made.append(MovingHouse(*settings))
        made[-1].start()
        return made[-1]

    yield make
    for house in made:
        house.close()


def _count(wire: Wire, name: str) -> float:
    lines = wire.ask(m.Metrics()).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_clock_that_jumps_years_ends_nothing_and_reorders_nothing(
    moving_house: Callable[..., MovingHouse],
) -> None:
    house = moving_house("worker.keep_alive_s=3600", "worker.stall_s=60", "log.max_mib=0.02")
    with house.client() as wire:
        running = wire.ask(submit(1.5, rate=32_000, text="slow=10", deadline_ms=600_000)).job
        jobs = [running]
        for wall_s in (YEAR_S, -YEAR_S, 0.0):
            house.move(wall_s=wall_s)
            time.sleep(0.3)
            jobs.append(wire.ask(submit(0.2, rate=32_000, deadline_ms=600_000)).job)
        for job in jobs:
            start, audio = joined(wire.events(job))
            assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))
        listed = [info.job for info in wire.ask(m.List()).jobs]
        assert listed == sorted(jobs, key=int, reverse=True)
        assert _count(wire, 'segue_clock_jumps_total{what="set"}') == 3
        assert _count(wire, "segue_requeues_total") == 0
        assert _count(wire, "segue_worker_exits_total") == 0
        assert wire.slowest_s < 1.5
    assert (house.state / "logs" / "segued.log").stat().st_size < 0.02 * 2**20


def test_a_machine_that_slept_is_noticed(moving_house: Callable[..., MovingHouse]) -> None:
    house = moving_house()
    with house.client() as wire:
        house.move(slept_s=3600.0)
        by = time.monotonic() + 5
        while not _count(wire, 'segue_clock_jumps_total{what="slept"}'):
            assert time.monotonic() < by
            time.sleep(0.05)
        start, audio = joined(wire.events(wire.ask(submit(0.3, rate=32_000)).job))
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))
