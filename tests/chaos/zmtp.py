"""ZMTP by hand: what a stranger may send to the daemon's socket, in every version of the transport and in
none.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

MORE, LONG, COMMAND = 1, 2, 4
VERBS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
SOCKET_TYPES = (b"DEALER", b"REQ", b"PUB", b"SUB", b"ROUTER", b"PAIR", b"STREAM", b"RADIO", b"", b"\xff" * 50)


def greeting(minor: int = 0, mechanism: bytes = b"NULL", as_server: int = 0, major: int = 3) -> bytes:
    """The 64 bytes with which ZMTP 3 begins."""
    start = b"\xff" + bytes(7) + b"\x01\x7f" + bytes([major, minor])
    return start + mechanism.ljust(20, b"\0")[:20] + bytes([as_server]) + bytes(31)


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame of ZMTP 2 and 3."""
    if len(body) > 255:
        return bytes([flags | LONG]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def message(frames: list[bytes]) -> bytes:
    return b"".join(frame(f, MORE) for f in frames[:-1]) + frame(frames[-1])


def command(name: bytes, body: bytes = b"") -> bytes:
    return frame(bytes([len(name)]) + name + body, COMMAND)


def ready(socket_type: bytes = b"DEALER", identity: bytes | None = None) -> bytes:
    """The handshake's last step under NULL."""
    properties = [(b"Socket-Type", socket_type)]
    if identity is not None:
        properties.append((b"Identity", identity))
    packed = (bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties)
    return command(b"READY", b"".join(packed))


def old_frame(body: bytes, flags: int = 0) -> bytes:
    """A frame of ZMTP 1."""
    if len(body) < 254:
        return bytes([len(body) + 1, flags]) + body
    return b"\xff" + struct.pack(">Q", len(body) + 1) + bytes([flags]) + body


def version_1(frames: list[bytes]) -> bytes:
    """A whole conversation of a ZMTP 1.0 peer without a name: what an HTTP request can be made to look
    like.
    """
    return old_frame(b"") + b"".join(old_frame(f, 1) for f in frames[:-1]) + old_frame(frames[-1])


def version_2(frames: list[bytes], socket_type: int = 5, identity: bytes = b"") -> bytes:
    start = b"\xff" + bytes(7) + b"\x01\x7f" + b"\x01" + bytes([socket_type])
    return start + frame(identity) + message(frames)


def opening_3(minor: int = 0, socket_type: bytes = b"DEALER", identity: bytes | None = None) -> bytes:
    """What a ZMTP 3 peer sends before it must wait for the other side's READY: a frame that comes earlier is
    taken for part of the handshake and ends the connection.
    """
    return greeting(minor) + ready(socket_type, identity)


def http(verb: str, body: bytes) -> bytes:
    """What a browser sends to an address that a web page names; for POST the body is the page's."""
    lines = (
        f"{verb} / HTTP/1.1", "Host: 127.0.0.1:5555", "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)",
        "Accept: */*", "Accept-Language: en-US,en;q=0.5", "Accept-Encoding: gzip, deflate, br, zstd",
        "Content-Type: text/plain;charset=UTF-8", f"Content-Length: {len(body)}", "Origin: http://example.org",
        "Connection: keep-alive", "Sec-Fetch-Mode: no-cors", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + (body if verb in ("POST", "PUT", "PATCH") else b"")


def browser(frames: list[bytes]) -> bytes:
    """An HTTP POST whose body brings libzmq's reader of ZMTP 1.0 to these frames: 'P' is read as a length of
    80, and so on through the headers; a run of empty frames catches wherever it comes out.
    """
    return http(
        "POST", b"\x01\x00" * 200 + b"".join(old_frame(f, 1) for f in frames[:-1]) + old_frame(frames[-1])
    )


def strange(dice: random.Random, frames: list[bytes]) -> Iterator[tuple[str, bytes, bytes]]:
    """Endless (kind, bytes to send after connecting, bytes to send after the daemon's READY); `frames` is a
    message that must not be taken.
    """
    whole = message(frames)
    while True:
        identity = dice.choice(
            [
                b"victim",
                b"\x00\x00\x00\x00\x01",
                b"\x00" + dice.randbytes(4),
                b"i" * 255,
                b"i" * 300,
                b"",
                None,
            ]
        )
        minor = dice.choice([0, 1, 2, 255])
        open_3 = opening_3(minor)
        yield "zmtp 1.0", version_1(frames), b""
        yield "zmtp 2.0", version_2(frames, dice.randrange(12), identity or b""), b""
        yield "zmtp 3.x", opening_3(minor, dice.choice(SOCKET_TYPES), identity), whole
        yield "zmtp 3.x in one piece", open_3 + whole, b""
        yield "identity", opening_3(minor, b"DEALER", identity), whole
        yield "http", http(dice.choice(VERBS), dice.randbytes(20)), b""
        yield "browser", browser(frames), b""
        yield "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(500), b""
        yield "ssh", b"SSH-2.0-OpenSSH_9.2\r\n", b""
        yield "noise", dice.randbytes(dice.choice([1, 9, 10, 11, 64, 2000, 70_000])), b""
        yield "noise later", open_3, dice.randbytes(dice.choice([1, 10, 2000, 70_000]))
        yield "nothing", b"", b""
        begun = dice.choice([version_2(frames), open_3, version_1(frames)])
        yield "fragment", begun[: dice.randrange(len(begun))], b""
        yield "fragment later", open_3, whole[: dice.randrange(len(whole))]
        half = greeting(
            minor, dice.choice([b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"\xff" * 20]), dice.randrange(2)
        )
        yield "half greeting", half[: dice.randint(1, 64)], b""
        yield "other mechanism", half + command(b"HELLO", dice.randbytes(200)), b""
        size = struct.pack(">Q", dice.choice([2**33, 2**63, 2**64 - 1, 4 * 2**20 + 1]))
        yield "8 GiB frame", open_3, bytes([dice.choice([LONG, LONG | MORE])]) + size + bytes(1000)
        yield "8 GiB handshake", greeting() + bytes([LONG | COMMAND]) + size + bytes(1000), b""
        lying = (
            b"\x05READY"
            + b"\x0bSocket-Type"
            + struct.pack(">I", dice.choice([2**31, 2**32 - 1, 7]))
            + b"DEALER"
        )
        yield "lying property", greeting() + frame(lying, COMMAND), whole
        told = command(
            dice.choice([b"ERROR", b"PING", b"PONG", b"SUBSCRIBE", b"", b"x" * 255]), dice.randbytes(9)
        )
        yield "commands", opening_3(1), told * dice.randint(1, 50)
        ping = command(b"PING", b"\xff\xff" + dice.randbytes(dice.choice([0, 16, 17, 200])))
        yield "heartbeats", opening_3(1), ping * 20
