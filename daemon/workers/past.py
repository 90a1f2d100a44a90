"""What earlier attempts of a job left: their tokens to go on from, and the chunks that clients already have.

A new attempt makes those chunks again from the tokens, and each must come out as it was announced, or the
attempt is refused: audio of two attempts is never joined unless it is one take to the last bit.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.takes import Chunk, Placed, read_placed
from daemon.tokens import TokenFrames, joined, read_attempt
from protocol.errors import SegueError


class ResumeRefused(Exception):
    """The job cannot go on exactly where it stopped; the message says why, for the musician."""


class SpoolReader:
    """The spool of an earlier attempt."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def read(self, placed: Placed) -> bytes:
        """The samples of a chunk, checked; raises E_TAKE_DAMAGED."""
        return read_placed(self._file, placed.place, placed.total_bytes)

    def close(self) -> None:
        os.close(self._file)


class Past:
    """Read once when an attempt begins; owned by its `Rendering`."""

    def __init__(
        self, folder: Path, announced: Sequence[dict[str, Any]], identity: dict[str, Any] | None
    ) -> None:
        """`announced`: attempt, chunks and end of each attempt whose audio counts; `identity`: this worker's.

        Raises `ResumeRefused`.
        """
        self.chunk_s: float | None = None
        self.frames: list[TokenFrames] = []
        self._readers: list[SpoolReader] = []
        self._due: dict[tuple[int, int], deque[tuple[SpoolReader, Placed]]] = {}
        self._left = 0
        try:
            self._read(folder, announced, identity)
        except BaseException:
            self.close()
            raise

    def _read(
        self, folder: Path, announced: Sequence[dict[str, Any]], identity: dict[str, Any] | None
    ) -> None:
        parts: list[TokenFrames] = []
        for entry in announced:
            path = folder / f"{entry['attempt']}.pcm"
            try:
                found = read_attempt(path)
                reader = SpoolReader(path)
            except OSError as error:
                raise ResumeRefused(f"the audio made before cannot be read ({error.strerror})") from error
            self._readers.append(reader)
            self._compare(found.identity, identity)
            chunks = [placed for placed in found.chunks if placed.place < entry["end"]]
            if found.sound_bytes < entry["end"] or len(chunks) != entry["chunks"]:
                raise ResumeRefused("the tokens made before were damaged on the disk")
            parts = found.frames  # each attempt tells its tokens from the first on: the last knows most
            for placed in chunks:
                key = placed.chunk.variation, placed.chunk.stem
                self._due.setdefault(key, deque()).append((reader, placed))
                self._left += 1
        try:
            self.frames = list(joined(parts).values())
        except ValueError as error:
            raise ResumeRefused(str(error)) from error

    def _compare(self, was: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
        if was is None or now is None:
            raise ResumeRefused("this model cannot go on in the middle of a take")
        self.chunk_s = float(was.get("chunk_s", 0.0)) or None
        for name in dict.fromkeys([*now, *was]):  # what says most to a reader comes first
            if name != "chunk_s" and was.get(name) != now.get(name):
                raise ResumeRefused(
                    f"what made the first part is not what would go on (its {name} was {was.get(name)},"
                    f" and is {now.get(name)})"
                )

    @property
    def met(self) -> bool:
        """Whether everything announced has been made again."""
        return self._left == 0

    def meet(self, chunk: Chunk, crc: int) -> tuple[SpoolReader, Placed] | None:
        """Where the announced twin of a chunk lies; None when the chunk is new.

        Raises `ResumeRefused` when the two differ, or the twin was damaged on the disk.
        """
        due = self._due.get((chunk.variation, chunk.stem))
        if not due:
            return None
        reader, placed = due.popleft()
        self._left -= 1
        twin = placed.chunk
        same = (twin.position, twin.frames, twin.rate, twin.channels, placed.crc) == (
            chunk.position, chunk.frames, chunk.rate, chunk.channels, crc,
        )  # fmt: skip
        if not same:
            raise ResumeRefused(
                f"the audio at {twin.position} did not come out again as it was (variation {twin.variation})"
            )
        try:
            reader.read(placed)
        except (SegueError, OSError):
            raise ResumeRefused("the audio made before was damaged on the disk") from None
        return reader, placed

    def close(self) -> None:
        for reader in self._readers:
            with contextlib.suppress(OSError):
                reader.close()
        self._readers.clear()


__all__ = ["Past", "ResumeRefused", "SpoolReader"]
