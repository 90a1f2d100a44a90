"""The notes between the chunks: whatever bit is turned or cut off, nothing is taken for good that is not."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from daemon.takes import Chunk, SpoolWriter
from daemon.tokens import TokenFrames, can_be_continued, frames_note, identity_note, joined, read_attempt
from daemon.workers.past import Past, ResumeRefused

IDENTITY = {"build": "b", "precision": "float32", "chunk_s": 0.5}
NOW = {"build": "b", "precision": "float32"}
STEP = 10  # samples of a chunk


def attempt(folder: Path, number: int, first: int, chunks: int, known: int = 0) -> dict[str, int]:
    """A spool as a worker leaves it: identity, then tokens before the chunks that they became."""
    spool = SpoolWriter(folder / f"{number}.pcm")
    spool.append_note(identity_note(IDENTITY))
    if known:
        spool.append_note(frames_note(TokenFrames(0, 4, known, bytes(range(known)))))
    end = 0
    for index in range(first, first + chunks):
        spool.append_note(frames_note(TokenFrames(0, 4 + index, 1, bytes([index]))))
        placed = spool.append(Chunk(number, 0, 0, index * STEP, STEP, 32_000, 1), bytes([index]) * 4 * STEP)
        end = placed.place + placed.total_bytes
    spool.append_note(frames_note(TokenFrames(0, 4 + first + chunks, 2, b"xy")))  # made, and never announced
    spool.close()
    return {"attempt": number, "chunks": chunks, "end": end}


def met(past: Past, chunks: int) -> None:
    """Make all chunks again, as they were."""
    try:
        for index in range(chunks):
            data = bytes([index]) * 4 * STEP
            assert past.meet(Chunk(9, 0, 0, index * STEP, STEP, 32_000, 1), zlib.crc32(data)) is not None
        assert past.met and past.meet(Chunk(9, 0, 0, chunks * STEP, STEP, 32_000, 1), 0) is None
    finally:
        past.close()


def test_two_attempts_are_one_past(tmp_path: Path) -> None:
    announced = [attempt(tmp_path, 1, 0, 3), attempt(tmp_path, 3, 3, 2, known=3)]
    assert can_be_continued(tmp_path / "1.pcm") and not can_be_continued(tmp_path / "2.pcm")
    past = Past(tmp_path, announced, NOW)
    assert past.chunk_s == 0.5
    assert past.frames == [TokenFrames(0, 4, 7, b"\0\1\2\3\4xy")]
    met(past, 5)


def test_what_was_never_announced_may_be_cut_anywhere(tmp_path: Path) -> None:
    entry = attempt(tmp_path, 1, 0, 3)
    path = tmp_path / "1.pcm"
    whole = path.read_bytes()
    for length in range(entry["end"], len(whole)):
        path.write_bytes(whole[:length])
        past = Past(tmp_path, [entry], NOW)
        assert past.frames == [TokenFrames(0, 4, 3, b"\0\1\2")]
        met(past, 3)
    for length in range(entry["end"]):
        path.write_bytes(whole[:length])
        with pytest.raises(ResumeRefused):
            Past(tmp_path, [entry], NOW)


def test_every_turned_bit_is_noticed(tmp_path: Path) -> None:
    entry = attempt(tmp_path, 1, 0, 3)
    path = tmp_path / "1.pcm"
    whole = path.read_bytes()
    for place in range(entry["end"]):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ResumeRefused):
            met(Past(tmp_path, [entry], NOW), 3)
    for place in range(entry["end"], len(whole)):  # beyond what was announced it costs those tokens only
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        past = Past(tmp_path, [entry], NOW)
        assert past.frames == [TokenFrames(0, 4, 3, b"\0\1\2")]
        met(past, 3)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"precision": "bfloat16"}, "precision"), ({"build": "c"}, "build"), ({"threads": 2}, "threads")],
)
def test_another_maker_is_named(tmp_path: Path, change: dict[str, object], word: str) -> None:
    entry = attempt(tmp_path, 1, 0, 1)
    with pytest.raises(ResumeRefused, match=f"its {word} was"):
        Past(tmp_path, [entry], {**NOW, **change})
    with pytest.raises(ResumeRefused, match="cannot go on"):
        Past(tmp_path, [entry], None)


def test_other_audio_is_never_joined(tmp_path: Path) -> None:
    entry = attempt(tmp_path, 1, 0, 2)
    good = Chunk(2, 0, 0, 0, STEP, 32_000, 1)
    crc = zlib.crc32(bytes(4 * STEP))
    for chunk, other in (
        (good, crc ^ 1),
        (Chunk(2, 0, 0, 1, STEP, 32_000, 1), crc),
        (Chunk(2, 0, 0, 0, STEP - 1, 32_000, 1), crc),
        (Chunk(2, 0, 0, 0, STEP, 48_000, 1), crc),
    ):
        past = Past(tmp_path, [entry], NOW)
        with pytest.raises(ResumeRefused, match="did not come out again"):
            past.meet(chunk, other)
        past.close()
    (tmp_path / "1.pcm").unlink()
    with pytest.raises(ResumeRefused, match="cannot be read"):
        Past(tmp_path, [entry], NOW)


def test_gaps_and_contradictions() -> None:
    first = TokenFrames(0, 0, 2, b"aabb")
    assert joined([first, TokenFrames(0, 1, 2, b"bbcc"), TokenFrames(1, 5, 1, b"z")]) == {
        0: TokenFrames(0, 0, 3, b"aabbcc"),
        1: TokenFrames(1, 5, 1, b"z"),
    }
    assert joined([first, TokenFrames(0, 0, 1, b"aa")])[0] == first
    for part in (TokenFrames(0, 3, 1, b"dd"), TokenFrames(0, 1, 1, b"bx"), TokenFrames(0, 2, 1, b"c")):
        with pytest.raises(ValueError):
            joined([first, part])


def test_a_spool_without_identity_is_not_gone_on_from(tmp_path: Path) -> None:
    spool = SpoolWriter(tmp_path / "1.pcm")
    placed = spool.append(Chunk(1, 0, 0, 0, STEP, 32_000, 1), bytes(4 * STEP))
    spool.close()
    assert not can_be_continued(tmp_path / "1.pcm")
    found = read_attempt(tmp_path / "1.pcm")
    assert (found.identity, found.chunks) == (None, [placed])
    entry = {"attempt": 1, "chunks": 1, "end": placed.total_bytes}
    with pytest.raises(ResumeRefused, match="cannot go on"):
        Past(tmp_path, [entry], NOW)
