"""``segue bench``: its figures hang together, float32 is at no distance from itself, refusals say why."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge_clients.cli.main import main as segue
from genmodel import measured
from genmodel.base import BaseGenModel
from genmodel.bench import __main__ as command
from genmodel.bench import measuring, picture, quality, report, speed
from genmodel.engine.kernels import packing_available
from genmodel.engine.network import Network
from tests import golden_files
from tests.model.models import golden, stems_model, tiny

TINY = speed.Plan(
    steps=4, positions_s=(0.4, 30.0), prefill_s=1.0, counts=(1, 3), takes=2, tokens=100, take_s=0.4, rounds=1,
    codec_s=0.5,
)  # fmt: skip
MODELS: dict[str, Any] = {
    "debug": tiny,
    "stems": stems_model,
    "golden mono": lambda: golden("musicgen-tiny-mono"),
    "golden stereo": lambda: golden("musicgen-tiny-stereo"),
}


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.mark.parametrize("name", MODELS)
def test_float32_teacher_forced_gives_its_own_distributions_again(name: str) -> None:
    model = MODELS[name]()
    takes = quality.reference_takes(model, 3, 30)
    assert [len(take.prepared.known[0]) > 0 for take in takes] == [False, False, True]
    found = quality.distance(model, takes, "float32")
    assert (found.kl, found.kl_p99, found.top1, found.same_draw) == (0.0, 0.0, 1.0, 1.0)
    assert found.tokens > 2 * 30 * model.lm.n_q


def test_a_coarser_network_is_at_a_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    takes = quality.reference_takes(model, 2, 40)
    honest = Network.logits
    monkeypatch.setattr(Network, "logits", lambda self, mixed: (honest(self, mixed) / 1.05).round(decimals=1))
    found = quality.distance(model, takes, "float32")
    assert found.kl > 1e-4 and found.kl_p99 >= found.kl
    assert 0 < found.top1 < 1 and 0 < found.same_draw < 1
    monkeypatch.setattr(Network, "logits", lambda self, mixed: honest(self, mixed) * float("nan"))
    with pytest.raises(Exception, match="not finite"):
        quality.distance(model, takes, "float32")


@pytest.mark.parametrize("name", ["debug", "stems"])
def test_the_figures_hang_together(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    said: list[str] = []
    result = measuring.measure(model, None, TINY, said.append)
    assert json.loads(json.dumps(result)) == result
    assert list(result["precisions"])[0] == "float32" and "float16" in result["absent"]
    assert ("bfloat16" in result["precisions"]) == packing_available(torch.bfloat16)
    for figures in result["precisions"].values():
        assert len(figures["step_ms"]) == 2 and list(figures["together_frames_per_s"]) == ["1", "3"]
        assert figures["together_frames_per_s"]["3"] == pytest.approx(3e3 / figures["together_step_ms"]["3"])
        assert figures["xrt"] > 0 and figures["first_audio_ms"] > 0 and figures["memory_bytes"] > 1e6
    assert result["precisions"]["float32"]["quality"]["kl"] == 0
    assert result["stored"] is None and result["auto"] == "float32"  # too little was measured
    assert any("float32: whole takes" in words for words in said)
    picture.draw(result, tmp_path / "new" / "bench.png")
    assert (tmp_path / "new" / "bench.png").read_bytes().startswith(b"\x89PNG")
    words = dict(report.rows(result))
    assert "whole take, xrt" in words and report.sentences(result)[-2:] != []


def test_precisions_that_were_asked_for_are_measured_beside_float32() -> None:
    if not packing_available(torch.bfloat16):
        pytest.skip("this processor has no bfloat16 kernels")
    result = measuring.measure(tiny(), ["bfloat16"], TINY, lambda words: None)
    assert list(result["precisions"]) == ["float32", "bfloat16"] and result["stored"] is None


def test_a_whole_measurement_is_kept_and_read_back(own_models: Path) -> None:
    model = golden("musicgen-tiny-mono")
    assert model.checkpoint is not None
    result = measuring.measure(model, None, replace(TINY, tokens=measured.MIN_TOKENS), lambda words: None)
    assert result["stored"] == str(own_models / ".measured.json")
    record = measured.recall(model.checkpoint.sha256, model.device)
    assert record is not None and set(record.precisions) == set(result["precisions"])
    assert all(one.tokens >= measured.MIN_TOKENS for one in record.precisions.values())
    choice = measured.choose(model)
    assert (choice.precision, choice.why) == (result["auto"], result["auto_why"])
    assert "from its next loading on" in " ".join(report.sentences(result))


def test_the_command_prints_json_draws_and_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "FULL", replace(TINY, tokens=measured.MIN_TOKENS))
    name = str(golden_files.folder("musicgen-tiny-mono"))
    shown = tmp_path / "figures.png"
    assert command.main([f"--model={name}", "--json", f"--picture={shown}"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["event"] == "bench" and line["stored"] and line["took_s"] > 0 and shown.is_file()
    assert command.main([f"--model={name}", "--forget"]) == 0
    assert "is forgotten" in capsys.readouterr().out
    model = BaseGenModel.get_pretrained(name)
    assert measured.choose(model).why == "auto: not measured here"
    assert command.main([f"--model={name}", "--quick", "--no-save"]) == 0
    table = capsys.readouterr().out
    assert "first audio, ms" in table and "Nothing was stored" in table


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--model=nothing/like-this"], 4, "run: segue pull nothing/like-this"),
        (["--model=debug", "--precision=float8"], 2, "There is no such precision"),
        (["--model=debug", "--precision=float16", "--device=cpu"], 2, "This cpu does not run float16"),
        (["--model=debug", "--device=toaster"], 2, "There is no such device"),
        (["--model=debug", "--picture=."], 3, "cannot be written"),
    ],
)
def test_refusals_are_sentences(
    words: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*words, "--json"]) == status
    told = capsys.readouterr()
    line = json.loads(told.out)
    assert line["event"] == "error" and line["status"] == status and sentence in line["message"]
    assert told.err.rstrip().endswith(".") and "Traceback" not in told.err


def test_an_interrupt_ends_it_cleanly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_models: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", interrupted)
    assert command.main(["--model=debug"]) == 130
    assert "nothing was stored" in capsys.readouterr().err and not own_models.exists()


def test_segue_bench_starts_the_measuring_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_RUNTIME", str(tmp_path / "run"))
    assert segue(["bench", "--model", "nothing/like-this", "--threads", "1", "--json"]) == 4
    told = capfd.readouterr()
    assert json.loads(told.out)["code"] == "E_MODEL" and "segue pull" in told.err
    assert segue(["bench", "--threads", "many"]) == 2


def test_the_module_runs_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genmodel.bench", "--model=debug", "--precision=float9"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("segue: There is no such precision")
