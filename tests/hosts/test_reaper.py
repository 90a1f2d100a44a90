"""REAPER's scripts against a stub of REAPER, with the real `segue job` and the real daemon behind them.

REAPER itself was not available: the stub keeps tracks, items, takes, tempo map and undo as REAPER's
documentation has them, and is strict where REAPER is lenient.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.kit import read_wav, tone, write_wav
from tests.hosts.reaper_host import ReaperHost

pytestmark = pytest.mark.skipif(shutil.which("lua5.4") is None, reason="Lua 5.4 is not installed")

RATE = 48_000
TURN_LIMIT_S = 0.015
Make = Callable[..., ReaperHost]


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
        finally:
            host.close()


def song(host: ReaperHost, folder: Path, *, seconds: float = 2.0, channels: int = 2, **more: Any) -> None:
    """One track with one selected item of a tone, from 0 on."""
    path = folder / "riff.wav"
    write_wav(path, tone(seconds, RATE, channels), RATE)
    item = {"path": str(path), "position": 0.0, "length": seconds, "selected": True}
    host.ask("lay", **{"rate": RATE, "tracks": [{"name": "riff", "items": [item]}], **more})


def settings(host: ReaperHost, **values: Any) -> None:
    host.ask("settings", values={"seed": 7, "length": "seconds", "seconds": 1.0, **values})


def all_takes(state: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(item, take) of everything that Segue landed."""
    return [
        (item, take)
        for track in state["tracks"]
        for item in track["items"]
        for take in item["takes"]
        if take["name"].startswith("segue ")
    ]


def frames(seconds: float) -> float:
    return seconds * RATE


def test_a_selection_goes_on(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    song(host, tmp_path)
    settings(host, variations=3, crossfade=False)
    host.action("Continue selection")
    found = host.run()
    landed = all_takes(found)
    assert [take["name"] for _, take in landed] == [f"segue continue v{v} seed 7" for v in (1, 2, 3)]
    for item, take in landed:
        assert frames(item["info"]["D_POSITION"]) == 2 * RATE
        assert frames(item["info"]["D_LENGTH"]) == RATE
        rate, samples = read_wav(Path(take["path"]))
        assert rate == RATE and samples.shape[1] == 2
        assert round(frames(take["info"]["D_STARTOFFS"])) + RATE == len(samples)
