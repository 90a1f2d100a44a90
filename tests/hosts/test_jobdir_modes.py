"""What producers ask for, through the job directory: each sample where its line says, in every mode."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol import messages as m
from tests.daemon import engine
from tests.hosts.conftest import HostHouse
from tests.hosts.kit import HostJob, Jobs, read_wav, tone, write_wav

RATE = engine.RATE
EDGE = engine.HANDLE_FRAMES * engine.HOP
MAP = {"changes": [{"at": 0, "bpm": 120}, {"at": 12, "bpm": 90, "beats": 3}], "start": 9.0}


def sound() -> np.ndarray:
    return tone(rate=RATE, channels=1)


def ask(jobs: Jobs, files: dict[str, dict[str, Any]], **request: Any) -> tuple[HostJob, dict[str, Any]]:
    """A job with a second of tone under each name, with these words about it."""
    job = jobs.lay(
        rate=RATE, channels=1, audio=[{"file": f, **words} for f, words in files.items()], **request
    )
    for name in files:
        write_wav(job.folder / name, sound(), RATE)
    done = job.start().wait()
    assert done["state"] == "done", done
    return job, done


def test_on_the_next_bar(jobs: Jobs) -> None:
    """The seam lies on beat 2 of bar 3; bar 4 begins 3 quarters of 120 bpm later and has 3 of 90."""
    job, done = ask(
        jobs, {"p.wav": {"role": "prompt"}}, length={"bars": 2}, tempo_map=MAP, start="bar", tail_ms=125
    )
    lead, bars = 3 * RATE // 2, 6 * 60 * RATE // 90
    assert job.lines("accepted")[0]["lead_frames"] == done["lead_frames"] == lead
    (take,) = done["takes"]
    assert (take["position"], take["frames"], take["tail_frames"]) == (lead, bars, RATE // 8)
    _, samples = read_wav(job.folder / take["file"])
    assert len(samples) == take["handle_frames"] + bars + RATE // 8
    # the file's sample number handle_frames lies `lead` samples after the seam
    first = lead - take["handle_frames"]
    np.testing.assert_array_equal(samples[:, 0], engine.samples(7, 0, "mix", first, len(samples))[0])


def test_a_gap_is_filled_to_the_sample(jobs: Jobs) -> None:
    files = {"p.wav": {"role": "prompt"}, "f.wav": {"role": "following"}}
    job, done = ask(jobs, files, mode="fill", length={"frames": 20_000})
    (take,) = done["takes"]
    assert (take["frames"], take["handle_frames"]) == (20_000, EDGE)
    assert take["tail_frames"] == RATE * 80 // 1000  # `fill` asks for it by itself
    assert len(read_wav(job.folder / take["file"])[1]) == EDGE + 20_000 + take["tail_frames"]


def test_a_variation_is_as_long_as_its_source(jobs: Jobs) -> None:
    job, done = ask(jobs, {"s.wav": {"role": "source"}}, mode="vary", length=None, strength=0.2, variations=2)
    assert [take["frames"] for take in done["takes"]] == [RATE, RATE]
    assert done["settings"]["strength"] == 0.2


def test_tracks_are_accompanied(jobs: Jobs) -> None:
    files = {
        "drums.wav": {"role": "context", "track": 0, "position": -RATE // 2, "stem": "drums"},
        "bass.wav": {"role": "context", "track": 1, "position": 0, "stem": "bass"},
    }
    job, done = ask(jobs, files, mode="generate", length={"seconds": 1.0})
    assert [e["stem"] for e in done["settings"]["audio"]] == ["drums", "bass"]
    refused = jobs.run(mode="accompany", length={"seconds": 1.0}, rate=RATE, audio=[])[1]
    assert (refused["state"], refused["code"]) == ("failed", "E_AUDIO")


def test_long_tracks_are_cut_to_what_matters(jobs: Jobs) -> None:
    """Ten minutes of a track around the seam: 60 s before and 60 s behind the new audio are sent."""
    job = jobs.lay(
        mode="generate", length={"seconds": 1.0}, rate=8000,
        audio=[{"file": "long.wav", "role": "context", "position": -8000 * 300}],
    )  # fmt: skip
    write_wav(job.folder / "long.wav", tone(600.0, 8000, 1), 8000)
    from bridge_clients.jobdir.folder import JobDir
    from bridge_clients.jobdir.request import read_request

    place = JobDir(job.folder)
    (block,) = read_request(place).submit.blocks
    place.close()
    assert (block.position, block.frames) == (-60 * 8000, 121 * 8000)
    assert job.start().wait()["state"] == "done"


def test_the_real_model_goes_on_and_stops(pocket_house: HostHouse, pocket_command: Path) -> None:
    """Two variations with stems; then a long one that is cancelled."""
    jobs = Jobs(pocket_house.folder / "jobs", pocket_command)
    given: dict[str, Any] = {"level": None, "tempo_map": {"changes": [{"at": 0, "bpm": 120}], "start": 4}}
    job, done = jobs.run(
        180, prompt=tone(2.0), variations=2, text="slow techno", length={"bars": "1/4"}, **given
    )
    assert done["state"] == "done", done
    assert {(take["variation"], take["stem"]) for take in done["takes"]} == {
        (v, stem) for v in (1, 2) for stem in ("mix", "drums", "bass", "other")
    }
    for take in done["takes"]:
        rate, samples = read_wav(job.folder / take["file"])
        assert (rate, take["frames"], samples.shape[1]) == (48_000, 24_000, 2)
        assert len(samples) == take["handle_frames"] + 24_000 and np.isfinite(samples).all()
    long = jobs.lay(prompt=tone(2.0), length={"seconds": 60}, **given).start()
    number = long.until("accepted")["job"]
    long.until("tick", 120, state="generating")
    (long.folder / "cancel").touch()
    begun = time.monotonic()
    with pocket_house.client() as wire:
        while wire.ask(m.Status(job=number)).info.state != "cancelled":
            assert time.monotonic() - begun < 10
            time.sleep(0.005)
    print(f"cancel: pocket stood still after {1000 * (time.monotonic() - begun):.0f} ms")
    assert long.wait()["state"] == "cancelled"
    jobs.close()


@pytest.mark.parametrize("loop", [True, False])
def test_a_loop_is_asked_for_by_its_name(jobs: Jobs, loop: bool) -> None:
    done = jobs.run(mode="generate", length={"seconds": 1.0}, loop=loop)[1]
    assert done["state"] == "done" and done["settings"].get("loop", False) is loop
