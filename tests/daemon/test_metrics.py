"""The metrics: what Prometheus would read, with a bound that no traffic moves."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest

from daemon import metrics as under_test
from daemon.metrics import MAX_SERIES, Metrics
from protocol import messages as m
from tests.daemon.house import ROOT, House, submit

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (NaN|[+-]?Inf|[+-]?[0-9.eE+-]+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name, held strictly against the exposition format 0.0.4: every line a sample or a HELP/TYPE,
    a family in one piece with its TYPE first, no sample twice, histograms cumulative and complete.
    """
    assert text.endswith("\n") and "\r" not in text
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    family = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, words = line[7:].split(" ", 1)
            assert re.fullmatch(_NAME, name) and words and name not in helped
            helped.add(name)
            continue
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name in helped and name not in kinds and kind in ("counter", "gauge", "histogram")
            kinds[name], family = kind, name
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        name, inside, value = match[1], match[2] or "", float(match[3].replace("Inf", "inf"))
        labels = tuple((label[1], label[2]) for label in _LABEL.finditer(inside))
        assert "".join(label[0] for label in _LABEL.finditer(inside)) == inside, line
        assert len({key for key, _ in labels}) == len(labels)
        suffixes = ("_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
        assert name in {family + suffix for suffix in suffixes}, line
        assert kinds[family] != "counter" or (name.endswith("_total") and value >= 0)
        series = found.setdefault(name, {})
        assert labels not in series, f"{line} stands there twice"
        series[labels] = value
    for name, kind in kinds.items():
        if kind != "histogram":
            continue
        buckets = [(float(dict(key)["le"]), value) for key, value in found[f"{name}_bucket"].items()]
        assert buckets == sorted(buckets) and buckets[-1][0] == math.inf
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1][1] == found[f"{name}_count"][()] and () in found[f"{name}_sum"]
    return found


def test_a_fresh_daemon_says_all_names_it_will_ever_say() -> None:
    found = parsed(Metrics().text())
    assert found["segue_chunks_total"] == {(): 0.0}
    assert len([name for name in found if name.endswith("_bucket")]) == len(under_test._HISTOGRAMS)


def test_values_survive_the_writing() -> None:
    metrics = Metrics()
    metrics.gauge("takes_bytes", 123_456_789_012)
    metrics.count("requests", op='a"b\\c', outcome="line\nbreak")
    metrics.observe("wait_seconds", 0.05)
    metrics.observe("wait_seconds", 1e9)
    found = parsed(metrics.text())
    assert found["segue_takes_bytes"] == {(): 123_456_789_012.0}
    ((labels, value),) = found["segue_requests_total"].items()
    assert dict(labels) == {"op": 'a\\"b\\\\c', "outcome": "line\\nbreak"} and value == 1
    assert found["segue_wait_seconds_bucket"][(("le", "0.05"),)] == 1
    assert found["segue_wait_seconds_count"][()] == 2


def test_strange_labels_cannot_make_it_grow() -> None:
    metrics = Metrics()
    for number in range(5 * MAX_SERIES):
        metrics.count("refused", code=f"E_{number}")
    found = parsed(metrics.text())["segue_refused_total"]
    assert len(found) == MAX_SERIES + 1 and sum(found.values()) == 5 * MAX_SERIES
    for wrong in ({}, {"code": "x", "job": "1"}, {"session": "x"}):
        with pytest.raises(KeyError):
            metrics.count("refused", **wrong)


def test_every_call_in_the_daemon_names_what_is_listed() -> None:
    """A wrong label would only be found when the rare thing happens that it counts."""
    tables = {"count": under_test._COUNTERS, "gauge": under_test._GAUGES, "observe": under_test._HISTOGRAMS}
    seen = 0
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value).split(".")[-1]
            if owner not in ("metrics", "_metrics") or node.func.attr not in tables:
                continue
            where = f"{path.name}:{node.lineno}"
            seen += 1
            if not isinstance(node.args[0], ast.Constant):
                continue  # a loop over names, which raises at once when one is wrong
            name = str(node.args[0].value)
            assert name in tables[node.func.attr], f"{where} names {name}"
            if node.func.attr != "observe":
                labels = {word.arg for word in node.keywords} - {"by", "value"}
                assert labels == set(tables[node.func.attr][name].labels), f"{where}: labels of {name}"
    assert seen > 20


def test_what_happened_is_in_the_figures() -> None:
    house = House()
    try:
        house.start()
        with house.client() as wire:
            wire.events(wire.ask(submit(0.5, rate=32_000)).job)
            stopped = wire.ask(submit(20, rate=32_000, text="slow=20")).job
            while not any(e.event == "audio" for e in wire.ask(m.Next(job=stopped, wait_ms=2000)).events):
                pass
            wire.ask(m.Cancel(job=stopped))
            wire.refused(m.Status(job="999"))
            wire.events(wire.ask(submit(0.5, rate=32_000, text="crash=3 crashes=1")).job)
            wire.ask(m.Pause())
            for priority in ("live", "batch", "batch"):
                wire.ask(submit(0.5, priority=priority))
            found = parsed(wire.ask(m.Metrics()).text)
        queued = {dict(key)["priority"]: value for key, value in found["segue_queued"].items()}
        assert queued == {"live": 1, "interactive": 0, "batch": 2}
        codes = {dict(key)["code"]: value for key, value in found["segue_refused_total"].items()}
        assert codes == {"E_JOB": 1}
        assert sum(found["segue_cancels_total"].values()) == 1
        assert sum(found["segue_requeues_total"].values()) == 1
        assert found["segue_worker_starts_total"][()] == 2
        assert found["segue_cancel_seconds_count"][()] == 1
        assert found["segue_wait_seconds_count"][()] == 4  # attempts
        assert found["segue_first_audio_seconds_count"][()] == 3  # jobs
        assert found["segue_commit_seconds_count"][()] > 10
        for name in ("takes", "journal", "quota", "disk_free"):
            assert found[f"segue_{name}_bytes"][()] > 0, name
        resident = {dict(key)["process"]: value for key, value in found["segue_resident_bytes"].items()}
        if Path("/proc/self/statm").exists():
            assert resident["front-end"] > 10e6 and resident["workers"] > 10e6
    finally:
        house.close()
