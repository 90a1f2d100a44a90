"""What happens when the front-end grows without end.

A peer on ipc that has passed the handshake can send one message of ever more parts; libzmq keeps all of them
whatever the limits say (measured: 384 MB sent, 382 MB held, also while nobody reads). It cannot be refused
above libzmq. It ends with its connection, so first every connection is ended and the doors are opened anew
(clients ask again, jobs notice nothing); if that does not help, the daemon leaves and is started again.
"""

from __future__ import annotations

from collections.abc import Callable

LOOK_EVERY_S = 0.5
RELIEF_S = 10.0  # how long the doors' renewal has to show
FAR_ABOVE = 2.0  # times the limit: jobs that run are not waited for any more


class Weight:
    """`limit_bytes` 0: never heavy. `resident_bytes` gives 0 where it cannot be told; `trim` gives back what
    is merely kept.
    """

    def __init__(self, limit_bytes: int, resident_bytes: Callable[[], int], trim: Callable[[], None]) -> None:
        self._limit_bytes, self._resident_bytes, self._trim = limit_bytes, resident_bytes, trim
        self._looked_s = float("-inf")
        self._renewed_s: float | None = None
        self.bytes = 0  # at the last look

    def look(self, now_s: float) -> str:
        """What is to be done: "" nothing, "renew" the doors, "leave" when jobs are done, or leave "now"."""
        if not self._limit_bytes or now_s - self._looked_s < LOOK_EVERY_S:
            return ""
        self._looked_s = now_s
        self.bytes = self._resident_bytes()
        if self.bytes > self._limit_bytes or self._renewed_s is not None:
            self._trim()
            self.bytes = self._resident_bytes()
        if self.bytes <= self._limit_bytes:
            if self._renewed_s is not None and now_s - self._renewed_s > RELIEF_S:
                self._renewed_s = None
            return ""
        if self.bytes > FAR_ABOVE * self._limit_bytes and self._renewed_s is not None:
            return "now"
        if self._renewed_s is None:
            self._renewed_s = now_s
            return "renew"
        return "leave" if now_s - self._renewed_s > RELIEF_S else ""
