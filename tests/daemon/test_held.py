"""How many requests may wait at once, held against the class itself: no clock, no load decides it."""

from __future__ import annotations

import time

from daemon.flow import Held
from daemon.waiting import MAX_HELD, Waiting
from protocol.replies import PingReply, Reply


class Crowd:
    """Requests that have nothing to say until their time is over, and who got an answer."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self.waiting = Waiting(
            lambda held, _: self.answered.append(held.request_id), lambda held, error: self._fail(error)
        )

    @staticmethod
    def _fail(error: Exception) -> None:
        raise error

    def ask(self, number: int, wait_s: float = 3600.0) -> None:
        self.waiting.hold(
            Held([number.to_bytes(4, "big"), b""], "status", number, time.monotonic() + wait_s, self._nothing)
        )

    @staticmethod
    def _nothing(over: bool) -> Reply | None:
        return PingReply(boot="b") if over else None


def test_the_limit_is_reached_and_never_passed() -> None:
    crowd = Crowd()
    crowd.waiting.begin_turn()
    for number in range(MAX_HELD + 256):
        crowd.ask(number)
    assert len(crowd.waiting) == MAX_HELD
    assert crowd.answered == list(range(MAX_HELD, MAX_HELD + 256)), "those above it get their answer at once"


def test_who_leaves_makes_room() -> None:
    crowd = Crowd()
    crowd.waiting.begin_turn()
    for number in range(MAX_HELD):
        crowd.ask(number)
    crowd.waiting.end()
    by = time.monotonic() + 60
    while len(crowd.waiting) and time.monotonic() < by:
        crowd.waiting.answer()
    assert sorted(crowd.answered) == list(range(MAX_HELD)), "everybody once"
    crowd.ask(MAX_HELD)
    assert len(crowd.waiting) == 1 and len(crowd.answered) == MAX_HELD
