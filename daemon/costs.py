"""What a job will cost: seconds of compute per second of audio, per model, learnt from what was made."""

from __future__ import annotations

import math
from collections.abc import Callable

_WORTH_WRITING = 0.1  # a smaller change is not worth a write to the disk


class CostEstimate:
    """`recall` and `remember` keep what was learnt over a restart: (name) -> text, (name, text)."""

    def __init__(
        self,
        first_guess: float = 1.0,
        recall: Callable[[str], str] = lambda name: "",
        remember: Callable[[str, str], None] = lambda name, value: None,
    ) -> None:
        self._first_guess, self._recall, self._remember = first_guess, recall, remember
        self._per_second: dict[str, float | None] = {}
        self._written: dict[str, float] = {}

    def _of(self, model: str) -> float | None:
        if model not in self._per_second:
            try:
                found = float(self._recall(f"cost/{model}"))
            except ValueError:
                found = 0.0
            self._per_second[model] = found if math.isfinite(found) and found > 0 else None
            self._written[model] = self._per_second[model] or 0.0
        return self._per_second[model]

    def seconds(self, model: str, audio_s: float, variations: int) -> float:
        """A batch costs less than its parts; the square root is the rule of thumb until measured better."""
        known = self._of(model)
        return (self._first_guess if known is None else known) * audio_s * variations**0.5

    def known(self, model: str) -> bool:
        return self._of(model) is not None

    def learn(self, model: str, audio_s: float, variations: int, took_s: float) -> None:
        """A job that ran from its beginning to its end without a pause took so long."""
        if audio_s <= 0 or took_s <= 0:
            return
        seen, before = took_s / (audio_s * variations**0.5), self._of(model)
        now = seen if before is None else 0.7 * before + 0.3 * seen
        self._per_second[model] = now
        if abs(now - self._written[model]) > _WORTH_WRITING * now:
            self._written[model] = now
            self._remember(f"cost/{model}", f"{now:.6g}")
