"""Raw connections: every version of ZMTP and none, browsers, half greetings, one byte a second, messages
without an end, frames of 8 GiB, other clients' names; on the user's own socket and on the network's.

None of it becomes a job, the daemon answers its clients all the while, those clients' audio comes whole, and
afterwards the daemon holds no more than before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import resource
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zmq

from protocol import messages as m
from protocol.framing import encode_request
from tests.chaos import zmtp
from tests.chaos.bad_messages import good_submit
from tests.chaos.report import Report, Scale
from tests.chaos.watch import PROMISE_S, Pulse, Taken, incidents, settled, taken
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit
from tests.daemon.network import free_port, let_in

HELD = 120  # strange connections that are open at once
SLOW = 20  # of them such that send a byte a second
CROWD = 1_100  # well-behaved clients at once, each with a question that is held
MEMORY_BYTES = 8 << 20
ENDLESS_FRAME = zmtp.frame(bytes(60_000), zmtp.MORE)


@dataclasses.dataclass
class _Peer:
    """One connection; `slow` is still to be sent, a byte a second; `later` after the daemon's READY."""

    socket: socket.socket
    later: bytes = b""
    slow: bytes = b""
    endless: int = 0  # bytes of a message without an end that are still to be sent
    due_s: float = 0.0


class Siege:
    """Opens strange connections, keeps some of them open, closes all at the end."""

    def __init__(
        self, address: str, strange: Iterator[tuple[str, bytes, bytes]], dice: random.Random
    ) -> None:
        self._address, self._strange, self._dice = address, strange, dice
        self._peers: list[_Peer] = []
        self.kinds: dict[str, int] = {}
        self.connected = self.refused = self.welcomed = self.endless_bytes = 0

    def connect(self) -> socket.socket | None:
        """A connection, or None when the daemon's queue of them stays full."""
        by = time.monotonic() + 2.0
        while True:
            kind = socket.AF_UNIX if self._address.startswith("ipc://") else socket.AF_INET
            made = socket.socket(kind)
            made.settimeout(1.0)
            try:
                if kind == socket.AF_UNIX:
                    made.connect(self._address.removeprefix("ipc://"))
                else:
                    host, _, port = self._address.removeprefix("tcp://").rpartition(":")
                    made.connect((host, int(port)))
                break
            except OSError:
                made.close()
                if time.monotonic() > by:
                    self.refused += 1
                    return None
                time.sleep(0.001)
        made.setblocking(False)
        self.connected += 1
        return made

    def one(self) -> None:
        """One more strange connection."""
        kind, data, later = next(self._strange)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        peer = self.connect()
        if peer is None:
            return
        slow = data[:40] if data and sum(bool(p.slow) for p in self._peers) < SLOW else b""
        with contextlib.suppress(OSError):
            if not slow:
                peer.send(data)
        if slow or self._dice.random() < 0.8:
            self._peers.append(_Peer(peer, later, slow))
        else:
            peer.close()
        while len(self._peers) > HELD:
            self._peers.pop(self._dice.randrange(SLOW, HELD)).socket.close()
        self.tend()

    def endless(self, total_bytes: int) -> None:
        """A peer that begins a message and never ends it."""
        peer = self.connect()
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.send(zmtp.opening_3())
            whole = total_bytes // len(ENDLESS_FRAME) * len(ENDLESS_FRAME)
            self._peers.insert(0, _Peer(peer, zmtp.frame(b"", zmtp.MORE), endless=whole))

    def tend(self) -> bool:
        """Send what slow and endless peers have; False when none is left that has any."""
        now, left = time.monotonic(), False
        for peer in self._peers:
            try:
                self._tend(peer, now)
            except BlockingIOError:
                pass
            except OSError:  # the daemon has closed it
                peer.later = peer.slow = b""
                peer.endless = 0
            left = left or peer.endless > 0
        return left

    def _tend(self, peer: _Peer, now: float) -> None:
        if peer.slow and now >= peer.due_s:
            peer.socket.send(peer.slow[:1])
            peer.slow, peer.due_s = peer.slow[1:], now + 1.0
        if peer.later and b"READY" in peer.socket.recv(4096):
            peer.socket.send(peer.later)
            peer.later, self.welcomed = b"", self.welcomed + 1
        if peer.endless > 0 and not peer.later:
            sent = peer.socket.send(ENDLESS_FRAME[-peer.endless % len(ENDLESS_FRAME) :])
            peer.endless -= sent
            self.endless_bytes += sent

    def close(self) -> None:
        for peer in self._peers:
            peer.socket.close()
        self._peers.clear()


class Neighbours(threading.Thread):
    """Ordinary clients meanwhile: one follows jobs, one with a name that strangers claim asks and asks."""

    def __init__(self, house: House) -> None:
        super().__init__(daemon=True)
        self._house, self._over = house, threading.Event()
        self.jobs: list[str] = []
        self.broken: list[str] = []
        self.asked = 0
        self.named = threading.Event()

    def run(self) -> None:
        try:
            with self._house.client() as wire, self._house.client(zmq.DEALER) as plain:
                named = plain.socket
                named.disconnect(self._house.connection["endpoints"][0])
                named.setsockopt(zmq.IDENTITY, b"victim")
                named.connect(self._house.connection["endpoints"][0])
                plain.ask(m.Ping())
                self.named.set()
                while not self._over.is_set():
                    self._one(wire, plain)
        except Exception as error:
            self.broken.append(f"an ordinary client fell over: {type(error).__name__}: {error}")
            self.named.set()

    def _one(self, wire: Wire, named: Wire) -> None:
        seed = len(self.jobs) + 1
        job = wire.ask(submit(0.6, rate=32_000, text="slow=3", seed=seed)).job
        self.jobs.append(job)
        if named.ask(m.Status(job=job), 10.0).info.job != job:
            self.broken.append("the named client was answered what it did not ask")
        self.asked += 1
        start, audio = joined(wire.events(job))
        if not np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1])):
            self.broken.append(f"job {job} came out wrong (seed {seed})")

    def stop(self) -> None:
        self._over.set()
        self.join(60)


def run(scale: Scale, seed: int, folder: Path) -> Report:
    report = Report("raw-sockets", seed)
    count = scale.pick(500, 2_000)
    port = free_port()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        house = _poor_house(port)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        endpoints = house.connection["endpoints"]
        doors = [e for e in endpoints if e.startswith(("ipc://", "tcp://"))]
        if len(doors) < 2:
            report.skipped.append("the network's door: this daemon has none")
        for index, door in enumerate(doors):
            name = door.partition(":")[0]
            _siege(report, scale, house, door, name, count // len(doors), random.Random(seed + index))
        _crowd(report, scale, house, scale.pick(300, CROWD))
        found = incidents(house)
        report.broken += [f"incident: {line}" for line in found[:5]]
    finally:
        house.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    return report


def _poor_house(port: int) -> House:
    """A daemon that is started with 256 descriptors, as desktops do, and has to see for itself that it gets
    more.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    house = House(f"tcp.bind=tcp://127.0.0.1:{port}", "limits.length_s=5")
    try:
        house.state.mkdir(mode=0o700, parents=True)
        let_in(
            house.state, "laptop", f"tcp://127.0.0.1:{port}"
        )  # without an allowed client it has no such door
        return house.start()
    except BaseException:
        house.close()
        raise


def _siege(
    report: Report, scale: Scale, house: House, door: str, name: str, count: int, dice: random.Random
) -> None:
    pid = house.process.pid if house.process is not None else 0
    wrong = secrets.token_bytes(32)  # a stranger has no token; one who has it is the user
    frames = [bytes(f) for f in [b"", *encode_request(good_submit(dice), 1, wrong)]]
    siege = Siege(door, zmtp.strange(dice, frames), dice)
    neighbours = Neighbours(house)
    neighbours.start()
    neighbours.named.wait(30)
    time.sleep(0.5)
    before = taken(pid)
    with Pulse(house) as pulse:
        try:
            siege.endless((8 if scale.ci else 128) << 20)
            for _ in range(count):
                siege.one()
            at_worst = taken(pid)
            until = time.monotonic() + (3 if scale.ci else 20)
            while siege.tend() or time.monotonic() < until:
                time.sleep(0.002)
                at_worst = max(at_worst, taken(pid), key=lambda found: found.memory_bytes)
        finally:
            siege.close()
            neighbours.stop()
    after = settled(pid, before, memory_bytes=MEMORY_BYTES)
    report.figures |= {
        f"{name}: connections": f"{siege.connected}, {siege.welcomed} of them welcomed,"
        f" {siege.refused} not accepted",
        f"{name}: kinds": siege.kinds,
        f"{name}: of a message without an end": f"{siege.endless_bytes / 2**20:.0f} MiB",
        f"{name}: ping meanwhile": pulse.answers.words,
        f"{name}: held before, meanwhile, afterwards": f"{before.words}; {at_worst.words}; {after.words}",
        f"{name}: ordinary jobs meanwhile, each sample as it should be": len(neighbours.jobs),
    }
    report.broken += neighbours.broken
    report.expect(neighbours.asked > 0, "no ordinary client was served meanwhile")
    report.expect(
        pulse.answers.held(scale.ci),
        f"{name}: the promise of {1000 * PROMISE_S:.0f} ms: {pulse.answers.words}",
    )
    _judge_taken(report, name, before, after)
    with house.client() as wire:
        jobs = {info.job for info in wire.ask(m.List(limit=500)).jobs}
        for job in jobs:
            wire.ask(m.Forget(job=job))
    report.expect(
        jobs == set(neighbours.jobs), f"{name}: jobs of strangers: {sorted(jobs - set(neighbours.jobs))}"
    )


def _judge_taken(report: Report, name: str, before: Taken, after: Taken) -> None:
    said = f"before {before.words}, afterwards {after.words}"
    report.expect(after.descriptors <= before.descriptors, f"{name}: descriptors are not given back: {said}")
    report.expect(after.threads <= before.threads, f"{name}: threads are left: {said}")
    grown = after.memory_bytes - before.memory_bytes
    report.expect(grown <= MEMORY_BYTES, f"{name}: memory is not given back: {said}")


def _crowd(report: Report, scale: Scale, house: House, count: int) -> None:
    """Many clients at once, each with a question that is held: nobody else waits, all are answered."""
    pid = house.process.pid if house.process is not None else 0
    token = bytes.fromhex(house.connection["token"])
    peers: list[socket.socket] = []
    siege = Siege(house.connection["endpoints"][0], iter(()), random.Random(0))
    with house.client() as wire:
        wire.ask(m.Pause())
        job = wire.ask(good_submit(random.Random(secrets.randbits(32)))).job
        before = taken(pid)
        question = encode_request(m.Next(job=job, after=1, wait_ms=8_000), 3, token)
        data = zmtp.message([b"", *map(bytes, question)])
        with Pulse(house) as pulse:
            for _ in range(count):
                peer = siege.connect()
                if peer is not None:
                    peer.send(zmtp.opening_3())
                    peers.append(peer)
            for peer in peers:
                _heard(peer, b"READY")
                peer.send(data)
                time.sleep(0.001)  # at once, a thousand questions take 0.2 s to be read, whoever asks
            time.sleep(1.0)
            wire.ask(m.Cancel(job=job))
            answered = sum(_heard(peer, b"\xa4next") for peer in peers)
        for peer in peers:
            peer.close()
        wire.ask(m.Resume())
        wire.ask(m.Forget(job=job))
    after = settled(pid, before, memory_bytes=MEMORY_BYTES)
    report.figures |= {
        "crowd: clients with a held question at once": f"{count}, {answered} answered",
        "crowd: ping meanwhile": pulse.answers.words,
        "crowd: held before, afterwards": f"{before.words}; {after.words}",
    }
    report.expect(answered == count, f"{count - answered} of a crowd of {count} were not answered")
    report.expect(pulse.answers.held(scale.ci), f"crowd: {pulse.answers.words}")
    _judge_taken(report, "crowd", before, after)


def _heard(peer: socket.socket, word: bytes) -> bool:
    """Whether what is waited for has come."""
    peer.settimeout(10.0)
    got = b""
    try:
        while word not in got:
            piece = peer.recv(65_536)
            if not piece:
                return False
            got += piece
    except OSError:
        return False
    return True
