"""Frames: order of checks, limits, and that no bytes whatever get anything but SegueError out of the
decoder.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from protocol import limits
from protocol import messages as m
from protocol import vectors_write as v
from protocol.audio import AudioBlock, AudioFormat
from protocol.errors import SegueError
from protocol.framing import (
    Refusal,
    decode_push,
    decode_reply,
    decode_request,
    encode,
    encode_error,
    encode_push,
    encode_reply,
    encode_request,
)

ROUTE = [b"\x00peer", b""]
FIRST = limits.MAGIC + bytes([limits.MAJOR]) + v.TOKEN


def refusal(frames: Sequence[bytes]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode_request(frames, v.TOKEN)
    return caught.value


def test_envelopes_of_req_correlated_req_and_dealer_come_back_whole() -> None:
    ping = encode_request(m.Ping(), 3, v.TOKEN)
    for envelope in (
        [b"id", b""],
        [b"id", b"\0\0\0\1", b""],
        [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b""],
    ):
        assert decode_request([*envelope, *ping], v.TOKEN).envelope == envelope


def test_the_first_wrong_thing_is_the_one_that_counts() -> None:
    """Everything is wrong; repairing it piece by piece walks through the checks in their order."""
    big = b"\xc1" * (limits.MAX_HEADER_BYTES + 1)
    assert refusal([b"x"] * 81).silent == "frames"
    assert refusal([b"x"] * 20).silent == "envelope"
    assert refusal([*ROUTE, b"short", big]).silent == "magic"
    assert refusal([*ROUTE, b"XXX\x02" + bytes(32), big]).silent == "magic"
    assert refusal([*ROUTE, b"SGU\x02" + bytes(32), big]).silent == "token"
    assert refusal([*ROUTE, b"SGU\x02" + v.TOKEN, big]).code == "E_VERSION"
    assert refusal([*ROUTE, FIRST, big]).code == "E_SIZE"
    assert refusal([*ROUTE, FIRST, b"\xc1", b"?"]).code == "E_HEADER"
    unknown = msgpack.packb({"op": "dance", "id": 4, "audio": [{}]})
    assert refusal([*ROUTE, FIRST, unknown, b"?"]).code == "E_UNKNOWN_OP"
    assert (
        refusal([*ROUTE, FIRST, msgpack.packb({"op": "submit", "id": 4, "audio": [{}]}), b"?"]).code
        == "E_AUDIO"
    )
    assert refusal([*ROUTE, FIRST, msgpack.packb({"op": "submit", "id": 4})]).field == "key"


def test_no_frames_at_all() -> None:
    for frames in ([], [b""], [b"", b""], [b"id"], [b"id", b""]):
        assert refusal(frames).silent in ("frames", "envelope", "magic")


def test_depth_strings_arrays_and_maps_have_limits_both_ways() -> None:
    def nested(levels: int) -> Any:
        value: Any = 0
        for _ in range(levels):
            value = [value]
        return value

    good = {"op": "ping", "id": 1}
    for extra, fine in (
        (nested(7), True),
        (nested(8), False),
        ("x" * 16384, True),
        ("x" * 16385, False),
        (b"x" * 4096, True),
        (b"x" * 4097, False),
        ([0] * 4096, True),
        ([0] * 4097, False),
        ({str(i): 0 for i in range(256)}, True),
        ({str(i): 0 for i in range(257)}, False),
    ):
        raw = msgpack.packb({**good, "x": extra})
        if fine:
            assert decode_request([*ROUTE, FIRST, raw], v.TOKEN).op == "ping"
            encode({**good, "x": extra})
        else:
            assert refusal([*ROUTE, FIRST, raw]).code == "E_HEADER"
            with pytest.raises(SegueError):
                encode({**good, "x": extra})


@pytest.mark.parametrize("value", [{1: 2}, {b"a": 1}, object(), {1, 2}, 2**64, -(2**63) - 1, 1j, (1, 2)])
def test_what_does_not_travel_is_refused_before_it_is_packed(value: Any) -> None:
    with pytest.raises(SegueError) as caught:
        encode({"op": "x", "value": value})
    assert caught.value.code == "E_HEADER"


def test_sizes_are_checked_before_sending() -> None:
    with pytest.raises(SegueError) as caught:
        encode({"op": "x", "a": ["x" * 16000] * 5})
    assert caught.value.code == "E_SIZE" and caught.value.field == "header"
    with pytest.raises(SegueError) as caught:
        encode({}, [bytes(limits.MAX_FRAME_BYTES + 1)])
    assert caught.value.field == "audio"
    full = bytes(limits.MAX_FRAME_BYTES)
    with pytest.raises(SegueError) as caught:
        encode({}, [full] * 16)
    assert caught.value.field == "message"
    with pytest.raises(SegueError):
        encode({}, [b""] * (limits.MAX_PAYLOADS + 1))


def test_not_a_number_never_leaves() -> None:
    data = b"\x00\x00\xc0\x7f" * 2
    import zlib

    event = m.Audio(
        seq=1,
        attempt=1,
        variation=0,
        stem="mix",
        position=0,
        frames=2,
        crc=zlib.crc32(data),
        rate=8000,
        channels=1,
    ).with_data(data)
    for encoder in (
        lambda: encode_push("1", event),
        lambda: encode_reply(m.NextReply(job="1", state="running", events=(event,)), 1),
    ):
        with pytest.raises(SegueError) as caught:
            encoder()
        assert caught.value.code == "E_NOT_FINITE"


def test_an_error_can_always_be_sent() -> None:
    huge = SegueError("E_INTERNAL", "x" * 100_000, detail="y" * 100_000, value={"z": 1})
    number, found = decode_reply(encode_error(huge, "submit", 7))
    assert number == 7 and isinstance(found, SegueError) and found.code == "E_INTERNAL"


def test_replies_of_another_major_are_told_apart() -> None:
    frames = encode_reply(m.ResumeReply(), 3)
    other = [b"SGU\x02" + bytes(32), *frames[1:]]
    with pytest.raises(SegueError) as caught:
        decode_reply(other)
    assert caught.value.code == "E_VERSION"
    hello = encode_reply(m.PingReply(boot="b"), 3)
    assert decode_reply([b"SGU\x02" + bytes(32), *hello[1:]])[0] == 3
    error = encode_error(SegueError("E_VERSION", "Update."), "resume", 3)
    assert isinstance(decode_reply([b"SGU\x02" + bytes(32), *error[1:]])[1], SegueError)


def corpus() -> list[list[bytes]]:
    made = [[bytes(f) for f in encode_request(r, 9, v.TOKEN)] for r in v.requests().values()]
    return [[*ROUTE, *frames] for frames in made]


def mutated(dice: random.Random, frames: list[bytes]) -> list[bytes]:
    """One to four small harms: bits, cuts, copies, frames lost or doubled, headers re-packed with other
    values.
    """
    frames = list(frames)
    for _ in range(dice.randrange(1, 5)):
        i = dice.randrange(len(frames)) if dice.random() < 0.3 else min(3, len(frames) - 1)
        raw = bytearray(frames[i])
        kind = dice.randrange(9)
        if kind == 0 and raw:
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del raw[dice.randrange(len(raw) + 1) :]
        elif kind == 2:
            at = dice.randrange(len(raw) + 1)
            raw[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif kind == 3 and len(raw) > 2:
            at = dice.randrange(len(raw) - 1)
            raw[at : at + 1] = bytes(
                [dice.choice([0xC1, 0xC6, 0xC9, 0xDB, 0xDD, 0xDF, 0xD8, 0xCB, 0xC0, 0xFF])]
            )
        elif kind == 4 and len(frames) > 1:
            del frames[i]
            continue
        elif kind == 5:
            frames.insert(i, bytes(raw))
            continue
        else:
            raw = bytearray(repacked(dice, bytes(raw)))
        frames[i] = bytes(raw)
    return frames


WILD = [
    None, True, False, 0, -1, 2**53, 2**63, -(2**63), 1.5, float("nan"), float("inf"), "", "x" * 5000,
    "\u202e", b"", b"x" * 16, [], [[]], {}, {"a": 1}, [None] * 300, "1/0", "1/2", {"seconds": 1},
    [{"rate": 48000}], "submit", "next",
]  # fmt: skip


def repacked(dice: random.Random, raw: bytes) -> bytes:
    try:
        header = msgpack.unpackb(raw)
    except Exception:
        return raw
    if not isinstance(header, dict) or not header:
        return raw
    place: Any = header
    for _ in range(3):
        key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and dice.random() < 0.6:
            place = inner
            continue
        place[key] = dice.choice(WILD)
        break
    return bytes(msgpack.packb(header))


def test_mutated_messages_raise_nothing_but_refusals() -> None:
    dice = random.Random(20260822)
    seeds = corpus()
    outcomes: dict[str, int] = {}
    for _ in range(20_000):
        frames = mutated(dice, dice.choice(seeds))
        try:
            decode_request(frames, v.TOKEN)
            outcome = "taken"
        except Refusal as caught:
            outcome = caught.silent or caught.code
            if caught.silent is None:
                number, error = decode_reply(caught.frames()[len(caught.envelope) :])
                assert isinstance(error, SegueError) and number == caught.request_id
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert {"taken", "E_ARGUMENT", "E_HEADER", "E_AUDIO", "magic", "token", "envelope"} <= set(outcomes), (
        outcomes
    )


def test_random_bytes_raise_nothing_but_refusals() -> None:
    dice = random.Random(7)
    for _ in range(10_000):
        frames = [*ROUTE, FIRST, *(dice.randbytes(dice.randrange(60)) for _ in range(dice.randrange(4)))]
        with pytest.raises(Refusal):
            decode_request(frames, v.TOKEN)


def test_mutated_answers_raise_nothing_but_segue_errors() -> None:
    dice = random.Random(3)
    seeds = [[bytes(f) for f in encode_reply(r, 9)] for r in v.replies().values()]
    seeds += [[bytes(f) for f in encode_push(v.JOB, p)] for p in v.pushes().values()]
    for _ in range(10_000):
        frames = mutated(dice, [*ROUTE, *dice.choice(seeds)])[2:]
        for decode in (decode_reply, decode_push):
            try:
                decode(frames)
            except SegueError:
                continue


def test_hostile_headers_cost_little_memory() -> None:
    hostile = [
        b"\x80" * limits.MAX_HEADER_BYTES,
        b"\xdc\x10\x00" + b"\x80" * 4096,
        b"\x91" * limits.MAX_HEADER_BYTES,
    ]
    hostile.append(b"\x81\xa1a\xdc\x0f\xff" + b"\xdc\x00\x0f" * 4095)
    tracemalloc.start()
    for raw in hostile:
        refusal([*ROUTE, FIRST, raw[: limits.MAX_HEADER_BYTES]])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_long_prompt_makes_a_message_that_is_taken() -> None:
    frames = 40 * 48000
    block = AudioBlock(AudioFormat(rate=48000, channels=2, frames=frames, role="prompt"), bytes(8 * frames))
    submit = m.Submit(key=v.KEY, mode="continue", length=m.Length(seconds=1)).with_audio([block])
    incoming = decode_request([*ROUTE, *encode_request(submit, 1, v.TOKEN)], v.TOKEN)
    assert isinstance(incoming.request, m.Submit)
    sound = incoming.request.sound("prompt")
    assert sound is not None and sound.frames == frames
