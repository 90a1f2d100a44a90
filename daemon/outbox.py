"""What leaves the daemon: never waiting, never lost in silence, bounded in memory."""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq

from daemon.metrics import Metrics

# 16 MiB lie in the pipe of a client that asks for bulk and never reads; with 16 MiB more here it cost 39 MiB
MAX_LATE, MAX_LATE_BYTES, LATE_S = 2048, 8 << 20, 4.0
BEHIND_BYTES = 1 << 20
OVERHEAD_BYTES = 1024  # of an answer that waits, beside its frames
_LOG = logging.getLogger("segue.outbox")


class ReturnPath(list[bytes]):
    """The envelope of an answer, and on tcp the client's key: who was revoked gets nothing any more."""

    def __init__(self, envelope: Iterable[bytes], key: str = "") -> None:
        super().__init__(envelope)
        self.key = key


def key_of(envelope: list[bytes]) -> str:
    """The public key behind an envelope, "" on ipc."""
    return envelope.key if isinstance(envelope, ReturnPath) else ""


@dataclasses.dataclass
class _Late:
    """An answer that a client's socket did not take yet."""

    until_s: float
    envelope: list[bytes]
    frames: Sequence[Any]
    size: int


class Outbox:
    """Sends on the ROUTER, which is set to refuse (ROUTER_MANDATORY) rather than to drop.

    What a client's socket does not take now waits here in order, a few seconds and 8 MiB for all clients
    together; a client that stands still costs one look a turn, however much waits for it.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        metrics: Metrics,
        allowed: Callable[[str], bool] = lambda key: True,
    ) -> None:
        self._router, self._metrics, self._allowed = router, metrics, allowed
        self._late: dict[bytes, collections.deque[_Late]] = {}
        self._late_bytes = 0

    @property
    def pending(self) -> bool:
        return bool(self._late)

    def behind(self, envelope: list[bytes]) -> bool:
        """Whether this client does not take what it asked for: much of it waits here already.

        Counted without our own overhead: 850 refusals under way were "1 MiB" of a client that did read.
        """
        waiting = self._late.get(envelope[0])
        return waiting is not None and sum(entry.size - OVERHEAD_BYTES for entry in waiting) > BEHIND_BYTES

    def send(self, envelope: list[bytes], frames: Sequence[Any]) -> str:
        """ "sent", "full" (the client does not read) or "gone"."""
        if not self._allowed(key_of(envelope)):
            return "gone"
        try:
            self._router.send_multipart([*envelope, *frames], zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return "full"
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.ETERM):
                _LOG.warning("send failed", extra={"error": str(error)})
            return "gone"
        return "sent"

    def reply(self, envelope: list[bytes], frames: Sequence[Any]) -> None:
        """Send, or try again for a while when the client has more answers under way than its socket takes."""
        waiting = self._late.get(envelope[0])
        outcome = "full" if waiting else self.send(envelope, frames)
        if outcome == "sent":
            return
        size = OVERHEAD_BYTES + sum(memoryview(frame).nbytes for frame in frames)
        many = waiting is not None and len(waiting) >= MAX_LATE
        if outcome == "gone" or many or self._late_bytes + size > MAX_LATE_BYTES:
            self._metrics.count("peers_lost", why=outcome)
            return
        entry = _Late(time.monotonic() + LATE_S, envelope, frames, size)
        self._late.setdefault(envelope[0], collections.deque()).append(entry)
        self._late_bytes += size

    def send_late(self) -> None:
        """Once more for the answers that were not taken; those whose time is over count as lost."""
        now = time.monotonic()
        for peer, waiting in list(self._late.items()):
            while waiting:
                entry = waiting[0]
                outcome = self.send(entry.envelope, entry.frames)
                if outcome == "full" and now < entry.until_s:
                    break
                waiting.popleft()
                self._late_bytes -= entry.size
                if outcome != "sent":
                    self._metrics.count("peers_lost", why=outcome)
            if not waiting:
                del self._late[peer]
