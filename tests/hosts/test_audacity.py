"""`segue audacity` with the real Audacity under Xvfb: what lands, where it lands, and what takes it away."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hosts.audacity_host import Audacity, missing
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import read_wav, write_wav

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")

RATE = 48_000
Segue = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def running() -> Iterator[Audacity]:
    host = Audacity()
    try:
        yield host.start()
    finally:
        host.close()


@pytest.fixture
def audacity(running: Audacity) -> Audacity:
    """Running, without tracks."""
    if running.process is None or running.process.poll() is not None:
        running.start()
    running.empty()
    return running


@pytest.fixture
def segue(segue_command: Path) -> Segue:
    """`segue audacity WORDS`, ended; its lines of JSON are in `.stdout`."""

    def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(segue_command), "audacity", *map(str, words), "--json"],
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def event(done: subprocess.CompletedProcess[str], name: str) -> dict[str, Any]:
    """The one event of that name."""
    (found,) = [line for line in map(json.loads, done.stdout.splitlines()) if line["event"] == name]
    return found


def noise(folder: Path, seconds: float = 4.0, rate: int = RATE, channels: int = 2, name: str = "in") -> Path:
    samples = np.random.default_rng(1).uniform(-0.4, 0.4, (round(seconds * rate), channels))
    write_wav(folder / f"{name}.wav", samples.astype(np.float32), rate)
    return folder / f"{name}.wav"


def take_of(house: HostHouse, job: str, variation: int = 0, part: str = "take") -> np.ndarray:
    """The daemon's own file."""
    from protocol import messages as m

    with house.client() as wire:
        reply = wire.ask(m.Fetch(job=job, variation=variation, part=part))
    return read_wav(Path(reply.path))[1]


@pytest.mark.parametrize(
    ("rate", "channels", "end_s"), [(48_000, 2, 3.0), (44_100, 1, 2.345678), (22_050, 2, 1.999999)]
)
def test_a_take_lands_at_the_exact_sample_with_the_exact_length_and_the_files_own_samples(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path, rate: int, channels: int,
    end_s: float,
) -> None:  # fmt: skip
    audacity.load(noise(tmp_path, rate=rate, channels=channels))
    audacity.select(0.5, end_s)
    done = segue("continue", "--seconds", "1.234", "--seed", "7")
    landed = event(done, "landed")
    seam, frames = round(0.5 * rate) + round((end_s - 0.5) * rate), round(1.234 * rate)
    assert (landed["at_frame"], landed["frames"], landed["rate"]) == (seam, frames, rate)
    assert landed["undo_steps"] == 1
    assert audacity.names() == ["in", "segue continue v1 seed 7", "segue"]
    take = take_of(coded_house, landed["job"])
    assert take.shape == (frames, channels)
    # one export over the edges: silence to the very sample before, the file's own samples, silence after
    heard = audacity.heard(1, seam - 50, seam + frames + 50)
    np.testing.assert_array_equal(heard[50:-50], take)
    assert not heard[:50].any() and not heard[-50:].any()
    # the selection is as the user left it
    place = audacity.place()
    assert (place.start_frame, place.end_frame) == (round(0.5 * rate), seam)
    assert [track.index for track in place.selected] == [0]


def test_one_undo_takes_all_variations_away_and_redo_brings_them_back(
    audacity: Audacity, segue: Segue, coded_house: HostHouse, tmp_path: Path
) -> None:
    audacity.load(noise(tmp_path))
    audacity.select(1.0, 2.0)
    job = event(segue("continue", "--seconds", "0.5", "--seed", "3", "--variations", "3"), "landed")["job"]
    names = ["in", *(f"segue continue v{n} seed 3" for n in (1, 2, 3)), "segue"]
    assert audacity.names() == names
    audacity.do("Undo:")
    assert audacity.names() == ["in"]
    audacity.do("Redo:")
    assert audacity.names() == names
    audacity.do("Undo:", "Undo:")  # the landing, and the file that the test has loaded
    assert audacity.names() == []
    audacity.do("Redo:", "Redo:")
    for variation in range(3):  # all but the first are muted, so that they do not sound together
        audacity.do(f"SelectTracks: Track={variation + 1} TrackCount=1 Mode=Set", "SetTrackAudio: Mute=0")
        heard = audacity.heard(variation + 1, 2 * RATE, 2 * RATE + RATE // 2)
        np.testing.assert_array_equal(heard, take_of(coded_house, job, variation))
