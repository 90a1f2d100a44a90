"""Noticing that time went by without us: the machine slept, the clock was set, or the process was stopped.

Everything in the daemon is timed by the monotonic clock, which neither jumps nor (on Linux and macOS) runs
while the machine sleeps. So a sleep or a changed wall clock ends nothing by itself; this only says that it
happened, because a GPU often does not survive a sleep and its worker has to be looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

JUMP_S = 5.0


def _boot_clock() -> Callable[[], float] | None:
    """A steady clock that also runs in sleep; None where the system has none."""
    number: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return None if number is None else lambda: time.clock_gettime(number)


@dataclass(frozen=True)
class Jump:
    """What happened between two looks. All in seconds.

    slept_s: the machine slept; set_s: the wall clock was set (negative: back); stopped_s: the process itself
    did not run though the machine did.
    """

    slept_s: float = 0.0
    set_s: float = 0.0
    stopped_s: float = 0.0


class ClockWatch:
    """Asked once a turn. `wall`, `steady` and `boot` (a steady clock that also runs in sleep, or None) are in
    seconds.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        boot: Callable[[], float] | None = _boot_clock(),  # noqa: B008 - a function, made once
    ) -> None:
        self._wall, self._steady, self._boot = wall, steady, boot
        self._last = self._read()

    def _read(self) -> tuple[float, float, float]:
        steady = self._steady()
        return self._wall(), steady, steady if self._boot is None else self._boot()

    def restart(self) -> None:
        """What went by up to now is known."""
        self._last = self._read()

    def look(self, waited_s: float) -> Jump | None:
        """None when nothing special happened. `waited_s`: how long the loop meant to wait at most.

        Without a clock that runs in sleep, a wall clock that goes ahead counts as sleep: a worker too many is
        looked at, which costs a second; one too few would play silence.
        """
        wall, steady, boot = self._read()
        passed = steady - self._last[1]
        wall_ahead, boot_ahead = wall - self._last[0] - passed, boot - self._last[2] - passed
        self._last = (wall, steady, boot)
        if self._boot is None:
            slept, was_set = (wall_ahead, 0.0) if wall_ahead > JUMP_S else (0.0, wall_ahead)
        else:
            slept, was_set = boot_ahead, wall_ahead - boot_ahead
        stopped = passed - waited_s
        jump = Jump(
            slept if slept > JUMP_S else 0.0,
            was_set if abs(was_set) > JUMP_S else 0.0,
            stopped if stopped > JUMP_S else 0.0,
        )
        return None if jump == Jump() else jump
