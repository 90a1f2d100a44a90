"""What a figure should reach, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aim:
    """One figure of a bench. ``figure``: where it stands in the result, dots between nested keys.

    ``least`` or ``most``: the bound, in shown units; ``holds``: it must be true; none of them: a figure
    without an aim. ``scale`` multiplies the figure before it is shown, ``unit`` is put behind it.
    """

    what: str
    figure: str
    least: float | None = None
    most: float | None = None
    holds: bool = False
    unit: str = ""
    scale: float = 1.0

    def value(self, result: Mapping[str, Any]) -> Any:
        """The figure in shown units, or None where the result has none."""
        found: Any = result
        for key in self.figure.split("."):
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        if isinstance(found, bool) or not isinstance(found, int | float):
            return found
        return found * self.scale

    def met(self, result: Mapping[str, Any]) -> bool | None:
        """Whether the bound is kept; None where there is no bound or no figure."""
        value = self.value(result)
        if value is None or (self.least is None and self.most is None and not self.holds):
            return None
        if self.holds:
            return value is True
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.holds:
            return "yes"
        if self.least is not None:
            return f"≥ {self.least:g}{self._behind}"
        return "–" if self.most is None else f"≤ {self.most:g}{self._behind}"

    def shown(self, result: Mapping[str, Any]) -> str:
        """The figure in words."""
        value = self.value(result)
        if value is None:
            return "not measured"
        if isinstance(value, bool):
            return "yes" if value else "no"
        figure = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"  # not 2e+03
        return figure + self._behind

    @property
    def _behind(self) -> str:
        return self.unit if self.unit in ("", "×") else f" {self.unit}"
