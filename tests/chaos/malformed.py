"""Malformed messages, with and without a valid token, all through the socket.

Each message is first judged here by the protocol's own decoder; the daemon must come to the same: silence to
a stranger, the same typed refusal to a client, and never a fault of its own. Jobs may come only from messages
that are in order.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import Refusal, decode_push, decode_reply, decode_request, encode_request
from protocol.limits import MAX_FRAME_BYTES
from tests.chaos import bad_messages as bad
from tests.chaos.report import Report, Scale
from tests.chaos.watch import CI_SLACK, PROMISE_S, Pulse, counted, incidents, settled, slope, taken
from tests.daemon.house import House, Wire, submit, tone

WINDOW = 48  # messages under way on one socket
SOCKETS = 4
STRANGERS = 0.25  # share of the messages that carry a wrong token
PATIENCE_S = 20.0
MEMORY_BYTES = 6 << 20  # what the front-end may have more at the end than after its warming up
BYTES_A_MESSAGE = 40.0  # 200,000 messages at this slope would be 8 MB
# Not sent when they are in order: they stop or pause the daemon, or start processes for every message.
SPARED = frozenset({"drain", "pause", "resume", "load", "unload", "models"})


@dataclasses.dataclass
class _Socket:
    """A DEALER and what it has under way."""

    dealer: zmq.Socket[bytes]
    refusals: collections.Counter[tuple[int, str]]
    fine: int = 0
    jobs: int = 0

    @property
    def due(self) -> int:
        return self.refusals.total() + self.fine


class Flood:
    """Sends messages and holds the answers against the decoder's judgement."""

    def __init__(self, house: House, report: Report, dice: random.Random) -> None:
        self._report, self._dice = report, dice
        self.token = bytes.fromhex(house.connection["token"])
        self._endpoint = house.connection["endpoints"][0]
        self._context = zmq.Context()
        self._context.linger = 0
        self._sockets = [self._fresh() for _ in range(SOCKETS)]
        self.sent = self.silent = self.answered = self.valid = 0
        self.jobs: set[str] = set()

    def _fresh(self) -> _Socket:
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.SNDHWM, 0)
        dealer.connect(self._endpoint)
        return _Socket(dealer, collections.Counter())

    def close(self) -> None:
        for found in self._sockets:
            found.dealer.close(0)
        self._context.term()

    def send(self, messages: Iterator[bad.Frames]) -> None:
        """All of them, a window on each socket in turn, so that the daemon always has some to do."""
        for socket in itertools.cycle(self._sockets):
            self._collect(socket)
            window = list(itertools.islice(messages, WINDOW))
            for frames in window:
                self._post(socket, frames)
            if len(window) < WINDOW:
                break
        for socket in self._sockets:
            self._collect(socket)

    def _post(self, socket: _Socket, frames: bad.Frames) -> None:
        try:
            incoming = decode_request([b"id", *frames], self.token)
        except Refusal as refusal:
            if refusal.silent is None:
                socket.refusals[refusal.request_id, refusal.code] += 1
            else:
                self.silent += 1
        else:
            if incoming.op in SPARED or getattr(incoming.request, "wait_ms", 0) > 100:
                return
            socket.fine += 1
            self.valid += 1
        self.sent += 1
        socket.dealer.send_multipart(frames)

    def _collect(self, socket: _Socket) -> None:
        """The answers to what was sent, no more and no fewer."""
        found: collections.Counter[tuple[int, str]] = collections.Counter()
        due, by = socket.due, time.monotonic() + PATIENCE_S
        while found.total() < due and (left := by - time.monotonic()) > 0:
            if not socket.dealer.poll(round(1000 * left)):
                break
            found.update(self._judged(socket.dealer.recv_multipart(zmq.NOBLOCK)))
        while socket.dealer.poll(0):
            found.update(self._judged(socket.dealer.recv_multipart(zmq.NOBLOCK)))
        self.answered += found.total()
        # an answer to a message in order may be a refusal too: of an unknown job, for instance
        missing = socket.refusals - found
        self._report.expect(
            not missing,
            f"refusals that did not come: {dict(missing)}, instead {dict(found - socket.refusals)}",
        )
        self._report.expect(found.total() == due, f"{due} answers were due and {found.total()} came")
        socket.refusals, socket.fine = collections.Counter(), 0

    def _judged(self, frames: list[bytes]) -> list[tuple[int, str]]:
        """(id, code) of an answer; nothing for what is pushed after an attach that was in order."""
        frames = frames[frames.index(b"") + 1 :]
        if decode_push(frames) is not None:
            return []
        request_id, reply = decode_reply(frames)
        if isinstance(reply, SegueError):
            self._report.expect(reply.code != "E_INTERNAL", f"E_INTERNAL: {reply.detail}")
            self._report.expect(bool(reply.message), f"{reply.code} without a sentence")
            return [(request_id, reply.code)]
        if isinstance(reply, (m.SubmitReply, m.RetakeReply)):
            self.jobs.add(reply.job)
        return [(request_id, "ok")]


def _messages(flood: Flood, count: int, dice: random.Random) -> Iterator[bad.Frames]:
    """Directed ones first (a share of them as a stranger as well), then mutations up to the count."""
    wrong = secrets.token_bytes(32)
    directed: list[bad.Frames] = []
    for token in (flood.token, wrong):
        directed += [
            *bad.preambles(token), *bad.framings(token), *bad.packs(token), *bad.semantics(token, dice),
            *bad.sounds(token, dice),
        ]  # fmt: skip
    dice.shuffle(directed)
    yield from directed[: count // 2]
    good = {
        token: [[bytes(f) for f in encode_request(r, 5, token)] for r in bad.good_requests(dice)]
        for token in (flood.token, wrong)
    }
    while flood.sent < count:
        token = wrong if dice.random() < STRANGERS else flood.token
        yield bad.mutated(good[token], token, dice)


def run(scale: Scale, seed: int, folder: Path) -> Report:
    report, dice = Report("malformed", seed), random.Random(seed)
    count = scale.pick(20_000, 200_000)
    house = House(
        "limits.length_s=2", "queue.max_jobs=500", "queue.max_per_session=500", "takes.quota_gib=2"
    ).start()
    try:
        with house.client() as wire:
            _states(report, wire, house)
            _too_large(report, house, wire)
            _heavy(report, house, wire)
            workers = house.worker_pids()
            _flood(report, scale, house, wire, count, dice)
            gone = set(workers) - set(house.worker_pids())
            report.expect(not gone, f"a worker died of a malformed message: {_worker_ends(house)}")
        _real_requesters(report, house, random.Random(seed + 1), scale.pick(300, 2_000))
        found = incidents(house)
        report.figures["internal errors"] = len(found)
        report.broken += [f"incident: {line}" for line in found[:5]]
    finally:
        house.close()
    _paths_as_models(report, scale)
    return report


def _flood(report: Report, scale: Scale, house: House, wire: Wire, count: int, dice: random.Random) -> None:
    pid = house.process.pid if house.process is not None else 0
    before = {info.job for info in _all_jobs(wire)}
    flood = Flood(house, report, dice)
    points: list[tuple[float, float]] = []
    begun = time.monotonic()

    def sampled(messages: Iterator[bad.Frames]) -> Iterator[bad.Frames]:
        for index, message in enumerate(messages):
            if index % max(1, count // 200) == 0:
                points.append((flood.sent, taken(pid).memory_bytes))
            yield message

    with Pulse(house) as pulse:
        try:
            flood.send(sampled(_messages(flood, count, dice)))
        finally:
            flood.close()
    took = time.monotonic() - begun
    half = [point for point in points if point[0] > count / 2]
    at_start = int(points[len(points) // 4][1])
    like = dataclasses.replace(taken(pid), memory_bytes=at_start)
    at_end = settled(
        pid, like, memory_bytes=MEMORY_BYTES // 2
    ).memory_bytes  # what the heap keeps, it gives back
    grown, rate = at_end - at_start, slope(half)
    report.figures |= {
        "messages, all through the socket": flood.sent,
        "of these to be met with silence": flood.silent,
        "in order after all": flood.valid,
        "answered": flood.answered,
        "messages a second": round(flood.sent / took),
        "jobs from those in order": len(flood.jobs),
        "ping meanwhile": pulse.answers.words,
        "memory of the front-end": f"{at_start / 2**20:.1f} MiB after a quarter, {at_end / 2**20:.1f} at the"
        f" end, slope {rate:.1f} bytes a message over the second half",
    }
    _judge_pulse(report, scale, pulse)
    report.expect(grown <= MEMORY_BYTES, f"the front-end's memory grew by {grown} bytes")
    report.expect(scale.ci or rate <= BYTES_A_MESSAGE, f"its memory grows by {rate:.1f} bytes a message")
    made = {info.job for info in _all_jobs(wire)} - before
    report.expect(made <= flood.jobs, f"jobs nobody was told of: {sorted(made - flood.jobs)}")
    text = wire.ask(m.Metrics()).text
    told = counted(text, "segue_requests_total", outcome="E_INTERNAL")
    report.expect(told == 0, f"the daemon counts {told:g} internal errors")
    silent = counted(text, "segue_silent_refusals_total")
    report.expect(silent >= flood.silent, f"{flood.silent} were silent, the daemon counts {silent:g}")
    for job in made:
        wire.ask(m.Cancel(job=job))


def _worker_ends(house: House) -> list[str]:
    log = house.state / "logs" / "segued.log"
    return [line for line in log.read_text().splitlines() if "worker ended" in line or "is ended" in line][
        -3:
    ]


def _judge_pulse(report: Report, scale: Scale, pulse: Pulse) -> None:
    bound = PROMISE_S * (CI_SLACK if scale.ci else 1)
    said = " (in CI, where others use the machine; 50 ms is for the full run)" if scale.ci else ""
    report.expect(
        pulse.answers.held(scale.ci), f"pings over {1000 * bound:.0f} ms at p99{said}: {pulse.answers.words}"
    )


def _all_jobs(wire: Wire) -> list[m.JobInfo]:
    found: list[m.JobInfo] = []
    before: str | None = None
    while True:
        reply = wire.ask(m.List(limit=500, before=before))
        found += reply.jobs
        before = reply.next
        if before is None:
            return found


def _too_large(report: Report, house: House, wire: Wire) -> None:
    """Frames above the limit cost the sender its connection and nobody else anything."""
    pid = house.process.pid if house.process is not None else 0
    before = taken(pid)
    token = bytes.fromhex(house.connection["token"])
    context = zmq.Context()
    context.linger = 0
    for sizes in ([MAX_FRAME_BYTES + 1], [10 << 20], [MAX_FRAME_BYTES] * 17, [1] * 78, [0] * 200):
        dealer = context.socket(zmq.DEALER)
        dealer.connect(house.connection["endpoints"][0])
        dealer.send_multipart([b"", bad.first(token), bad.header(op="ping", id=1), *map(bytes, sizes)])
        dealer.poll(300)
        wire.ask(m.Ping())
        dealer.close(0)
    context.term()
    after = settled(pid, before, memory_bytes=MEMORY_BYTES)
    grown = after.memory_bytes - before.memory_bytes
    report.figures["memory after messages of up to 68 MiB"] = f"{before.words}, then {after.words}"
    report.expect(grown <= 80 << 20, f"messages that are too large left {grown} bytes behind")


def _heavy(report: Report, house: House, wire: Wire) -> None:
    """Messages that are in order and as laborious as the limits allow: how long each keeps the daemon, and
    what others feel of it. Told, not judged: most of it is the disk that takes the prompt before the answer.
    """
    dice = random.Random(report.seed)
    one = m.TempoMap(changes=(m.TempoChange(at=0, bpm=120),))
    drifting = m.TempoMap(
        changes=tuple(
            m.TempoChange(at=i and i + dice.random() / 2, bpm=dice.uniform(60, 240)) for i in range(1_300)
        )
    )
    steps = m.TempoMap(changes=tuple(m.TempoChange(at=i, bpm=100 + i % 7) for i in range(2_500)))
    prompt = tone(40.0, rate=48_000, channels=2)
    heavy: dict[str, m.Submit] = {
        "3,000 chords": submit(
            0.1, tempo_map=one, harmony=tuple(m.Chord(at=i, chord="Am7") for i in range(3_000))
        ),
        "1,300 drifting tempi": submit(None, length=m.Length(bars="1/2"), tempo_map=drifting),
        "the length of 1,200 drifting bars": submit(None, length=m.Length(bars=325), tempo_map=drifting),
        "2,500 tempi": submit(None, length=m.Length(bars="1/2"), tempo_map=steps),
        "a prompt of 40 s in stereo": submit(0.1, audio=(prompt,)),
        "a text of 16 KiB": submit(0.1, text="x" * 16_384),
    }
    took: dict[str, float] = {}
    wire.ask(m.Pause())
    with Pulse(house) as pulse:
        for name, request in heavy.items():
            time.sleep(0.2)
            begun = time.perf_counter()
            with contextlib.suppress(SegueError):  # too long for this daemon: it had to be read all the same
                wire.ask(m.Cancel(job=wire.ask(request).job))
            took[name] = time.perf_counter() - begun
    wire.ask(m.Resume())
    said = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in took.items())
    report.figures["the heaviest messages in order, ms until submitted and cancelled"] = said
    report.figures["ping beside them"] = pulse.answers.words


def _real_requesters(report: Report, house: House, dice: random.Random, count: int) -> None:
    """REQ sockets of libzmq itself, correlated and not: the answer finds its way back, or nothing comes."""
    token = bytes.fromhex(house.connection["token"])
    good = [[bytes(f) for f in encode_request(r, 5, token)] for r in bad.good_requests(dice)]
    context = zmq.Context()
    context.linger = 0
    req: Any = None
    for index in range(count):
        if req is None:
            req = context.socket(zmq.REQ)
            req.setsockopt(zmq.REQ_CORRELATE, index % 2)
            req.connect(house.connection["endpoints"][0])
        frames = bad.mutated(good, token, dice)
        frames = frames[frames.index(b"") + 1 :]
        if not frames:
            continue
        try:
            incoming = decode_request([b"id", b"", *frames], token)
            if (
                incoming.op in SPARED or incoming.op == "attach"
            ):  # a REQ that attaches is pushed to, as it asked
                continue
            silent = False
        except Refusal as refusal:
            silent = refusal.silent is not None
        req.send_multipart(frames)
        if silent:
            req.close(0)
            req = None
            continue
        if report.expect(bool(req.poll(10_000)), f"message {index} of a REQ socket was not answered"):
            _, reply = decode_reply(req.recv_multipart(zmq.NOBLOCK))
            report.expect(getattr(reply, "code", "") != "E_INTERNAL", "E_INTERNAL to a REQ socket")
    if req is not None:
        req.close(0)
    context.term()
    report.figures["messages through REQ sockets, half of them correlated"] = count


def _states(report: Report, wire: Wire, house: House) -> None:
    """What is in order but out of place: cancel in each state, a forgotten job, a key with another body."""

    def small(**more: Any) -> m.Submit:
        return bad.good_submit(random.Random(secrets.randbits(32)), **more)

    def refused(request: m.Request, *codes: str) -> None:
        error = wire.refused(request)
        report.expect(error.code in codes, f"{request!r} was refused with {error.code}, not {codes}")

    tried = 0
    first = wire.ask(small()).job  # its model is loaded only now
    for job, states in ((first, ("cancelled", "done")),):
        report.expect(wire.ask(m.Cancel(job=job)).state in states, "cancel while loading")
    wire.events(wire.ask(small()).job)
    wire.ask(m.Pause())
    queued = wire.ask(small()).job
    report.expect(wire.ask(m.Cancel(job=queued)).state == "cancelled", "cancel in the queue")
    wire.ask(m.Resume())
    running = wire.ask(small(seconds=1.5, text="slow=20")).job
    while wire.ask(m.Status(job=running)).info.state != "running":
        time.sleep(0.02)
    for _ in range(2):
        state = wire.ask(m.Cancel(job=running)).state
        report.expect(state in ("cancelling", "cancelled"), f"cancel while running: {state}")
    failed = wire.ask(small(text="impossible")).job
    done_request = small()
    done = wire.ask(done_request).job
    for job, state in ((failed, "failed"), (done, "done")):
        wire.events(job)
        report.expect(wire.ask(m.Cancel(job=job)).state == state, f"cancel of a job that has {state}")
    refused(dataclasses.replace(small(seconds=0.3), key=done_request.key), "E_KEY_REUSE")
    other = wire.ask(m.List(session=b"s" * 16)).jobs
    report.expect(not other, "another session's list shows jobs")
    for after in (0, 2**53 - 1):
        reply = wire.ask(m.Next(job=done, after=after))
        report.expect(reply.state == "done", "next after the last event")
    wire.ask(m.Forget(job=done))
    for request in (
        m.Next(job=done), m.Status(job=done), m.Fetch(job=done), m.Cancel(job=done), m.Forget(job=done),
        m.Attach(job=done), m.Credit(job=done, bytes_=1), m.Retake(job=done, key=secrets.token_bytes(16)),
        m.Next(job="9" * 15, after=2**53 - 1), m.Cancel(job="x"), done_request,
    ):  # fmt: skip
        refused(request, "E_JOB")
        tried += 1
    refused(m.Credit(job=failed, bytes_=1), "E_JOB")
    refused(m.Fetch(job=failed), "E_TAKE_MISSING")
    report.figures["states out of place"] = tried + 12
    report.expect(house.worker_pids() != [], "the worker is gone")


def _paths_as_models(report: Report, scale: Scale) -> None:
    """Names of models reach the file system, in the worker: with the real one, each is a typed refusal."""
    names = [name for name in bad.TRAVERSALS if "\0" not in name]
    if scale.ci:
        names = ["../../etc/passwd", "-rf"]  # the second was taken for options of the worker
    house = House("worker.keep_alive_s=0", real=True).start()
    try:
        with house.client() as wire:
            for name in names:
                try:
                    while (state := wire.ask(m.Load(model=name, wait_ms=25_000)).state) != "loaded":
                        report.expect(
                            state in ("loading", "ready_to_load", "unloading"), f"{name!r} is {state}"
                        )
                    report.broken.append(f"a model called {name!r} was loaded")
                except SegueError as error:
                    report.expect(error.code == "E_MODEL", f"the model {name!r}: {error.code} {error}")
        report.broken += [f"incident: {line}" for line in incidents(house)[:5]]
    finally:
        house.close()
    report.figures["paths as names of models, refused by the real worker"] = len(names)
