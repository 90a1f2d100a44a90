"""The engine alone, in a process like a worker: ``python -m tests.bench.alone MODEL PRECISION``.

For each line on standard input, ``FRAMES SEED``, it makes a take and prints ``{"first_s", "total_s"}``: from
the request to its first audio, and to its last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from genmodel import measured
from genmodel.base import BaseGenModel
from genmodel.engine.engine import Engine
from genmodel.request import GenerationRequest
from tests.daemon.house import ROOT

CHUNK_S = 0.5  # as takes.chunk_s
SLOTS = 8  # as worker.slots
TEXT = "house warm piano drums bass"


class Alone:
    """Such a process, from the other side."""

    def __init__(self, model: str, precision: str, threads: int) -> None:
        variables = {"GOMP_SPINCOUNT": "3000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}
        variables |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "2"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.alone", model, precision], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **variables},
        )  # fmt: skip

    def take(self, frames: int, seed: int) -> dict[str, float]:
        """Have one made."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(f"{frames} {seed}\n")
        self._process.stdin.flush()
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(20)


def made(engine: Engine, frames: int, seed: int, chunk_frames: int) -> dict[str, float]:
    """One take on an idle engine."""
    begun, first_s = time.perf_counter(), 0.0
    engine.add(GenerationRequest("generate", frames, text=TEXT, seed=seed, chunk_frames=chunk_frames))
    while engine.busy:
        if engine.step() and not first_s:
            first_s = time.perf_counter() - begun
    return {"first_s": first_s, "total_s": time.perf_counter() - begun}


def main(words: list[str]) -> int:
    os.nice(5)  # as worker.nice
    model = BaseGenModel.get_pretrained(words[0], "cpu")
    model.precision = measured.choose(model).precision if words[1] == "auto" else words[1]
    engine = Engine(model, SLOTS)
    for line in sys.stdin:
        frames, seed = map(int, line.split())
        told: dict[str, Any] = made(engine, frames, seed, round(CHUNK_S * model.frame_rate))
        print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
