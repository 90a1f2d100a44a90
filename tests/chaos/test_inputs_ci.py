"""What the chaos suite's inputs have found, each kept as a test of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from bridge_clients.client import Client
from daemon import heap, security
from daemon.config import Log
from daemon.flow import ANSWER_BYTES
from daemon.notify import Notifier
from daemon.upkeep import Upkeep
from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos.watch import counted
from tests.daemon.house import ROOT, House, Wire, submit


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
        _until_attached(wire, 0)
        dealer.ask(m.Attach(job=job, after=0))  # no credit: its audio waits
        assert dealer.receive(5.0)[1].event == "accepted"
        _until_attached(wire, 1)


def _until_attached(wire: Wire, count: int) -> None:
    by = time.monotonic() + 10
    while counted(wire.ask(m.Metrics()).text, "segue_attached") != count:
        assert time.monotonic() < by
        time.sleep(0.02)


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


def test_the_loop_looks_after_the_heap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """raw-sockets, seed 11: the call was lost when two changes were put together."""
    looked: list[float] = []
    monkeypatch.setattr(heap.Heap, "turn", lambda self, now_s: looked.append(now_s))
    pool, anything = (
        SimpleNamespace(places={}, workers=[], paused=False, woke=lambda s: None),
        SimpleNamespace(),
    )
    made = Upkeep(Notifier({}), pool, anything, anything, tmp_path, Log())  # type: ignore[arg-type]
    made.turn(sound=True, waited_s=0.0)
    assert looked


def test_a_file_where_a_folder_is_due_is_said_in_a_sentence(tmp_path: Path) -> None:
    """strangers, seed 1: "[Errno 17] File exists" was all there was to read."""
    (tmp_path / "run").write_text("precious")
    for path in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with pytest.raises(security.UnsafePath, match="needs a folder of its own"):
            security.owner_only_folder(path)
    assert (tmp_path / "run").read_text() == "precious"


def test_a_blocking_call_ends_within_its_own_time(house: House, wire: Wire) -> None:
    """stuck, seed 1: `fetch` waited 3 s for a stopped daemon and `events` half a second, however little time
    they were given.
    """
    job = wire.ask(submit(0.2)).job
    wire.events(job)
    assert house.process is not None
    with Client(autostart=False, folder=house.runtime) as client:
        os.kill(house.process.pid, signal.SIGSTOP)
        try:
            for call in (
                lambda: client.fetch(job, timeout_s=0.1),
                lambda: next(client.events(job, timeout_s=0.1)),
                lambda: client.load("coded", timeout_s=0.1),
            ):
                begun = time.monotonic()
                with pytest.raises(SegueError) as caught:
                    call()
                # 0.1 s on a quiet machine; what it was before is well beyond the slack for a busy one
                assert caught.value.code == "E_TIMEOUT" and time.monotonic() - begun < 0.45
        finally:
            os.kill(house.process.pid, signal.SIGCONT)
        assert client.ping(timeout_s=20).ready


def test_one_answer_carries_a_megabyte_at_most(wire: Wire) -> None:
    """stuck, seed 1: a client that asked for 64 MiB at a time made everybody else wait for 0.15 s, and 91 MiB
    waited in the daemon for one that did not read.
    """
    job = wire.ask(submit(8.0, rate=48_000, channels=2, stems=["mix"])).job
    events = wire.events(job, max_bytes=64 << 20)
    assert events[-1].event == "done"
    reply = wire.ask(m.Next(job=job, max_bytes=64 << 20))
    assert sum(e.block.format.total_bytes for e in reply.events if e.event == "audio") <= ANSWER_BYTES
    assert reply.more
    got, size = 0, 1
    while got < size:
        piece = wire.ask(m.Fetch(job=job, as_="bytes", offset=got, max_bytes=4 << 20))
        assert 0 < len(piece.data) <= ANSWER_BYTES
        got, size = got + len(piece.data), piece.total_bytes
    assert got == size


_WAITS = """
import sys
from bridge_clients.client import Client
from protocol import messages as m
with Client(autostart=False, folder=sys.argv[1]) as client:
    print("ready", flush=True)
    reply = client.request(m.Next(job=sys.argv[2], after=1_000, wait_ms=600), 5.0)
print(reply.state, flush=True)
"""


def test_a_client_that_was_stopped_still_has_its_time(house: House, wire: Wire) -> None:
    """stuck, seed 2001: a client that slept for 11 s in the middle of a question woke up to E_TIMEOUT."""
    wire.ask(m.Pause())
    job = wire.ask(submit(0.2)).job
    client = subprocess.Popen(
        [sys.executable, "-c", _WAITS, str(house.runtime), job], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    try:
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
        time.sleep(0.1)
        os.kill(client.pid, signal.SIGSTOP)
        time.sleep(7.0)  # longer than the heartbeat: its connection is gone
        os.kill(client.pid, signal.SIGCONT)
        assert client.stdout.readline() == "queued\n"
    finally:
        client.kill()
        client.wait()
        wire.ask(m.Cancel(job=job))
        wire.ask(m.Resume())
