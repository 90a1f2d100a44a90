"""Whatever bytes come, the daemon answers its clients and takes no harm."""

from __future__ import annotations

import random
import secrets
import socket
import time

import msgpack
import zmq

from protocol import messages as m
from protocol.framing import encode_request
from tests.daemon.house import House, Wire, submit

MAGIC = b"SGU\x01"


def _raw(house: House) -> tuple[zmq.Context, zmq.Socket]:
    context = zmq.Context()
    context.linger = 0
    dealer = context.socket(zmq.DEALER)
    dealer.connect(house.connection["endpoints"][0])
    return context, dealer


def test_without_the_token_there_is_no_answer(shared_house: House, wire: Wire) -> None:
    context, dealer = _raw(shared_house)
    head = encode_request(m.Hello(), 1, bytes(32))
    jobs = len(wire.ask(m.List(limit=500)).jobs)
    for frames in (
        [b"", *head],
        [b"", *encode_request(submit(0.2), 1, secrets.token_bytes(32))],
        [b"", b"GET / HTTP/1.1"],
        [b""],
        [b"no delimiter"],
        [b"x"] * 9 + [b"", *head],
        [b""] * 70,
        [b"", MAGIC + bytes(32)],
    ):
        dealer.send_multipart(frames)
    assert not dealer.poll(300)
    dealer.close(0)
    context.term()
    assert len(wire.ask(m.List(limit=500)).jobs) == jobs
    assert 'segue_silent_refusals_total{what="token"}' in wire.ask(m.Metrics()).text


def test_malformed_messages_get_typed_errors(shared_house: House, wire: Wire) -> None:
    """1,500 messages with a valid token and a broken rest; the seed is printed."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    token = bytes.fromhex(shared_house.connection["token"])
    good = [bytes(frame) for frame in encode_request(submit(0.3), 9, token)]
    words = [*m.REQUESTS, "live.open", "", "x" * 70]
    values = [
        None,
        True,
        -1,
        2**63,
        1.5,
        float("nan"),
        "",
        "7",
        "x" * 20_000,
        b"",
        b"k" * 16,
        [],
        [[]] * 9,
        {},
        {"a": {}},
    ]
    context, dealer = _raw(shared_house)
    before = wire.ask(m.Ping())
    answered = 0
    for _ in range(1500):
        kind = dice.randrange(3)
        if kind == 0:  # a header of random fields
            fields = dice.sample(
                ["id", "job", "key", "length", "mode", "after", "audio", "wait_ms", "seed", "states"], 4
            )
            header = {"op": dice.choice(words), "id": 3} | {name: dice.choice(values) for name in fields}
            header["wait_ms"] = 0
            if header["op"] in ("drain", "pause", "load", "models", "submit", "retake"):
                header["op"] = "status"
            frames = [MAGIC + token, msgpack.packb(header)]
        elif kind == 1:  # flipped bytes
            body = bytearray(good[1])
            for _ in range(dice.randint(1, 8)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            frames = [good[0], bytes(body), *good[2:]]
        else:  # frames cut, doubled, left out
            frames = [good[0]] + [
                dice.randbytes(dice.choice([0, 1, 40, 3000])) for _ in range(dice.randint(0, 5))
            ]
        dealer.send_multipart([b"", *frames])
        while dealer.poll(0):
            dealer.recv_multipart()
            answered += 1
    by = time.monotonic() + 10
    while answered < 1500 and time.monotonic() < by:
        if dealer.poll(500):
            dealer.recv_multipart()
            answered += 1
    dealer.close(0)
    context.term()
    assert answered == 1500
    assert wire.ask(m.Ping()).boot == before.boot
    text = wire.ask(m.Metrics()).text
    assert "E_INTERNAL" not in text
    for info in wire.ask(m.List(states=["queued", "running", "loading"], limit=500)).jobs:
        wire.ask(m.Cancel(job=info.job))


def test_raw_bytes_on_the_socket(shared_house: House, wire: Wire) -> None:
    path = shared_house.connection["endpoints"][0].removeprefix("ipc://")
    kept = []
    for data in (
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x01\x00" * 40,
        b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48),
        b"\x16\x03\x01\x02\x00\x01",
        b"SSH-2.0-x\r\n",
        secrets.token_bytes(2000),
        b"",
    ):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(path)
        if data:
            peer.sendall(data)
        kept.append(peer)
    begun = time.monotonic()
    assert wire.ask(m.Hello()).ready
    assert time.monotonic() - begun < 2
    for peer in kept:
        peer.close()


def test_a_second_daemon_is_told_about_the_first(shared_house: House) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-P", "-m", "daemon", "serve"],
        env=shared_house.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and "already running: pid" in done.stderr and done.stderr.count("\n") == 1
    background = subprocess.run(
        [sys.executable, "-P", "-m", "daemon", "serve", "--background"],
        env=shared_house.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert background.returncode == 0 and str(shared_house.process.pid) in background.stdout
