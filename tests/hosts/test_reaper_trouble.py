"""What happens while a job is under way in REAPER: growth, cancel, deaths, and a user who goes on working."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol import messages as m
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import read_wav, tone, write_wav
from tests.hosts.reaper_host import RATE, Make, ReaperHost, all_takes, landed_items, reaper, settings, song

__all__ = ["reaper"]
pytestmark = pytest.mark.skipif(shutil.which("lua5.4") is None, reason="Lua 5.4 is not installed")

SLOW = "slow=20"  # the coded model needs 20 ms for a step: a second of audio takes one


def growing(state: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in landed_items(state) if "segue" not in item["ext"]]


def number(host: ReaperHost) -> str:
    """The daemon's job of the only job directory."""
    (folder,) = host.job_folders()
    lines = [json.loads(line) for line in (folder / "progress").read_text().splitlines()]
    return str(next(line["job"] for line in lines if line["event"] == "accepted"))


def begun(host: ReaperHost) -> bool:
    folders = host.job_folders()
    return bool(folders) and '"generating"' in (
        (folders[0] / "progress").read_text() if (folders[0] / "progress").exists() else ""
    )


def started(
    reaper: Make, command: Path, folder: Path, action: str = "Continue selection", **values: Any
) -> ReaperHost:
    """A REAPER with a job that the daemon is working on."""
    host = reaper(command)
    song(host, folder)
    settings(host, **{"variations": 2, "text": SLOW, "seconds": 3.0, "crossfade": False, **values})
    host.action(action)
    host.until(lambda _: begun(host))
    return host


def complete(state: dict[str, Any], takes: int = 2, seconds: float = 3.0) -> bool:
    """All takes are there, exact, from the media folder."""
    landed = all_takes(state)
    assert len(landed) == takes, [take["name"] for _, take in landed]
    for item, take in landed:
        assert item["info"]["D_POSITION"] == 2.0 and item["info"]["D_LENGTH"] * RATE == seconds * RATE
        rate, samples = read_wav(Path(take["path"]))
        assert rate == RATE and len(samples) == round(take["info"]["D_STARTOFFS"] * RATE) + seconds * RATE
        assert "jobs" not in Path(take["path"]).parts
    return True


def test_the_item_grows_while_audio_is_made(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = started(reaper, segue_command, tmp_path)
    before = host.state()
    lengths: list[float] = []

    def look(state: dict[str, Any]) -> bool:
        for item in growing(state):
            assert item["info"]["D_POSITION"] == 2.0 and len(item["takes"]) == 2
            if not lengths or item["info"]["D_LENGTH"] > lengths[-1]:
                lengths.append(item["info"]["D_LENGTH"])
                for take in item["takes"]:  # what is heard so far is there
                    rate, samples = read_wav(Path(take["path"]))
                    assert rate == RATE and len(samples) >= round(lengths[-1] * RATE)
        return not state["window"]["open"]

    found = host.until(look)
    assert len(lengths) >= 3 and lengths == sorted(lengths), lengths
    assert complete(found)
    assert len(found["undo"]) == len(before["undo"]) + 1, "growing makes no undo steps"
    host.ask("undo")
    assert landed_items(host.state()) == []
    host.ask("redo")
    assert complete(host.state())


@pytest.mark.parametrize("how", ["button", "action"])
def test_stopping_stops_the_daemon_within_200_ms(
    reaper: Make, coded_house: HostHouse, segue_command: Path, tmp_path: Path, how: str
) -> None:
    host = started(reaper, segue_command, tmp_path, seconds=20.0)
    job = number(host)
    before = host.state()["undo"]
    with coded_house.client() as wire:
        at = time.monotonic()
        if how == "button":
            assert host.ask("click", label="Stop")["ok"]
            host.tick(), host.tick()
        else:
            host.action("Cancel")
        while wire.ask(m.Status(job=job)).info.state != "cancelled":
            assert time.monotonic() - at < 0.2, "the daemon still works after 200 ms"
            host.tick()
        # its worker hears of it and lets go between these two, or has before
        steps = [replace(wire.ask(m.Status(job=job)).info, worker=None) for _ in range(2)]
    assert steps[0] == steps[1]
    found = host.run()
    assert landed_items(found) == [] and found["undo"] == before and found["messages"] == []
    assert host.job_folders() == []


def test_a_daemon_that_dies_costs_nothing(
    reaper: Make, own_house: Callable[..., HostHouse], tmp_path: Path
) -> None:
    house = own_house("life.crash_pause_s=0")
    host = started(reaper, house.write_command(house.folder), tmp_path, text=f"{SLOW} resumable")
    assert house.kill_current()
    notes: set[str] = set()

    def look(state: dict[str, Any]) -> bool:
        notes.update(state["window"]["texts"])
        return not state["window"]["open"]

    assert complete(host.until(look, 60))
    assert any("daemon" in note.lower() for note in notes), notes


def test_a_command_that_dies_is_started_again(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = started(reaper, segue_command, tmp_path)
    (folder,) = host.job_folders()
    os.kill(json.loads((folder / "heartbeat").read_text())["pid"], signal.SIGKILL)
    found = host.run(90)
    assert complete(found) and len(found["started"]) == 2


HOSTILE = {
    "shell": "$(touch {mark}) `touch {mark}` ; touch {mark} | cat && touch {mark} %PATH% $HOME",
    "quotes": 'it\'s "quoted" and \'quoted\' \\ \\" \\n " ; touch {mark} "',
    "lines": "line\nbreak\r\nand\ttab and \u2028 and \x01\x1f\x7f",
    "emoji": "🎷 nine to the 🌊 — ünïcödé 日本語",
    "json": '"}, "mode": "generate", {"a": [1,2',
    "long": "🎹 'x' \"y\" $(touch {mark}) " * 400,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_texts(
    reaper: Make, coded_house: HostHouse, segue_command: Path, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "executed"
    text = HOSTILE[name].replace("{mark}", str(mark))
    text = text.encode()[:10_000].decode("utf-8", "ignore") if name == "long" else text
    host = reaper(segue_command)
    song(host, tmp_path)
    settings(host, variations=1, seconds=0.25, text=text, negative_text=text, crossfade=False)
    host.action("Continue selection")
    found = host.run()
    ((item, _),) = all_takes(found)
    stored = json.loads(item["ext"]["segue"])
    assert stored["settings"]["text"] == stored["settings"]["negative_text"] == text
    assert stored["values"]["text"] == text
    assert not mark.exists()
    for words in found["started"]:
        assert len(words) == 3 and words[1] == "job"
        assert Path(words[2]).name.replace("-", "").isalnum()


@pytest.mark.parametrize("what", ["delete_item", "delete_track", "other_undo", "undo"])
def test_a_user_who_goes_on_working(reaper: Make, segue_command: Path, tmp_path: Path, what: str) -> None:
    """The growing item, the source or the track vanish under the job: its takes land all the same."""
    host = started(reaper, segue_command, tmp_path)
    host.until(growing)
    if what == "delete_item":
        host.ask("touch", what=what, track=0, item=1)
    elif what == "delete_track":
        host.ask("touch", what=what, track=0)
    elif what == "undo":
        host.ask("touch", what="moved a fader")
        host.ask("undo")
    else:
        host.ask("touch", what="moved a fader")
    before = len(host.state()["undo"])
    found = host.run()
    assert complete(found)
    assert found["undo"][-1] == "Segue: continue, 2 takes"
    assert len(landed_items(found)) == 1 and found["messages"] == []
    if what != "undo":
        assert len(found["undo"]) == before + 1


def test_another_tab_in_front(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = started(reaper, segue_command, tmp_path)
    host.ask("new_tab")
    found = host.run()
    assert found["tracks"] == [], "nothing lands in a project that did not ask"
    host.ask("front", index=0)
    assert complete(host.state())


def test_a_closed_project_finds_its_takes_when_it_is_opened_again(
    reaper: Make, segue_command: Path, tmp_path: Path
) -> None:
    host = started(reaper, segue_command, tmp_path, landing="end")
    host.ask("close_project")
    host.run(10)
    assert len(host.job_folders()) == 1, "the job is not lost"
    host.ask("reopen", index=0)
    settings(host, variations=1, seconds=0.5, text="")
    host.ask("touch", what="select", track=0, item=0)
    host.action("Generate at cursor")
    found = host.run()
    names = [take["name"] for _, take in all_takes(found)]
    assert sorted(name.split(" seed")[0] for name in names) == [
        "segue continue v1", "segue continue v2", "segue generate v1",
    ]  # fmt: skip
    assert host.job_folders() == []


def test_pressed_again_while_it_works(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    """The action's new run ends the old one and takes its job up; both land."""
    host = started(reaper, segue_command, tmp_path)
    host.until(growing)
    host.ask("touch", what="select", track=0, item=0)
    host.action("Continue selection")
    found = host.run()
    assert len(landed_items(found)) == 2
    assert {len(item["takes"]) for item in landed_items(found)} == {2}
    for item in landed_items(found):
        assert item["info"]["D_POSITION"] == 2.0 and item["info"]["D_LENGTH"] == 3.0
    assert len(found["tracks"]) == 2, "the second lands beside the first"


def test_closing_the_window_stops_nothing(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = started(reaper, segue_command, tmp_path)
    host.ask("close_window")
    assert complete(host.run())


def test_a_refusal_is_the_daemons_sentence(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    song(host, tmp_path)
    settings(host, model="nobody/knows-this")
    before = host.state()
    host.action("Continue selection")
    found = host.until(lambda state: any("segue models" in text for text in state["window"]["texts"]))
    assert landed_items(found) == [] and found["undo"] == before["undo"]
    host.ask("close_window")
    host.run(10)


def test_a_large_project_and_a_long_prompt_stay_fluid(
    reaper: Make, segue_command: Path, tmp_path: Path
) -> None:
    """2,000 items, 20 s of 96 kHz, 12 growing takes, 400 tempo changes: no turn is longer than in a small
    song (the fixture measures).
    """
    rate = 96_000
    host = reaper(segue_command)
    write_wav(tmp_path / "riff.wav", tone(20.0, rate, 2), rate)
    host.ask("crowd", path=str(tmp_path / "riff.wav"), tracks=100, items=20)
    item = {"path": str(tmp_path / "riff.wav"), "position": 0.0, "length": 20.0, "selected": True}
    tempo = [{"qn": i * 4, "bpm": 100 + i % 50, "beats": 4, "unit": 4} for i in range(400)]
    host.ask("lay", rate=rate, tracks=[{"items": [item]}], tempo=tempo)
    settings(host, variations=4, seconds=6.0, model="stems", stems=True)
    host.action("Continue selection")
    found = host.run(120)
    assert len(all_takes(found)) == 12
    assert {item["info"]["D_LENGTH"] for item in landed_items(found)} == {6.0}
