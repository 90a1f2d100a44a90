"""OSC 1.0 packets as bytes and back, for datagrams from anybody: strict, bounded, and nothing is ever logged.

Written out because the usual library recurses as deep as a stranger nests bundles and writes to the terminal
about every type it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

Value = int | float | str | bytes | bool | None

MAX_DEPTH = 4  # bundles in bundles
MAX_MESSAGES = 64  # in one packet
MAX_ARGUMENTS = 256
_BUNDLE = b"#bundle\0"
_PLAIN = {"T": True, "F": False, "N": None, "I": True}
_FIXED = {"i": ">i", "f": ">f", "h": ">q", "d": ">d", "t": ">Q"}
_INT32 = 2**31


class OscError(ValueError):
    """A packet that is none."""


@dataclass(frozen=True)
class Message:
    """address: beginning with "/"; values: what the types say, arrays flattened."""

    address: str
    values: tuple[Value, ...]


def decode(packet: bytes) -> list[Message]:
    """The messages of a packet, those of bundles in order; time tags are not waited for.

    Raises OscError.
    """
    found: list[Message] = []
    _read(packet, 0, found)
    return found


def _read(packet: bytes, depth: int, found: list[Message]) -> None:
    if packet.startswith(_BUNDLE):
        if depth >= MAX_DEPTH:
            raise OscError("bundles are nested too deep")
        if len(packet) < 16:
            raise OscError("a bundle without its time")
        at = 16
        while at < len(packet):
            size = _size(packet, at)
            if size <= 0 or size % 4 or at + 4 + size > len(packet):
                raise OscError("a bundle's part of wrong length")
            _read(packet[at + 4 : at + 4 + size], depth + 1, found)
            at += 4 + size
        return
    if len(found) >= MAX_MESSAGES:
        raise OscError("too many messages")
    found.append(_message(packet))


def _message(packet: bytes) -> Message:
    address, at = _text(packet, 0)
    if not address.startswith("/"):
        raise OscError("no address")
    if at == len(packet):  # senders of old leave the types out
        return Message(address, ())
    types, at = _text(packet, at)
    if not types.startswith(","):
        raise OscError("no types")
    if len(types) > MAX_ARGUMENTS:
        raise OscError("too many arguments")
    values: list[Value] = []
    for kind in types[1:]:
        if kind in _FIXED:
            values.append(_unpack(_FIXED[kind], packet, at)[0])
            at += struct.calcsize(_FIXED[kind])
        elif kind in "sS":
            text, at = _text(packet, at)
            values.append(text)
        elif kind == "b":
            size = _size(packet, at)
            if size < 0 or at + 4 + size > len(packet):
                raise OscError("a blob of wrong length")
            values.append(packet[at + 4 : at + 4 + size])
            at += 4 + (size + 3) // 4 * 4
        elif kind in _PLAIN:
            values.append(_PLAIN[kind])
        elif kind not in "[]":
            raise OscError(f"a value of unknown type {kind!r}")
    if at > len(packet):
        raise OscError("it ends too early")
    return Message(address, tuple(values))


def _unpack(form: str, packet: bytes, at: int) -> tuple[int | float, ...]:
    try:
        return struct.unpack_from(form, packet, at)
    except struct.error:
        raise OscError("it ends too early") from None


def _size(packet: bytes, at: int) -> int:
    return int(_unpack(">i", packet, at)[0])


def _text(packet: bytes, at: int) -> tuple[str, int]:
    end = packet.find(b"\0", at)
    if end < 0:
        raise OscError("a text without its end")
    after = at + (end - at) // 4 * 4 + 4
    if after > len(packet):
        raise OscError("it ends too early")
    try:
        return packet[at:end].decode("utf-8"), after
    except UnicodeDecodeError:
        raise OscError("a text that is not UTF-8") from None


def encode(address: str, values: Sequence[Value] = ()) -> bytes:
    """One message. Whole numbers beyond 32 bits travel as text, because Pure Data and SuperCollider read no
    others.
    """
    types, body = ",", b""
    for value in values:
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, int) and -_INT32 <= value < _INT32:
            types, body = types + "i", body + struct.pack(">i", value)
        elif isinstance(value, float):
            types, body = types + "f", body + struct.pack(">f", value)
        elif isinstance(value, bytes):
            padded = value + bytes(-len(value) % 4)
            types, body = types + "b", body + struct.pack(">i", len(value)) + padded
        else:
            types, body = types + "s", body + _padded("" if value is None else str(value))
    return _padded(address) + _padded(types) + body


def _padded(text: str) -> bytes:
    raw = text.replace("\0", "").encode("utf-8", "replace")
    return raw + bytes(4 - len(raw) % 4)
