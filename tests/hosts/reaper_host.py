"""REAPER's stub as tests use it: a Lua process that keeps the project, with this side as its clock."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.house import ROOT
from tests.hosts.kit import tone, write_wav

SCRIPTS = ROOT / "bridge_clients" / "reaper" / "scripts"
TESTS = ROOT / "tests" / "hosts" / "reaper"
TURN_S = 1 / 30
RATE = 48_000


class ReaperHost:
    """One REAPER. `command` is the segue command that `segue install reaper` would have named."""

    def __init__(
        self, folder: Path, command: Path | None, *, scripts: Path = SCRIPTS, resource: Path | None = None
    ) -> None:
        self.resource, self.media = resource or folder / "REAPER resources", folder / "my song" / "Media"
        installed = self.resource / "Scripts" / "Segue"
        installed.mkdir(parents=True, exist_ok=True)
        self.media.mkdir(parents=True)
        if command is not None:
            (installed / "segue-command.txt").write_text(f"{command}\n")
        self._process = subprocess.Popen(
            ["lua5.4", str(TESTS / "driver.lua"), str(scripts), str(TESTS)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        self.ask("open", resource=str(self.resource), media=str(self.media), wall=time.monotonic())

    def ask(self, command: str, /, **given: Any) -> dict[str, Any]:
        """One command; an error in Lua is an AssertionError here."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **given}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the stub ended"}')
        assert "error" not in answer, answer["error"]
        return answer

    def action(self, name: str) -> dict[str, Any]:
        return self.ask("action", name=name, wall=time.monotonic())

    def tick(self) -> bool:
        """One turn of REAPER's main loop; whether a script lives on."""
        answer = self.ask("tick", wall=time.monotonic())
        return bool(answer["alive"])

    def state(self) -> dict[str, Any]:
        return self.ask("state")

    def until(self, true: Callable[[dict[str, Any]], Any], wait_s: float = 40.0) -> dict[str, Any]:
        """Turn after turn, thirty a second, until the state is as wanted."""
        by = time.monotonic() + wait_s
        while True:
            self.tick()
            found = self.state()
            if true(found):
                return found
            assert time.monotonic() < by, (found["window"], found["messages"], found["console"])
            time.sleep(TURN_S)

    def run(self, wait_s: float = 60.0) -> dict[str, Any]:
        """Until no script lives any more."""
        by = time.monotonic() + wait_s
        while self.tick():
            if time.monotonic() > by:
                raise AssertionError(self.state()["window"])
            time.sleep(TURN_S)
        return self.state()

    def job_folders(self) -> list[Path]:
        return sorted((self.resource / "Data" / "Segue" / "jobs").glob("job-*"))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()


Make = Callable[[Path | None], ReaperHost]
# No turn may take 50 ms, and none should take 15. Ten busy processes on two cores stretch single ones by some
# milliseconds of processor time, so one in a hundred may be later than that.
TURN_LIMIT_S = 0.050
LATE = 0.01


@pytest.fixture
def reaper(tmp_path: Path) -> Iterator[Make]:
    """Make REAPERs; each must have left nothing open and never have stood still."""
    made: list[ReaperHost] = []

    def make(command: Path | None) -> ReaperHost:
        folder = tmp_path / f"reaper{len(made)}"
        folder.mkdir()
        made.append(ReaperHost(folder, command))
        return made[-1]

    yield make
    for host in made:
        try:
            found = host.state()
            assert found["left"] == [], found["left"]
            assert found["console"] == [], found["console"]
            assert found["longest_s"] <= TURN_LIMIT_S, f"a turn took {1000 * found['longest_s']:.1f} ms"
            assert found["late"] <= max(1, LATE * found["turns"]), f"{found['late']} turns took over 15 ms"
        finally:
            host.close()


def song(
    host: ReaperHost, folder: Path, *, seconds: float = 2.0, channels: int = 2, gain: float = 1.0, **more: Any
) -> None:
    """One track with one selected item of a tone, from 0 on."""
    path = folder / "riff.wav"
    write_wav(path, tone(seconds, RATE, channels), RATE)
    item = {"path": str(path), "position": 0.0, "length": seconds, "selected": True}
    host.ask("lay", rate=RATE, tracks=[{"name": "riff", "gain": gain, "items": [item]}], **more)


def settings(host: ReaperHost, **values: Any) -> None:
    """What the user set: one second with seed 7, unless it says otherwise."""
    host.ask("settings", values={"seed": 7, "length": "seconds", "seconds": 1.0, **values})


def landed_items(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that Segue put into the project."""
    items = [item for track in state["tracks"] for item in track["items"]]
    return [item for item in items if any(take["name"].startswith("segue ") for take in item["takes"])]


def all_takes(state: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(item, take) of everything that Segue landed."""
    return [(item, take) for item in landed_items(state) for take in item["takes"]]
