"""Control messages between front-end and worker: a length (4 bytes, little-endian), then one msgpack map.

Audio never travels here: the worker writes it to the spool and says where it lies.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

MAX_MESSAGE_BYTES = 1 << 20
_LENGTH = struct.Struct("<I")


class LinkError(RuntimeError):
    """The other side does not speak the link's language; the process at its end is of no more use."""


def encode(message: dict[str, Any]) -> bytes:
    """One message as bytes."""
    body = msgpack.packb(message, use_bin_type=True)
    if len(body) > MAX_MESSAGE_BYTES:
        raise LinkError(
            f"a control message of {len(body)} bytes ({message.get('op')}) is over {MAX_MESSAGE_BYTES}"
        )
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in any cut, messages out."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Messages completed by `data`, in order."""
        self._pending += data
        messages: list[dict[str, Any]] = []
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > MAX_MESSAGE_BYTES:
                raise LinkError(f"a control message claims {length} bytes")
            end = _LENGTH.size + length
            if len(self._pending) < end:
                break
            try:
                message = msgpack.unpackb(
                    bytes(self._pending[_LENGTH.size : end]), raw=False, strict_map_key=True
                )
            except Exception as error:  # msgpack raises ValueError, TypeError and its own kinds
                raise LinkError(f"a control message cannot be read: {error}") from error
            if not isinstance(message, dict) or not isinstance(message.get("op"), str):
                raise LinkError("a control message is not a map with an 'op'")
            del self._pending[:end]
            messages.append(message)
        return messages
