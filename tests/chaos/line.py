"""A client's connection that outlives daemons: it gives up a request when the daemon is another, or late."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import decode_push, decode_reply, encode_request

SLICE_MS = 20


class NoAnswer(Exception):
    """Nobody knows whether the request was carried out: Jepsen's "info"."""


class Line:
    """One socket at a time to whoever serves in `runtime`."""

    def __init__(self, runtime: Path, kind: int = zmq.REQ, *, patience_s: float = 3.0) -> None:
        self._file = runtime / "connection.json"
        self._kind, self._patience_s = kind, patience_s
        self._context = zmq.Context()
        self._context.linger = 0
        self._socket: zmq.Socket[bytes] | None = None
        self._stamp: tuple[int, int] | None = None
        self._token = b""
        self._id = 0
        self.generation = 0
        self.pushed: list[tuple[str, Any]] = []
        self.slowest_s = 0.0
        self.alive: Callable[[], bool] = lambda: True  # whoever knows that nobody will answer says so

    def _seen(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = self._file.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    @property
    def same(self) -> bool:
        """Whether the daemon that this line was opened to is still the one in the folder."""
        return self._socket is not None and self._seen() == self._stamp

    def open(self, by_s: float) -> None:
        """Connect to the daemon of now; raises `NoAnswer` when there is none in time (monotonic seconds)."""
        if self.same:
            return
        self.drop()
        while True:
            stamp = self._seen()
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = json.loads(self._file.read_bytes())
                self._token = bytes.fromhex(found["token"])
                self._socket = self._context.socket(self._kind)
                self._socket.setsockopt(zmq.IMMEDIATE, 1)
                self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
                self._socket.connect(found["endpoints"][0])
                self._stamp = stamp
                self.generation += 1
                return
            if time.monotonic() > by_s or not self.alive():
                raise NoAnswer
            time.sleep(SLICE_MS / 1000)

    def drop(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
        self._socket = None

    def ask(self, request: m.Request, patience_s: float | None = None) -> Any:
        """The reply; raises the daemon's `SegueError`, or `NoAnswer` after which a fresh socket is used."""
        begun = time.monotonic()
        wait_s = (self._patience_s if patience_s is None else patience_s) + getattr(
            request, "wait_ms", 0
        ) / 1000
        by = begun + wait_s
        self.open(by)
        try:
            self.send(request, by)
            while True:
                reply = self.receive(by)
                if not isinstance(reply, tuple):
                    break
                self.pushed.append(reply)
        except NoAnswer:
            self.drop()
            raise
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        if isinstance(reply, SegueError):
            raise reply
        return reply

    def send(self, request: m.Request, by_s: float) -> None:
        assert self._socket is not None
        self._id += 1
        head = [b""] if self._kind == zmq.DEALER else []
        frames = [*head, *encode_request(request, self._id, self._token)]
        while not self._socket.poll(SLICE_MS, zmq.POLLOUT):
            if time.monotonic() > by_s or not self.same or not self.alive():
                raise NoAnswer
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def receive(self, by_s: float) -> Any:
        """A reply (or the daemon's error), or on a DEALER (job, event or tick) of a push."""
        assert self._socket is not None
        while not self._socket.poll(SLICE_MS):
            if time.monotonic() > by_s or not self.same or not self.alive():
                raise NoAnswer
        frames = self._socket.recv_multipart(zmq.NOBLOCK)
        if self._kind == zmq.DEALER:
            frames = frames[1:]
            push = decode_push(frames)
            if push is not None:
                return push
        request_id, reply = decode_reply(frames)
        if request_id != self._id:
            raise NoAnswer
        return reply

    def close(self) -> None:
        self.drop()
        self._context.term()
