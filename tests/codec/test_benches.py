"""The benches run and report what they promise; at a tiny shape, without judging any time."""

import argparse
import json
import math

import pytest

pytest.importorskip("transformers", reason="needs the extra 'musicgen'")

from tests.bench import codec as codec_bench
from tests.bench import stream as stream_bench


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for bench in (codec_bench, stream_bench):
        monkeypatch.setattr(bench, "SHAPE", {**codec_bench.SHAPE, "num_filters": 4, "hidden_size": 8})


def test_codec():
    result = codec_bench.run(argparse.Namespace(rounds=1, seconds=0.5))
    assert json.loads(json.dumps(result)) == result
    assert [(c["what"], c["batch"]) for c in result["cases"]] == [
        (w, b) for b in (1, 1, 4) for w in ("decode", "encode")
    ]
    for case in result["cases"]:
        assert case["codes_equal"] == 1.0
        assert case["decode_max_error"] < 1e-5
        assert math.isfinite(case["ratio"]) and case["ratio"] > 0
    assert result["threads"] >= 1 and result["machine"]["torch"]
    assert "transformers" in codec_bench.table(result)


def test_stream():
    result = stream_bench.run(argparse.Namespace(rounds=1, seconds=1.2))
    assert json.loads(json.dumps(result)) == result
    assert result["max_error"] < 1e-5 and result["equal_length"]
    assert result["lookahead_frames"] == 4
    assert all(result[f"cost_{n}"] > 0 for n in (1, 5, 10, 25, 50))
    assert "50 frames" in stream_bench.table(result)
