"""The model of the package in the real Ardour: music goes on from music, and it can be seen."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge_clients.ardour import compose
from tests.hosts import ardour_gui
from tests.hosts.ardour_gui import Ardour
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import read_wav
from tests.hosts.test_ardour import Studio

pytestmark = pytest.mark.skipif(bool(ardour_gui.missing()), reason=ardour_gui.missing() or "it is there")

RATE = 44_100
LOOP = ardour_gui.ROOT / "bridge_clients" / "cli" / "demo" / "loop.flac"
SHOTS = "SEGUE_TEST_SHOTS"
"""A folder that pictures of the editor are kept in; they are made for the README with this."""


@pytest.fixture
def studio(pocket_house: HostHouse) -> Iterator[Studio]:
    names = ["segue_continue.lua"]
    command = pocket_house.write_command(pocket_house.folder)
    ardour = Ardour(compose.HERE / "scripts", names, "segue_jobs.lua", os.environ, command, rate=RATE)
    try:
        ardour.make_session("plain")
        ardour.start()
        made = Studio(pocket_house, ardour)
        made.until(lambda: (made.home / "hook.json").exists(), 10, "the hook")
        yield made
        print("\nArdour's hook:", made.hook())
    finally:
        ardour.close()


def _picture(studio: Studio, name: str) -> None:
    """Before and after differ, and both are pictures; kept where the environment says."""
    if shutil.which("import") is None:
        return
    path = studio.ardour.folder / name
    studio.ardour.screenshot(path)
    assert 5_000 < path.stat().st_size < 200_000
    if os.environ.get(SHOTS):
        shutil.copy(path, Path(os.environ[SHOTS]) / name)


def test_music_goes_on_from_music(studio: Studio) -> None:
    shutil.copy(LOOP, studio.ardour.folder / "Disco.flac")
    studio.drive(f"drive.import ([[{studio.ardour.folder}/Disco.flac]], 0)")
    studio.drive("Editor:reset_zoom (720)")
    studio.drive("drive.pick ('Disco')")
    time.sleep(1.0)  # until it is drawn
    _picture(studio, "before.png")
    studio.set(bars=2, variations=2, text="disco, 120 bpm", level="match", crossfade=True)
    studio.act("continue", wait_s=280)
    first, second = studio.regions()
    loop = next(r for r in studio.regions("Disco") if r["name"] == "Disco")
    seam = loop["position"] + loop["length"]
    assert first["name"] == "segue continue v1 seed 7" and second["name"] == "segue continue v2 seed 7"
    for take in (first, second):
        handle = seam - take["position"]
        assert take["sync"] == seam and handle == round(0.08 * RATE) and take["start"] == 0
        assert take["length"] == handle + 4 * RATE, "two bars at 120"
        rate, samples = read_wav(Path(take["file"]))
        assert rate == RATE and len(samples) == take["length"]
        _, source = read_wav(LOOP)
        loudness = [
            float(np.sqrt(np.mean(np.square(part)))) for part in (source[-RATE:], samples[handle:][:RATE])
        ]
        assert 0.3 < loudness[1] / loudness[0] < 3, "as loud as what it goes on from"
    studio.drive("drive.pick ()")
    time.sleep(1.0)
    _picture(studio, "after.png")
    studio.drive("Editor:undo (1)")
    assert studio.regions() == []
