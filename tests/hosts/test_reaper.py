"""REAPER's scripts against a stub of REAPER, with the real `segue job` and the real daemon behind them.

REAPER itself was not available: the stub keeps tracks, items, takes, tempo map and undo as REAPER's
documentation has them, and is strict where REAPER is lenient.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from protocol import messages as m
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import read_wav, tone, write_wav
from tests.hosts.reaper_host import RATE, Make, all_takes, landed_items, reaper, settings, song

__all__ = ["reaper"]
pytestmark = pytest.mark.skipif(shutil.which("lua5.4") is None, reason="Lua 5.4 is not installed")


def test_a_selection_goes_on_at_the_exact_sample(
    reaper: Make, coded_house: HostHouse, segue_command: Path, tmp_path: Path
) -> None:
    host = reaper(segue_command)
    song(host, tmp_path, seconds=2.0)
    settings(host, variations=3, crossfade=False)
    before = host.state()
    host.action("Continue selection")
    found = host.run()

    landed = all_takes(found)
    assert [take["name"] for _, take in landed] == [f"segue continue v{v} seed 7" for v in (1, 2, 3)]
    assert len(landed_items(found)) == 1 and found["tracks"][0]["items"][1] == landed[0][0]
    for variation, (item, take) in enumerate(landed):
        assert item["info"]["D_POSITION"] * RATE == 2 * RATE
        assert item["info"]["D_LENGTH"] * RATE == RATE
        assert item["info"]["B_LOOPSRC"] == item["info"]["D_FADEINLEN"] == item["info"]["D_FADEOUTLEN"] == 0
        assert Path(take["path"]).parent == host.media and take["peaks"] == "built"
        rate, samples = read_wav(Path(take["path"]))
        offset = round(take["info"]["D_STARTOFFS"] * RATE)
        assert rate == RATE and samples.shape == (offset + RATE, 2)
        stored = json.loads(item["ext"]["segue"])
        with coded_house.client() as wire:
            reply = wire.ask(m.Fetch(job=stored["job"], variation=variation))
        assert np.array_equal(samples[offset:], read_wav(Path(reply.path))[1])
    stored = json.loads(landed[0][0]["ext"]["segue"])
    assert stored["seed"] == stored["settings"]["seed"] == 7
    assert stored["settings"]["length"] == {"frames": RATE}

    # one undo step takes all of it away, one redo brings all of it back
    assert found["undo"][-1] == "Segue: continue, 3 takes" and len(found["undo"]) == len(before["undo"]) + 1
    host.ask("undo")
    assert host.state()["tracks"] == before["tracks"]
    host.ask("redo")
    assert host.state()["tracks"] == found["tracks"]
    assert host.job_folders() == [], "the job directory is cleared away"
    assert not found["window"]["open"]


def test_what_is_read_is_what_lies_there(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    """Two items with a gap, a third one unselected in the gap, and a time selection that cuts."""
    host = reaper(None)
    rng = np.random.default_rng(5)
    sound = rng.uniform(-0.5, 0.5, (RATE, 2)).astype(np.float32)
    for name in ("a", "b", "c"):
        write_wav(tmp_path / f"{name}.wav", sound, RATE)
    items = [
        {"path": str(tmp_path / "a.wav"), "position": 0.0, "length": 0.5, "selected": True, "offset": 0.25},
        {"path": str(tmp_path / "b.wav"), "position": 0.5, "length": 0.5},
        {"path": str(tmp_path / "c.wav"), "position": 1.0, "length": 0.75, "selected": True},
    ]
    command = tmp_path / "keeps everything"
    command.write_text(f'#!/bin/sh\ncp -r "$2" "{tmp_path}/part" && mv "{tmp_path}/part" "{tmp_path}/kept"\n')
    command.chmod(0o700)
    (host.resource / "Scripts" / "Segue" / "segue-command.txt").write_text(f"{command}\n")
    host.ask("lay", rate=RATE, tracks=[{"items": items}], selection=[0.25, 1.5])
    settings(host)
    host.action("Continue selection")
    host.until(lambda _: (tmp_path / "kept" / "request.json").exists())
    request = json.loads((tmp_path / "kept" / "request.json").read_text())
    rate, heard = read_wav(tmp_path / "kept" / "prompt.wav")
    at = round(RATE * 0.25)
    expected = np.concatenate([sound[2 * at : 3 * at], np.zeros((2 * at, 2)), sound[: 2 * at]])
    assert rate == RATE and np.array_equal(heard, expected.astype(np.float32))
    assert request["audio"] == [{"file": "prompt.wav", "position": -5 * at, "role": "prompt"}]
    assert request["length"] == {"frames": RATE} and request["takes_folder"] == str(host.media)


def test_without_the_command_it_says_what_to_run(reaper: Make, tmp_path: Path) -> None:
    host = reaper(None)
    song(host, tmp_path)
    host.action("Continue selection")
    (message,) = host.state()["messages"]
    assert "segue install reaper" in message
    (host.resource / "Scripts" / "Segue" / "segue-command.txt").write_text("/nowhere/segue\n")
    host.action("Continue selection")
    assert "/nowhere/segue" in host.state()["messages"][1]
    assert host.job_folders() == [] and host.state()["started"] == []


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("Continue selection", "item"),
        ("Accompany selection", "items"),
        ("Vary", "item"),
        ("Fill time selection", "time selection"),
        ("Retake", "item that Segue made"),
        ("Cancel", "Nothing is under way"),
    ],
)
def test_nothing_selected_is_a_sentence(
    reaper: Make, segue_command: Path, tmp_path: Path, action: str, word: str
) -> None:
    host = reaper(segue_command)
    host.ask("lay", rate=RATE, tracks=[{"name": "empty"}])
    host.action(action)
    (message,) = host.state()["messages"]
    assert word in message and host.state()["started"] == []


def test_mono_stays_mono_at_the_projects_rate(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    write_wav(tmp_path / "voice.wav", tone(1.0, 44_100, 1), 44_100)
    item = {"path": str(tmp_path / "voice.wav"), "position": 1.0, "length": 1.0, "selected": True}
    host.ask("lay", rate=44_100, tracks=[{"items": [item]}])
    settings(host, variations=1, seconds=0.75, crossfade=False)
    host.action("Continue selection")
    ((item, take),) = all_takes(host.run())
    rate, samples = read_wav(Path(take["path"]))
    assert rate == 44_100 and samples.shape[1] == 1
    assert round(item["info"]["D_LENGTH"] * 44_100, 6) == 33_075


def test_the_crossfade_opens_the_handle(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    song(host, tmp_path)
    settings(host, variations=2, crossfade=True)
    host.action("Continue selection")
    found = host.run()
    source, item = found["tracks"][0]["items"]
    info = item["info"]
    opened = round((2.0 - info["D_POSITION"]) * RATE)
    assert opened == 3840, "80 ms of handle"
    assert round((info["D_POSITION"] + info["D_LENGTH"]) * RATE) == 3 * RATE
    assert info["D_FADEINLEN_AUTO"] == source["info"]["D_FADEOUTLEN_AUTO"] == opened / RATE
    assert info["C_FADEINSHAPE"] == source["info"]["C_FADEOUTSHAPE"] == 1
    for take in item["takes"]:
        _, samples = read_wav(Path(take["path"]))
        assert round(take["info"]["D_STARTOFFS"] * RATE) + opened + RATE == len(samples)
    host.ask("undo")
    assert host.state()["tracks"][0]["items"][0]["info"]["D_FADEOUTLEN_AUTO"] == -1


@pytest.mark.parametrize("lanes", [False, True], ids=["takes", "lanes"])
def test_stems_come_on_tracks_of_their_own(
    reaper: Make, segue_command: Path, tmp_path: Path, lanes: bool
) -> None:
    host = reaper(segue_command)
    song(host, tmp_path)
    settings(host, variations=2, stems=True, model="stems", takes="lanes" if lanes else "takes")
    host.action("Continue selection")
    found = host.run()
    made = {track["name"]: track for track in found["tracks"][1:]}
    assert sorted(made) == ["segue bass", "segue drums", "segue other"]
    for name, track in made.items():
        stem = name.split()[1]
        if lanes:
            assert [item["info"]["I_FIXEDLANE"] for item in track["items"]] == [0, 1]
            assert track["info"]["I_FREEMODE"] == 2
            assert (track["info"]["C_LANEPLAYS:0"], track["info"]["C_LANEPLAYS:1"]) == (1, 0)
        else:
            assert len(track["items"]) == 1
        names = [take["name"] for item in track["items"] for take in item["takes"]]
        assert names == [f"segue continue v{v} {stem} seed 7" for v in (1, 2)]
        assert {item["info"]["D_POSITION"] for item in track["items"]} == {2.0}
    host.ask("undo")
    assert len(host.state()["tracks"]) == 1


def test_on_the_next_bar(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    song(host, tmp_path, seconds=2.3, tempo=[{"qn": 0, "bpm": 97, "beats": 3, "unit": 4}])
    settings(host, variations=1, start="bar", length="bars", bars=2)
    host.action("Continue selection")
    ((item, take),) = all_takes(host.run())
    bar_s = 3 * 60 / 97
    assert round(item["info"]["D_POSITION"] * RATE, 6) == round(2 * bar_s * RATE)
    assert round(item["info"]["D_LENGTH"] * RATE, 6) == round(4 * bar_s * RATE) - round(2 * bar_s * RATE)
    lead = round(2 * bar_s * RATE) - round(2.3 * RATE)
    _, samples = read_wav(Path(take["path"]))
    assert len(samples) == round((take["info"]["D_STARTOFFS"] + item["info"]["D_LENGTH"]) * RATE)
    assert round(take["info"]["D_STARTOFFS"] * RATE) >= lead, "what lies between is in the handle"


def test_a_retake_comes_beside_the_first_takes(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    song(host, tmp_path)
    settings(host, variations=2)
    host.action("Continue selection")
    first = host.run()
    host.ask("touch", what="select", track=0, item=1)
    host.action("Retake")
    found = host.run()
    (item,) = landed_items(found)
    names = [take["name"] for take in item["takes"]]
    assert names[:2] == [f"segue continue v{v} seed 7" for v in (1, 2)] and len(names) == 4
    assert item["active"] == 3 and "seed 7" not in names[2]
    (before,) = landed_items(first)
    for name in ("D_POSITION", "D_LENGTH"):
        assert item["info"][name] == before["info"][name]
    assert item["takes"][2]["info"] == item["takes"][0]["info"]
    assert item["takes"][2]["path"] != item["takes"][0]["path"]
    host.ask("undo")
    assert host.state()["tracks"] == first["tracks"]


@pytest.mark.parametrize("source", ["pre", "post"])
def test_generated_filled_and_with_effects(
    reaper: Make, segue_command: Path, tmp_path: Path, source: str
) -> None:
    """Post-FX audio comes from a render, and what was set for it is put back."""
    host = reaper(segue_command)
    song(host, tmp_path, gain=0.5)
    settings(host, variations=1, source=source, seconds=0.5, landing="end")
    before = host.state()
    host.action("Continue selection")
    found = host.run()
    assert len(all_takes(found)) == 1
    kept = {name: value for name, value in found["info"].items() if value}
    assert kept == before["info"] and not any(found["texts"].values())
    assert [t["selected"] for t in found["tracks"]] == [t["selected"] for t in before["tracks"]]


def test_a_project_that_was_never_recorded_into(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    """REAPER makes the media folder when it is needed first, and so does Segue."""
    host = reaper(segue_command)
    song(host, tmp_path)
    host.media.rmdir()
    settings(host, variations=1, seconds=0.25)
    host.action("Continue selection")
    assert len(all_takes(host.run())) == 1 and len(list(host.media.iterdir())) == 1


def test_at_the_cursor_from_a_text(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    host.ask("lay", rate=RATE, tracks=[], cursor=3.25)
    settings(host, variations=2, text="a waltz in blue", seconds=0.5)
    host.action("Generate at cursor")
    found = host.run()
    (item,) = landed_items(found)
    assert item["info"]["D_POSITION"] == 3.25 and len(item["takes"]) == 2
    assert [track["name"] for track in found["tracks"]] == ["segue"]
    assert json.loads(item["ext"]["segue"])["settings"]["text"] == "a waltz in blue"


@pytest.mark.parametrize("crossfade", [False, True], ids=["exact", "crossfaded"])
def test_the_gap_is_filled_at_its_exact_length(
    reaper: Make, segue_command: Path, tmp_path: Path, crossfade: bool
) -> None:
    """The gap lies on the track between two items; what follows it is given as well."""
    host = reaper(segue_command)
    write_wav(tmp_path / "riff.wav", tone(2.0), RATE)
    items = [
        {"path": str(tmp_path / "riff.wav"), "position": at, "length": 2.0, "selected": at == 0.0}
        for at in (0.0, 3.5)
    ]
    host.ask("lay", rate=RATE, tracks=[{"items": items}], selection=[2.0, 3.5])
    settings(host, variations=2, crossfade=crossfade)
    host.action("Fill time selection")
    found = host.run()
    (item,) = landed_items(found)
    if crossfade:  # open at both ends, over the handle and over the tail
        before, _, behind = sorted(found["tracks"][0]["items"], key=lambda one: one["info"]["D_POSITION"])
        opened, longer = before["info"]["D_FADEOUTLEN_AUTO"], behind["info"]["D_FADEINLEN_AUTO"]
        assert opened == item["info"]["D_FADEINLEN_AUTO"] == 0.08
        assert longer == item["info"]["D_FADEOUTLEN_AUTO"] == 0.08
        assert round(item["info"]["D_POSITION"] * RATE) == round((2.0 - opened) * RATE)
        assert round(item["info"]["D_LENGTH"] * RATE) == round((1.5 + opened + longer) * RATE)
        _, samples = read_wav(Path(item["takes"][0]["path"]))
        assert len(samples) == round(item["info"]["D_LENGTH"] * RATE)
        assert item["takes"][0]["info"]["D_STARTOFFS"] == 0
        return
    assert len(found["tracks"]) == 1, "there is room on the track itself"
    assert item["info"]["D_POSITION"] == 2.0 and item["info"]["D_LENGTH"] == 1.5 and len(item["takes"]) == 2
    stored = json.loads(item["ext"]["segue"])["settings"]
    assert [(entry["role"], entry["position"]) for entry in stored["audio"]] == [
        ("prompt", -2 * RATE), ("following", round(1.5 * RATE)),
    ]  # fmt: skip


def test_a_variation_lands_beside_its_source(reaper: Make, segue_command: Path, tmp_path: Path) -> None:
    host = reaper(segue_command)
    song(host, tmp_path, seconds=1.25)
    settings(host, variations=3, strength=0.3)
    host.action("Vary")
    found = host.run()
    (item,) = landed_items(found)
    assert [track["name"] for track in found["tracks"]] == ["riff", "segue"]
    assert (item["info"]["D_POSITION"], item["info"]["D_LENGTH"], len(item["takes"])) == (0.0, 1.25, 3)
    stored = json.loads(item["ext"]["segue"])["settings"]
    assert stored["strength"] == 0.3 and stored["audio"][0]["role"] == "source"


def test_accompanying_gives_every_track_and_brings_stems(
    reaper: Make, segue_command: Path, tmp_path: Path
) -> None:
    host = reaper(segue_command)
    write_wav(tmp_path / "riff.wav", tone(2.0), RATE)
    item = {"path": str(tmp_path / "riff.wav"), "position": 1.0, "length": 2.0, "selected": True}
    host.ask("lay", rate=RATE, tracks=[{"items": [item]}, {"items": [item]}])
    settings(host, variations=1, model="stems")
    host.action("Accompany selection")
    found = host.run()
    landed = landed_items(found)
    assert len(landed) == len(found["tracks"]) - 2 >= 1
    for item in landed:
        assert (item["info"]["D_POSITION"], item["info"]["D_LENGTH"]) == (1.0, 2.0)
    stored = json.loads(landed[0]["ext"]["segue"])["settings"]
    assert [(entry["role"], entry["track"], entry["position"]) for entry in stored["audio"]] == [
        ("context", 0, -RATE), ("context", 1, -RATE),
    ]  # fmt: skip
    assert stored["length"] == {"frames": 2 * RATE}


def test_what_segue_install_copies_works(segue_command: Path, tmp_path: Path, reaper: Make) -> None:
    """The scripts run from where `segue install reaper` put them, and start the command it named."""
    from bridge_clients.reaper import SCRIPTS
    from tests.hosts.reaper_host import ReaperHost

    resources = tmp_path / "home" / ".config" / "REAPER"
    resources.mkdir(parents=True)
    environment = {
        **os.environ, "HOME": str(tmp_path / "home"), "XDG_DATA_HOME": str(tmp_path / "data"),
        "SEGUE_COMMAND": str(segue_command),
    }  # fmt: skip
    environment.pop("XDG_CONFIG_HOME", None)
    words = [sys.executable, "-P", "-m", "bridge_clients.cli.main", "install", "reaper"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Settings.lua" in done.stdout
    installed = resources / "Scripts" / "Segue"
    assert len(list(installed.glob("Segue - *.lua"))) == len(list(SCRIPTS.glob("*.lua"))) == 8
    host = ReaperHost(tmp_path, None, scripts=installed, resource=resources)
    try:
        song(host, tmp_path)
        settings(host, variations=1, seconds=0.25)
        host.action("Continue selection")
        assert len(all_takes(host.run())) == 1
        assert host.state()["started"][0][0] == str(segue_command)
    finally:
        host.close()
    done = subprocess.run(
        [*words, "--uninstall"], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0 and not list(installed.glob("**/*.lua")), done.stdout + done.stderr


def test_the_real_model_goes_on(reaper: Make, pocket_command: Path, tmp_path: Path) -> None:
    host = reaper(pocket_command)
    song(host, tmp_path, seconds=4.0, tempo=[{"qn": 0, "bpm": 120, "beats": 4, "unit": 4}])
    settings(host, variations=2, length="bars", bars=1, crossfade=False)
    host.action("Continue selection")
    landed = all_takes(host.run(240))
    assert len(landed) == 2
    sounds = []
    for item, take in landed:
        assert item["info"]["D_POSITION"] == 4.0 and item["info"]["D_LENGTH"] == 2.0
        rate, samples = read_wav(Path(take["path"]))
        offset = round(take["info"]["D_STARTOFFS"] * RATE)
        assert rate == RATE and len(samples) == offset + 2 * RATE
        assert float(np.abs(samples[offset:]).max()) > 0.001
        sounds.append(samples[offset:])
    assert not np.array_equal(sounds[0], sounds[1])
