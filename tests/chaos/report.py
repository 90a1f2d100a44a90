"""What a part is given and what it hands back."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of a part is run: the counts of CI or of a full run, times `factor`."""

    ci: bool
    factor: float = 1.0

    def pick(self, in_ci: int, in_full: int) -> int:
        """The count of this run; at least 1."""
        return max(1, round(self.factor * (in_ci if self.ci else in_full)))


@dataclasses.dataclass
class Report:
    """The outcome of one part. Whatever did not hold is one sentence in `broken`."""

    name: str
    seed: int
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    broken: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)  # what could not be tried here, and why
    wall_s: float = 0.0

    @property
    def holds(self) -> bool:
        return not self.broken

    def count(self, figure: str, more: int | float = 1) -> None:
        self.figures[figure] = self.figures.get(figure, 0) + more

    def expect(self, true: bool, otherwise: str) -> bool:
        """Note what does not hold; the part goes on and finds the rest."""
        if not true:
            self.broken.append(otherwise)
        return true

    def add(self, other: Report) -> None:
        """What a piece of the part that ran by itself has found; numbers are added up, "slowest" ones not."""
        self.broken += other.broken
        self.skipped += [reason for reason in other.skipped if reason not in self.skipped]
        for name, value in other.figures.items():
            if not isinstance(value, int | float):
                self.figures[name] = value
            elif name.startswith("slowest"):
                self.figures[name] = max(value, self.figures.get(name, 0))
            else:
                self.count(name, value)

    def to_map(self) -> dict[str, Any]:
        return {
            "part": self.name,
            "seed": self.seed,
            "holds": self.holds,
            "wall_s": round(self.wall_s, 1),
            "figures": self.figures,
            "broken": self.broken[:50],
            "skipped": self.skipped,
        }

    def lines(self) -> list[str]:
        """For a reader; the figures in the order in which they were noted."""
        verdict = "holds" if self.holds else f"BROKEN ({len(self.broken)})"
        found = [f"{self.name}: {verdict} in {self.wall_s:.1f} s, seed {self.seed}"]
        found += [f"  {name}: {_shown(value)}" for name, value in self.figures.items()]
        found += [f"  skipped: {reason}" for reason in self.skipped]
        found += [f"  BROKEN: {sentence}" for sentence in self.broken[:50]]
        return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def side_by_side(task: Callable[..., Any], given: Sequence[tuple[Any, ...]], lanes: int = 2) -> list[Any]:
    """`task(*arguments)` for each, two processes at a time; in order. When one falls over, all are ended."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(lanes, mp_context=context) as pool:
        waiting = [pool.submit(task, *arguments) for arguments in given]
        try:
            return [found.result() for found in waiting]
        except BaseException:
            for found in waiting:
                found.cancel()
            for process in multiprocessing.active_children():
                process.terminate()
            raise
