"""What every host's tests need: a daemon of their own, and a `segue` that reaches it whatever environment the
host gives its children.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.house import ROOT, House, alive
from tests.hosts.kit import Jobs


class HostHouse(House):
    """A daemon that clients may start again: what its settings say is in the environment as well."""

    def environment(self) -> dict[str, str]:
        found = super().environment()
        for setting in self.settings:
            key, _, value = setting.partition("=")
            found[f"SEGUE_{key.replace('.', '_').upper()}"] = value
        found["SEGUE_MODELS"] = str(self.folder / "models")
        found.pop("SEGUE_CONNECTION", None)
        # as in an installation: compiled once, not at every start (which costs segue job 60 ms)
        found.pop("PYTHONDONTWRITEBYTECODE", None)
        found["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / f"segue-tests-pyc-{os.getuid()}")
        return found

    def current_pid(self) -> int:
        """The daemon of the connection file, whoever started it; 0 when there is none."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            pid = int(json.loads((self.runtime / "connection.json").read_text())["pid"])
            return pid if alive(pid) else 0
        return 0

    def reconnect(self) -> None:
        """Make `client()` speak with the daemon that runs now."""
        self.connection = json.loads((self.runtime / "connection.json").read_text())

    def kill_current(self) -> int:
        """SIGKILL for the daemon that runs now, as a crash would feel; its number."""
        pid = self.current_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
            if self.process is not None and self.process.pid == pid:
                self.process.wait(10)
        return pid

    def close(self) -> None:
        self.kill_current()
        by = time.monotonic() + 5
        while self.current_pid() and time.monotonic() < by:
            time.sleep(0.02)
        super().close()

    def write_command(self, folder: Path) -> Path:
        """An executable `segue` that reaches this daemon, with its whole environment inside."""
        mine = {
            name: value
            for name, value in self.environment().items()
            if name.startswith(("SEGUE_", "OMP_")) or name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX")
        }
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in mine.items())
        path = folder / "segue"
        path.write_text(
            "#!/bin/sh\n"
            f"exec env -u SEGUE_CONNECTION -u PYTHONDONTWRITEBYTECODE {words} "
            f'{shlex.quote(sys.executable)} -P -m bridge_clients.cli.main "$@"\n'
        )
        path.chmod(stat.S_IRWXU)
        return path


@pytest.fixture(scope="session")
def coded_house() -> Iterator[HostHouse]:
    """A daemon whose model says position, variation and stem in every sample (tests/daemon/engine.py)."""
    house = HostHouse()
    house.start()
    yield house
    house.close()


@pytest.fixture
def own_house() -> Iterator[Callable[..., HostHouse]]:
    """Make daemons that a test may kill or stop; all are ended with it."""
    made: list[HostHouse] = []

    def make(*settings: str, model: str = "coded", real: bool = False) -> HostHouse:
        made.append(HostHouse(*settings, model=model, real=real))
        made[-1].start()
        return made[-1]

    yield make
    for house in made:
        house.close()


@pytest.fixture(scope="session")
def pocket_house() -> Iterator[HostHouse]:
    """A daemon with the real model."""
    house = HostHouse("worker.threads=1", model="pocket", real=True)
    house.start()
    yield house
    house.close()


@pytest.fixture
def host_environment(coded_house: HostHouse) -> dict[str, str]:
    """For child processes: their `segue` and clients reach the coded daemon."""
    return coded_house.environment()


@pytest.fixture(scope="session")
def segue_command(coded_house: HostHouse) -> Path:
    """The path of an executable `segue` that reaches the coded daemon from any environment."""
    return coded_house.write_command(coded_house.folder)


@pytest.fixture(scope="session")
def pocket_command(pocket_house: HostHouse) -> Path:
    """The same with the real model."""
    return pocket_house.write_command(pocket_house.folder)


@pytest.fixture
def jobs(coded_house: HostHouse, segue_command: Path) -> Iterator[Jobs]:
    """Job directories of a host that is this test; children are ended with it."""
    made = Jobs(coded_house.folder / "jobs", segue_command)
    yield made
    made.close()


__all__ = ["ROOT", "HostHouse", "Jobs"]
