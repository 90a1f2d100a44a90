"""Clients that do not read, do not stay, or are too many: nobody else notices, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from protocol import messages as m
from protocol.framing import decode_reply, encode_request
from tests.daemon.house import ROOT, House, Wire, submit

MIB = 2**20
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def _gauge(wire: Wire, name: str) -> float:
    found = re.search(rf"^segue_{name} (\S+)$", wire.ask(m.Metrics()).text, re.M)
    assert found, name
    return float(found[1])


def _daemon_pid(house: House) -> int:
    assert house.process is not None
    return house.process.pid


# A host that attaches with all the credit there is and then reads nothing, or stands still.
HOST = """
import json, os, sys, time
from protocol import messages as m
from protocol.framing import encode_request
import zmq
connection, job = json.loads(sys.argv[1]), sys.argv[2]
context = zmq.Context(); context.linger = 0
dealer = context.socket(zmq.DEALER); dealer.connect(connection["endpoints"][0])
token = bytes.fromhex(connection["token"])
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE"), flush=True)
dealer.send_multipart([b"", *encode_request(m.Attach(job=job, after=0, credit=8 << 20), 1, token)])
time.sleep(0.05)
print("attached", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["does not read", "stands still"])
def test_a_client_that_stops_reading_costs_nobody_memory(
    new_house: Callable[..., House], stopped: bool
) -> None:
    house = new_house("takes.chunk_s=0.5")
    with house.client() as wire:
        warm = wire.ask(submit(2.0)).job
        wire.events(warm)
        job = wire.ask(submit(60.0, rate=48_000, channels=2)).job  # 23 MB of audio
        host = subprocess.Popen(
            [sys.executable, "-c", HOST, json.dumps(house.connection), job],
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            assert host.stdout is not None
            base, begun_mib = _resident_mib(_daemon_pid(house)), int(host.stdout.readline()) / MIB
            host.stdout.readline()
            if stopped:
                host.send_signal(signal.SIGSTOP)
            most, slowest, by = 0.0, 0.0, time.monotonic() + 200
            while wire.ask(m.Status(job=job)).info.state != "done":
                assert time.monotonic() < by
                begun = time.monotonic()
                wire.ask(m.Ping())
                slowest = max(slowest, time.monotonic() - begun)
                most = max(most, _resident_mib(_daemon_pid(house)) - base)
                time.sleep(0.05)
            time.sleep(1.0)
            most = max(most, _resident_mib(_daemon_pid(house)) - base)
            grown = _resident_mib(host.pid) - begun_mib
        finally:
            host.kill()
            host.wait()
        print(f"daemon +{most:.1f} MiB, host +{grown:.1f} MiB, slowest ping {1000 * slowest:.1f} ms")
        assert most <= (2.0 if not stopped else 2.0 + 16 * 0.19), (
            "16 messages of half a second may be on their way"
        )
        assert grown <= 8.0 + 2.0, "never more than the credit it gave"
        assert wire.events(job)[-1].event == "done", "and whoever reads gets everything"


@pytest.fixture
def waiting(new_house: Callable[..., House]) -> Iterator[tuple[House, Wire, list[str]]]:
    """A paused daemon with sixty-four jobs that go nowhere."""
    house = new_house("queue.max_per_session=64")
    with house.client() as wire:
        wire.ask(m.Pause())
        jobs = [
            wire.ask(submit(0.2, mode="generate", session=secrets.token_bytes(16))).job for _ in range(64)
        ]
        yield house, wire, jobs


def _dealers(house: House, context: zmq.Context[zmq.Socket[bytes]], count: int) -> list[zmq.Socket[bytes]]:
    found = []
    for _ in range(count):
        dealer = context.socket(zmq.DEALER)
        dealer.connect(house.connection["endpoints"][0])
        found.append(dealer)
    return found


def test_too_many_held_polls_are_answered_instead(waiting: tuple[House, Wire, list[str]]) -> None:
    house, wire, jobs = waiting
    token = bytes.fromhex(house.connection["token"])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.linger = 0
    dealers = _dealers(house, context, 20)
    try:
        for number, dealer in enumerate(dealers):
            for job in jobs:
                request = m.Next(job=job, after=1, wait_ms=20_000)
                dealer.send_multipart([b"", *encode_request(request, number, token)])
        most, slowest = 0.0, 0.0
        for _ in range(20):
            begun = time.monotonic()
            wire.ask(m.Ping())
            slowest = max(slowest, time.monotonic() - begun)
            most = max(most, _gauge(wire, "held"))
            time.sleep(0.05)
        print(f"held at most {most:.0f}, slowest ping {1000 * slowest:.1f} ms")
        # a held poll is answered with a tick after a second, so a busy machine never sees all at once;
        # that the limit is reached and not passed is held in test_held, without a clock
        assert 100 <= most <= 1024
        assert all(dealer.poll(10_000) for dealer in dealers), "nobody waits for an answer in vain"
    finally:
        context.destroy(linger=0)
    wire.ask(m.Resume())
    by = time.monotonic() + 100
    while _gauge(wire, "held") and time.monotonic() < by:
        time.sleep(0.2)
    assert _gauge(wire, "held") == 0
    assert all(wire.events(job)[-1].event == "done" for job in jobs), "who asks is gone; the jobs are not"


def test_attachments_of_the_dead_are_dropped(waiting: tuple[House, Wire, list[str]]) -> None:
    house, wire, jobs = waiting
    token = bytes.fromhex(house.connection["token"])
    base = None
    for round_ in range(4):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.linger = 0
        dealers = _dealers(house, context, 30)
        try:
            for number, dealer in enumerate(dealers):
                for job in jobs[:30]:
                    request = m.Attach(job=job, after=0, credit=4 << 20)
                    dealer.send_multipart([b"", *encode_request(request, number, token)])
            by = time.monotonic() + 60
            while _gauge(wire, "attached") < 400 and time.monotonic() < by:
                time.sleep(0.05)
            assert _gauge(wire, "attached") >= 400
        finally:
            context.destroy(linger=0)
        by = time.monotonic() + 60
        while _gauge(wire, "attached") and time.monotonic() < by:
            time.sleep(0.1)
        assert _gauge(wire, "attached") == 0
        time.sleep(0.5)
        if round_ == 1:
            base = _resident_mib(_daemon_pid(house))
    assert base is not None
    grown = _resident_mib(_daemon_pid(house)) - base
    print(f"after 3,600 attachments of clients that left: +{grown:.2f} MiB")
    assert grown < 6.0


def test_a_flood_of_questions_loses_no_answer_and_keeps_nobody_waiting(
    shared_house: House, wire: Wire
) -> None:
    """One client asks 2,000 times without reading; others are served, and every answer arrives in order."""
    token = bytes.fromhex(shared_house.connection["token"])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.linger = 0
    (dealer,) = _dealers(shared_house, context, 1)
    try:
        slowest = 0.0
        for number in range(2000):
            dealer.send_multipart([b"", *encode_request(m.Ping(), number, token)])
            if number % 100 == 0:
                begun = time.monotonic()
                wire.ask(m.Ping())
                slowest = max(slowest, time.monotonic() - begun)
        ids = []
        while len(ids) < 2000 and dealer.poll(20_000):
            ids.append(decode_reply(dealer.recv_multipart()[1:])[0])
        print(f"slowest ping of the other client {1000 * slowest:.1f} ms")
        assert ids == list(range(2000))
        assert slowest < 3
    finally:
        context.destroy(linger=0)
