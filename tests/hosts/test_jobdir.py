"""`segue job DIR` with the real command and a real daemon: JOBDIR.md, sentence by sentence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.daemon import engine
from tests.hosts.kit import Jobs, read_wav, tone


def test_a_take_is_exactly_what_was_asked(jobs: Jobs) -> None:
    job, done = jobs.run(rate=engine.RATE, prompt=tone(rate=engine.RATE), length={"frames": 16_001})
    assert done["state"] == "done", done
    (take,) = done["takes"]
    (line,) = job.lines("take")
    assert {"event": "take", **take} == line
    assert take["handle_frames"] == engine.HANDLE_FRAMES * engine.HOP and take["position"] == 0
    rate, samples = read_wav(job.folder / take["file"])
    assert rate == take["rate"] == engine.RATE and take["frames"] == 16_001 and take["tail_frames"] == 0
    assert samples.shape == (take["handle_frames"] + 16_001, 2)
    start = -take["handle_frames"]
    expected = engine.samples(7, 0, "mix", start, len(samples), 2).T
    np.testing.assert_array_equal(samples, expected)
    assert done["seed"] == 7 and done["settings"]["seed"] == 7
    assert job.process is not None and job.process.returncode == 0


def test_everything_is_told_in_order_and_done_comes_last(jobs: Jobs) -> None:
    job, done = jobs.run(chunks=True, chunk_s=0.1, length={"seconds": 2.0}, variations=2, model="stems")
    kinds = [line["event"] for line in job.lines()]
    assert kinds.index("accepted") < kinds.index("audio") < kinds.index("take")
    accepted = job.lines("accepted")[0]
    assert (accepted["frames"], accepted["rate"], accepted["lead_frames"]) == (96_000, 48_000, 0)
    files = sorted(job.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert files[-1].name == "done"
    assert len(done["takes"]) == 2 * (1 + len(engine.STEMS))
    assert json.loads((job.folder / "manifest.json").read_text())["daemon"]["stems"]
    # chunks, put together, are the take
    for take in done["takes"]:
        chunks = [
            line for line in job.lines("audio")
            if (line["variation"], line["stem"]) == (take["variation"], take["stem"])
        ]  # fmt: skip
        assert len(chunks) > 1
        whole = np.concatenate([read_wav(job.folder / line["file"])[1] for line in chunks])
        assert chunks[0]["position"] == -take["handle_frames"]
        np.testing.assert_array_equal(whole, read_wav(job.folder / take["file"])[1])
    assert not [path.name for path in job.folder.iterdir() if path.name.startswith(".")]


def test_cancel_is_seen_and_the_daemon_stops(jobs: Jobs) -> None:
    job = jobs.lay(text="slow=20", length={"seconds": 60}).start()
    job.until("tick", state="generating")
    begun = time.monotonic()
    (job.folder / "cancel").touch()
    done = job.wait()
    took_s = time.monotonic() - begun
    assert done["state"] == "cancelled" and done["code"] == "E_CANCELLED" and took_s < 0.5
    assert job.process is not None and job.process.returncode == 130


def test_the_heartbeat_is_its_process_and_moves(jobs: Jobs) -> None:
    job = jobs.lay(text="slow=100", length={"seconds": 5}).start()
    job.until("tick", state="generating")
    beat = job.folder / "heartbeat"
    os.kill(json.loads(beat.read_text())["pid"], 0)
    seen, texts = set(), set()
    by = time.monotonic() + 2.2
    while time.monotonic() < by:
        seen.add(beat.stat().st_mtime_ns)
        texts.add(json.loads(beat.read_text())["beat"])
        time.sleep(0.02)
    assert len(seen) >= 4 and len(texts) >= 4 and beat.stat().st_size == 81
    (job.folder / "cancel").touch()
    job.wait()


@pytest.mark.parametrize(("mode", "group"), [(0o770, 12345), (0o707, 0), (0o777, 0)])
def test_a_directory_that_others_can_write_to_is_refused(
    jobs: Jobs, tmp_path: Path, mode: int, group: int
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to another group")
    job = jobs.lay()
    tmp_path.chmod(0o755)
    job.folder = job.folder.rename(tmp_path / job.folder.name)
    os.chown(job.folder, -1, group)
    job.folder.chmod(mode)
    done = job.start().wait()
    assert (done["state"], done["code"], done["field"]) == ("failed", "E_ARGUMENT", "DIR")
    assert not (job.folder / "progress").exists() and not (job.folder / "key").exists()


@pytest.mark.parametrize("mode", [0o755, 0o775])
def test_the_mode_of_an_umask_is_mended(jobs: Jobs, tmp_path: Path, mode: int) -> None:
    """What REAPER's Lua makes: nobody else could have come by, so nothing is refused."""
    job = jobs.lay()
    job.folder.chmod(mode)
    assert job.start().wait()["state"] == "done"
    assert job.folder.stat().st_mode & 0o777 == 0o700
