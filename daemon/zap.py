"""The answer to every handshake (ZAP, RFC 27), given by the daemon's own loop: there is no authenticator
that could die and leave the door open. While nobody answers, nobody gets in (ZAP_ENFORCE_DOMAIN is set).

Measured with libzmq 4.3.5: the address of an ipc peer is `localhost:uid:gid:pid`, that of a tcp peer its IP
address; what is given as user id here is found as "User-Id" on every message of that connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from zmq.utils import z85

DOMAIN = b"segue"


def user_of_this_process() -> str:
    """The user id that messages of peers on ipc carry."""
    return str(os.getuid())


def answer(request: Sequence[bytes], allowed: Callable[[str], bool]) -> tuple[list[bytes], str]:
    """(reply, why not): an ipc peer passes under our own uid, a tcp peer with an allowed CURVE key.

    `request` is the message after the empty delimiter: version, request id, domain, address, identity,
    mechanism, credentials. why not: "" when it passes, else a word for the counter.
    """
    if len(request) < 6 or request[0] != b"1.0":
        return _reply(request[1] if len(request) > 1 else b"", b"500"), "malformed"
    number, domain, mechanism = request[1], request[2], request[5]
    if domain != DOMAIN:
        return _reply(number, b"400"), "domain"
    address = request[3].decode("latin-1").split(":")
    if address[0] == "localhost" and len(address) >= 4:  # ipc
        uid = user_of_this_process()
        if address[1] != uid or mechanism != b"NULL":
            return _reply(number, b"400"), "user"
        return _reply(number, b"200", uid), ""
    if mechanism != b"CURVE" or len(request) < 7 or len(request[6]) != 32:
        return _reply(number, b"400"), "mechanism"
    key = z85.encode(request[6]).decode()
    if not allowed(key):
        return _reply(number, b"400"), "key"
    return _reply(number, b"200", key), ""


def _reply(number: bytes, status: bytes, user: str = "") -> list[bytes]:
    return [b"1.0", number, status, b"ok" if user else b"not allowed", user.encode(), b""]
