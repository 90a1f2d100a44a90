"""`segue osc`: one UDP socket on the loopback, messages in, jobs made of them, answers out.

One thread reads, looks at the jobs and answers; it waits for nothing but its socket. Whatever arrives,
however much of it, costs a bounded time and a bounded number of jobs.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge_clients.osc.jobs import Answer, OscJob, error_answer
from bridge_clients.osc.packets import Message, OscError, Value, decode, encode
from bridge_clients.osc.requests import PATHS, parse, tag_of, wrong
from bridge_clients.osc.senders import Address, Senders, loopback
from protocol.errors import SegueError

DEFAULT_PORT = 5776
AT_MOST = 16  # jobs at a time
LOOK_S = 0.03
_READ_AT_ONCE = 64
_REFUSALS_A_SECOND = 50
_SAY_S = 5.0
_DATAGRAM = 65_536
_END_S = 3.0

Say = Callable[[str], None]


class OscServer:
    """Listens from its making on. Raises E_ARGUMENT for an address that is not the loopback, or is taken.

    root: an owner-only folder for job directories; takes: where finished takes go; at_most: jobs at a time;
    any_user: do not ask whose a sender is; say: told a sentence for the terminal; report: makes a sentence of
    a defect.
    """

    def __init__(
        self,
        *,
        root: Path,
        takes: Path,
        say: Say,
        report: Callable[[BaseException], str],
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        at_most: int = AT_MOST,
        any_user: bool = False,
    ) -> None:
        self._root, self._takes, self._say, self._report = root, takes, say, report
        self._at_most = at_most
        self._senders = Senders(any_user=any_user)
        self._jobs: dict[tuple[Address, int | str], OscJob] = {}
        self._number = 0
        self._asking: threading.Thread | None = None
        self._found: list[tuple[Address, Answer]] = []
        self._refusals = (0.0, 0)
        self._dropped = {"that are no OSC": 0, "of another user, or of a sender that has gone": 0}
        self._said_s = 0.0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((loopback(host), port))
        except OSError as error:
            self._socket.close()
            raise SegueError(
                "E_ARGUMENT",
                f"UDP port {port} cannot be had ({error.strerror}): another program, perhaps another "
                "`segue osc`, has it.",
                field="port",
                value=port,
                allowed="a free port",
            ) from None
        except SegueError:
            self._socket.close()
            raise
        self._socket.settimeout(LOOK_S)
        self.address: Address = self._socket.getsockname()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Jobs that are under way then are cancelled."""
        looked_s = 0.0
        try:
            while not stop.is_set():
                self._read()
                if time.monotonic() - looked_s >= LOOK_S:
                    looked_s = time.monotonic()
                    self._look()
        finally:
            for job in self._jobs.values():
                job.cancel()
            by = time.monotonic() + _END_S
            for job in self._jobs.values():
                job.wait(max(0.0, by - time.monotonic()))
            self._look()
            self._socket.close()

    # ---- in ----

    def _read(self) -> None:
        """What has arrived, at most so much that the jobs are looked at in time."""
        for number in range(_READ_AT_ONCE):
            try:
                packet, sender = self._socket.recvfrom(_DATAGRAM, 0 if number == 0 else socket.MSG_DONTWAIT)
            except (TimeoutError, BlockingIOError):
                return
            except OSError:  # some systems report here that an answer found nobody
                return
            if not self._senders.may(sender):
                self._dropped["of another user, or of a sender that has gone"] += 1
                continue
            try:
                messages = decode(packet)
            except OscError:
                self._dropped["that are no OSC"] += 1
                continue
            for message in messages:
                self._take(sender, message)

    def _take(self, sender: Address, message: Message) -> None:
        start, _, name = message.address.rpartition("/")
        if start != "/segue":
            return  # a port may be shared with other talk
        try:
            if name in PATHS:
                self._begin(sender, name, message.values)
            elif name == "cancel":
                self._cancel(sender, message.values)
            elif name == "status":
                self._status(sender, message.values)
            elif name == "reply":
                self._reply(sender, message.values)
            else:
                known = ", ".join([*PATHS, "cancel", "status", "reply"])
                raise SegueError(
                    "E_UNKNOWN_OP", f"There is no /segue/{name[:40]}.", field="address", value=name[:40],
                    allowed=known,
                )  # fmt: skip
        except SegueError as error:
            self._refuse(sender, _named(message.values), error)

    def _begin(self, sender: Address, mode: str, values: Sequence[Value]) -> None:
        wanted = parse(mode, values)
        if len(self._jobs) >= self._at_most:
            raise SegueError(
                "E_QUEUE_FULL", f"{len(self._jobs)} jobs are under way; wait for one, or cancel one.",
                field="id", value=len(self._jobs), allowed=f"at most {self._at_most} jobs at a time",
            )  # fmt: skip
        if wanted.tag is None:
            self._number += 1
            wanted.tag = self._number
        if (sender, wanted.tag) in self._jobs:
            raise wrong("id", wanted.tag, "one that no job under way has")
        job = OscJob(wanted, wanted.tag, sender, self._root, self._takes, self._report)
        self._jobs[sender, wanted.tag] = job

    def _cancel(self, sender: Address, values: Sequence[Value]) -> None:
        if not values:
            for (whose, _), job in self._jobs.items():
                if whose == sender:
                    job.cancel()
            return
        self._mine(sender, values[0]).cancel()

    def _mine(self, sender: Address, tag: Value) -> OscJob:
        name = tag_of(tag)
        found = None if name is None else self._jobs.get((sender, name))
        if found is None:
            raise SegueError(
                "E_JOB", "No job of yours with this id is under way.", field="id", value=str(tag)[:64],
                allowed=", ".join(str(name) for whose, name in self._jobs if whose == sender),
            )  # fmt: skip
        return found

    def _status(self, sender: Address, values: Sequence[Value]) -> None:
        if values:
            job = self._mine(sender, values[0])
            self._send(sender, ("/segue/progress", (job.tag, *job.state)))
        elif self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(
                target=self._ask, args=(sender, len(self._jobs)), name="segue-osc-status", daemon=True
            )
            self._asking.start()

    def _ask(self, sender: Address, jobs: int) -> None:
        """In a thread of its own, because a daemon that hangs takes its time."""
        from bridge_clients.client import Client

        try:
            with Client(autostart=False, timeout_s=2.0, name="segue-osc") as client:
                pong, hello = client.ping(), client.hello
            state = "paused" if pong.paused else "ready" if pong.ready else "starting"
            told: tuple[Value, ...] = (state, pong.queued, pong.running, jobs, hello.default_model or "")
            self._found.append((sender, ("/segue/status", (*told, pong.notice or ""))))
        except SegueError as error:
            self._found.append((sender, ("/segue/status", ("absent", 0, 0, jobs, "", str(error)))))

    def _reply(self, sender: Address, values: Sequence[Value]) -> None:
        host, port = (values[0], values[1]) if len(values) > 1 else ("localhost", values[0] if values else 0)
        if not isinstance(host, str):
            raise wrong("host", host, "127.0.0.1, or left out")
        if isinstance(port, bool) or not isinstance(port, int | float) or not float(port).is_integer():
            raise wrong("port", port, "the number of a UDP port")
        self._senders.answer_to(sender, host, int(port))

    # ---- out ----

    def _look(self) -> None:
        while self._found:
            self._send(*self._found.pop(0))
        for name, job in list(self._jobs.items()):
            for answer in job.poll():
                self._send(job.sender, answer)
            if job.ended:
                del self._jobs[name]
        if any(self._dropped.values()) and time.monotonic() - self._said_s > _SAY_S:
            self._said_s = time.monotonic()
            for what, count in self._dropped.items():
                if count:
                    self._say(f"{count} packets {what} were dropped.")
                    self._dropped[what] = 0

    def _refuse(self, sender: Address, tag: int | str, error: SegueError) -> None:
        """Answer with the error; not more than so many a second, whatever is sent."""
        now = time.monotonic()
        since_s, count = self._refusals
        if now - since_s >= 1.0:
            since_s, count = now, 0
        self._refusals = since_s, count + 1
        if count < _REFUSALS_A_SECOND:
            self._send(sender, error_answer(tag, error))

    def _send(self, sender: Address, answer: Answer) -> None:
        packet = encode(*answer)
        try:
            self._socket.sendto(packet, self._senders.reply(sender))
        except OSError:
            pass  # nobody there, or no room: as every datagram, it may be lost


def _named(values: Sequence[Value]) -> int | str:
    """The id that a refused message carries, if it does."""
    for key, value in zip(values, values[1:], strict=False):
        if key == "id":
            return "" if (found := tag_of(value)) is None else found
    return ""
