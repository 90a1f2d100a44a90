"""Who goes next: classes by weight, sessions in turns, both measured in seconds of compute.

Live, interactive and batch work share the device 16 : 4 : 1 while all three wait; whoever is alone has it
all. (Strict order would starve batch work for as long as somebody plays.) Within a class sessions take turns
by deficit round robin: a session may be served while it has seconds left, each round gives everyone the same,
and nobody saves up a claim while away. Within a session jobs keep their order. A job that waited long
competes one class higher.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

CLASSES = ("live", "interactive", "batch")
WEIGHTS = (16.0, 4.0, 1.0)
QUANTUM_S = 2.0
_LEAST_S = 0.05  # no job is free


@dataclass(frozen=True)
class Waiting:
    """What the order depends on. `since_s` is monotonic time of the submit (or of the start of the daemon),
    `cost_s` the estimated seconds of compute.
    """

    job: int
    session: bytes
    priority: str
    since_s: float
    cost_s: float = 1.0


@dataclass
class _State:
    """What was served so far: per class in seconds divided by its weight, per session in seconds left."""

    served: list[float] = field(default_factory=lambda: [0.0] * len(CLASSES))
    left_s: dict[bytes, float] = field(default_factory=dict)
    turns: dict[bytes, int] = field(default_factory=dict)  # when each session had its last turn
    turn: int = 0

    def copy(self) -> _State:
        return _State(list(self.served), dict(self.left_s), dict(self.turns), self.turn)

    def may(self, session: bytes) -> float:
        return self.left_s.get(session, QUANTUM_S)

    def top_up(self, sessions: Collection[bytes]) -> None:
        """As many rounds as it takes until one of these sessions may be served; nobody gains more than one
        round's worth of claim.
        """
        most = max(self.may(session) for session in sessions)
        if most > 0:
            return
        rounds = math.floor(-most / QUANTUM_S) + 1
        for session in {*sessions, *self.left_s}:
            self.left_s[session] = min(QUANTUM_S, self.may(session) + rounds * QUANTUM_S)

    def take(self, lane: int, session: bytes, cost_s: float) -> None:
        self.served[lane] += cost_s / WEIGHTS[lane]
        self.left_s[session] = self.may(session) - cost_s
        self.turn += 1
        self.turns[session] = self.turn


class Scheduler:
    """Order of the queue. Pure bookkeeping: no clock of its own, no I/O."""

    def __init__(self, ageing_s: float, batch_ageing_s: float) -> None:
        self._ageing_s = (math.inf, ageing_s, batch_ageing_s)
        self._state = _State()
        self._reached = 0.0  # up to where the classes were served: who comes back begins here
        self._lanes: frozenset[int] = frozenset()
        self._charged: dict[int, tuple[int, bytes, float]] = {}

    def lane(self, waiting: Waiting, now_s: float) -> int:
        """The class in which a job competes now, as a place in `CLASSES`."""
        lane = CLASSES.index(waiting.priority)
        return max(0, lane - (now_s - waiting.since_s >= self._ageing_s[lane]))

    def order(self, queue: Iterable[Waiting], now_s: float) -> list[Waiting]:
        """The queue in the order in which it would be served if each job took what it is estimated to."""
        lanes: dict[int, dict[bytes, deque[Waiting]]] = {}
        for waiting in sorted(queue, key=lambda found: (found.since_s, found.job)):
            sessions = lanes.setdefault(self.lane(waiting, now_s), {})
            sessions.setdefault(waiting.session, deque()).append(waiting)
        for lane in lanes.keys() - self._lanes:
            self._state.served[lane] = max(self._state.served[lane], self._reached)
        self._lanes = frozenset(lanes)
        state, ordered = self._state.copy(), list[Waiting]()
        while lanes:
            # by where a class would be after one quantum, whatever its next job costs: a long interactive job
            # does not wait for many short batch jobs
            lane = min(lanes, key=lambda found: (state.served[found] + QUANTUM_S / WEIGHTS[found], found))
            state.top_up(lanes[lane])
            head = _next(state, lanes[lane])
            state.take(lane, head.session, max(_LEAST_S, head.cost_s))
            ordered.append(head)
            mine = lanes[lane][head.session]
            mine.popleft()
            if not mine:
                del lanes[lane][head.session]
            if not lanes[lane]:
                del lanes[lane]
        return ordered

    def started(self, waiting: Waiting, now_s: float) -> None:
        """A job begins: its class and session are charged what it is estimated to take."""
        lane, cost_s = self.lane(waiting, now_s), max(_LEAST_S, waiting.cost_s)
        self._reached = max(self._reached, self._state.served[lane])
        self._state.top_up([waiting.session])
        self._state.take(lane, waiting.session, cost_s)
        self._charged[waiting.job] = (lane, waiting.session, cost_s)

    def finished(self, job: int, took_s: float) -> None:
        """An attempt is over, however it ended: what it really took is what counts."""
        charged = self._charged.pop(job, None)
        if charged is None:
            return
        lane, session, cost_s = charged
        more_s = max(0.0, took_s) - cost_s
        self._state.served[lane] += more_s / WEIGHTS[lane]
        if session in self._state.left_s:
            self._state.left_s[session] = min(QUANTUM_S, self._state.left_s[session] - more_s)

    def keep_only(self, sessions: set[bytes]) -> None:
        """Forget the shares of sessions without jobs, so that the table stays as small as the queue."""
        for session in self._state.left_s.keys() - sessions:
            del self._state.left_s[session]
            self._state.turns.pop(session, None)


def _next(state: _State, sessions: dict[bytes, deque[Waiting]]) -> Waiting:
    """The head of the session whose turn it is: of those with seconds left, the one that waited longest for a
    turn.
    """
    able = [session for session in sessions if state.may(session) > 0]
    session = min(able, key=lambda found: (state.turns.get(found, 0), sessions[found][0].since_s))
    return sessions[session][0]
