"""How often a model's workers died of themselves, and when it is left alone for a while."""

from __future__ import annotations

from collections import deque

WITHIN_S, REST_S = 60.0, 60.0


class Quarantine:
    """`many` deaths within a minute send a model to rest. Times are monotonic seconds of the caller."""

    def __init__(self, many: int) -> None:
        self._many = many
        self._deaths: dict[str, deque[float]] = {}

    def died(self, model: str, now_s: float) -> None:
        self._deaths.setdefault(model, deque(maxlen=self._many)).append(now_s)

    def lately(self, model: str, now_s: float) -> int:
        """Deaths within the last minute."""
        return sum(now_s - death < WITHIN_S for death in self._deaths.get(model, ()))

    def rests(self, model: str, now_s: float) -> bool:
        """Whether the model killed so many workers in so short a time that it gets no more for now."""
        deaths = self._deaths.get(model)
        if deaths is None or len(deaths) < self._many:
            return False
        return deaths[-1] - deaths[0] < WITHIN_S and now_s - deaths[-1] < REST_S

    def forgive(self, model: str) -> None:
        """A user asked for it by name: try again."""
        self._deaths.pop(model, None)
