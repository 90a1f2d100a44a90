"""The door to the network: closed unless a user names an address and allows at least one client key.

The listening socket is ours and libzmq gets a copy of its descriptor, so the port is never lost while the
door is closed to end connections. Measured with libzmq 4.3.5: CURVE_SERVER, ZAP_DOMAIN and USE_FD belong to
the binding that is made next, so one ROUTER serves ipc (NULL) and tcp (CURVE) and routing ids never collide;
`unbind` ends the connections that were accepted there and takes 0.3 ms; a client that was refused stays
silent until it opens a fresh socket. Handshakes have an I/O thread of their own: with 860 refused ones a
second a ping over ipc takes 0.8 ms in the median (on the same thread: 7.3 ms).
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import socket
import time

import zmq

from daemon.keys import AllowList
from protocol.keys import KeyFolder, KeyPair

BACKLOG = 64
LOOK_EVERY_S = 1.0
FULL_SHARE = 0.8  # of the descriptors this process may have: at most so many before the network waits
REST_S = 30.0
OWN_THREAD = 2  # a bit mask: the second I/O thread
_FORM = re.compile(r"tcp://([0-9.]+):([0-9]{1,5})")
_LOG = logging.getLogger("segue.tcp")


class Refused(RuntimeError):
    """One sentence: why the daemon does not listen there."""


def address(bind: str) -> tuple[str, int]:
    """(host, port) of `tcp.bind`. Raises `Refused` for all but one IPv4 address of this machine and a port.

    Names and wildcards are refused because what they reach is decided elsewhere and may change.
    """
    found = _FORM.fullmatch(bind)
    example = "write one address of this machine, for example tcp://127.0.0.1:5775"
    if found is None:
        raise Refused(f"tcp.bind {bind!r} is not taken: {example}.")
    try:
        host, port = ipaddress.IPv4Address(found[1]), int(found[2])
    except ValueError:
        raise Refused(f"tcp.bind {bind!r} is no IPv4 address: {example}.") from None
    if host.is_unspecified or host.is_multicast or host == ipaddress.IPv4Address("255.255.255.255"):
        raise Refused(f"tcp.bind {bind!r} would open Segue on every network: {example}.")
    if not 1 <= port <= 65535:
        raise Refused(f"tcp.bind {bind!r} has no port from 1 to 65535: {example}.")
    return str(host), port


def descriptors_in_use() -> int:
    """How many file descriptors this process has open; 0 where it cannot be told."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


class TcpDoor:
    """Owned by the front-end's one thread. `bind` empty: there is no door."""

    def __init__(self, router: zmq.Socket[bytes], bind: str, folder: KeyFolder, allow: AllowList) -> None:
        self._router, self._bind, self._folder, self._allow = router, bind, folder, allow
        self._pair: KeyPair | None = None
        self._listener: socket.socket | None = None
        self._bound: str | None = None
        self._within: frozenset[str] = frozenset()  # keys that may have connections
        self._looked_s = self._rest_until_s = 0.0

    @property
    def endpoint(self) -> str | None:
        """The address while the door is open."""
        return self._bind if self._bound else None

    @property
    def public_key(self) -> str | None:
        """The daemon's own public key, when there is a door at all."""
        return self._pair.public if self._pair is not None else None

    def open(self) -> None:
        """Listen, if an address is set. Raises `Refused` when nobody is allowed or it cannot be had."""
        if not self._bind:
            return
        host_port = address(self._bind)
        keys = self._allow.clients()
        if not keys:
            raise Refused(
                f"tcp.bind is {self._bind} but no client is allowed; `segue keys new NAME` allows one."
            )
        pair = self._folder.server()
        if pair is None:
            public, secret = zmq.curve_keypair()
            pair = self._folder.set_server(KeyPair(public.decode(), secret.decode()))
        if zmq.curve_public(pair.secret.encode()).decode() != pair.public:
            raise Refused(f"{self._folder.path} holds a key pair whose halves do not belong together.")
        self._pair = pair
        self._listen(host_port)
        self._let_in(frozenset(keys))

    def check(self) -> None:
        """Once a second: who was revoked loses the connection; without clients, or descriptors, it closes."""
        now = time.monotonic()
        if self._pair is None or now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        allowed = frozenset(self._allow.clients())
        if self._crowded(now):
            return
        if not allowed:
            if self._bound:
                _LOG.warning("nobody is allowed over tcp any more: closed", extra={"endpoint": self._bind})
            self._shut()
        elif self._bound is None:
            self._again(allowed)
        elif self._within - allowed:
            _LOG.info("a client was revoked: its connections end", extra={"endpoint": self._bind})
            self._unbind()
            self._let_in(allowed)
        else:
            self._within = allowed

    def renew(self) -> None:
        """End every connection; the door stays open."""
        allowed = self._within
        if self._bound:
            self._unbind()
            self._let_in(allowed)

    def forget(self) -> None:
        """The ROUTER is closed: give the address back."""
        self._bound = None
        self._shut()

    # ---- inside ----

    def _crowded(self, now: float) -> bool:
        """libzmq aborts the process when ipc runs out of descriptors, so the network gives way first."""
        if now < self._rest_until_s:
            return True
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self._bound is None or descriptors_in_use() < FULL_SHARE * limit:
            return False
        _LOG.error("too many connections: tcp rests", extra={"limit": limit, "rest_s": REST_S})
        self._shut()
        self._rest_until_s = now + REST_S
        return True

    def _again(self, allowed: frozenset[str]) -> None:
        try:
            if self._listener is None:
                self._listen(address(self._bind))
            self._let_in(allowed)
        except (Refused, zmq.ZMQError) as error:
            _LOG.error("tcp stays closed: %s", error)

    def _listen(self, host_port: tuple[str, int]) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(host_port)
            listener.setblocking(False)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise Refused(
                    f"{self._bind} is in use by another program; set tcp.bind to another port."
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise Refused(f"{self._bind} is not an address of this machine.") from None
            raise Refused(f"{self._bind} cannot be opened ({error.strerror}).") from None
        self._listener = listener

    def _let_in(self, allowed: frozenset[str]) -> None:
        """Bind with CURVE. The options hold for this binding only and are taken back at once."""
        if self._pair is None or self._listener is None:
            return
        router = self._router
        copied = os.dup(self._listener.fileno())
        try:
            router.setsockopt(zmq.AFFINITY, OWN_THREAD)
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret.encode())
            router.setsockopt(zmq.TCP_KEEPALIVE, 1)
            router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
            router.setsockopt(zmq.USE_FD, copied)  # libzmq owns it once the binding stands
            router.bind(self._bind)
        except zmq.ZMQError:
            os.close(copied)
            raise
        finally:
            router.setsockopt(zmq.CURVE_SERVER, 0)
            router.setsockopt(zmq.AFFINITY, 0)
            router.setsockopt(zmq.USE_FD, -1)
        self._bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._within = allowed
        _LOG.info(
            "open to clients with an allowed key", extra={"endpoint": self._bind, "clients": len(allowed)}
        )

    def _unbind(self) -> None:
        if self._bound is not None:
            self._router.unbind(self._bound)
            self._bound, self._within = None, frozenset()

    def _shut(self) -> None:
        self._unbind()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
