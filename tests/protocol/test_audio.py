"""Audio blocks, and the search for samples that are not numbers."""

from __future__ import annotations

import array
import math
import random
import struct
import time

import pytest

from protocol.audio import AudioBlock, AudioFormat, joined_blocks, not_finite
from protocol.errors import SegueError

NOT_NUMBERS = [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF]
NUMBERS = [0, 0x80000000, 0x7F7FFFFF, 0xFF7FFFFF, 1, 0x807FFFFF, 0x3F800000, 0x7F000000, 0x00FF0000, 0xFF0000]


def test_every_edge_of_float32_is_told_apart() -> None:
    for bits in NOT_NUMBERS:
        assert not_finite(struct.pack("<I", bits)) == (0, 1), hex(bits)
    for bits in NUMBERS:
        assert not_finite(struct.pack("<I", bits)) is None, hex(bits)


def test_first_and_count_are_right_in_random_audio() -> None:
    random_ = random.Random(4)
    for _ in range(300):
        bits = [random_.choice(NUMBERS + [0x3F000000] * 20) for _ in range(random_.randrange(1, 200))]
        bad = sorted(random_.sample(range(len(bits)), random_.randrange(0, min(4, len(bits)))))
        for i in bad:
            bits[i] = random_.choice(NOT_NUMBERS)
        raw = struct.pack(f"<{len(bits)}I", *bits)
        truth = [i for i, x in enumerate(struct.unpack(f"<{len(bits)}f", raw)) if not math.isfinite(x)]
        expected = (truth[0], len(truth)) if truth else None
        assert not_finite(raw) == not_finite(bytearray(raw)) == not_finite(memoryview(raw)) == expected


def test_a_whole_message_is_searched_in_no_time() -> None:
    quiet = array.array("f", [0.25, -0.5]).tobytes() * (1 << 20)
    begun = time.perf_counter()
    assert not_finite(quiet) is None
    assert time.perf_counter() - begun < 0.5  # 8 MiB; 2 ms when nothing else runs
    hostile = b"\xff\xff\x7f\x7f" * (1 << 20)  # the largest finite number all over
    begun = time.perf_counter()
    assert not_finite(hostile) is None
    assert time.perf_counter() - begun < 0.5


def form(**more: object) -> AudioFormat:
    given: dict[str, object] = {"rate": 8000, "channels": 2, "frames": 10, **more}
    return AudioFormat(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size"), [("f32le", 8), ("s24le", 6), ("s16le", 4)])
def test_lengths_are_exact(name: str, size: int) -> None:
    described = form(format=name)
    assert (
        described.frame_bytes == size
        and described.total_bytes == 10 * size
        and described.seconds == 10 / 8000
    )
    AudioBlock(described, bytes(10 * size))
    for wrong in (0, 10 * size - 1, 10 * size + 1):
        with pytest.raises(SegueError) as caught:
            AudioBlock(described, bytes(wrong))
        assert caught.value.code == "E_AUDIO"


def test_only_bytes_in_one_piece_are_audio() -> None:
    for wrong in ("x" * 80, [0.0] * 20, None, memoryview(bytes(160))[::2]):
        with pytest.raises(SegueError):
            AudioBlock(form(), wrong)  # type: ignore[arg-type]


def test_the_first_bad_frame_and_the_count_are_told() -> None:
    samples = [0.0] * 20
    samples[7] = float("nan")
    samples[9] = float("inf")
    with pytest.raises(SegueError) as caught:
        AudioBlock(form(), array.array("f", samples).tobytes()).check_finite("audio[2]")
    assert caught.value.field == "audio[2]" and "2 in all" in caught.value.message
    assert caught.value.value == "2 at frame 3"
    AudioBlock(form(format="s16le"), b"\xff\x7f" * 20).check_finite()


def test_parts_share_memory_and_know_their_places() -> None:
    data = bytes(range(80))
    parts = list(AudioBlock(form(position=-10), data).parts(24))
    assert [(p.position, p.frames) for p in parts] == [(-10, 3), (-7, 3), (-4, 3), (-1, 1)]
    whole = joined_blocks(parts)
    assert bytes(whole.data) == data and whole.position == -10 and whole.frames == 10
    with pytest.raises(SegueError):
        joined_blocks(parts[:1] + parts[2:])
    with pytest.raises(SegueError):
        joined_blocks([])
