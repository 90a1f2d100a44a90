"""Which rows a call of the kernels runs: their places in the caches, what they hear, what guidance mixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genmodel.engine.native.library import CBatch, floats, ints, runs


@dataclass(frozen=True)
class Line:
    """One row: its slot, stream and place; ``heard`` counts the slot's streams with a source (-1: it has
    none), ``source`` is that source's length.
    """

    slot: int
    stream: int
    place: int
    heard: int = -1
    source: int = 0


Mix = Sequence[tuple[int, float]]  # rows and their weights, the base last


def mixes_of(weights: Sequence[Sequence[float]]) -> list[Mix]:
    """The mix of each session, whose rows follow each other."""
    mixes: list[Mix] = []
    row = 0
    for of_session in weights:
        mixes.append([(row + i, weight) for i, weight in enumerate(of_session)])
        row += len(of_session)
    return mixes


def _own_runs(lines: Sequence[Line]) -> tuple[list[tuple[int, int, int, int, int]], list[int]]:
    """Rows of one stream together, in the order of their places."""
    found: dict[tuple[int, int], list[int]] = {}
    for row, line in enumerate(lines):
        found.setdefault((line.slot, line.stream), []).append(row)
    made: list[tuple[int, int, int, int, int]] = []
    order: list[int] = []
    for (slot, stream), rows in found.items():
        start = lines[rows[0]].place
        if [lines[row].place for row in rows] != list(range(start, start + len(rows))):
            raise ValueError("rows of one stream must follow each other")
        made.append((len(order), len(rows), slot, stream, start))
        order += rows
    return made, order


def _cross_runs(
    lines: Sequence[Line], hearing: Sequence[int]
) -> tuple[list[tuple[int, int, int, int, int]], list[int]]:
    found: dict[tuple[int, int, int], list[int]] = {}
    for number, row in enumerate(hearing):
        line = lines[row]
        found.setdefault((line.slot, line.heard, line.source), []).append(number)
    made: list[tuple[int, int, int, int, int]] = []
    order: list[int] = []
    for (slot, heard, source), numbers in found.items():
        made.append((len(order), len(numbers), slot, heard, source))
        order += numbers
    return made, order


def make_batch(lines: Sequence[Line], mixes: Sequence[Mix]) -> CBatch:
    """The C form of a call; it keeps alive what it points to."""
    own, own_order = _own_runs(lines)
    hearing = [row for row, line in enumerate(lines) if line.heard >= 0]
    cross, cross_order = _cross_runs(lines, hearing)
    firsts = [0]
    for mix in mixes:
        firsts.append(firsts[-1] + len(mix))
    longest = max(max(line.place + 1, line.source) for line in lines)
    return CBatch(
        len(lines), len(own), len(hearing), len(cross), len(mixes), longest,
        runs(own), ints(own_order), ints(hearing), runs(cross), ints(cross_order),
        ints(firsts), ints([row for mix in mixes for row, _ in mix]),
        floats([weight for mix in mixes for _, weight in mix]),
    )  # fmt: skip
