"""The log of all runs: a line of JSON for each, with the commit and the machine.

It lies beside this file and git leaves it alone: a run would make every checkout dirty, and figures of
strangers' machines would be mixed. What is kept with the project is ``RESULTS.md``, written from it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LOG = FOLDER / "log.jsonl"


def commit() -> str:
    """The commit that runs, with "+" behind it where files differ from it; "unknown" without git."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=FOLDER, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def append(bench: str, result: dict[str, Any], took_s: float, path: Path | None = None) -> dict[str, Any]:
    """Write one run down; returns the record."""
    import torch

    from tests.bench.codec import machine

    record = {
        "bench": bench,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": result.get("machine") or machine(),
        "cores": os.cpu_count(),
        "threads": result.get("threads") or torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "took_s": round(took_s, 1),
        "result": result,
    }
    with (path or LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def records(path: Path | None = None) -> list[dict[str, Any]]:
    """All records that can be read, oldest first; a line that was cut off is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (path or LOG).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and {"bench", "result", "date"} <= entry.keys():
                    found.append(entry)
    return found


def latest(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The newest record of each bench."""
    return {entry["bench"]: entry for entry in records(path)}
