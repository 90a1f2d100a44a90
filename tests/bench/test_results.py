"""The log of the benches and the page that is written from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench import __main__ as command
from tests.bench import log, results
from tests.bench.aims import Aim


def test_an_aim_says_whether_it_is_met() -> None:
    result = {"ratio": 4.2, "ms": {"p99": 6.0}, "same": True, "other": False}
    assert Aim("fast", "ratio", least=4, unit="×").met(result) is True
    assert Aim("fast", "ratio", least=5, unit="×").met(result) is False
    assert Aim("quick", "ms.p99", most=5, unit="ms").met(result) is False
    assert Aim("equal", "same", holds=True).met(result) is True
    assert Aim("equal", "other", holds=True).met(result) is False
    assert Aim("away", "nothing.here", least=1).met(result) is None
    assert Aim("told", "ratio").met(result) is None
    in_ms = Aim("first audio", "first_s", most=150, unit="ms", scale=1e3)
    assert in_ms.met({"first_s": 0.1}) is True and in_ms.shown({"first_s": 0.1}) == "100 ms"
    assert in_ms.bound == "≤ 150 ms" and in_ms.shown({}) == "not measured"


def test_every_bench_is_found_and_its_aims_are_aims() -> None:
    names = command.benches()
    assert {"batch", "codec", "daemon", "lm", "seam", "stream"} <= set(names)
    assert not {"aims", "log", "results", "test_results"} & set(names)
    for name in names:
        assert all(isinstance(aim, Aim) for aim in results.aims_of(name)), name


def test_runs_are_appended_and_the_newest_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log.jsonl"
    about = {"cpu": "a processor", "torch": "2.x"}
    log.append("batch", {"throughput_8_over_1": 2.0, "machine": about, "threads": 2}, 3.0, file)
    record = log.append(
        "batch", {"throughput_8_over_1": 4.0, "bit_identical": False, "machine": about}, 3.0, file
    )
    assert {"commit", "machine", "threads", "load", "date", "took_s"} <= set(record)
    with file.open("a") as cut:
        cut.write('{"bench": "lm", "resu')
    assert len(log.records(file)) == 2
    page = results.write(file, tmp_path / "RESULTS.md", names=("batch", "lm", "seam")).read_text()
    assert "| lm | not measured: it was not run |" in page and "| seam |" not in page
    (row,) = [line for line in page.splitlines() if line.startswith("| 8 requests at once")]
    assert "| ≥ 3.5× | 4× | met | batch |" in row
    (row,) = [line for line in page.splitlines() if "the bits that it has alone" in line]
    assert "| yes | no | **missed** |" in row
    (row,) = [line for line in page.splitlines() if "16 requests" in line]
    assert "not measured" in row and "missed" not in row
    assert "a processor, torch 2.x" in page and str(record["commit"]) in page


def test_what_cannot_run_here_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    away = SimpleNamespace(run=lambda args: {}, absent=lambda: "there is no such device")
    monkeypatch.setattr(command.importlib, "import_module", lambda name: away)
    assert command.main(["batch", "--json", "--no-log"]) == 0
    assert json.loads(capsys.readouterr().out) == {"absent": "there is no such device"}
