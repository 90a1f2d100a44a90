"""The command with the real client and a real daemon, whose model is the daemon tests' coded one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import ROOT
from tests.daemon import engine

Segue = Callable[..., subprocess.CompletedProcess[str]]
RATE = engine.RATE


@pytest.fixture(scope="module")
def house() -> Iterator[Path]:
    """A folder of its own for everything; short, because a socket's path may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="segue-cli-"))
    yield folder
    subprocess.run(line("stop", "--now"), env=environment(folder), capture_output=True, check=False)
    shutil.rmtree(folder)


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SEGUE_RUNTIME": str(folder / "r"),
        "SEGUE_STATE": str(folder / "s"),
        "SEGUE_MODELS": str(folder / "m"),
        "SEGUE_TEST_ENGINE": "tests.daemon.engine:make",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def line(*words: object) -> list[str]:
    return [sys.executable, "-m", "bridge_clients.cli", *map(str, words)]


@pytest.fixture
def segue(house: Path) -> Segue:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line(*words),
            cwd=house,
            env=environment(house),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture
def loop(house: Path) -> Path:
    path = house / "loop.wav"
    if not path.exists():
        noise = 0.2 * np.random.default_rng(0).standard_normal((2 * RATE, 1))
        soundfile.write(path, noise.clip(-1, 1), RATE, subtype="FLOAT")
    return path


def test_takes_land_sample_for_sample_and_are_kept_until_forgotten(
    segue: Segue, house: Path, loop: Path
) -> None:
    words = (
        "--bars",
        1,
        "--tempo",
        120,
        "--seed",
        11,
        "--variations",
        2,
        "--model",
        "stems",
        "--no-overview",
    )
    done = segue("continue", loop, *words, "--out", "a", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert lines[-1]["event"] == "done" and lines[-1]["seed"] == 11
    manifest = json.loads((house / "a/manifest.json").read_text())
    assert manifest["frames"] == 2 * RATE and manifest["started"]["precision"] == "float32"
    assert {take["stem"] for take in manifest["takes"]} == {"mix", *engine.STEMS}
    for variation in (0, 1):
        # Where the level glides to nothing the samples are the model's own.
        got = soundfile.read(house / f"a/v{variation + 1}.drums.wav", dtype="float32", always_2d=True)[0]
        assert got.shape == (2 * RATE, 1)
        made = engine.samples(11, variation, "drums", 0, 2 * RATE)[0]
        assert abs(np.corrcoef(got[:, 0], made)[0, 1]) > 0.999
    # What the daemon keeps is what has landed.
    listed = segue("takes", "--json").stdout.splitlines()
    (job,) = [json.loads(text)["job"] for text in listed]
    assert segue("takes", "export", job, "--out", "b").returncode == 0
    for name in ("v1.mix.wav", "v2.bass.wav", "v1.other.handle.wav"):
        a, b = (soundfile.read(house / folder / name, dtype="float32")[0] for folder in "ab")
        np.testing.assert_array_equal(a, b)
    assert segue("takes", "forget", job, "--yes").returncode == 0
    assert segue("takes").stdout.startswith("There are no takes yet")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("--model", "no/such-model"), 4, "no/such-model"),
        (("--text", "impossible"), 2, "cannot do the impossible"),
        (("--text", "crash=3"), 7, "."),
        (("--text", "nan=9"), 7, "."),
    ],
)
def test_what_the_daemon_refuses_is_one_sentence(
    segue: Segue, house: Path, loop: Path, words: tuple[str, ...], status: int, sentence: str
) -> None:
    default = () if "--model" in words else ("--model", "coded")
    done = segue("continue", loop, "--seconds", "1", "--quiet", *default, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("segue: ") and done.stderr.count("\n") == 1 and sentence in done.stderr
    assert not (house / "segue-takes").exists()


def test_ctrl_c_frees_the_daemon(segue: Segue, house: Path, loop: Path) -> None:
    words = line("continue", loop, "--seconds", 30, "--model", "coded", "--text", "slow=50", "--no-overview")
    with subprocess.Popen(
        words, cwd=house, env=environment(house), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        said = ""
        while "playing on" not in said:
            said += child.stderr.readline()
        assert "playing on" in segue("ps").stdout
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        _out, err = child.communicate(timeout=20)
        took_s = time.monotonic() - begun
    assert (child.returncode, took_s < 3) == (130, True)
    assert "has stopped, and nothing was kept here" in err
    assert segue("ps").stdout == "Nothing waits or runs.\n"
    assert not (house / "segue-takes").exists()


def test_the_daemon_is_asked_and_stopped(segue: Segue, house: Path) -> None:
    for words, text in (
        (("serve",), "The daemon runs (process"),
        (("ping",), "The daemon is ready: 0 running"),
        (("status",), "protocol       1."),
        (("models",), "  NAME"),
        (("metrics",), "# HELP segue_"),
        (("config", "show"), "folders.state ="),
        (("pause",), "Paused"),
        (("resume",), "Going on"),
    ):
        done = segue(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert text in done.stdout
    assert segue("load", "coded").returncode == 0
    assert segue("unload", "coded").returncode == 0
    stopped = segue("stop")
    assert (stopped.returncode, "has stopped" in stopped.stdout) == (0, True)
    assert segue("ping").returncode == 5
    assert segue("stop").stdout == "No daemon was running.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_daemon_in_the_foreground_ends_with_its_terminal(segue: Segue, house: Path, number: int) -> None:
    with subprocess.Popen(
        line("serve", "--foreground"),
        cwd=house,
        env=environment(house),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as child:
        until = time.monotonic() + 30
        while segue("ping").returncode and time.monotonic() < until:
            time.sleep(0.1)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as a terminal does
        else:
            child.send_signal(number)
        said, _ = child.communicate(timeout=30)
    assert child.returncode in (0, 130), said
    assert "Traceback" not in said
    assert segue("ping").returncode == 5
