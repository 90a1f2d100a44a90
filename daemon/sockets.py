"""The daemon's doors: one ROUTER on ipc and, if a user opened it, on tcp; and who is behind each message.

On ipc we bind, chmod and listen ourselves and hand over the descriptor (libzmq's own bind takes the path of a
live daemon and replaces files). A message counts only with the user id that the handshake gave its
connection: ours on ipc, an allowed key on tcp; anything else is dropped before a byte of it is looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from daemon import security, zap
from daemon.keys import AllowList
from daemon.metrics import Metrics
from daemon.outbox import ReturnPath
from daemon.tcp import TcpDoor
from protocol.keys import KEYS_FOLDER, KeyFolder
from protocol.limits import MAX_FRAME_BYTES, MAX_FRAMES

LOOK_EVERY_S = 5.0
KEPT_LISTENERS = 4  # listeners whose name was taken away, kept so that their connections live on
HANDSHAKES_A_TURN = 16
LOG_REFUSALS_EVERY_S = 60.0
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_LOG = logging.getLogger("segue.sockets")


@dataclasses.dataclass(frozen=True)
class Received:
    """One message. token: what its preamble must hold; None when it comes from nobody we know.

    key: the public key it came with on tcp, "" on ipc.
    """

    frames: list[bytes]
    token: bytes | None
    key: str = ""

    def back(self, envelope: list[bytes]) -> ReturnPath:
        """The way back for an answer to it."""
        return ReturnPath(envelope, self.key)


class Sockets:
    """Owned by the front-end's one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        runtime: Path,
        state: Path,
        *,
        token: bytes,
        tcp_bind: str,
        metrics: Metrics,
    ) -> None:
        self._runtime, self._token, self._metrics = runtime, token, metrics
        self._user = zap.user_of_this_process()
        self.router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.path = runtime / security.SOCKET_NAME
        folder = KeyFolder(state / KEYS_FOLDER)
        self._allow = AllowList(folder)
        self.tcp = TcpDoor(self.router, tcp_bind, folder, self._allow)
        self._inode = 0
        self._bindings: list[str] = []
        self._generation = 0
        self._looked_s = time.monotonic()
        self._refusals, self._refusals_said_s = 0, -LOG_REFUSALS_EVERY_S
        self.rebound: Callable[[], None] = lambda: None  # the folder may have gone with the socket

    @property
    def endpoints(self) -> list[str]:
        """Where clients find us, ipc first."""
        return [f"ipc://{self.path}", *filter(None, [self.tcp.endpoint])]

    def open(self) -> None:
        """Bind everything. Raises `security.UnsafePath` or `tcp.Refused`; then nothing is left open."""
        self.zap.bind(_ZAP_ENDPOINT)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 0), (zmq.SNDHWM, 16), (zmq.RCVHWM, 64),
            (zmq.MAXMSGSIZE, MAX_FRAME_BYTES), (zmq.HEARTBEAT_IVL, 2000), (zmq.HEARTBEAT_TIMEOUT, 6000),
            (zmq.HEARTBEAT_TTL, 6000), (zmq.HANDSHAKE_IVL, 3000), (zmq.LINGER, 500),
            (zmq.BACKLOG, security.BACKLOG), (zmq.ZAP_ENFORCE_DOMAIN, 1),
        ):  # fmt: skip
            self.router.setsockopt(option, value)
        self.router.setsockopt(zmq.ZAP_DOMAIN, zap.DOMAIN)
        self.tcp.open()  # first, because it is the one that may be refused
        self._bind_ipc()

    def close(self) -> None:
        """Give everything back; answers under way have 0.2 s."""
        self.router.close(linger=200)
        self.zap.close(linger=0)
        self.tcp.forget()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    # ---- messages ----

    def receive(self) -> Received | None:
        """The next message, or None when there is none now.

        A message of more frames than a request may have is cut one frame above, which is enough to refuse it.
        """
        try:
            first = self.router.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        user = ""
        with contextlib.suppress(zmq.ZMQError):
            user = str(first.get("User-Id"))
        frames = [first.bytes]
        while self.router.getsockopt(zmq.RCVMORE):
            frame = self.router.recv(zmq.NOBLOCK)
            if len(frames) <= MAX_FRAMES:
                frames.append(frame)
        if user == self._user:
            return Received(frames, self._token)
        client = self._allow.client(user)
        return Received(frames, None if client is None else client.token, user)

    def allowed(self, key: str) -> bool:
        """Whether answers may go to this key now; "" is ipc."""
        return not key or self._allow.client(key) is not None

    def answer_handshakes(self) -> None:
        """Say who may come in, a few at a time, so that a crowd at the door keeps nobody inside waiting."""
        for _ in range(HANDSHAKES_A_TURN):
            try:
                request = self.zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            reply, why_not = zap.answer(request, self.allowed_key)
            self.zap.send_multipart(reply)
            if why_not:
                self._metrics.count("handshakes_refused", what=why_not)
                self._say_refused(request, why_not)

    def allowed_key(self, key: str) -> bool:
        return self._allow.client(key) is not None

    def _say_refused(self, request: list[bytes], why_not: str) -> None:
        """One line a minute at most: a stranger must not be able to fill the log."""
        self._refusals += 1
        now = time.monotonic()
        if now - self._refusals_said_s >= LOG_REFUSALS_EVERY_S:
            who = request[3].decode("latin-1") if len(request) > 3 else ""
            _LOG.warning(
                "handshake refused", extra={"why": why_not, "peer": who, "since_last": self._refusals}
            )
            self._refusals, self._refusals_said_s = 0, now

    # ---- housekeeping ----

    def check(self) -> None:
        """The doors are looked after: revoked keys, a socket whose name was taken away."""
        self.tcp.check()
        now = time.monotonic()
        if now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        try:
            there = self.path.lstat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            self._rebind()

    def renew(self) -> None:
        """End every connection and open the doors anew; clients ask again by themselves."""
        for binding in self._bindings:
            with contextlib.suppress(zmq.ZMQError):
                self.router.unbind(binding)
        self._bindings.clear()
        self._rebind()
        self.tcp.renew()

    def _rebind(self) -> None:
        """A cleaner of temporary folders may have removed the name: nobody new could reach us.

        The old listener stays for a while: unbinding it would end the connections that came through it.
        """
        try:
            security.owner_only_folder(self._runtime)
            self._bind_ipc()
            self.rebound()
        except (OSError, security.UnsafePath, zmq.ZMQError) as error:
            _LOG.error("the socket cannot be made again: %s", error)
            return
        _LOG.warning("the socket was made again", extra={"path": str(self.path)})
        while len(self._bindings) > KEPT_LISTENERS:
            with contextlib.suppress(zmq.ZMQError):
                self.router.unbind(self._bindings.pop(0))

    def _bind_ipc(self) -> None:
        """Bind under a name of its own and rename: libzmq knows a binding by the socket's first name."""
        self._generation += 1
        first_name = self.path.with_name(f".s{self._generation}")
        with contextlib.suppress(FileNotFoundError):
            first_name.unlink()
        security.check_replaceable(self.path)
        listener = security.listening_socket(first_name)
        try:
            os.rename(first_name, self.path)
            self.router.setsockopt(zmq.CURVE_SERVER, 0)
            self.router.setsockopt(zmq.AFFINITY, 1)
            self.router.setsockopt(zmq.USE_FD, listener.fileno())
            self.router.bind(f"ipc://{first_name}")
        except BaseException:
            listener.close()
            raise
        finally:
            self.router.setsockopt(zmq.USE_FD, -1)
        listener.detach()  # libzmq owns the descriptor from here on
        self._bindings.append(self.router.getsockopt_string(zmq.LAST_ENDPOINT))
        self._inode = self.path.stat().st_ino
