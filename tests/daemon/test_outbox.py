"""When a client counts as one that does not read."""

from __future__ import annotations

from typing import Any, cast

import zmq

from daemon.metrics import Metrics
from daemon.outbox import BEHIND_BYTES, MAX_LATE, MAX_LATE_BYTES, OVERHEAD_BYTES, Outbox

CLIENT = [b"client", b""]


class FullRouter:
    """A ROUTER whose peer's pipe takes nothing."""

    def send_multipart(self, *given: Any, **more: Any) -> None:
        raise zmq.Again


def outbox() -> Outbox:
    return Outbox(cast("zmq.Socket[bytes]", FullRouter()), Metrics())


def test_many_short_answers_under_way_are_no_client_that_does_not_read() -> None:
    waiting = outbox()
    for _ in range(MAX_LATE):
        waiting.reply(CLIENT, [b"x" * 200])
    assert MAX_LATE * (200 + OVERHEAD_BYTES) > BEHIND_BYTES
    assert not waiting.behind(CLIENT)


def test_a_mebibyte_of_answers_unread_is_one() -> None:
    waiting = outbox()
    waiting.reply(CLIENT, [bytes(BEHIND_BYTES)])
    assert not waiting.behind(CLIENT)
    waiting.reply(CLIENT, [b"x"])
    assert waiting.behind(CLIENT)
    assert not waiting.behind([b"another", b""])


def test_what_waits_is_bounded_overhead_and_all() -> None:
    waiting = outbox()
    for number in range(2 * MAX_LATE_BYTES // OVERHEAD_BYTES):
        waiting.reply([b"%d" % number, b""], [b""])
    metrics = waiting._metrics.text()
    most = MAX_LATE_BYTES // OVERHEAD_BYTES
    assert f'segue_peers_lost_total{{why="full"}} {most}' in metrics
