"""When a model whose workers died may be tried again: a wait that doubles, and rest after many deaths.

A death is an end that nobody asked for. After the first the next worker waits 1 s, then 2, 4 … 32 s, until a
job of the model has been done. Five deaths within a minute send it to rest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WITHIN_S, REST_S = 60.0, 60.0
_FORGOTTEN_S = 600.0  # a death that lies so far back is no reason to wait longer after the next


@dataclass
class _Record:
    deaths: deque[float]
    streak: int = 0
    how: str = ""


class Quarantine:
    """Times are monotonic seconds of the caller."""

    def __init__(self, many: int, first_s: float = 1.0, most_s: float = 32.0) -> None:
        self._many, self._first_s, self._most_s = many, first_s, most_s
        self._records: dict[str, _Record] = {}

    def died(self, model: str, now_s: float, how: str = "") -> None:
        """`how`: what the process said or left, for the reason."""
        record = self._records.setdefault(model, _Record(deque(maxlen=self._many)))
        if record.deaths and now_s - record.deaths[-1] > _FORGOTTEN_S:
            record.streak = 0
        record.deaths.append(now_s)
        record.streak += 1
        record.how = how

    def succeeded(self, model: str) -> None:
        """A job of the model was done: the next death is a first one again."""
        record = self._records.get(model)
        if record is not None:
            record.streak = 0

    def lately(self, model: str, now_s: float) -> int:
        """Deaths within the last minute."""
        record = self._records.get(model)
        return 0 if record is None else sum(now_s - death < WITHIN_S for death in record.deaths)

    def rests(self, model: str, now_s: float) -> bool:
        """Whether the model killed so many workers in so short a time that it gets no more for now."""
        record = self._records.get(model)
        if record is None or len(record.deaths) < self._many:
            return False
        return record.deaths[-1] - record.deaths[0] < WITHIN_S and now_s - record.deaths[-1] < REST_S

    def waits_s(self, model: str, now_s: float) -> float:
        """Seconds until a worker may be started again; 0: now."""
        record = self._records.get(model)
        if record is None or not record.streak or not record.deaths:
            return 0.0
        if self.rests(model, now_s):
            return record.deaths[-1] + REST_S - now_s
        wait_s = min(self._most_s, self._first_s * 2.0 ** min(record.streak - 1, 30))
        return max(0.0, record.deaths[-1] + wait_s - now_s)

    def reason(self, model: str, now_s: float) -> str | None:
        """Why the model gets no worker now, and what can be done about it; None: it may have one."""
        left_s = self.waits_s(model, now_s)
        if left_s <= 0:
            return None
        how = f" (last: {self._records[model].how})" if self._records[model].how else ""
        if not self.rests(model, now_s):
            return f"waits {left_s:.0f} s after a crash{how}" if left_s >= 1 else f"waits after a crash{how}"
        return (
            f"{model} ended its worker {self._many} times within a minute{how} and rests for {left_s:.0f} s;"
            f" segue load {model} tries again at once"
        )

    def forgive(self, model: str) -> None:
        """A user asked for it by name: try again."""
        self._records.pop(model, None)
