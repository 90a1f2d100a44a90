"""Memory that the C library keeps for later is given back to the system.

A thousand clients at once, or one that sends a message without an end, make libzmq take memory and free it
again; glibc keeps what was freed (measured: 40 MiB after a crowd of 1,100, for as long as the daemon lives).
`malloc_trim` gives it back within milliseconds. Elsewhere than with glibc there is nothing to do.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

EVERY_S, AT_MOST_S = 4.0, 60.0
WORTH_BYTES = 4 << 20
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = 4096


class Heap:
    """Looked after by the loop: `turn(now_s)` now and then, monotonic seconds."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._least_bytes: int | None = None
        self._pause_s = EVERY_S
        self._due_s = float("-inf")

    def turn(self, now_s: float) -> None:
        """Every few seconds: give back what is kept, if it may be much; seldom while that gains little."""
        if self._trim is None or now_s < self._due_s:
            return
        held = resident_bytes()
        if self._least_bytes is None or held > self._least_bytes + WORTH_BYTES:
            self._trim()
            left = resident_bytes()
            self._least_bytes = min(left, self._least_bytes or left)
            self._pause_s = EVERY_S if held - left >= WORTH_BYTES else min(AT_MOST_S, 2 * self._pause_s)
        else:
            self._pause_s = EVERY_S
        self._due_s = now_s + self._pause_s


def trim() -> None:
    """Give back what is kept, now."""
    found = _malloc_trim()
    if found is not None:
        found()


def _malloc_trim() -> Callable[[], object] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return lambda: trim(ctypes.c_size_t(0))


def resident_bytes() -> int:
    """Memory of this process; 0 where it cannot be told."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
