"""A job from the command line to the files, with a client whose every sample says where it belongs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridge_clients.audio_files import sha256_of
from bridge_clients.cli.main import main
from tests.cli import fake
from tests.cli.conftest import ROOT

README = ROOT / "bridge_clients/cli/README.md"

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _fake_client(monkeypatch: pytest.MonkeyPatch) -> None:
    from bridge_clients.cli import connect

    monkeypatch.setattr(connect, "connect", connect.connect)  # put back whatever a test installs
    fake.CANCELLED.clear()


def run(script: str, *words: str) -> tuple[int, list]:
    submitted = fake.install(script)
    return main([str(word) for word in words]), submitted


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


@pytest.mark.parametrize(
    ("rate", "channels", "length", "frames"),
    [
        (44_100, 2, ["--seconds", "0.5"], 22_050),
        (44_100, 1, ["--seconds", "0.33333"], 14_700),
        (48_000, 2, ["--bars", "1", "--tempo", "133", "--meter", "7/8"], 75_789),  # 3.5 * 60 / 133 * 48000
        (22_050, 1, ["--bars", "1/3", "--tempo", "120.5"], 14_639),
        (96_000, 1, ["--seconds", "0.25"], 24_000),
    ],
)
def test_takes_have_exactly_the_samples_asked_for(
    sandbox: Path, write: Write, rate: int, channels: int, length: list[str], frames: int
) -> None:
    loop = write("loop.wav", 1.0, rate, channels, "FLOAT")
    status, _ = run("ok", "continue", loop, *length, "--out", "out", "--no-overview", "--quiet")
    assert status == 0
    take, handle, joined = (read(Path("out") / f"v1.{what}.wav") for what in ("mix", "mix.handle", "joined"))
    width = round(0.08 * rate)
    assert [len(take), len(handle), len(joined)] == [frames, width, rate + frames]
    np.testing.assert_array_equal(take, fake.sound(0, "mix", 0, frames, channels))
    np.testing.assert_array_equal(handle, fake.sound(0, "mix", -width, width, channels))
    assert soundfile.info("out/v1.mix.wav").samplerate == rate
    assert soundfile.info("out/v1.mix.wav").subtype == "FLOAT"
    # The joined file is the recording, a fade that begins with it and ends with the handle, and the take.
    prompt = read(loop)
    np.testing.assert_array_equal(joined[: rate - width], prompt[:-width])
    np.testing.assert_array_equal(joined[rate:], take)
    np.testing.assert_allclose(joined[rate - width], prompt[-width], atol=2e-3)
    np.testing.assert_allclose(joined[rate - 1], handle[-1], atol=2e-3)


def test_the_fade_keeps_the_power_of_unlike_sounds() -> None:
    from bridge_clients.cli.landing import joined

    rng = np.random.default_rng(0)
    prompt, handle = rng.standard_normal((2, 20_000, 1)).astype("f4")
    head, fade, take = joined(prompt, handle, np.zeros((5, 1), "f4"))
    assert len(head) == 0 and len(take) == 5
    assert np.mean(fade**2) == pytest.approx(1.0, rel=0.03)


def test_every_variation_and_stem_has_its_file_and_its_line_in_the_manifest(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = write("my loop.flac", 1.0, 44_100, 2)
    status, submitted = run(
        *("stems", "continue", loop, "--bars", "1", "--tempo", "120", "--variations", "2"),
        *(
            "--text",
            "warm keys",
            "--negative-text",
            "drums",
            "--seed",
            "7",
            "--guidance",
            "2.5",
            "--top-k",
            "50",
        ),
    )
    assert status == 0
    (submit,) = submitted
    assert (submit.text, submit.negative_text, submit.seed) == ("warm keys", "drums", 7)
    assert (submit.guidance.cfg_coef, submit.sampling.top_k, submit.stems) == (2.5, 50, None)
    assert (submit.tempo_map.start, submit.length.bars) == (2, 1)
    (folder,) = Path("segue-takes").iterdir()
    assert folder.name.startswith("my loop-2")
    stems = ("bass", "drums", "mix", "other")
    expected = {f"v{v}.{s}{h}.wav" for v in (1, 2) for s in stems for h in ("", ".handle")}
    expected |= {"v1.joined.wav", "v2.joined.wav", "manifest.json", "overview.png"}
    assert {entry.name for entry in folder.iterdir()} == expected
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seed"] == 7 and manifest["frames"] == 88_200 and manifest["model"]["name"] == "pocket"
    assert manifest["request"]["text"] == "warm keys"
    assert manifest["input"]["seam_sample"] == 44_100
    assert {(take["variation"], take["stem"]) for take in manifest["takes"]} == {
        (v, s) for v in (1, 2) for s in stems
    }
    for entry in [*manifest["takes"], *(take["handle"] for take in manifest["takes"]), *manifest["joined"]]:
        assert sha256_of(folder / entry["file"]) == entry["sha256"]
    assert soundfile.info(folder / "v1.mix.wav").subtype == "PCM_24"
    assert {take["loudness_lufs"] for take in manifest["takes"]} == {-14.5}
    assert "pocket does not listen to words (--text)" in capsys.readouterr().err
    take = read(folder / "v2.drums.wav")
    np.testing.assert_allclose(take, fake.sound(1, "drums", 0, 88_200, 2), atol=2**-23)


def test_without_stems_only_the_mix_is_asked_for(sandbox: Path, write: Write) -> None:
    loop = write("a.wav", 1.0)
    words = ("continue", loop, "--seconds", "0.2", "--no-stems", "--no-overview", "--quiet", "--out", "o")
    status, (submit,) = run("stems", *words)
    assert status == 0 and submit.stems == ("mix",)
    assert {entry.name for entry in Path("o").iterdir()} == {
        *("v1.mix.wav", "v1.mix.handle.wav", "v1.joined.wav", "manifest.json")
    }


def test_the_prompt_that_is_sent_ends_at_the_seam(sandbox: Path, write: Write) -> None:
    ramp = np.linspace(-0.5, 0.5, 88_200)[:, None]
    loop = write("ramp.wav", samples=ramp, subtype="FLOAT")
    words = ("continue", loop, "--seconds", "0.1", "--no-overview", "--quiet", "--out", "o")
    _, (submit,) = run(
        "ok", *words, "--start-at", "1.25", "--listen", "0.5", "--tempo", "60", "--downbeat", "1"
    )
    block = submit.sound("prompt")
    assert (block.format.position, block.frames) == (-22_050, 22_050)
    sent = np.frombuffer(block.data, "<f4")
    np.testing.assert_array_equal(sent, ramp[55_125 - 22_050 : 55_125, 0].astype("f4"))
    assert float(quarters(submit.tempo_map.start)) == 0.25


def quarters(value: int | float | str) -> float:
    from fractions import Fraction

    return float(Fraction(value))


def test_a_long_prompt_is_sent_in_frames_that_fit(sandbox: Path, write: Write) -> None:
    loop = write("long.wav", 20.0, 96_000, 2, "FLOAT")
    _, (submit,) = run("ok", "continue", loop, "--seconds", "0.1", "--no-overview", "--quiet", "--out", "o")
    assert len(submit.audio) == 4
    assert all(len(block.data) <= 4 * 1024 * 1024 for block in submit.audio)
    assert submit.sound("prompt").frames == 20 * 96_000


def test_generate_needs_no_recording(sandbox: Path) -> None:
    status, (submit,) = run("ok", "generate", "--text", "deep house", "--seconds", "0.5", "--rate", "32000")
    assert status == 0 and submit.mode == "generate" and not submit.audio
    (folder,) = Path("segue-takes").iterdir()
    assert {entry.name for entry in folder.iterdir()} == {"v1.mix.wav", "manifest.json", "overview.png"}
    assert soundfile.info(folder / "v1.mix.wav").frames == 16_000


def test_a_file_name_that_is_no_text_is_no_obstacle(sandbox: Path, write: Write) -> None:
    loop = write("a.wav", 1.0).rename(sandbox.parent / os.fsdecode(b"\xff la.wav"))
    assert run("ok", "continue", loop, "--seconds", "0.2", "--out", "o")[0] == 0
    assert (Path("o") / "overview.png").is_file()
    assert json.loads(Path("o/manifest.json").read_text())["input"]["path"].endswith(" la.wav")


def test_another_attempt_replaces_what_the_first_one_made(sandbox: Path, write: Write) -> None:
    loop = write("a.wav", 1.0)
    words = ("continue", loop, "--seconds", "0.5", "--subtype", "float", "--no-overview", "--out", "o")
    assert run("requeue", *words)[0] == 0
    np.testing.assert_array_equal(read(Path("o/v1.mix.wav")), fake.sound(0, "mix", 0, 22_050, 2))


def test_loud_takes_are_clipped_and_it_is_said(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = write("a.wav", 1.0, subtype="PCM_16")
    assert run("loud", "continue", loop, "--seconds", "0.5", "--no-overview", "--out", "o")[0] == 0
    assert "were clipped" in capsys.readouterr().err
    manifest = json.loads(Path("o/manifest.json").read_text())
    assert manifest["takes"][0]["clipped_samples"] > 1000 and manifest["takes"][0]["peak"] > 1.5
    words = ("continue", loop, "--seconds", "0.5", "--no-overview", "--out", "p", "--subtype", "float")
    assert run("loud", *words)[0] == 0
    assert "clipped" not in capsys.readouterr().err
    assert np.abs(read(Path("p/v1.mix.wav"))).max() > 1.5


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("fail", 7, "The worker died twice in a row."),
        ("full", 6, "The queue is full; try again in a moment."),
        ("short", 3, "has 4409 samples where 4410 were asked for."),
        ("elsewhere", 7, "was cancelled from elsewhere."),
    ],
)
def test_a_job_that_fails_leaves_nothing_behind(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str], script: str, status: int, words: str
) -> None:
    loop = write("a.wav", 1.0)
    assert run(script, "continue", loop, "--seconds", "0.1", "--quiet")[0] == status
    error = capsys.readouterr().err
    assert error.endswith(words + "\n") and error.startswith("segue: ") and error.count("\n") == 1
    assert list(sandbox.iterdir()) == []


def test_takes_are_never_written_over(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = write("a.wav", 1.0)
    words = ("continue", loop, "--seconds", "0.1", "--no-overview", "--quiet", "--out", "o")
    assert run("ok", *words)[0] == 0
    before = {entry: entry.read_bytes() for entry in Path("o").iterdir()}
    status, submitted = run("ok", *words)
    assert (status, submitted) == (2, [])
    assert "holds takes already" in capsys.readouterr().err
    assert {entry: entry.read_bytes() for entry in Path("o").iterdir()} == before


def test_json_lines_tell_the_whole_story(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = write("a.wav", 1.0)
    assert run("requeue", "continue", loop, "--seconds", "0.2", "--seed", "5", "--json", "--out", "o")[0] == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [json.loads(line) for line in out.splitlines()]
    names = [line["event"] for line in lines]
    assert names[0] == "submitted" and names[-1] == "done"
    assert {"accepted", "progress", "started", "audio", "requeued", "file", "note"} <= set(names)
    assert all(line["job"] == "j-1" and line["time_s"] >= 0 for line in lines)
    files = {Path(line["path"]).name for line in lines if line["event"] == "file"}
    assert files == set(lines[-1]["files"]) == {entry.name for entry in Path("o").iterdir()}
    assert lines[-1]["seed"] == 5 and lines[-1]["xrt"] > 0
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README.read_text(), re.M))
    for line in lines:
        fields = line.keys() - {"event", "job", "time_s", "attempt"}
        assert fields <= set(re.findall(r"\w+", documented[line["event"]])), line


def test_json_refusals_are_lines_too(sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ok", "continue", "nowhere.wav", "--seconds", "1", "--json")[0] == 3
    out, err = capsys.readouterr()
    (line,) = [json.loads(text) for text in out.splitlines()]
    assert (line["event"], line["status"], line["code"], line["field"]) == ("error", 3, "E_AUDIO", "input")
    assert err == "segue: nowhere.wav is not there: check the name and the folder.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_job_and_says_so(sandbox: Path, write: Write, number: int) -> None:
    loop = write("a.wav", 1.0)
    words = ["continue", str(loop), "--seconds", "1", "--no-overview"]
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.fake", "slow", "--", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = ""
    while "playing on" not in said:
        said += child.stderr.readline()
    begun = time.monotonic()
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert time.monotonic() - begun < 5
    assert "Cancelled: job j-1 has stopped" in err and out == ""
    assert list(sandbox.iterdir()) == []


def test_a_defect_ends_in_a_file_and_one_sentence(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = write("a.wav", 1.0)
    monkeypatch.setattr("bridge_clients.cli.making.land", lambda *_, **__: 1 / 0)
    assert run("ok", "continue", loop, "--seconds", "0.1", "--quiet")[0] == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error and "ZeroDivisionError" in error
    (incident,) = (sandbox.parent / "state" / "incidents").iterdir()
    assert "Traceback" in incident.read_text() and incident.stat().st_mode & 0o077 == 0
    assert list(sandbox.iterdir()) == []


def test_a_picture_that_fails_costs_nobody_their_takes(
    sandbox: Path, write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = write("a.wav", 1.0)
    monkeypatch.setattr("bridge_clients.overview.draw", lambda *_: 1 / 0)
    assert run("ok", "continue", loop, "--seconds", "0.1", "--out", "o")[0] == 0
    assert "could not be drawn" in capsys.readouterr().err
    assert json.loads(Path("o/manifest.json").read_text())["overview"] is None
