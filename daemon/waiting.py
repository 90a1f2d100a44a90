"""Requests that are answered later: held until there is something to say, and looked after in every turn.

Bounded in number and in what a turn spends on them, so that neither a crowd that waits nor one that asks for
much audio at once keeps a small question waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from daemon.flow import Held
from protocol.replies import Reply

MAX_HELD = 1024
HELD_TURN_S = 0.01  # what answering those who wait may take of a turn
BULK_TURN_S = 0.005  # audio that is asked for later in a turn waits behind the small questions
BULKY = frozenset({"next", "fetch"})


class Waiting:
    """Owned by the front-end's one thread. `give` sends a reply, `refuse` an error."""

    def __init__(
        self, give: Callable[[Held, Reply], None], refuse: Callable[[Held, Exception], None]
    ) -> None:
        self._give, self._refuse = give, refuse
        self._held: list[Held] = []
        self._bulk_by_s = 0.0  # until when this turn looks audio up as soon as it is asked for
        self.crowded = False  # a turn had no time for everyone

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)

    def begin_turn(self) -> None:
        """Requests are about to be taken."""
        self._bulk_by_s = time.monotonic() + BULK_TURN_S

    def hold(self, held: Held) -> None:
        """Answer at once if there is something to say; else keep it. A newer `next` of the same client and
        job takes the place of the older, which is answered with what there is.
        """
        if held.job is not None:
            for other in self._held:
                if other.job == held.job and other.envelope[0] == held.envelope[0]:
                    other.until_s = 0.0
        now, many = time.monotonic(), len(self._held) >= MAX_HELD
        later = held.op in BULKY and now > self._bulk_by_s and not many
        if later or not self._settle(held, over=now >= held.until_s or many):
            self._held.append(held)
            self.crowded |= later

    def answer(self) -> None:
        """In turns: the answers to a crowd of a thousand (measured: 0.26 s of work when their job ended)
        hold up nobody's question.
        """
        now, waiting, kept, looked = time.monotonic(), self._held, list[Held](), 0
        while looked < len(waiting) and (not looked or time.monotonic() - now < HELD_TURN_S):
            held = waiting[looked]
            looked += 1
            if not self._settle(held, over=now >= held.until_s):
                kept.append(held)
        self._held, self.crowded = waiting[looked:] + kept, looked < len(waiting)

    def end(self) -> None:
        """Everybody is answered in the next turns, with what there is."""
        for held in self._held:
            held.until_s = 0.0

    def _settle(self, held: Held, *, over: bool) -> bool:
        try:
            reply = held.answer(over)
        except Exception as error:
            self._refuse(held, error)
            return True
        if reply is None:
            return False
        self._give(held, reply)
        return True
