"""The language model's bench runs and its figures hang together (at a tiny shape; speed is not judged)."""

from __future__ import annotations

import json

import pytest

from genmodel.engine.kernels import native_absent
from tests.bench import __main__ as command
from tests.bench import checkpoint, clip, codec, gpu, lm, through


def test_the_language_model_bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"DIM": 64, "LAYERS": 2, "HEADS": 4, "CARD": 64, "GREEDY_FRAMES": 6, "CLIP_S": 2.0}
    for name, value in tiny.items():
        monkeypatch.setattr(lm, name, value)
    monkeypatch.setattr(lm, "PLACES_S", (1, 2))
    monkeypatch.setattr(codec, "SHAPE", {**codec.SHAPE, "num_filters": 4, "hidden_size": 8})
    assert command.main(["lm", "--json", "--no-log", "--rounds", "1", "--seconds", "0.1"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["tokens_identical"] is True
    assert result["ratio_fp32"] == pytest.approx(
        result["ms_per_step"]["peer_fp32"] / result["ms_per_step"]["fp32"]
    )
    assert result["xrt"] == pytest.approx(20 / result["ms_per_step"]["fp32"])
    assert {"machine", "threads", "batch", "frames", "floor_ms", "bandwidth_gbs"} <= set(result)
    if "int8" in result["ms_per_step"]:
        peer = result["ms_per_step"]["peer_bf16"]
        assert result["ratio_int8"] == pytest.approx(peer / result["ms_per_step"]["int8"])
    for name, found in result["step_ms_at"].items():
        assert result["step_far_over_near"][name] == pytest.approx(found["2"] / found["1"])
        steps = 1e3 * result["prefill_s"][name] / result["ms_per_step"]["peer_fp32"]
        assert result["prefill_steps"][name] == pytest.approx(steps)
    assert result["clip"]["xrt"] > 0 and result["clip"]["slowest_second_xrt"] > 0
    command.show("lm", result, lm)
    assert "tokens_identical" in capsys.readouterr().out


def test_the_bench_of_many_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"DIM": 64, "LAYERS": 2, "HEADS": 4, "CARD": 64}.items():
        monkeypatch.setattr(lm, name, value)
    assert command.main(["batch", "--json", "--no-log", "--rounds", "1", "--seconds", "0.2"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["bit_identical"] is True
    alone, eight = (result["ms_per_step"][count] for count in ("1", "8"))
    assert result["throughput_8_over_1"] == pytest.approx(8 * alone / eight)
    assert result["step_ratio_far"] > 0 and result["prefill_s"] > 0


@pytest.mark.timeout(600)  # two real models and a hundred jobs
def test_the_daemons_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(through, "CLIP_S", 1.0)
    monkeypatch.setattr(through, "PINGS", 20)
    for name, value in {"DIM": 64, "LAYERS": 2, "HEADS": 4, "CARD": 64}.items():
        monkeypatch.setattr(lm, name, value)
    monkeypatch.setattr(codec, "SHAPE", {**codec.SHAPE, "num_filters": 4, "hidden_size": 8})
    small = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    monkeypatch.setattr(checkpoint, "T5_BASE", {**checkpoint.T5_BASE, **small})
    assert command.main(["daemon", "--json", "--no-log", "--rounds", "0"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    times = [result[name] for name in ("cancel_ms", "start_beside_60_batch_jobs_ms", "round_trip_ms")]
    times += [result["recovery_after_worker_kill_ms"], *result["first_audio_ms"].values()]
    for found in times:
        assert 0 < found["p50"] <= found["p99"] <= found["max"]
    assert ("small_int8" in result["first_audio_ms"]) == (native_absent() is None)
    assert result["pocket"]["share"] == pytest.approx(
        result["pocket"]["xrt"]["daemon"] / result["pocket"]["xrt"]["alone"]
    )


def test_the_slowest_second_of_a_clip() -> None:
    even = [(0.5 * n, 0.25 * n) for n in range(9)]
    assert max(clip._seconds(even)) == pytest.approx(0.5)
    late = [(audio, time + (1.0 if audio > 2 else 0.0)) for audio, time in even]
    assert max(clip._seconds(late)) == pytest.approx(1.5)
    assert clip._seconds([(0.0, 0.0), (0.5, 1.0)]) == [2.0]


def test_the_bench_of_gpus_says_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert command.main(["gpu", "--json", "--no-log"]) == 0
    assert json.loads(capsys.readouterr().out.strip()) == {"absent": "there is no CUDA device"}


def test_the_bench_of_gpus_rehearses_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "PLACES", (5, 20))
    monkeypatch.setattr(gpu, "PREFILL_FRAMES", 30)
    monkeypatch.setattr(gpu, "PLACE_STEPS", 4)
    monkeypatch.setattr(gpu, "CODEC_S", 1.0)
    monkeypatch.setattr(codec, "SHAPE", {**codec.SHAPE, "num_filters": 4, "hidden_size": 8})
    words = ["--device", "cpu", "--shapes", "tiny", "--rounds", "1", "--seconds", "0.2"]
    assert command.main(["gpu", "--json", "--no-log", *words]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    tiny = result["shapes"]["tiny"]
    assert tiny["bit_identical"] is True and set(tiny["ms_per_step"]) == {"1", "2", "4", "8", "16"}
    alone = tiny["ms_per_step"]["1"]
    assert tiny["ratio"] == pytest.approx(tiny["peer_ms_per_step"] / alone)
    assert tiny["over_floor"] == pytest.approx(alone / tiny["floor_ms"])
    assert tiny["throughput_16_over_1"] == pytest.approx(16 * alone / tiny["ms_per_step"]["16"])
    assert tiny["step_far_over_near"] == pytest.approx(tiny["step_ms_at"]["20"] / tiny["step_ms_at"]["5"])
    assert {"whole", "transformers", "chunks of 25"} <= set(result["codec_xrt"])
