"""``RESULTS.md`` from the newest record of each bench in the log: aims beside figures, then all figures."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.aims import Aim
from tests.bench.log import FOLDER, latest

RESULTS = FOLDER / "RESULTS.md"
_SHOWN_ITEMS = 12  # of a list; longer ones are counted

_HEAD = """# Results of the benches

Written by `python -m tests.bench all --results`; nothing here was typed by hand. Figures are medians of
interleaved rounds. `xrt` is seconds of audio per second. A ratio compares with `transformers` in the same
run.
"""


def aims_of(bench: str) -> Sequence[Aim]:
    """What a bench aims for."""
    found: Sequence[Aim] = getattr(importlib.import_module(f"tests.bench.{bench}"), "AIMS", ())
    return found


def _aims_table(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| | aim | measured | | bench |", "|---|---|---|---|---|"]
    for bench, entry in entries.items():
        for aim in aims_of(bench):
            met = aim.met(entry["result"])
            mark = "" if met is None else "met" if met else "**missed**"
            lines.append(f"| {aim.what} | {aim.bound} | {aim.shown(entry['result'])} | {mark} | {bench} |")
    return lines if len(lines) > 2 else []


def flat(result: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested results as (name, value) in words."""
    lines: list[tuple[str, str]] = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, entry in enumerate(value[:_SHOWN_ITEMS]):
                lines += flat(entry, f"{prefix}{key}[{number}].")
        elif isinstance(value, list):
            shown = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value[:_SHOWN_ITEMS])
            more = f" … ({len(value)})" if len(value) > _SHOWN_ITEMS else ""
            lines.append((f"{prefix}{key}", shown + more))
        else:
            lines.append((f"{prefix}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines


def text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    lines = [_HEAD]
    table = _aims_table(entries)
    if table:
        lines += ["## Aims", "", *table, ""]
    lines += ["## Runs", ""]
    lines += [
        "| bench | date (UTC) | commit | machine | threads | load | took |",
        "|---|---|---|---|---|---|---|",
    ]
    for bench, entry in entries.items():
        if "why" in entry:
            lines.append(f"| {bench} | not measured: {entry['why']} |" + " |" * 5)
            continue
        about = entry.get("machine") or {}
        where = ", ".join(
            str(part) for part in (about.get("gpu"), about.get("cpu"), f"torch {about.get('torch')}") if part
        )
        load = ", ".join(f"{value:.1f}" for value in entry.get("load") or ())
        date, took = entry["date"][:16].replace("T", " "), f"{entry.get('took_s')} s"
        where += f", {entry.get('cores')} cores"
        cells = (bench, date, entry.get("commit"), where, entry.get("threads"), load, took)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for bench, entry in entries.items():
        if "why" in entry:
            continue
        shown = {name: value for name, value in entry["result"].items() if name != "machine"}
        lines += ["", f"## {bench}", "", "| figure | value |", "|---|---|"]
        lines += [f"| `{name}` | {value} |" for name, value in flat(shown)]
    return "\n".join(lines) + "\n"


def unmeasured(names: Sequence[str], entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Benches that aim for something and have no record: why, where they can say it."""
    found = {}
    for name in names:
        if name not in entries and aims_of(name):
            bench = importlib.import_module(f"tests.bench.{name}")
            found[name] = (bench.absent() if hasattr(bench, "absent") else None) or "it was not run"
    return {name: {"result": {}, "why": why} for name, why in found.items()}


def write(log: Path | None = None, target: Path | None = None, names: Sequence[str] = ()) -> Path:
    """Write the page from the log; returns where it lies. ``names``: of all benches."""
    target = target or RESULTS
    entries = latest(log)
    ordered = {name: entries[name] for name in sorted(entries)}
    target.write_text(text(ordered | unmeasured(names, entries)), encoding="utf-8")
    return target
