"""One REQ socket that never blocks longer than it was told and is thrown away after every disappointment.

Settings follow measured behaviour of libzmq 4.3.5: IMMEDIATE, or a request sent while no daemon runs is
delivered to the next one long after the user gave up; linger 0, or the interpreter hangs at exit; poll and
then a non-blocking recv, because a reply with a bad envelope makes `poll` say ready and a blocking `recv`
wait for ever; no identity, because a second client with the same one is never heard. Not for use by several
threads at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmq

from bridge_clients.connection import Connection
from bridge_clients.core import away_s
from protocol.audio import Buffer
from protocol.errors import SegueError
from protocol.limits import MAX_FRAME_BYTES

_SLICE_S = 0.25
GRACE_MS = 100  # what lies in the socket already is read within that
_CONNECT_S = 1.0
_CONNECT_SLICE_S = 0.1


def open_socket(context: Any, connection: Connection, curve_keys: tuple[bytes, bytes] | None) -> Any:
    """A REQ socket with the settings above, connecting."""
    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.SNDHWM, 1)
    socket.setsockopt(zmq.RCVHWM, 4)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + 65536)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    try:
        if connection.endpoint.startswith("tcp://"):
            curve_keys = curve_keys or connection.client_keys
            if connection.server_key is None or curve_keys is None:
                raise SegueError(
                    "E_UNREACHABLE",
                    "A daemon on the network takes only clients with a key pair; `segue keys new NAME` on its"
                    " machine makes a key file.",
                    field="curve_keys",
                    retry="never",
                )
            socket.curve_serverkey = connection.server_key
            socket.curve_publickey, socket.curve_secretkey = curve_keys
        socket.connect(connection.endpoint)
    except SegueError:
        socket.close(0)
        raise
    except (zmq.ZMQError, ValueError) as error:
        socket.close(0)
        raise SegueError("E_UNREACHABLE", f"{connection.endpoint} is not an address ({error}).") from None
    return socket


class Link:
    """The way to one daemon. `exchange` gives None when there was no answer in time, or will be none."""

    def __init__(self, connection: Connection, curve_keys: tuple[bytes, bytes] | None = None) -> None:
        self.connection = connection
        self._curve_keys = curve_keys
        self._context: Any = zmq.Context()
        self._context.linger = 0
        self._socket: Any = None
        self._refused = False
        self.away_s = 0.0

    @property
    def usable(self) -> bool:
        """False when the daemon of this link is gone, or another has taken its place."""
        return not self._gone()

    def exchange(self, frames: Sequence[Buffer], timeout_s: float) -> list[bytes] | None:
        """Send a request and wait for its answer. After None or an exception the next call has a fresh
        socket.

        `away_s` tells how long this process was stopped meanwhile (None then, unless the answer is there).
        """
        deadline = time.monotonic() + timeout_s
        done, self.away_s = False, 0.0
        try:
            if self._socket is None:
                self._socket = open_socket(self._context, self.connection, self._curve_keys)
            answer = self._ask(frames, deadline)
            done = answer is not None
            return answer
        except zmq.ZMQError as error:
            raise SegueError("E_UNREACHABLE", f"The connection to the daemon broke ({error}).") from None
        finally:
            if not done:
                self.drop()

    def _ask(self, frames: Sequence[Buffer], deadline: float) -> list[bytes] | None:
        connect_by = min(deadline, time.monotonic() + _CONNECT_S)
        while True:
            if self._socket.poll(_slice_ms(connect_by, _CONNECT_SLICE_S), zmq.POLLOUT):
                try:
                    self._socket.send_multipart(frames, flags=zmq.NOBLOCK, copy=True)
                    break
                except zmq.Again:
                    pass
            if not self.connection.listening():
                self._refused = True
            if time.monotonic() >= connect_by or self._gone():
                return None
        while True:
            wait_ms, begun = _slice_ms(deadline, _SLICE_S), time.monotonic()
            ready = self._socket.poll(wait_ms, zmq.POLLIN)
            self.away_s = away_s(wait_ms / 1000, time.monotonic() - begun)
            if self.away_s and not ready and not self._socket.poll(GRACE_MS, zmq.POLLIN):
                return None  # the daemon may have given up on the connection: ask again on a fresh one
            if ready or self.away_s:
                try:
                    return list(self._socket.recv_multipart(flags=zmq.NOBLOCK, copy=True))
                except zmq.Again:
                    pass
            if time.monotonic() >= deadline or self._gone():
                return None

    def _gone(self) -> bool:
        return self._refused or not self.connection.alive() or self.connection.replaced()

    def drop(self) -> None:
        """Throw the socket away, and with it any answer that is still under way."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def close(self) -> None:
        """Give everything back; never waits."""
        self.drop()
        self._context.destroy(linger=0)


def _slice_ms(deadline: float, slice_s: float) -> int:
    return max(0, min(int(slice_s * 1000), int((deadline - time.monotonic()) * 1000) + 1))
