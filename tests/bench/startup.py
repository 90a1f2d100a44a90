"""How long until a model is ready, and what memory it then takes: pocket, and MusicGen-small's shape (random
weights in float32 safetensors as published, text encoder and codec included).

Each figure is of a process of its own that does what a worker does: import, load, make the engine. Memory is
``/proc/self/smaps_rollup``: ``private_mib`` is what no file backs, ``file_mib`` is mapped from files and
given up when memory is short; ``peak_mib`` counts both, at its highest. The files are in the page cache (a
round that is left out has read them).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.bench.checkpoint import small_checkpoint
from tests.bench.codec import machine
from tests.bench.lm import precisions

_CHILD = """
import json, sys, time
begun = time.perf_counter()
from daemon.workers.genmodel_player import load
imported = time.perf_counter()
player = load(sys.argv[1], device="cpu", precision=sys.argv[2], slots=8)
ready = time.perf_counter()
memory = {}
for line in open("/proc/self/smaps_rollup"):
    name, *rest = line.split()
    if rest[-1:] == ["kB"]:
        memory[name.rstrip(":")] = int(rest[0]) / 1024
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "import_s": imported - begun,
    "load_s": ready - imported,
    "ready_s": ready - begun,
    "private_mib": memory["Anonymous"],
    "file_mib": memory["Rss"] - memory["Anonymous"],
    "peak_mib": peak,
}))
"""


def absent() -> str | None:
    return None if Path("/proc/self/smaps_rollup").exists() else "there is no /proc/self/smaps_rollup"


def started(model: str, precision: str) -> dict[str, float]:
    """What one process says of itself."""
    child = [sys.executable, "-c", _CHILD, model, precision]
    made = subprocess.run(child, capture_output=True, text=True, check=False, env={**os.environ})
    if made.returncode:
        raise RuntimeError(made.stderr[-2000:])
    said: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return said


def run(args: argparse.Namespace) -> dict[str, Any]:
    rounds = getattr(args, "rounds", None) or 3
    with tempfile.TemporaryDirectory() as folder:
        models = {"pocket": "pocket", "small": str(small_checkpoint(Path(folder) / "small"))}
        kinds = [(name, precision) for name in models for precision in precisions(args.precision)]
        said: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in kinds}
        for number in range(rounds + 1):
            for name, precision in kinds:
                found = started(models[name], precision)
                if number:
                    said[name, precision].append(found)
    figures: dict[str, Any] = {}
    for (name, precision), every in said.items():
        figures[f"{name}_{precision}"] = {
            key: statistics.median(one[key] for one in every) for key in every[0]
        }
    return {
        "bench": "startup",
        **figures,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
