"""What a service manager is told: ready, stopping, still turning. systemd's datagram protocol, nothing else.

Without ``NOTIFY_SOCKET`` every call does nothing. No call raises or waits: a service manager that is gone,
slow or a full socket must never hurt the daemon.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

FEEDS_PER_PERIOD = 4  # systemd asks for two; a turn may be late by a whole feed


class Notifier:
    """Takes the variables out of `environment`, so that no child can speak in the daemon's name."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        address = found.pop("NOTIFY_SOCKET", "")
        agent = found.get("XPC_SERVICE_NAME", "")  # launchd says "0" to what it did not start
        period_us, meant_for = found.pop("WATCHDOG_USEC", ""), found.pop("WATCHDOG_PID", "")
        self._address = _address(address)
        self._agent = agent not in ("", "0") and not agent.startswith("application.")
        self._socket: socket.socket | None = None
        self._feed_every_s: float | None = None
        self._fed_s = float("-inf")
        if self._address is None:
            return
        with contextlib.suppress(OSError):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        if period_us.isdecimal() and int(period_us) and meant_for in ("", str(os.getpid())):
            self._feed_every_s = int(period_us) / 1e6 / FEEDS_PER_PERIOD

    @property
    def listening(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    @property
    def supervisor(self) -> str | None:
        """Which service manager started this process, if one did."""
        if self._address is not None:
            return "systemd"
        return "launchd" if self._agent else None

    @property
    def feed_every_s(self) -> float | None:
        """How often the watchdog wants to hear of us, or None when there is none."""
        return self._feed_every_s

    def ready(self, status: str) -> bool:
        """The daemon answers from here on. `status`: one line for ``systemctl status``."""
        return self._tell(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_line(status)}")

    def stopping(self, status: str) -> bool:
        """It answers for a while yet, but ends."""
        return self._tell(f"STOPPING=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> bool:
        """One line about what it does now."""
        return self._tell(f"STATUS={_line(status)}")

    def starting_takes(self, seconds: float) -> bool:
        """A start that repairs something may take this much longer before it counts as failed."""
        return self._tell(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def feed(self, now_s: float | None = None) -> bool:
        """Say that the loop turns; sent only when it is due. `now_s` is monotonic. True when it was sent."""
        if self._feed_every_s is None:
            return False
        now = time.monotonic() if now_s is None else now_s
        if now - self._fed_s < self._feed_every_s:
            return False
        self._fed_s = now
        return self._tell("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, message: str) -> bool:
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True


def _address(name: str) -> str | None:
    """A path, or an abstract name written with @; anything else (vsock, relative) is nobody."""
    if name.startswith("/") and len(name) < 108:
        return name
    if name.startswith("@") and 1 < len(name) <= 108:
        return "\0" + name[1:]
    return None


def _line(words: str) -> str:
    return " ".join(words.split())[:200]
