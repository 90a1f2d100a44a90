"""When a worker that does not do what it was told is ended, and how hard.

Told (a flag that is heard between two steps), then SIGTERM, then SIGKILL. The same rungs for a cancel that is
not heard, for a stop that is not obeyed and for a worker that makes no progress. No clock of its own, no I/O
but a look at the process: the caller says what time it is and does what is judged.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from daemon.config import Worker as Limits
from daemon.processes import Activity, activity
from daemon.workers.local import LocalWorker

KILL_AFTER_S = 3.0  # after SIGTERM
STALL_STEPS = 20  # a step may take so many times the median
HEARD_STEPS = 4  # a cancel is heard within so many steps, or something is wrong
FROZEN_LOAD_S = 30.0  # a load that neither computes nor reads for so long will not end
_WORKING_SHARE = 0.05  # of one core: what computes uses more, what hangs uses none
_PACES = 64


class Pace:
    """How long a worker's steps take lately."""

    def __init__(self) -> None:
        self._steps, self._total_s = 0, 0.0
        self._lately_s: deque[float] = deque(maxlen=_PACES)

    def told(self, steps: int, mean_ms: float) -> None:
        """Take in the totals since the worker's start."""
        total_s = steps * mean_ms / 1000
        if steps > self._steps:
            self._lately_s.append(max(0.0, total_s - self._total_s) / (steps - self._steps))
            self._steps, self._total_s = steps, total_s

    @property
    def median_s(self) -> float | None:
        """None before the first step was reported."""
        return statistics.median(self._lately_s) if self._lately_s else None


@dataclass(frozen=True)
class Verdict:
    """`act` is "terminate" or "kill"; `cause` is "stop", "stall", "load" or "cancel"; `why` in words."""

    act: str
    cause: str
    why: str


@dataclass
class _Watched:
    pace: Pace = field(default_factory=Pace)
    looked: tuple[float, float] | None = None  # when the process was looked at, and its processor time then
    stood_s: float = 0.0  # the progress time that the look belongs to
    working: bool = True
    moves: dict[int, tuple[int, str, int]] = field(default_factory=dict)


class Ladder:
    """Owned by the front-end's one thread."""

    def __init__(self, limits: Limits, look: Callable[[int], Activity | None] = activity) -> None:
        self._limits, self._look = limits, look
        self._watched: dict[int, _Watched] = {}

    def told(self, worker: LocalWorker, steps: int, mean_ms: float) -> None:
        """A worker reported its steps."""
        self._of(worker).pace.told(steps, mean_ms)

    def moved(self, worker: LocalWorker, job: int, at: tuple[int, str, int]) -> bool:
        """Whether a job (attempt, state, step) got on since it was last heard of."""
        moves = self._of(worker).moves
        before, moves[job] = moves.get(job), at
        for gone in moves.keys() - worker.aboard.keys() - {job}:
            del moves[gone]
        return before != at

    def median_step_s(self, worker: LocalWorker) -> float | None:
        return self._of(worker).pace.median_s

    def gone(self, worker: LocalWorker) -> None:
        self._watched.pop(worker.pid, None)

    def rest(self) -> None:
        """The clocks were set anew: what was seen before says nothing."""
        for watched in self._watched.values():
            watched.looked = None

    def _of(self, worker: LocalWorker) -> _Watched:
        return self._watched.setdefault(worker.pid, _Watched())

    # ---- how long is too long ----

    def stall_after_s(self, worker: LocalWorker) -> float:
        """Seconds without a step after which a generating worker is taken for stuck."""
        return max(self._limits.stall_s, STALL_STEPS * (self.median_step_s(worker) or 0.0))

    def heard_within_s(self, worker: LocalWorker) -> float:
        """Seconds that a worker has for hearing a cancel."""
        return max(self._limits.cancel_grace_s, HEARD_STEPS * (self.median_step_s(worker) or 0.0))

    # ---- judging ----

    def judge(
        self, worker: LocalWorker, now_s: float, *, states: Collection[str], company: bool, paused: bool
    ) -> Verdict | None:
        """What has to happen to a worker now. `states`: what its jobs were last said to be in ("generating",
        "prefill" …); `company`: jobs are aboard that nobody cancelled.
        """
        if worker.ending_since_s is not None:
            return self._ending(worker, now_s)
        if worker.state == "loading":
            return self._loading(worker, now_s)
        long_step = self._in_long_step(worker, states)
        if worker.aboard and not paused:
            verdict = self._stalled(worker, now_s, long_step)
            if verdict is not None:
                return verdict
        told_s = min(worker.dropping.values(), default=now_s)
        if now_s - told_s > self.heard_within_s(worker):
            # Somebody else's prompt is being read, and the process does compute: ending it would cost the
            # neighbour more than the cancelled job still takes.
            spare = company and long_step and self._works(worker, now_s, self._limits.stall_s)
            return None if spare else Verdict("terminate", "cancel", "a neighbour was cancelled hard")
        return None

    def _ending(self, worker: LocalWorker, now_s: float) -> Verdict | None:
        waited_s = now_s - (worker.ending_since_s if worker.ending_since_s is not None else now_s)
        if worker.terminated_s is not None:
            seen = self._look(worker.pid)
            deaf = seen is not None and seen.stopped  # a stopped process hears nothing but SIGKILL
            late = now_s - worker.terminated_s > KILL_AFTER_S
            return Verdict("kill", "stop", worker.why) if deaf or late else None
        late = waited_s > self._limits.cancel_grace_s
        return Verdict("terminate", "stop", worker.why) if late else None

    def _loading(self, worker: LocalWorker, now_s: float) -> Verdict | None:
        took_s, limit_s = now_s - worker.started_s, self._limits.load_timeout_s
        if took_s > limit_s:
            return Verdict("terminate", "load", f"loading took over {limit_s:g} s")
        seen = self._look(worker.pid)
        stopped = seen is not None and seen.stopped  # that is no slow disk
        frozen_s = self._limits.stall_s if stopped else max(FROZEN_LOAD_S, self._limits.stall_s)
        frozen_s = min(frozen_s, limit_s)
        if took_s > frozen_s / 2 and not self._works(worker, now_s, frozen_s):
            return Verdict("terminate", "stall", "loading stood still")
        return None

    def _in_long_step(self, worker: LocalWorker, states: Collection[str]) -> bool:
        """Reading a prompt, writing files and the very first step may take far longer than a step does."""
        return self.median_step_s(worker) is None or any(state != "generating" for state in states)

    def _stalled(self, worker: LocalWorker, now_s: float, long_step: bool) -> Verdict | None:
        still_s, limit_s = now_s - worker.progressed_s, self.stall_after_s(worker)
        if long_step:
            works = still_s <= limit_s / 2 or self._works(worker, now_s, limit_s)
            limit_s = max(limit_s, self._limits.first_step_s) if works else limit_s
        if still_s <= limit_s:
            return None
        seen = self._look(worker.pid)
        act = "kill" if seen is not None and seen.stopped else "terminate"
        return Verdict(act, "stall", f"it made no progress for {still_s:.0f} s")

    def _works(self, worker: LocalWorker, now_s: float, window_s: float) -> bool:
        """Whether the process computed (or waited for a disk) in the last `window_s` / 2, as far as one can
        look.
        """
        watched = self._of(worker)
        if watched.stood_s != worker.progressed_s:  # it moved since: look afresh
            watched.looked, watched.stood_s, watched.working = None, worker.progressed_s, True
        if watched.looked is not None and now_s - watched.looked[0] < window_s / 2:
            return watched.working
        seen = self._look(worker.pid)
        if seen is None:
            return True
        if watched.looked is not None:
            used_s = seen.cpu_s - watched.looked[1]
            busy = used_s >= _WORKING_SHARE * (now_s - watched.looked[0])
            watched.working = (busy or seen.on_disk) and not seen.stopped
        watched.looked = (now_s, seen.cpu_s)
        return watched.working
