"""Who may send, and where the answers go: programs of this user on this machine.

A UDP port asks nobody for a key, and any user of the machine can send to it. On Linux the kernel says whose
the sender's port is; what belongs to another user is not heard.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar

from protocol.errors import SegueError

Address = tuple[str, int]
T = TypeVar("T")

_TABLE = Path("/proc/net/udp")
_TABLE6 = Path("/proc/net/udp6")
_KNOWN_S = 0.25
_MOST = 256


def loopback(host: str) -> str:
    """The IPv4 loopback address of this name. Raises E_ARGUMENT, with the reason, for every other."""
    if host in ("localhost", ""):
        return "127.0.0.1"
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise SegueError(
            "E_ARGUMENT",
            f"OSC is spoken on this machine only, not with {host[:80]}: it has no keys, and whoever reached "
            "the port could read your files and use your device. For another machine use `segue keys`, and "
            "run `segue osc` there.",
            field="host",
            value=host[:80],
            allowed="127.0.0.1",
        )
    return str(address)


def owners(port: int) -> set[int]:
    """The users whose sockets have this UDP port; empty when there is none any more, or nobody can tell."""
    found: set[int] = set()
    for table in (_TABLE, _TABLE6):
        try:
            lines = table.read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port:
                found.add(int(words[7]))
    return found


class Senders:
    """any_user: do not ask whose a sender is."""

    def __init__(self, *, any_user: bool = False) -> None:
        self._asks = not any_user and sys.platform.startswith("linux") and _TABLE.exists()
        self._known: OrderedDict[Address, tuple[float, bool]] = OrderedDict()
        self._replies: OrderedDict[Address, Address] = OrderedDict()

    def may(self, sender: Address) -> bool:
        """Whether it is a program of this user (or of root) on this machine."""
        if not ipaddress.IPv4Address(sender[0]).is_loopback:
            return False
        if not self._asks:
            return True
        now = time.monotonic()
        known = self._known.get(sender)
        if known is None or now - known[0] > _KNOWN_S:
            found = owners(sender[1])
            known = now, bool(found) and found <= {os.getuid(), 0}
            _remember(self._known, sender, known)
        return known[1]

    def answer_to(self, sender: Address, host: str, port: int) -> None:
        """From now on answers for this sender go there. Raises E_ARGUMENT."""
        if not 1 <= port <= 65_535:
            raise SegueError(
                "E_ARGUMENT", "The port must be 1 to 65535.", field="port", value=port, allowed="1 to 65535"
            )
        _remember(self._replies, sender, (loopback(host), port))

    def reply(self, sender: Address) -> Address:
        """Where its answers go."""
        return self._replies.get(sender, sender)


def _remember(table: OrderedDict[Address, T], key: Address, value: T) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > _MOST:
        table.popitem(last=False)
