"""What was measured is kept, read with suspicion, and decides what "auto" means only where it is safe."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genmodel import measured
from genmodel.base import BaseGenModel
from genmodel.bench import measuring
from genmodel.bench.quality import distance, reference_takes
from genmodel.measured import Figures, Record

CPU = torch.device("cpu")
HERE = measured.kernels_of("float32") or ""
IN_TORCH = "torch 2.10.0 lean-1"
EXACT = Figures(HERE, xrt=2.0, kl=0.0, kl_p99=0.0, top1=1.0, tokens=6000)
CLOSE = Figures(HERE, xrt=4.0, kl=1e-4, kl_p99=1e-3, top1=0.98, tokens=6000)


def record(sha256: str = "a" * 64, **more: Any) -> Record:
    base: dict[str, Any] = {
        "sha256": sha256, "device": "cpu", "processor": measured.processor(CPU), "threads": 2,
        "date": "2026-11-23T02:00:00+00:00", "precisions": {"float32": EXACT, "bfloat16": CLOSE},
    }  # fmt: skip
    return Record(**base | more)


def model(sha256: str | None = "a" * 64) -> Any:
    return SimpleNamespace(device=CPU, checkpoint=SimpleNamespace(sha256=sha256, path=None))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models" / ".measured.json"


def test_nothing_measured_means_nothing_changes(file: Path) -> None:
    assert measured.choose(model(), file) == measured.Choice("float32", "auto: not measured here")
    assert measured.choose(model(None), file).precision == "float32"
    assert not file.exists()


def test_what_was_measured_comes_back_for_this_checkpoint_only(file: Path) -> None:
    measured.save(record(), file)
    measured.save(record("b" * 64, precisions={"float32": EXACT}), file)
    assert measured.recall("a" * 64, CPU, file) == record()
    choice = measured.choose(model(), file)
    assert choice.precision == "bfloat16"
    assert (
        "2.0 times as fast as float32" in choice.why and "98.0%" in choice.why and "2026-11-23" in choice.why
    )
    assert measured.choose(model("b" * 64), file).precision == "float32"
    assert measured.choose(model("c" * 64), file).precision == "float32"


def test_what_was_forgotten_is_gone_and_the_rest_stays(file: Path) -> None:
    measured.save(record(), file)
    measured.save(record("b" * 64), file)
    assert measured.forget("a" * 64, file) == 1
    assert measured.recall("a" * 64, CPU, file) is None
    assert measured.recall("b" * 64, CPU, file) is not None
    assert measured.forget("a" * 64, file) == 0


@pytest.mark.parametrize(
    "worse",
    [
        {"kl": 1.1e-3}, {"kl_p99": 1.1e-2}, {"top1": 0.949}, {"tokens": 3999}, {"xrt": 2.49},
        {"kernels": "torch 0.1"},
    ],
    ids=lambda worse: next(iter(worse)),
)  # fmt: skip
def test_a_precision_is_taken_only_where_it_is_safe_faster_and_still_the_same(worse: dict[str, Any]) -> None:
    one = dataclasses.replace(CLOSE, **worse)
    assert measured.best_of(record(), "float32").precision == "bfloat16"
    choice = measured.best_of(record(precisions={"float32": EXACT, "bfloat16": one}), "float32")
    assert choice.precision == "float32" and choice.why.startswith("auto: ")
    assert (one.unsafe is None) == (next(iter(worse)) in ("xrt", "kernels"))


def test_what_is_closer_to_float32_stays_where_the_other_is_hardly_faster() -> None:
    for xrt, taken in ((4.9, "bfloat16"), (5.1, "int8")):
        farther = dataclasses.replace(CLOSE, xrt=xrt, kl=9e-4)
        found = record(precisions={"int8": farther, "float32": EXACT, "bfloat16": CLOSE})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measured, "kernels_of", lambda name: HERE)
            assert measured.best_of(found, "float32").precision == taken


def test_the_fastest_of_the_safe_ones_is_taken() -> None:
    faster = dataclasses.replace(CLOSE, xrt=8.0, kl=5e-4)
    unsafe = dataclasses.replace(CLOSE, xrt=20.0, kl=1.0)
    found = record(precisions={"float32": EXACT, "bfloat16": CLOSE, "float16": faster, "other": unsafe})
    assert measured.best_of(found, "float32").precision == "float16"


def test_other_kernels_than_those_of_the_usual_precision_mean_that_nothing_is_known() -> None:
    old = dataclasses.replace(EXACT, kernels="torch 0.1")
    choice = measured.best_of(record(precisions={"float32": old, "bfloat16": CLOSE}), "float32")
    assert choice == measured.Choice("float32", "auto: measured on 2026-11-23 with other kernels")


def test_int8_is_taken_only_with_the_library_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from genmodel.engine.native import build

    monkeypatch.setattr(build, "compile_library", lambda target: pytest.fail("nothing is compiled to choose"))
    monkeypatch.setattr(build, "present", lambda: None)
    one = dataclasses.replace(CLOSE, kernels="segue-0123 avx2")
    found = record(precisions={"float32": EXACT, "int8": one})
    assert measured.kernels_of("int8") is None
    assert measured.best_of(found, "float32").precision == "float32"
    monkeypatch.setattr(measured, "kernels_of", lambda name: "segue-0123 avx2" if name == "int8" else HERE)
    assert measured.best_of(found, "float32").precision == "int8"


def test_another_processor_is_another_machine(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured.save(record(), file)
    monkeypatch.setattr(measured, "processor", lambda device: "another")
    assert measured.choose(model(), file).precision == "float32"


def _edited(change: Any) -> str:
    stored = {"version": 1, "records": {record().key: dataclasses.asdict(record())}}
    change(stored["records"][record().key])  # type: ignore[index]
    return json.dumps(stored)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '"text"', "\x00\xff", '{"version": 2, "records": {}}', '{"version": 1}',
        '{"version": 1, "records": []}',
        json.dumps({"version": 1, "records": {record().key: "nothing"}}),
        json.dumps({"version": 1, "records": {record().key: {"precisions": {}}}}),
        _edited(lambda r: r["precisions"]["bfloat16"].update(kl="small")),
        _edited(lambda r: r["precisions"]["bfloat16"].update(xrt=float("nan"))),
        _edited(lambda r: r["precisions"]["bfloat16"].update(more=1)),
        _edited(lambda r: r["precisions"].update(bfloat16=None)),
        _edited(lambda r: r.update(precisions=[])),
        _edited(lambda r: r.pop("threads")),
        _edited(lambda r: r.update(sha256="b" * 64)),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_left_aside(
    file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="segue.measured"):
        assert measured.choose(model(), file) == measured.Choice("float32", "auto: not measured here")
    said = "records" in text and ('"records": []' in text or "b" * 64 in text)
    assert caplog.records or said or '{"version": 1}' in text
    measured.save(record(), file)  # and the next measurement is kept
    assert measured.choose(model(), file).precision == "bfloat16"


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    with pytest.raises(OSError):
        measured.save(record(), tmp_path / "models" / ".measured.json")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def _bringing(folder: Path, **more: Any) -> Any:
    """A model whose folder says that int8 is safe and fast."""
    int8 = dataclasses.replace(CLOSE, kernels="segue-0123 avx512", xrt=6.0)
    exact, close = (dataclasses.replace(one, kernels=IN_TORCH) for one in (EXACT, CLOSE))
    precisions = {"float32": exact, "bfloat16": close, "int8": int8}
    measured.save(record(processor="another", precisions=precisions, **more), folder / measured.BROUGHT)
    return SimpleNamespace(device=CPU, checkpoint=SimpleNamespace(sha256="a" * 64, path=folder))


def _with_kernels(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(measured, "kernels_of", lambda name: version if name == "int8" else IN_TORCH)


def test_a_record_that_a_model_brings_counts_for_native_kernels_until_something_was_measured_here(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_kernels(monkeypatch, "segue-4567 avx2")
    choice = measured.choose(_bringing(tmp_path), file)
    assert choice.precision == "int8"
    assert choice.why.startswith("auto: measured with the model on 2026-11-23: 3.0 times as fast as float32")
    measured.save(record(precisions={"float32": EXACT}), file)  # here nothing else was worth it
    assert measured.choose(_bringing(tmp_path), file).precision == "float32"


def test_bfloat16_too_may_have_been_measured_elsewhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = dataclasses.replace(CLOSE, kernels="segue-0123 avx512")
    slight = dataclasses.replace(native, xrt=4.5, kl=9e-4)
    found = record(processor="another", precisions={"float32": EXACT, "bfloat16": native, "int8": slight})
    measured.save(found, tmp_path / measured.BROUGHT)
    model = SimpleNamespace(device=CPU, checkpoint=SimpleNamespace(sha256="a" * 64, path=tmp_path))
    for here, taken in ((IN_TORCH, "float32"), ("segue-4567 avx2", "bfloat16")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measured, "kernels_of", lambda name, here=here: here)
            assert measured.choose(model, file).precision == taken


@pytest.mark.parametrize("kernels", [None, "segue-4567 portable"])
def test_what_a_model_brings_needs_kernels_for_this_processor(
    kernels: str | None, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_kernels(monkeypatch, kernels)
    assert measured.choose(_bringing(tmp_path), file).why == "auto: not measured here"


@pytest.mark.parametrize("other", [{"sha256": "b" * 64}, {"device": "cuda"}], ids=["weights", "device"])
def test_what_a_model_brings_must_be_about_its_weights_and_the_device(
    other: dict[str, str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_kernels(monkeypatch, "segue-4567 avx512")
    assert measured.choose(_bringing(tmp_path, **other), file).why == "auto: not measured here"


def test_what_a_model_brings_is_left_aside_where_it_is_damaged(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _with_kernels(monkeypatch, "segue-4567 avx512")
    given = _bringing(tmp_path)
    (tmp_path / measured.BROUGHT).write_text('{"version": 1, "records": {"a": {}}}', encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="segue.measured"):
        assert measured.choose(given, file).precision == "float32"
    assert "is damaged" in caplog.text


def test_pocket_brings_what_its_weights_still_measure() -> None:
    """As in the record, on fewer takes: the kernels may have changed since, the weights may not."""
    pocket = BaseGenModel.get_pretrained("pocket", "cpu")
    found = measured.brought(pocket)
    assert found is not None, "the record is about other weights: run genmodel.pocket.recipe.precisions"
    stated = found.precisions["int8"]
    assert stated.unsafe is None
    if "int8" not in measuring.usable(pocket, None)[0]:
        pytest.skip("no compiler: int8 is absent here")
    now = distance(pocket, reference_takes(pocket, 2, 60), "int8")
    assert 0.4 * stated.kl < now.kl < 2.5 * stated.kl, "far from the record: measure again"
    assert now.tokens > 500 and abs(now.top1 - stated.top1) < 0.03
