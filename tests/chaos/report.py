"""What a part is given and what it hands back."""

from __future__ import annotations

import dataclasses
import json
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

    def count(self, figure: str, more: int = 1) -> None:
        self.figures[figure] = self.figures.get(figure, 0) + more

    def expect(self, true: bool, otherwise: str) -> bool:
        """Note what does not hold; the part goes on and finds the rest."""
        if not true:
            self.broken.append(otherwise)
        return true

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
