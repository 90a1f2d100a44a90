"""A daemon of another build, or of another protocol: who is old, since when, and what restarts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_clients import core
from protocol.build import VERSION
from protocol.replies import HelloReply
from tests.cli.conftest import ROOT
from tests.daemon.house import House


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    running = House().start()
    yield running
    running.close()


def updated(folder: Path, *, major: int | None = None) -> Path:
    """The installation after an update, beside the daemon that was started before."""
    for room in ("protocol", "bridge_clients", "daemon"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    limits = folder / "protocol" / "limits.py"
    text = limits.read_text()
    if major is not None:
        assert "MAJOR = 1" in text
        text = text.replace("MAJOR = 1", f"MAJOR = {major}")
    limits.write_text(text + "# updated\n")
    return folder


def segue(root: Path, house: House, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **house.environment(), "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "bridge_clients.cli", *words], env=environment, capture_output=True,
        text=True, check=False, timeout=60, cwd=root,
    )  # fmt: skip


def test_an_old_daemon_goes_on_working_and_is_named(house: House, tmp_path: Path) -> None:
    root = updated(tmp_path)
    assert house.process is not None
    status = segue(root, house, "status")
    assert status.returncode == 0, status.stderr
    said = status.stdout.splitlines()[-1]
    assert f"process {house.process.pid}, {sys.executable}, since 20" in said
    assert f"here is {VERSION}+" in said and house.connection["build"] in said
    assert "It goes on working" in said and "`segue stop` ends it politely" in said
    made = segue(root, house, "generate", "--seconds", "0.5", "--no-overview", "--model", "coded")
    assert made.returncode == 0, made.stderr
    assert f"process {house.process.pid}" in made.stderr + made.stdout
    same = segue(ROOT, house, "status")
    assert "another build" not in same.stdout


def test_a_daemon_of_another_major_is_refused_with_the_way_out(house: House, tmp_path: Path) -> None:
    root = updated(tmp_path, major=2)
    assert house.process is not None
    done = segue(root, house, "status")
    assert done.returncode == 5 and done.stderr.count("\n") == 1
    assert f"process {house.process.pid}, {sys.executable}, since 20" in done.stderr
    assert f"`kill {house.process.pid}` ends it politely" in done.stderr
    assert house.process.poll() is None


@pytest.mark.parametrize(
    ("supervisor", "command"),
    [
        (None, "`segue stop`"),
        ("systemd", "`systemctl --user restart segue.service`"),
        ("launchd", "`segue service install`"),
    ],
)
def test_the_way_to_restart_it_is_its_own(supervisor: str | None, command: str) -> None:
    hello = HelloReply(
        daemon="segued 0", build="0+old", protocol=(1, 0), boot="b", pid=7, supervisor=supervisor
    )
    said = core.skew(hello)
    assert said is not None and command in said and "process 7, since" in said
