"""Messages to frames and back, with every limit checked before the next thing is touched.

    [routing envelope …] [empty]  F0  F1  F2 … Fn
    F0  "SGU", the protocol's major as one byte, 32 bytes of capability token (zeros from the daemon)
    F1  the header, one msgpack map
    F2… payloads, never parsed

The daemon's way in is `decode_request`, a client's `decode_reply` and `decode_push`. Whatever the bytes are,
nothing but SegueError comes out. Threading: functions of their arguments only, safe from any thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

from .audio import AudioBlock, Buffer
from .errors import SegueError
from .events import Audio, Event, Tick
from .limits import (
    MAGIC,
    MAJOR,
    MAX_ARRAY_ITEMS,
    MAX_BINARY_BYTES,
    MAX_DEPTH,
    MAX_ENVELOPE_FRAMES,
    MAX_FRAME_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_INTEGER,
    MAX_MAP_ITEMS,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOADS,
    MAX_STRING_BYTES,
    PREAMBLE_BYTES,
    TOKEN_BYTES,
)
from .messages import FROZEN_OPS, error_header, parse_push, parse_reply, parse_request, push_header
from .replies import Reply
from .requests import Request

_NO_TOKEN = bytes(TOKEN_BYTES)
_FROM_DAEMON = MAGIC + bytes([MAJOR]) + _NO_TOKEN


class Refusal(SegueError):
    """A request that cannot be taken, with what is needed to answer it.

    silent: None when an answer is due (`frames()`), else the counter to raise instead of answering: "frames",
    "envelope", "magic" or "token" (a stranger learns nothing).
    """

    envelope: list[bytes]
    op: str
    request_id: int
    silent: str | None

    @classmethod
    def of(
        cls,
        error: SegueError,
        envelope: list[bytes],
        op: str = "",
        request_id: int = 0,
        silent: str | None = None,
    ) -> Refusal:
        made = cls(error.code, error.message)
        made.__dict__.update(error.__dict__)
        made.envelope, made.op, made.request_id, made.silent = envelope, op, request_id, silent
        return made

    def frames(self) -> list[Buffer]:
        """The whole answer, envelope included."""
        return [*self.envelope, *encode_error(self, self.op, self.request_id)]


@dataclasses.dataclass(frozen=True)
class Incoming:
    """A request as it arrived. envelope: what comes before F0 of the answer, the empty frame included."""

    envelope: list[bytes]
    op: str
    request_id: int
    request: Request


# out


def encode(
    header: Mapping[str, Any], payloads: Sequence[Buffer] = (), token: bytes | None = None
) -> list[Buffer]:
    """Frames F0, F1, F2 … for a header and payloads; E_SIZE when it would not be taken on the other side."""
    _check_plain(header, 1)
    packed = msgpack.packb(header, use_bin_type=True)
    _check_sizes(len(packed), payloads)
    return [_FROM_DAEMON if token is None else MAGIC + bytes([MAJOR]) + token, packed, *payloads]


def encode_request(request: Request, request_id: int, token: bytes) -> list[Buffer]:
    """Frames of a request (a REQ socket puts the empty frame before them itself, a DEALER client must)."""
    return encode(request.to_header(request_id), [b.data for b in request.blocks], token)


def encode_reply(reply: Reply, request_id: int) -> list[Buffer]:
    """Frames of a reply. E_NOT_FINITE when its audio has samples that are not numbers."""
    payloads = _finite(reply.blocks)
    if reply.raw is not None:
        payloads.append(reply.raw)
    return encode(reply.to_header(request_id), payloads)


def encode_error(error: SegueError, op: str = "", request_id: int = 0) -> list[Buffer]:
    """Frames of a refusal; always encodable, however long its words."""
    try:
        return encode(error_header(error, op, request_id))
    except SegueError:
        short = SegueError(error.code, error.message[:1000], retry=error.retry, retry_ms=error.retry_ms)
        return encode(error_header(short, op[:64], request_id))


def encode_push(job: str, what: Event | Tick) -> list[Buffer]:
    """Frames of an event or tick for a DEALER client that attached."""
    blocks = [what.block] if isinstance(what, Audio) and what.block is not None else []
    return encode(push_header(job, what), _finite(blocks))


def _finite(blocks: Sequence[AudioBlock]) -> list[Buffer]:
    for block in blocks:
        try:
            block.check_finite()
        except SegueError as error:
            error.code = "E_NOT_FINITE"
            raise
    return [block.data for block in blocks]


# in


def decode_request(frames: Sequence[Buffer], token: bytes) -> Incoming:
    """A request from the frames a ROUTER received (routing id first). Raises Refusal and nothing else.

    The order of checks is part of the protocol: number of frames, envelope, F0's length and magic, token,
    major, sizes, msgpack, schema, payloads against their description.
    """
    if not 0 < len(frames) <= MAX_FRAMES:
        raise _silent("frames", f"A message of {len(frames)} frames.")
    end = next((i for i, f in enumerate(frames[:MAX_ENVELOPE_FRAMES]) if len(f) == 0), None)
    if end is None or end + 1 >= len(frames):
        raise _silent("envelope", "No empty frame between envelope and message.")
    envelope = [bytes(f) for f in frames[: end + 1]]
    first = frames[end + 1]
    if len(first) != PREAMBLE_BYTES or bytes(first[:3]) != MAGIC:
        raise _silent("magic", "Not a Segue message.")
    preamble = bytes(first)
    from hmac import compare_digest  # only daemons pay for it

    if not compare_digest(preamble[4:], token):
        raise _silent("token", "Wrong capability token.")
    rest = frames[end + 2 :]
    op, request_id = "", 0
    try:
        try:
            header = read_header(rest)
            op, request_id = _named(header)
        except SegueError:
            if preamble[3] != MAJOR:
                raise version_error(preamble[3]) from None
            raise
        if preamble[3] != MAJOR and op not in FROZEN_OPS:
            raise version_error(preamble[3])
        _check_sizes(0, rest[1:])
        return Incoming(envelope, op, request_id, parse_request(header, rest[1:]))
    except SegueError as error:
        raise Refusal.of(error, envelope, op, request_id) from None


def decode_reply(frames: Sequence[Buffer]) -> tuple[int, Reply | SegueError]:
    """(request id, reply or the daemon's error) from the frames after the empty one.

    Raises E_VERSION or E_HEADER for what is not a reply of this protocol, E_TAKE_DAMAGED for damaged audio.
    """
    header, payloads = _opened(frames)
    op, request_id = _named(header)
    if header.get("ok") is False:
        return request_id, SegueError.from_map(header.get("error"))
    if bytes(frames[0])[3] != MAJOR and op not in FROZEN_OPS:
        raise version_error(bytes(frames[0])[3])
    return request_id, parse_reply(header, payloads)


def decode_push(frames: Sequence[Buffer]) -> tuple[str, Event | Tick] | None:
    """(job, event or tick) of a pushed message, or None when it is a reply (`decode_reply`)."""
    header, payloads = _opened(frames)
    if header.get("op") not in ("event", "tick"):
        return None
    return parse_push(header, payloads)


def version_error(major: int) -> SegueError:
    """The refusal of another major."""
    return SegueError(
        "E_VERSION",
        f"This side speaks protocol {MAJOR}, the other {major}: update the older of the two and restart it.",
        field="protocol",
        value=major,
        allowed=str(MAJOR),
    )


def read_header(frames: Sequence[Buffer]) -> dict[str, Any]:
    """F1 as a plain map within the limits. Raises E_SIZE or E_HEADER."""
    if not frames:
        raise SegueError("E_HEADER", "The message has no header.")
    raw = frames[0]
    if len(raw) > MAX_HEADER_BYTES:
        raise _too_big("header", len(raw), MAX_HEADER_BYTES)
    try:
        header = msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_map_of,
            ext_hook=_no_extension,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=MAX_BINARY_BYTES,
            max_array_len=MAX_ARRAY_ITEMS,
            max_map_len=MAX_MAP_ITEMS,
            max_ext_len=0,
        )
    except SegueError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds for bad bytes, OverflowError among them
        raise SegueError(
            "E_HEADER", "The header is not msgpack within the limits.", detail=str(error)[:200]
        ) from None
    if not isinstance(header, dict):
        raise SegueError("E_HEADER", "The header must be a map.")
    _check_plain(header, 1)
    return header


def _opened(frames: Sequence[Buffer]) -> tuple[dict[str, Any], Sequence[Buffer]]:
    if (
        not 2 <= len(frames) <= MAX_FRAMES
        or len(frames[0]) != PREAMBLE_BYTES
        or bytes(frames[0][:3]) != MAGIC
    ):
        raise SegueError("E_HEADER", "What answered is not a Segue daemon.")
    try:
        header = read_header(frames[1:2])
    except SegueError as error:
        major = bytes(frames[0])[3]
        raise version_error(major) if major != MAJOR else error from None
    return header, frames[2:]


def _named(header: Mapping[str, Any]) -> tuple[str, int]:
    op, request_id = header.get("op"), header.get("id")
    if not isinstance(request_id, int) or isinstance(request_id, bool) or not 0 <= request_id <= MAX_INTEGER:
        raise SegueError(
            "E_HEADER", "id must be a whole number from 0 to 2^53-1.", field="id", value=request_id
        )
    if not isinstance(op, str) or len(op) > 64:
        raise SegueError("E_HEADER", "op must be the name of an operation.", field="op", value=op)
    return op, request_id


def _silent(counter: str, message: str) -> Refusal:
    return Refusal.of(SegueError("E_HEADER", message), [], silent=counter)


def _too_big(what: str, size: int, allowed: int) -> SegueError:
    return SegueError(
        "E_SIZE", f"The {what} has {size} bytes; at most {allowed} are taken.", field=what, value=size,
        allowed=f"at most {allowed} bytes",
    )  # fmt: skip


def _check_sizes(header_bytes: int, payloads: Sequence[Buffer]) -> None:
    if header_bytes > MAX_HEADER_BYTES:
        raise _too_big("header", header_bytes, MAX_HEADER_BYTES)
    if len(payloads) > MAX_PAYLOADS:
        raise SegueError(
            "E_SIZE", f"{len(payloads)} payloads are too many for one message.", field="audio",
            value=len(payloads), allowed=f"at most {MAX_PAYLOADS}",
        )  # fmt: skip
    total = header_bytes + PREAMBLE_BYTES
    for payload in payloads:
        size = memoryview(payload).nbytes
        if size > MAX_FRAME_BYTES:
            raise _too_big("audio", size, MAX_FRAME_BYTES)
        total += size
    if total > MAX_MESSAGE_BYTES:
        raise _too_big("message", total, MAX_MESSAGE_BYTES)


def _map_of(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    made = dict.fromkeys(key for key, _ in pairs if isinstance(key, str))
    if len(made) != len(pairs):
        raise SegueError("E_HEADER", "The header has a key twice, or one that is not text.")
    made.update(pairs)
    return made


def _no_extension(code: int, data: bytes) -> None:
    raise SegueError("E_HEADER", "The header has an extension type.", value=code)


def _check_plain(value: Any, depth: int) -> None:
    """Only plain msgpack types, within the limits of depth and length; the same rule for both directions."""
    kind = type(value)
    if kind is dict or kind is list:
        if depth > MAX_DEPTH:
            raise SegueError(
                "E_HEADER", f"The header nests deeper than {MAX_DEPTH}.", allowed=f"depth {MAX_DEPTH}"
            )
        if len(value) > (MAX_MAP_ITEMS if kind is dict else MAX_ARRAY_ITEMS):
            raise SegueError(
                "E_HEADER", "The header has a map or list with too many items.", value=len(value)
            )
        for item in value.values() if kind is dict else value:
            _check_plain(item, depth + 1)
        if kind is dict:
            for key in value:
                _check_plain(key if isinstance(key, str) else 0j, depth)
    elif kind is str:
        if len(value) > MAX_STRING_BYTES or len(value.encode("utf-8", "replace")) > MAX_STRING_BYTES:
            raise SegueError(
                "E_HEADER", f"The header has a text above {MAX_STRING_BYTES} bytes.", value=value
            )
    elif kind is bytes:
        if len(value) > MAX_BINARY_BYTES:
            raise SegueError("E_HEADER", f"The header has more than {MAX_BINARY_BYTES} bytes in one piece.")
    elif value is not None and kind not in (bool, int, float):
        raise SegueError("E_HEADER", f"The header has a {kind.__name__}, which does not travel.")
    elif kind is int and not -(2**63) <= value < 2**64:
        raise SegueError("E_HEADER", "The header has a number of more than 64 bits.")
