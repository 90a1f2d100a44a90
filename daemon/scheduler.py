"""Who goes next: live before interactive before batch, and within a class the session that has had the least.

A session's share is measured in seconds of compute. A session that was away does not save up a claim: it
enters at the smallest share of those present. Within a session jobs keep their order. A job that has waited
`ageing_s` competes one class higher, so that batch work is slow under load but never starved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CLASSES = ("live", "interactive", "batch")


@dataclass(frozen=True)
class Waiting:
    """What the order depends on. `since_s` is monotonic time of the submit (or of the
    start of the daemon).
    """

    job: int
    session: bytes
    priority: str
    since_s: float


class Scheduler:
    """Order of the queue. Pure bookkeeping: no clock of its own, no I/O."""

    def __init__(self, ageing_s: float) -> None:
        self._ageing_s = ageing_s
        self._shares_s: dict[bytes, float] = {}

    def rank(self, waiting: Waiting, now_s: float) -> int:
        """0 is first. Nothing ages into the live class: what is live has a player waiting on stage."""
        rank = CLASSES.index(waiting.priority)
        aged = int((now_s - waiting.since_s) // self._ageing_s)
        return rank if rank == 0 else max(1, rank - aged)

    def order(self, queue: Iterable[Waiting], now_s: float) -> list[Waiting]:
        """The queue in the order in which it would be served if each job cost its session
        one unit of share.
        """
        lanes: dict[tuple[int, bytes], list[Waiting]] = {}
        for waiting in queue:
            lanes.setdefault((self.rank(waiting, now_s), waiting.session), []).append(waiting)
        for lane in lanes.values():
            lane.sort(key=lambda found: (found.since_s, found.job))
        self._admit({session for _, session in lanes})
        shares = dict(self._shares_s)
        unit = max(1.0, sum(shares.values()) / max(1, len(shares)) * 0.1)
        ordered: list[Waiting] = []
        for rank in sorted({rank for rank, _ in lanes}):
            present = {
                session: list(reversed(lane)) for (found, session), lane in lanes.items() if found == rank
            }
            while present:
                session = min(present, key=lambda found: (shares[found], present[found][-1].since_s))
                ordered.append(present[session].pop())
                shares[session] += unit
                if not present[session]:
                    del present[session]
        return ordered

    def _admit(self, sessions: set[bytes]) -> None:
        known = [self._shares_s[session] for session in sessions if session in self._shares_s]
        floor = min(known, default=max(self._shares_s.values(), default=0.0))
        for session in sessions:
            self._shares_s.setdefault(session, floor)

    def charge(self, session: bytes, seconds: float) -> None:
        """A session has used (or, negative, was charged too much) so many seconds of compute."""
        self._shares_s[session] = max(0.0, self._shares_s.get(session, 0.0) + seconds)

    def keep_only(self, sessions: set[bytes]) -> None:
        """Forget the shares of sessions without jobs, so that the table stays as small as the queue."""
        for session in self._shares_s.keys() - sessions:
            del self._shares_s[session]


class CostEstimate:
    """Seconds of compute per second of audio and variation, per model, learnt from what was made."""

    def __init__(self, first_guess: float = 1.0) -> None:
        self._first_guess = first_guess
        self._per_second: dict[str, float] = {}

    def seconds(self, model: str, audio_s: float, variations: int) -> float:
        """A batch costs less than its parts; the square root is the rule of thumb until measured better."""
        return self._per_second.get(model, self._first_guess) * audio_s * variations**0.5

    def known(self, model: str) -> bool:
        return model in self._per_second

    def learn(self, model: str, audio_s: float, variations: int, took_s: float) -> None:
        if audio_s <= 0:
            return
        seen = took_s / (audio_s * variations**0.5)
        before = self._per_second.get(model)
        self._per_second[model] = seen if before is None else 0.7 * before + 0.3 * seen
