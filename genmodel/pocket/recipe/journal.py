"""What a training run writes down: one JSON line per event, and a picture of the curves."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Journal:
    """Appends events to `<folder>/<name>.jsonl`; `echo` also returns the line for a terminal."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.jsonl"
        self.picture = folder / f"{name}.png"

    def write(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "at": round(time.time(), 1), **facts}, default=float)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self, event: str) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line]
        return [row for row in rows if row["event"] == event]

    def draw(self, event: str, keys: tuple[str, ...]) -> None:
        """Curves of `keys` over "step" to a PNG; nothing when matplotlib is not installed or there are no
        rows.
        """
        rows = self.read(event)
        try:
            import matplotlib
        except ImportError:
            return
        if not rows:
            return
        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(9, 5))
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=key)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(self.picture, dpi=90)
        pyplot.close(figure)


def stop_on_terminate() -> None:
    """Let SIGTERM end a run as Ctrl-C does, so that its last steps are saved."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save` to a neighbour, then rename: a checkpoint is whole or not there."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path) -> dict[str, Any]:
    """A checkpoint written by `save_atomically`: tensors and plain values only."""
    return torch.load(path, map_location="cpu", weights_only=True)


def mean_of(values: list[float] | Tensor) -> float:
    return float(torch.as_tensor(values, dtype=torch.float64).mean()) if len(values) else float("nan")


def numbers(facts: Any) -> Any:
    """The same with numpy's numbers as plain ones and NaN as None, so that it can be written as JSON."""
    if isinstance(facts, dict):
        return {name: numbers(value) for name, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [numbers(value) for value in facts]
    if hasattr(facts, "item"):
        facts = facts.item()
    return None if isinstance(facts, float) and math.isnan(facts) else facts
