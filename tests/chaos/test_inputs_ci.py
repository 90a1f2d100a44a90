"""What the chaos suite's inputs have found, each kept as a test of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from daemon import heap
from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos.watch import counted
from tests.daemon.house import House, Wire, submit


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    made = House().start()
    yield made
    made.close()


@pytest.fixture
def wire(house: House) -> Iterator[Wire]:
    with house.client() as client:
        yield client


@pytest.mark.parametrize("name", ["-rf", "--help", "--device=x", "-"])
def test_a_models_name_is_never_an_option_of_its_worker(wire: Wire, name: str) -> None:
    """malformed, seed 2: the worker took the name for options of its own and died of it."""
    with pytest.raises(SegueError) as caught:
        wire.ask(m.Load(model=name, wait_ms=20_000))
    assert caught.value.code == "E_MODEL" and name in caught.value.message


def test_an_attachment_ends_with_its_job(house: House, wire: Wire) -> None:
    """raw-sockets: attached to a job whose end was read already, a client was kept and looked up in the
    journal in every turn for as long as the daemon lived.
    """
    job = wire.ask(submit(0.2)).job
    last = wire.events(job)[-1].seq
    with house.client(zmq.DEALER) as dealer:
        assert dealer.ask(m.Attach(job=job, after=last)).last == last
        dealer.ask(m.Ping())
        assert counted(wire.ask(m.Metrics()).text, "segue_attached") == 0
        dealer.ask(m.Attach(job=job, after=0))  # no credit: its audio waits
        dealer.ask(m.Ping())
        assert counted(wire.ask(m.Metrics()).text, "segue_attached") == 1


def test_memory_that_was_freed_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """raw-sockets, seed 1: 40 MiB stayed with the daemon after a crowd of 1,100 clients had gone."""
    held = [20 << 20]
    trimmed: list[float] = []
    monkeypatch.setattr(heap, "resident_bytes", lambda: held[0])
    made = heap.Heap()

    def trim() -> None:
        trimmed.append(now)
        held[0] = min(held[0], needed)

    made._trim = trim
    now, needed = 0.0, 20 << 20
    made.turn(now)
    held[0], needed = 100 << 20, 90 << 20  # a crowd is there: little can be given back
    for now in (5.0, 10.0, 15.0, 20.0):
        made.turn(now)
    assert held[0] == 90 << 20 and len(trimmed) < 5
    needed = 20 << 20  # it has gone
    for now in range(21, 100):
        made.turn(float(now))
    assert held[0] == 20 << 20
    before = len(trimmed)
    for now in range(100, 160):
        made.turn(float(now))
    assert len(trimmed) == before
