"""`segue watch`: hosts that can start nothing get their jobs done all the same."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.conftest import HostHouse
from tests.hosts.kit import HostJob, Jobs


class Watcher:
    """A `segue watch` process and what it says."""

    def __init__(self, command: Path, folder: Path, *words: str) -> None:
        self.out = folder.parent / f"watch-{secrets.token_hex(3)}.txt"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [str(command), "watch", str(folder), *words], stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, start_new_session=True,
            )  # fmt: skip
        by = time.monotonic() + 20
        while "Watching" not in self.said() and self.process.poll() is None:
            assert time.monotonic() < by
            time.sleep(0.02)

    def said(self) -> str:
        return self.out.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)


@pytest.fixture
def watched(coded_house: HostHouse, segue_command: Path) -> Iterator[tuple[Jobs, Watcher]]:
    jobs = Jobs(coded_house.folder / f"watched-{secrets.token_hex(3)}", segue_command)
    watcher = Watcher(segue_command, jobs.folder, "--at-most", "2")
    yield jobs, watcher
    watcher.end()
    for job in jobs.made:  # children have sessions of their own
        (job.folder / "cancel").touch() if job.folder.is_dir() and job.done() is None else None
    by = time.monotonic() + 10
    while time.monotonic() < by and any(job.folder.is_dir() and job.done() is None for job in jobs.made):
        time.sleep(0.02)
    jobs.close()


def ended(job: HostJob, wait_s: float = 30.0) -> dict[str, Any]:
    by = time.monotonic() + wait_s
    while (done := job.done()) is None:
        assert time.monotonic() < by, job.lines()[-3:]
        time.sleep(0.01)
    return done


def test_jobs_are_done_without_being_started(watched: tuple[Jobs, Watcher]) -> None:
    jobs, watcher = watched
    laid = [jobs.lay(seed=n) for n in range(5)]
    assert [ended(job)["seed"] for job in laid] == list(range(5))
    time.sleep(0.3)
    assert watcher.said().count("begun") == 5 and watcher.said().count(": done") == 5
    assert json.loads((jobs.folder / ".watch").read_text())["pid"] == watcher.process.pid


def test_not_more_at_once_than_allowed(watched: tuple[Jobs, Watcher]) -> None:
    jobs, _ = watched
    laid = [jobs.lay(text="slow=10", length={"seconds": 1.0}) for _ in range(5)]
    most, by = 0, time.monotonic() + 60
    while any(job.done() is None for job in laid):
        assert time.monotonic() < by
        begun = sum((job.folder / "heartbeat").exists() and job.done() is None for job in laid)
        most = max(most, begun)
        time.sleep(0.01)
    assert most == 2


def test_what_is_half_written_or_not_ours_is_left_alone(watched: tuple[Jobs, Watcher]) -> None:
    jobs, _ = watched
    half = jobs.folder / "half"
    half.mkdir(mode=0o700)
    (half / ".request.json.part").write_text('{"version": 1, "mode": "generate", ')
    (jobs.folder / "a b").mkdir(mode=0o700)
    (jobs.folder / "a b" / "request.json").write_text("{}")
    (jobs.folder / "file").write_text("x")
    laid = jobs.lay()
    (jobs.folder / "link").symlink_to(laid.folder)
    pipe = jobs.folder / "pipe"
    pipe.mkdir(mode=0o700)
    os.mkfifo(pipe / "request.json")
    assert ended(laid)["state"] == "done"
    time.sleep(0.3)
    for folder in (half, jobs.folder / "a b", pipe):
        assert not (folder / "heartbeat").exists() and not (folder / "done").exists()
    (half / ".request.json.part").write_text('{"version": 1, "mode": "generate", "length": {"seconds": 0.2}}')
    (half / ".request.json.part").rename(half / "request.json")
    assert ended(HostJob(half, jobs.command))["state"] == "done"


def test_a_child_that_dies_is_started_again(watched: tuple[Jobs, Watcher]) -> None:
    jobs, watcher = watched
    job = jobs.lay(text="slow=20", length={"seconds": 2.0})
    job.until("accepted")
    os.kill(json.loads((job.folder / "heartbeat").read_text())["pid"], signal.SIGKILL)
    assert ended(job)["state"] == "done"
    assert "starting it again" in watcher.said() and len({x["job"] for x in job.lines("accepted")}) == 1


def test_children_survive_their_watcher_and_the_next_one_leaves_them(
    watched: tuple[Jobs, Watcher], segue_command: Path
) -> None:
    jobs, watcher = watched
    job = jobs.lay(text="slow=20", length={"seconds": 3.0})
    job.until("tick", state="generating")
    watcher.end()
    assert not (jobs.folder / ".watch").exists()
    second = Watcher(segue_command, jobs.folder)
    assert ended(job)["state"] == "done"
    assert "begun" not in second.said()
    second.end()


def test_one_watcher_is_enough_and_the_folder_must_be_ones_own(
    watched: tuple[Jobs, Watcher], segue_command: Path, tmp_path: Path
) -> None:
    second = Watcher(segue_command, watched[0].folder)
    assert second.process.wait(10) == 2 and "is watched already" in second.said()
    public = tmp_path / "public"
    public.mkdir()
    tmp_path.chmod(0o755)
    public.chmod(0o777)
    third = Watcher(segue_command, public)
    assert third.process.wait(10) == 2 and "written to by other users" in third.said()


def test_watching_costs_next_to_nothing(watched: tuple[Jobs, Watcher]) -> None:
    """A hundred finished directories: 3 % of a processor at twelve looks a second, on a busy machine."""
    jobs, watcher = watched
    for number in range(100):
        folder = jobs.folder / f"old-{number}"
        folder.mkdir(mode=0o700)
        (folder / "request.json").write_text("{}")
        (folder / "done").write_text("{}")

    def used_s() -> float:
        words = Path(f"/proc/{watcher.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    before = used_s()
    time.sleep(2.0)
    assert (used_s() - before) / 2.0 < 0.15
