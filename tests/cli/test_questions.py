"""The commands that ask something: what is read on the terminal, and the same for scripts."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridge_clients.cli import connect
from bridge_clients.cli.main import main
from tests.cli import fake


@pytest.fixture(autouse=True)
def _fake_client(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "connect", connect.connect)
    for module in ("models", "service", "takes"):  # these took the name when they were imported
        monkeypatch.setattr(f"bridge_clients.cli.{module}.connect", lambda **_: fake.FakeClient("ok", []))
    fake.install("ok")


def ask(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(words) == status
    out, err = capsys.readouterr()
    return err if status else out


def test_ping_says_who_is_busy(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "ping").startswith("The daemon is ready: 1 running, 2 waiting (")
    line = json.loads(ask(capsys, "ping", "--json"))
    assert (line["event"], line["queued"]) == ("ping", 2) and line["round_trip_ms"] >= 0


def test_models_are_a_table_with_the_default_marked(capsys: pytest.CaptureFixture[str]) -> None:
    head, first, second = ask(capsys, "models").splitlines()
    assert head.split()[:3] == ["NAME", "STATE", "SIZE"]
    assert first.startswith("* pocket") and "drums bass other" in first and "160 MB" in first
    assert second.split()[:3] == ["facebook/musicgen-small", "not", "here"]
    lines = [json.loads(line) for line in ask(capsys, "models", "--json").splitlines()]
    assert [line["default"] for line in lines] == [True, False]


def test_takes_are_listed_shown_and_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    _head, first, second, usage = ask(capsys, "takes").splitlines()
    assert first.split()[:2] == ["ab12", "done"] and "2.000" in first and "warm house" in first
    assert second.split()[0] == "ab99"
    assert usage == "5 MB of 21.5 GB are used."
    assert "seed     7" in ask(capsys, "takes", "show", "ab12").splitlines()
    assert json.loads(ask(capsys, "takes", "show", "ab1", "--json"))["job"] == "ab12"
    assert "2 jobs begin with 'ab'" in ask(capsys, "takes", "show", "ab", status=2)
    assert "There is no job 'zz'" in ask(capsys, "takes", "show", "zz", status=2)
    assert ask(capsys, "takes", "forget", "ab12", "--yes") == "Job ab12 is forgotten; 5 MB are free again.\n"
    assert "--yes deletes without asking" in ask(capsys, "takes", "forget", "ab12", status=2)
    assert "cancel it first" in ask(capsys, "takes", "forget", "cd34", status=2)


def test_export_fetches_every_stem_under_the_names_of_continue(
    capsys: pytest.CaptureFixture[str], sandbox: Path
) -> None:
    assert ask(capsys, "takes", "export", "ab12", "--out", "o") == "8 files of job ab12 are in o.\n"
    expected = {
        f"v{v}.{stem}{part}.wav" for v in (1, 2) for stem in ("mix", "bass") for part in ("", ".handle")
    }
    assert {entry.name for entry in Path("o").iterdir()} == expected | {"manifest.json"}
    assert Path("o/v2.bass.handle.wav").read_bytes() == b"RIFF ab12 1 bass handle"
    ask(capsys, "takes", "export", "ab99", "--out", "p")
    assert {entry.name for entry in Path("p").iterdir()} == {"v1.mix.wav", "manifest.json"}
    assert "no finished takes" in ask(capsys, "takes", "export", "cd34", "--out", "q", status=3)
    assert not Path("q").exists()


def test_jobs_are_listed_with_their_speed_and_cancelled(capsys: pytest.CaptureFixture[str]) -> None:
    _head, row = ask(capsys, "ps").splitlines()
    assert row.split()[0] == "cd34" and "25 %" in row and "2.00 xrt, 4.0 s left" in row
    assert len(ask(capsys, "ps", "--all").splitlines()) == 4
    assert ask(capsys, "cancel", "cd") == "Job cd34 is cancelled.\n"


def test_the_demo_plays_its_loop_on_the_bar(
    capsys: pytest.CaptureFixture[str], sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sandbox.parent / "demo"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal((88_200, 2))
    soundfile.write(folder / "loop.flac", noise, 44_100)
    (folder / "loop.json").write_text(json.dumps({"bpm": 120, "beats": 4, "unit": 4, "text": "lofi"}))
    monkeypatch.setattr("bridge_clients.cli.demo._FOLDER", folder)
    submitted = fake.install("ok")
    assert "2 takes of 1 bar (88200 samples" in ask(capsys, "demo", "--bars", "1", "--no-overview", "--stop")
    (submit,) = submitted
    assert (submit.model, submit.text, submit.variations) == ("pocket", "lofi", 2)
    assert submit.tempo_map is not None and Fraction(submit.tempo_map.start) == 4
    (made,) = Path("segue-takes").iterdir()
    assert made.name.startswith("demo-") and (made / "v2.joined.wav").is_file()


def test_a_demo_without_its_loop_is_a_sentence(
    capsys: pytest.CaptureFixture[str], sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge_clients.cli.demo._FOLDER", sandbox / "nowhere")
    assert "The demo's loop is not installed" in ask(capsys, "demo", status=3)
