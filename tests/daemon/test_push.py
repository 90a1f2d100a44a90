"""Push to a DEALER within its credit: nothing is lost, nothing is sent unasked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import pytest
import zmq

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit


def test_a_slow_client_gets_everything_in_its_own_time(new_house: Callable[..., House]) -> None:
    house = new_house()
    with house.client(zmq.DEALER) as slow, house.client() as other:
        job = other.ask(submit(4, rate=32_000, text="slow=1")).job
        assert slow.ask(m.Attach(job=job, credit=70_000)).credit == 70_000
        time.sleep(1.0)  # the job goes on without us
        other.events(job)
        events, sent, granted, ticks = [], 0, 70_000, 0
        while not (events and events[-1].event == "done"):
            got = slow.pushed.pop(0) if slow.pushed else slow.receive(0.3)
            if got is None:
                granted += 70_000
                assert slow.ask(m.Credit(job=job, bytes_=70_000)).credit <= granted - sent
                continue
            _, what = got
            if isinstance(what, m.Tick):
                ticks += 1
                continue
            events.append(what)
            if what.event == "audio":
                sent += what.format.total_bytes
                assert sent <= granted
        assert [e.seq for e in events] == list(range(1, len(events) + 1)) and ticks
        start, audio = joined(events)
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))


def test_without_credit_only_words_travel(new_house: Callable[..., House]) -> None:
    house = new_house()
    with house.client(zmq.DEALER) as client:
        job = client.ask(submit(0.5)).job
        client.ask(m.Attach(job=job, credit=0))
        seen = []
        while (got := client.pushed.pop(0) if client.pushed else client.receive(4.0)) is not None:
            seen.append(got[1])
        assert [e.event for e in seen if not isinstance(e, m.Tick)] == ["accepted", "started"]
        assert client.refused(m.Credit(job="77", bytes_=1)).code == "E_JOB"
        assert client.ask(m.Attach(job=job, detach=True)).credit == 0
        assert client.refused(m.Credit(job=job, bytes_=1)).code == "E_JOB"
    with house.client() as req:
        assert req.refused(m.Credit(job=job, bytes_=1)).code == "E_JOB"


def test_a_client_that_vanishes_costs_nothing(new_house: Callable[..., House]) -> None:
    house = new_house()
    with house.client() as stays:
        with house.client(zmq.DEALER) as client:
            job = client.ask(submit(1, rate=32_000, text="slow=5")).job
            client.ask(m.Attach(job=job, credit=8_000_000))
            client.send(m.Next(job=job, after=10_000, wait_ms=20_000))
        assert stays.events(job)[-1].event == "done"
        assert "segue_attached 0" in stays.ask(m.Metrics()).text


@pytest.mark.parametrize("ended", [True, False], ids=["the job has ended", "it goes on"])
def test_a_full_socket_needs_no_credit_to_go_on(new_house: Callable[..., House], ended: bool) -> None:
    """A client that gave credit for all of it beforehand owes the daemon not a word more."""
    house = new_house("takes.chunk_s=0.05")
    with house.client() as other, house.client(zmq.DEALER) as client:
        client.socket.setsockopt(zmq.RCVHWM, 1)  # of the connection that is made now
        client.socket.disconnect(house.connection["endpoints"][0])
        client.socket.connect(house.connection["endpoints"][0])
        job = other.ask(submit(6, rate=32_000, text="" if ended else "slow=2")).job
        last = other.events(job)[-1].seq if ended else None
        assert client.ask(m.Attach(job=job, credit=8_000_000)).credit == 8_000_000
        last = other.events(job)[-1].seq if last is None else last
        sent = -1.0
        while sent < (sent := _pushes(other)):
            time.sleep(0.5)
        assert sent < last, "its socket is full by now"
        seen = []
        while not (seen and seen[-1].final):
            got = client.pushed.pop(0) if client.pushed else client.receive(10.0)
            assert got is not None, f"{len(seen)} of {last} events came, then no more"
            seen += [] if isinstance(got[1], m.Tick) else [got[1]]
        assert [event.seq for event in seen] == list(range(1, last + 1))


def _pushes(wire: Wire) -> float:
    found = re.search(r"^segue_pushes_total (\S+)$", wire.ask(m.Metrics()).text, re.M)
    return float(found[1]) if found else 0.0
