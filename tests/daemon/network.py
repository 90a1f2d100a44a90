"""What the tests of the network door share: a free port, keys, and a daemon that listens on loopback."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from daemon.metrics import Metrics
from daemon.sockets import Received, Sockets
from protocol.keys import AllowedClient, KeyFolder, KeyPair, key_file, new_token


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def let_in(state: Path, name: str, endpoint: str, pair: KeyPair | None = None) -> dict[str, Any]:
    """Allow a client and give its key file as a map; `server.json` is made when there is none."""
    folder = KeyFolder(state / "keys")
    server = folder.set_server(new_pair())
    pair = pair or new_pair()
    client = AllowedClient(name, pair.public, new_token())
    folder.allow(client)
    found: dict[str, Any] = json.loads(key_file(client, endpoint, server.public, pair))
    return found


class Doors:
    """The daemon's sockets in this process; nothing is answered unless `turn` says so."""

    def __init__(self, folder: Path, bind: str = "") -> None:
        self.runtime, self.state = folder / "run", folder / "state"
        for path in (self.runtime, self.state):
            path.mkdir(mode=0o700, exist_ok=True)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
        self.context.linger = 0
        self.metrics = Metrics()
        self.token = bytes(range(32))
        self.sockets = Sockets(
            self.context, self.runtime, self.state, token=self.token, tcp_bind=bind, metrics=self.metrics
        )
        self.clients: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.clients.linger = 0

    def __enter__(self) -> Doors:
        return self

    def __exit__(self, *_: object) -> None:
        self.clients.destroy(linger=0)
        self.sockets.close()
        self.context.term()

    def dealer(self, endpoint: str, **keys: str | None) -> zmq.Socket[bytes]:
        """A client's socket; keys: server, public, secret."""
        made = self.clients.socket(zmq.DEALER)
        made.linger, made.sndtimeo = 0, 5000
        if keys:
            made.curve_serverkey = str(keys["server"]).encode()
            made.curve_publickey = str(keys["public"]).encode()
            made.curve_secretkey = str(keys["secret"]).encode()
        made.connect(endpoint)
        return made

    def turn(self, seconds: float, *, handshakes: bool = True, stop_at: int | None = None) -> list[Received]:
        """Run the loop for a while; what arrived, from strangers too."""
        poller = zmq.Poller()
        poller.register(self.sockets.router, zmq.POLLIN)
        if handshakes:
            poller.register(self.sockets.zap, zmq.POLLIN)
        found: list[Received] = []
        by = time.monotonic() + seconds
        while time.monotonic() < by and (stop_at is None or len(found) < stop_at):
            poller.poll(20)
            if handshakes:
                self.sockets.answer_handshakes()
            while (received := self.sockets.receive()) is not None:
                found.append(received)
            self.sockets.check()
        return found

    def turn_until(self, condition: Callable[[], bool], seconds: float = 20.0) -> bool:
        """Run the loop until `condition` holds; whether it did in time."""
        by = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= by:
                return False
            self.turn(0.05)
        return True
