"""Numbers both sides of the wire agree on: protocol 1.

Sizes in bytes, counts in items. A daemon announces the message sizes in its answer to `hello`; a client
checks before it sends, because libzmq drops a connection without a word when a frame is above the receiver's
limit.
"""

from __future__ import annotations

MAJOR = 1
MINOR = 1
MAGIC = b"SGU"
TOKEN_BYTES = 32
PREAMBLE_BYTES = len(MAGIC) + 1 + TOKEN_BYTES

MAX_FRAMES = 80
MAX_ENVELOPE_FRAMES = 8
MAX_PAYLOADS = 64
MAX_HEADER_BYTES = 64 * 1024
MAX_FRAME_BYTES = 4 * 1024 * 1024
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

MAX_DEPTH = 8
MAX_STRING_BYTES = 16 * 1024
MAX_BINARY_BYTES = 4 * 1024
MAX_ARRAY_ITEMS = 4096
MAX_MAP_ITEMS = 256

KEY_BYTES = 16
MAX_INTEGER = 2**53 - 1  # every language with doubles reads it exactly
MAX_WAIT_MS = 25_000
MAX_CREDIT_BYTES = 8 * 1024 * 1024
MAX_TICKS_PER_S = 10
MAX_TICK_GAP_S = 2.0

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 2
MAX_VARIATIONS = 16
MAX_LENGTH_S = 3600
MAX_CONTEXT_TRACKS = 16
DEFAULT_RATE_HZ = 48_000
DEFAULT_CHANNELS = 2
