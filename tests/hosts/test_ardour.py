"""The real Ardour under Xvfb, its keys pressed over OSC: selection, segue, takes on the timeline."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_clients.ardour import compose
from protocol import messages as m
from tests.hosts import ardour_gui
from tests.hosts.ardour_gui import Ardour
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import read_wav, write_wav

pytestmark = pytest.mark.skipif(bool(ardour_gui.missing()), reason=ardour_gui.missing() or "it is there")

RATE = 48_000
SEAM = 288_000
BLOCKED_S = 0.050
"""So long may a turn of ours keep the editor's thread."""
WORDS = ("continue", "accompany", "vary", "fill", "generate", "retake", "cancel", "settings")


class Studio:
    """An Ardour with one track of noise from sample 96,000 to the seam, and a daemon."""

    def __init__(self, house: HostHouse, ardour: Ardour) -> None:
        self.house, self.ardour = house, ardour
        self.home = ardour.session / "segue"

    def drive(self, call: str) -> str:
        return self.ardour.lua(f"loadfile([[{ardour_gui.HERE / 'ardour_driver.lua'}]])() return {call}")

    def regions(self, part: str = "segue ") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.drive("drive.regions ()"))
        return sorted((r for r in found if r["name"].startswith(part)), key=lambda r: r["name"])

    def marks(self) -> list[str]:
        return [mark["name"] for mark in json.loads(self.drive("drive.marks ()"))]

    def set(self, **settings: Any) -> None:
        given = {"variations": 1, "bars": 2, "crossfade": False, "level": "off", "seed": "7", **settings}
        (self.home / "settings.json").write_text(json.dumps(given))

    def history(self) -> list[dict[str, Any]]:
        path = self.home / "history"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def job(self) -> Path:
        """The directory of the only job under way."""
        (found,) = (path for path in (self.home / "jobs").iterdir() if (path / "progress").exists())
        return found

    def until(self, done: Callable[[], Any], wait_s: float, what: str) -> Any:
        by = time.monotonic() + wait_s
        while True:
            try:
                if found := done():
                    return found
            except (OSError, ValueError):
                pass
            assert time.monotonic() < by, f"{what}: not within {wait_s} s; marks {self.marks()}"
            time.sleep(0.02)

    def act(self, word: str, wait_s: float = 40.0) -> dict[str, Any]:
        """Press the action's key and wait until its takes have landed; what history says of them."""
        before = len(self.history())
        self.ardour.act(f"segue_{word}.lua")
        self.until(lambda: len(self.history()) > before, wait_s, word)
        self.until(lambda: not any((self.home / "orders").iterdir()), 5, "the end of the job")
        return self.history()[-1]

    def steps(self) -> int:
        """The daemon's count of steps made of the newest job."""
        with self.house.client() as wire:
            jobs = wire.ask(m.List(limit=1)).jobs
            tick = wire.ask(m.Status(job=jobs[0].job)).info.tick if jobs else None
        return int(tick.step) if tick is not None else -1

    def hook(self) -> dict[str, Any]:
        time.sleep(1.1)  # it writes its figures once a second
        found: dict[str, Any] = json.loads((self.home / "hook.json").read_text())
        return found


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.5, 0.5, (192_000, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def studio(noise: np.ndarray) -> Iterator[Studio]:
    house = HostHouse()
    ardour = None
    try:
        house.start()
        names = [f"segue_{word}.lua" for word in WORDS]
        ardour = Ardour(
            compose.HERE / "scripts", names, "segue_jobs.lua", os.environ, house.write_command(house.folder)
        )
        ardour.make_session()
        ardour.start()
        made = Studio(house, ardour)
        write_wav(ardour.folder / "prompt.wav", noise)
        made.drive(f"drive.import ([[{ardour.folder}/prompt.wav]], 96000)")
        made.until(lambda: (made.home / "hook.json").exists(), 10, "the hook")
        yield made
        print("\nArdour's hook:", made.hook())
    finally:
        if ardour is not None:
            ardour.close()
        house.close()


def _sounds_as_its_file(studio: Studio, region: dict[str, Any]) -> None:
    """What the region plays is what the file holds from the region's offset on, to the last bit."""
    path = studio.ardour.folder / "dump"
    studio.drive(f"drive.dump ([[{region['name']}]], [[{path}]])")
    heard = np.fromfile(path, "<f4").reshape(region["channels"], -1).T
    rate, samples = read_wav(Path(region["file"]))
    assert rate == RATE
    np.testing.assert_array_equal(heard, samples[region["start"] : region["start"] + region["length"]])


def test_takes_land_at_the_exact_sample_and_are_undone_in_one_step(studio: Studio) -> None:
    studio.drive("drive.pick ('prompt')")
    studio.set(variations=3)
    frames = _two_bars()
    studio.act("continue")
    takes = studio.regions()
    assert [t["name"] for t in takes] == [f"segue continue v{v} seed 7" for v in (1, 2, 3)]
    for take in takes:
        assert (take["position"], take["length"], take["channels"]) == (SEAM, frames, 2)
        assert take["start"] == 3840, "80 ms of handle lie before it in the file, to be pulled open"
        assert Path(take["file"]).parent.name == "audiofiles", "it lies in the session and moves with it"
        _sounds_as_its_file(studio, take)
    assert len({t["playlist"] for t in takes}) == 3 and {t["track"] for t in takes} == {"prompt segue"}
    assert [t["active"] for t in takes] == [True, False, False]
    studio.drive("Editor:undo (1)")
    assert studio.regions() == []
    studio.drive("Editor:redo (1)")
    assert studio.regions() == takes
    studio.drive("Editor:undo (1)")
    assert not any(mark.startswith("segue") for mark in studio.marks())


def _two_bars() -> int:
    """Two bars from the seam on: 7/8 at 97, from quarter 13 on at 141.5, in Ardour's clock of 282,240,000."""
    clock = 282_240_000 * 60
    slow, fast = round(clock / 97), round(clock / 141.5)
    quarter = 8 + Fraction((SEAM - 192_000) * 282_240_000, RATE * slow) + 7
    clock = 192_000 * 282_240_000 // RATE + 5 * slow + (quarter - 13) * fast
    return math.floor(clock * RATE / 282_240_000) - SEAM


def test_the_seam_is_crossfaded_at_equal_power(studio: Studio) -> None:
    def fade_out() -> str:
        """How the source fades out, as the session's file has it: Ardour 7's Lua cannot tell."""
        studio.drive("Session:save_state ('')")
        text = (studio.ardour.session / "song.ardour").read_text()
        region = re.search(r'<Playlist [^>]*name="prompt".*?</Playlist>', text, re.S)
        assert region is not None
        found = re.search(r"<FadeOut.*?</FadeOut>|<FadeOut[^>]*/>", region[0], re.S)
        assert found is not None
        return re.sub(r'id="[0-9]+"', "", found[0])

    studio.drive("drive.pick ('prompt')")
    studio.set(crossfade=True, seed="8")
    before = fade_out()
    studio.act("continue")
    assert fade_out() != before, "the source fades out while the take fades in"
    (take,) = studio.regions()
    assert (take["position"], take["start"], take["sync"]) == (SEAM - 3840, 0, SEAM)
    assert take["position"] + take["length"] == SEAM + _two_bars()
    assert take["fade_in"]
    studio.drive("drive.pick ('segue continue v1 seed 8')")
    studio.set(crossfade=True, seed="9")
    studio.act("continue")  # and on from the take, on the same playlist
    one, two = studio.regions()
    assert (one["playlist"], one["track"]) == (two["playlist"], two["track"])
    assert two["sync"] == one["position"] + one["length"] == two["position"] + 3840
    studio.drive("Editor:undo (1)")
    assert studio.regions() == [take]
    studio.drive("Editor:undo (1)")
    assert studio.regions() == []
    assert fade_out() == before, "the one step takes that back too"


def test_hostile_texts_pass_unharmed_and_execute_nothing(studio: Studio) -> None:
    bait = studio.ardour.folder / "bait"
    text = f"\"'`$(touch {bait})\n;touch {bait}\\ %s 🎷 ]] --" + "é" * 5000
    studio.drive("drive.pick ('prompt')")
    studio.set(text=text, negative_text=text[:300])
    landed = studio.act("continue")
    assert landed["settings"]["text"] == text and landed["settings"]["negative_text"] == text[:300]
    with studio.house.client() as wire:
        info = wire.ask(m.Status(job=landed["job"])).info
    assert info.text == text
    assert not bait.exists()
    studio.drive("Editor:undo (1)")


def test_cancel_stops_the_daemon_within_200_ms(studio: Studio, noise: np.ndarray) -> None:
    studio.drive("drive.pick ('prompt')")
    studio.set(text="slow=20", bars=60)
    studio.ardour.act("segue_continue.lua")
    studio.until(lambda: studio.steps() > 5, 20, "the first steps")
    mark = next(name for name in studio.marks() if name.startswith("segue "))
    assert "%" in mark
    rate, sent = read_wav(studio.job() / "prompt.wav")
    assert rate == RATE
    np.testing.assert_array_equal(sent, noise)  # exactly what was selected
    begun = time.monotonic()
    studio.ardour.act("segue_cancel.lua")
    last, still_since = studio.steps(), time.monotonic()
    while time.monotonic() - begun < 1.5:
        now = studio.steps()
        if now not in (last, -1):
            last, still_since = now, time.monotonic()
        time.sleep(0.005)
    print(f"\ncancel: the last step was seen {1000 * (still_since - begun):.0f} ms after the key")
    assert still_since - begun < 0.2
    studio.until(lambda: not any((studio.home / "orders").iterdir()), 5, "the end of the job")
    assert studio.regions() == [] and not any(name.startswith("segue") for name in studio.marks())


def test_a_killed_daemon_leaves_the_editor_fluid_and_the_take_complete(studio: Studio) -> None:
    studio.drive("drive.pick ('prompt')")
    studio.set(text="slow=15 resumable", bars=8)
    before = len(studio.history())
    studio.ardour.act("segue_continue.lua")
    studio.until(lambda: studio.steps() > 20, 20, "the first steps")
    studio.ardour.longest_gap_s()
    studio.house.kill_current()
    seen: set[str] = set()

    def landed() -> bool:
        seen.update(name for name in studio.marks() if name.startswith("segue"))
        return len(studio.history()) > before

    studio.until(landed, 40, "the take after the daemon was killed")
    print("\nkilled:", sorted(seen, key=len)[-1])
    assert any("daemon" in name.lower() for name in seen), seen
    (take,) = studio.regions()
    assert take["position"] == SEAM
    _sounds_as_its_file(studio, take)
    studio.drive("Editor:undo (1)")
    studio.house.reconnect()


def test_a_gap_is_filled_to_the_sample(studio: Studio) -> None:
    studio.drive(f"drive.import ([[{studio.ardour.folder}/prompt.wav]], 400000)")
    studio.drive("drive.range (288000, 333333)")
    studio.set(crossfade=False)
    landed = studio.act("fill")
    (take,) = studio.regions()
    assert (take["name"], take["position"], take["length"]) == ("segue fill v1 seed 7", SEAM, 45_333)
    roles = [(a["role"], a["to"] - a["from"]) for a in landed["order"]["audio"]]
    assert roles[0] == ("prompt", SEAM) and roles[1][0] == "following"
    studio.drive("Editor:undo (1)")


def test_a_variation_lies_where_its_source_lies(studio: Studio) -> None:
    studio.drive("drive.pick ('prompt')")
    studio.set(strength=0.3)
    landed = studio.act("vary")
    assert landed["settings"]["strength"] == 0.3
    (take,) = studio.regions()
    assert (take["name"], take["position"], take["length"]) == ("segue vary v1 seed 7", 96_000, 192_000)
    studio.drive("Editor:undo (1)")


def test_stems_have_tracks_of_their_own_and_a_retake_another_seed(studio: Studio) -> None:
    studio.drive("drive.pick ()")
    studio.drive("Session:request_locate (48000, false, ARDOUR.LocateTransportDisposition.MustStop, "
                 "ARDOUR.TransportRequestSource.TRS_UI)")  # fmt: skip
    studio.until(lambda: studio.drive("Session:transport_sample ()") == "48000", 5, "the playhead")
    studio.set(model="stems", stems=True, takes="tracks", variations=2, bars=1)
    studio.act("generate")
    takes = studio.regions()
    assert len(takes) == 6
    assert {t["name"] for t in takes} == {
        f"segue generate v{v} seed 7 {stem}" for v in (1, 2) for stem in ("drums", "bass", "other")
    }
    assert len({t["track"] for t in takes}) == 6
    assert {t["position"] for t in takes} == {48_000}
    studio.act("retake")
    assert len(studio.regions()) == 12
    assert len({t["name"].split()[4] for t in studio.regions()}) == 2
    studio.drive("Editor:undo (1)")
    assert [t["name"] for t in studio.regions()] == [t["name"] for t in takes]
    studio.drive("Editor:undo (1)")
    assert studio.regions() == []


def test_what_cannot_be_made_is_said_on_the_timeline(studio: Studio) -> None:
    studio.drive("drive.pick ('prompt')")
    studio.set(model="no such model")
    studio.ardour.act("segue_continue.lua")
    said = studio.until(
        lambda: next((name for name in studio.marks() if name.startswith("segue failed")), ""),
        20,
        "the failure",
    )
    assert "no such model" in said
    studio.until(lambda: not any((studio.home / "orders").iterdir()), 5, "the end of the job")
    assert studio.regions() == []


def test_accompany_hears_every_selected_track_and_brings_what_is_missing(studio: Studio) -> None:
    studio.drive("Session:route_by_name ('prompt'):set_name ('My drums')")
    studio.drive("drive.pick ('prompt')")
    studio.set(model="stems")
    landed = studio.act("accompany")
    (heard,) = landed["order"]["audio"]
    assert (heard["role"], heard["stem"], heard["position"]) == ("context", "drums", 0)
    takes = studio.regions()
    assert {t["name"] for t in takes} == {f"segue accompany v1 seed 7 {stem}" for stem in ("bass", "other")}
    assert {(t["position"], t["length"]) for t in takes} == {(96_000, 192_000)}
    studio.drive("Editor:undo (1)")
    assert studio.regions() == []


def test_no_turn_keeps_the_editor_longer_than_50_ms(studio: Studio) -> None:
    figures = studio.hook()
    print("\nhook:", figures)
    assert figures["turns"] > 50
    assert figures["longest_ms"] <= 1000 * BLOCKED_S


def test_a_session_that_is_opened_again_gets_its_take(studio: Studio) -> None:
    studio.drive("drive.pick ('prompt')")
    studio.set(text="slow=15", bars=4)
    before = len(studio.history())
    studio.ardour.act("segue_continue.lua")
    studio.until(lambda: studio.steps() > 5, 20, "the first steps")
    studio.drive("Session:save_state ('')")
    studio.ardour.quit()
    studio.ardour.launch()
    studio.until(lambda: len(studio.history()) > before, 40, "the take in the session that was opened again")
    (take,) = studio.regions()
    assert (take["position"], take["start"]) == (SEAM, 3840)
    _sounds_as_its_file(studio, take)
