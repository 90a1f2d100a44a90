"""What stands still: clients that stop reading, stopped clients, a stopped daemon, a stopped worker, a clock
that jumps a year; and a host's timer that must go on through all of it.

The daemon answers everyone else meanwhile, blocking calls of clients end within their own time, nobody's
memory grows, and what was made comes out as it should.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from bridge_clients.client import Client
from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import encode_request
from tests.chaos import zmtp
from tests.chaos.report import Report, Scale
from tests.chaos.watch import PROMISE_S, Pulse, counted, incidents, settled, taken
from tests.daemon import engine
from tests.daemon.house import ROOT, House, joined, submit
from tests.daemon.test_manners import YEAR_S, MovingHouse

MEMORY_BYTES = 8 << 20
# What the answers may take that wait for clients which do not read: 16 messages each, as libzmq keeps them.
# One client here asks 400 times for a megabyte, the others are attached or have asked once.
GREEDY_BYTES, READER_BYTES = 24 << 20, 1 << 20
LATE_S = 0.35  # how much a blocking call may take beyond its own time
CREDIT = 8 << 20


def run(scale: Scale, seed: int, folder: Path) -> Report:
    report = Report("stuck", seed)
    house = House("worker.stall_s=60", "worker.cancel_grace_s=60").start()
    try:
        _readers(report, scale, house)
        _attached(report, scale, house)
        _stopped_client(report, scale, house)
        _stopped_worker(report, scale, house)
        _stopped_daemon(report, scale, house)
        report.broken += [f"incident: {line}" for line in incidents(house)[:5]]
    finally:
        house.close()
    _clock(report, scale)
    _timer(report, scale, seed, folder)
    return report


def _pid(house: House) -> int:
    return house.process.pid if house.process is not None else 0


def _judge(report: Report, scale: Scale, name: str, pulse: Pulse) -> None:
    report.figures[f"{name}: ping meanwhile"] = pulse.answers.words
    report.expect(
        pulse.answers.held(scale.ci),
        f"{name}: {1000 * PROMISE_S:.0f} ms were promised: {pulse.answers.words}",
    )


def _exact(report: Report, name: str, events: list[Any], seed: int) -> None:
    start, audio = joined(events)
    report.expect(
        np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1])),
        f"{name}: the audio is wrong",
    )


# ---- clients that do not read ----


def _readers(report: Report, scale: Scale, house: House) -> None:
    """REQ and DEALER, asking, attached with credit and without, and one that reads a byte a second."""
    pid = _pid(house)
    context = zmq.Context()
    context.linger = 0
    token = bytes.fromhex(house.connection["token"])
    kept: list[Any] = []
    with house.client() as wire:
        big = wire.ask(submit(20.0, rate=48_000, channels=2, stems=["mix"], variations=2)).job
        wire.events(big)
        done = wire.ask(submit(1.0, rate=32_000)).job
        wire.events(done)
        before = settled(pid, taken(pid), wait_s=1)
        slow = wire.ask(submit(4.0, rate=32_000, text="slow=15", seed=5)).job

        def dealer(**options: int) -> zmq.Socket[bytes]:
            made = context.socket(zmq.DEALER)
            made.setsockopt(zmq.RCVHWM, 1)
            made.setsockopt(zmq.RCVBUF, 4096)
            made.connect(house.connection["endpoints"][0])
            kept.append(made)
            return made

        def say(client: zmq.Socket[bytes], request: m.Request) -> None:
            client.send_multipart([b"", *encode_request(request, 1, token)])

        with Pulse(house) as pulse:
            for _ in range(scale.pick(4, 20)):
                req = context.socket(zmq.REQ)
                req.connect(house.connection["endpoints"][0])
                req.send_multipart(encode_request(m.Next(job=big, max_bytes=1 << 20), 1, token))
                kept.append(req)
                for credit in (0, CREDIT):
                    attached = dealer()
                    say(attached, m.Attach(job=big, credit=credit))
                    say(attached, m.Attach(job=slow, credit=credit))
            greedy = dealer()  # asks and asks, and reads nothing
            for _ in range(200):
                say(greedy, m.Fetch(job=big, as_="bytes", max_bytes=4 << 20))
                say(greedy, m.Next(job=big, max_bytes=4 << 20))
            kept.append(_byte_a_second(house, big))
            course = [taken(pid)]
            until = time.monotonic() + (3 if scale.ci else 15)
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    kept[-1].recv(1)
                time.sleep(0.25)
                course.append(taken(pid))
            worst = max(course, key=lambda found: found.memory_bytes)
            events = wire.events(slow)
        _exact(report, "beside clients that do not read", events, 5)
        for found in kept:
            found.close()
        context.term()
        after = settled(pid, before, memory_bytes=MEMORY_BYTES)
    grown = worst.memory_bytes - before.memory_bytes
    report.figures |= {
        "clients that do not read": len(kept),
        "front-end before, meanwhile, afterwards": f"{before.words}; {worst.words}; {after.words}",
    }
    _judge(report, scale, "clients that do not read", pulse)
    allowed = GREEDY_BYTES + READER_BYTES * len(kept)
    report.expect(grown <= allowed, f"clients that do not read cost the daemon {grown / 2**20:.0f} MiB")
    later = [found.memory_bytes for found in course[len(course) // 2 :]]
    rising = later[-1] - later[0] if later else 0
    report.expect(rising <= MEMORY_BYTES, f"and ever more: {rising / 2**20:.1f} MiB in the second half")
    report.expect(
        after.memory_bytes <= before.memory_bytes + MEMORY_BYTES,
        f"and it keeps {after.words} of {worst.words}",
    )
    report.expect(
        after.descriptors <= before.descriptors, f"descriptors are left: {before.words}; {after.words}"
    )


def _attached(report: Report, scale: Scale, house: House) -> None:
    """Clients that attach without credit, to a job that waits and to one that is done; a third vanishes."""
    count = scale.pick(100, 1_000)
    with house.client() as wire:
        done = wire.ask(submit(1.0, rate=32_000)).job
        wire.events(done)
        wire.ask(m.Pause())
        waiting = wire.ask(submit(1.0, rate=32_000)).job
        with contextlib.ExitStack() as stack, Pulse(house) as pulse:
            for index in range(count):
                client = house.client(zmq.DEALER)
                client.ask(m.Attach(job=(done, waiting)[index % 2]))
                if index % 3:
                    stack.enter_context(client)
                else:
                    client.__exit__()
            time.sleep(2)
            most = counted(wire.ask(m.Metrics()).text, "segue_attached")
        wire.ask(m.Cancel(job=waiting))
        wire.ask(m.Resume())
        by = time.monotonic() + 90
        while (left := counted(wire.ask(m.Metrics()).text, "segue_attached")) and time.monotonic() < by:
            time.sleep(0.5)
            if scale.ci:  # it takes a minute until those are given up whose job has ended
                break
    report.figures["clients attached without credit, in force, left over"] = f"{count}, {most:g}, {left:g}"
    report.expect(scale.ci or left == 0, f"{left:g} attachments outlive their clients")
    _judge(report, scale, "clients attached without credit", pulse)


def _byte_a_second(house: House, job: str) -> socket.socket:
    """A client that has asked for a megabyte and takes it byte by byte."""
    token = bytes.fromhex(house.connection["token"])
    peer = socket.socket(socket.AF_UNIX)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    peer.connect(house.connection["endpoints"][0].removeprefix("ipc://"))
    peer.send(zmtp.opening_3())
    peer.settimeout(5)
    got = b""
    while b"READY" not in got:
        got += peer.recv(4096)
    peer.send(zmtp.message([b"", *map(bytes, encode_request(m.Next(job=job, max_bytes=4 << 20), 1, token))]))
    peer.settimeout(0.01)
    return peer


# ---- processes that are stopped ----


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile: the caller will see
            os.kill(pid, signal.SIGCONT)


_FOLLOWER = """
import json, sys
from bridge_clients.client import Client
with Client(autostart=False, folder=sys.argv[1]) as client:
    print("ready", flush=True)
    count = sum(1 for event in client.events(sys.argv[2], ticks=False))
print(count, flush=True)
"""


def _stopped_client(report: Report, scale: Scale, house: House) -> None:
    """A client is stopped in the middle of a job for longer than the heartbeat waits, and goes on."""
    with house.client() as wire:
        job = wire.ask(submit(3.0, rate=32_000, text="slow=15", seed=6)).job
        follower = subprocess.Popen(
            [sys.executable, "-c", _FOLLOWER, str(house.runtime), job], cwd=ROOT, stdout=subprocess.PIPE,
            text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.callback(follower.kill)
            said = follower.stdout
            report.expect(said is not None and said.readline() == "ready\n", "the client did not start")
            with Pulse(house) as pulse, _stopped(follower.pid):
                events = wire.events(job)
                time.sleep(1 if scale.ci else 8)
            seen = int(said.readline()) if said is not None else 0
            report.expect(seen == len(events), f"a stopped client saw {seen} of {len(events)} events")
        _exact(report, "beside a stopped client", events, 6)
    _judge(report, scale, "a stopped client", pulse)


def _stopped_worker(report: Report, scale: Scale, house: House) -> None:
    with house.client() as wire:
        job = wire.ask(submit(2.0, rate=32_000, text="slow=10", seed=8)).job
        while wire.ask(m.Status(job=job)).info.last < 3:
            time.sleep(0.02)
        (worker,) = house.worker_pids()
        with Pulse(house) as pulse, _stopped(worker):
            begun = time.monotonic()
            while time.monotonic() - begun < (2 if scale.ci else 10):
                wire.ask(m.Status(job=job))
                waiting = wire.ask(submit(0.2, rate=32_000, priority="live")).job
                report.expect(
                    wire.ask(m.Cancel(job=waiting)).state == "cancelled", "cancel beside a stopped worker"
                )
                time.sleep(0.1)
        _exact(report, "after its worker was stopped", wire.events(job), 8)
    _judge(report, scale, "a stopped worker", pulse)


def _stopped_daemon(report: Report, scale: Scale, house: House) -> None:
    """Blocking calls end within their own time; afterwards the same client goes on."""
    late: list[float] = []
    calls = 0
    with house.client() as wire:
        job = wire.ask(submit(2.0, rate=32_000, text="slow=10", seed=9)).job
    with Client(autostart=False, folder=house.runtime, timeout_s=1.0) as client:
        for round_ in range(scale.pick(1, 5)):
            with _stopped(_pid(house)):
                for timeout_s in (0.05, 0.3, 1.0):
                    for call in (
                        lambda t: client.ping(timeout_s=t),
                        lambda t: client.request(m.Status(job=job), t),
                        lambda t: client.request(m.Next(job=job, after=9_999, wait_ms=20_000), t),
                        lambda t: client.submit(submit(0.2), timeout_s=t),
                        lambda t: next(client.events(job, timeout_s=t)),
                        lambda t: client.fetch(job, timeout_s=t),
                    ):
                        begun = time.monotonic()
                        try:
                            call(timeout_s)
                            report.broken.append("a stopped daemon answered")
                        except SegueError as error:
                            report.expect(
                                error.code in ("E_TIMEOUT", "E_UNREACHABLE"),
                                f"a stopped daemon: {error.code}",
                            )
                        calls += 1
                        late.append(time.monotonic() - begun - timeout_s)
            report.expect(client.ping(timeout_s=10.0).ready, f"round {round_}: it does not go on")
    with house.client() as wire:
        _exact(report, "after the daemon was stopped", wire.events(job), 9)
    report.figures["blocking calls to a stopped daemon"] = calls
    report.figures["the latest, beyond its own time"] = f"{1000 * max(late):.0f} ms"
    bound = LATE_S * (5 if scale.ci else 1)
    report.expect(max(late) <= bound, f"a blocking call took {max(late):.2f} s beyond its own time")


# ---- the clock ----


def _clock(report: Report, scale: Scale) -> None:
    """The wall clock jumps a year ahead, then back two: no job, deadline or waiting question ends of it."""
    if shutil.which("gcc") is None:
        report.skipped.append("the clock: no gcc to build the one that can be moved")
        return
    house = MovingHouse()
    try:
        house.start()
        with house.client() as wire:
            jobs = {
                seed: wire.ask(submit(1.5, rate=32_000, text="slow=15", seed=seed, deadline_ms=600_000)).job
                for seed in (1, 2)
            }
            with Pulse(house) as pulse:
                for wall_s in (YEAR_S, -YEAR_S, 0.0):
                    house.move(wall_s=wall_s)
                    begun = time.monotonic()
                    wire.ask(m.Next(job=jobs[1], after=1_000, wait_ms=700))
                    report.expect(
                        time.monotonic() - begun < 5, "a question was held across a jump of the clock"
                    )
                    time.sleep(0.5)
            for seed, job in jobs.items():
                events = wire.events(job)
                report.expect(events[-1].event == "done", f"a jump of the clock ended a job: {events[-1]}")
                _exact(report, "across a jump of the clock", events, seed)
                report.expect(bool(wire.ask(m.Fetch(job=job)).path), "its take is gone")
            house.move(wall_s=YEAR_S)
            house.stop()
            house.start()
        with house.client() as wire:
            states = [info.state for info in wire.ask(m.List()).jobs]
            report.expect(states == ["done", "done"], f"a year later the takes are {states}")
        report.broken += [f"incident: {line}" for line in incidents(house)[:5]]
    finally:
        house.close()
    _judge(report, scale, "a clock that jumps a year and back", pulse)


# ---- a host's timer ----


def _timer(report: Report, scale: Scale, seed: int, folder: Path) -> None:
    """A host polls every 15 ms while its daemon is killed, stopped, and started again."""
    house = House(
        "life.crash_pause_s=0"
    ).start()  # killed again and again, it would wait for a word of its user
    dice = random.Random(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        words = [str(house.runtime), str(folder / "keys"), str(seed)]
        host = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.daw", *words], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        try:
            if host.stdout is None or not host.stdout.readline():
                raise RuntimeError("the host did not start")
            rounds = scale.pick(3, 20)
            for index in range(rounds):
                time.sleep(dice.uniform(0.3, 1.5))
                what = ("kill", "stop", "restart")[index % 3]
                if what == "kill":
                    house.kill()
                    time.sleep(dice.uniform(0, 0.5))
                    house.start()
                elif what == "stop":
                    with _stopped(_pid(house)):
                        time.sleep(dice.uniform(0.3, 2.5))
                else:
                    house.stop()
                    house.start()
            time.sleep(4)
            said, _ = host.communicate(b"", timeout=30)
        finally:
            host.kill()
        found = json.loads(said)
    finally:
        house.close()
    report.figures["a host's timer"] = (
        f"{found['ticks']} calls over {rounds} kills, stops and restarts: p99 {found['p99_ms']:.2f},"
        f" worst {found['worst_ms']:.2f} ms ({found['worst_of_its_own_ms']:.2f} ms of its own),"
        f" {found['over']} over 15 ms; {found['done']} takes, each sample as it should be;"
        f" {found['sockets']} sockets"
    )
    report.broken += [f"a host's timer: {sentence}" for sentence in found["wrong"]]
    report.expect(found["done"] > 0, "the host got no take")
    worst = found["worst_of_its_own_ms"] if scale.ci else found["worst_ms"]
    report.expect(worst <= 15.0, f"a call of the host's timer took {worst:.1f} ms")
