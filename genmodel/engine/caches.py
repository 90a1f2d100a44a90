"""Keys and values of everything aboard, by slot and stream, and how the rows of a step are grouped over them.

Self-attention: one tensor a layer, [2, slots, streams, H, T, hd], made larger or smaller when a window
begins, never during a step. Cross-attention: the same with the source's length for T, filled once a window.
Lengths that attention runs over are rounded up for each session by itself, and masked, so that they do not
depend on its company.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmodel.engine.network import Layer, Network

STEP_BUCKET = 64
CROSS_BUCKET = 16
SLACK = 2  # caches that are this many times too large are made anew, smaller


def _up(value: int, bucket: int) -> int:
    return -(-value // bucket) * bucket


@dataclass(frozen=True)
class Run:
    """Rows ``first``…``first + rows`` of the step, lying one after the other in a cache, with one length."""

    first: int
    rows: int
    slot: int
    streams: int  # rows of each slot; all that the cache has, or else the run is one slot
    length: int
    mask: Tensor  # float32 [rows, 1, length]


@dataclass(frozen=True)
class Room:
    """What a slot takes: its streams, and the places of each."""

    streams: int = 0
    length: int = 0

    def beside(self, others: Iterable[Room]) -> Room:
        """Room for this one and for each of the others."""
        every = [self, *others]
        return Room(max(room.streams for room in every), max(room.length for room in every))


@dataclass(frozen=True)
class Group:
    """The rows of one step. R rows: for each session in order of slots, its streams."""

    rows_of_session: list[int]
    session_of_row: Tensor  # int64 [R]
    position_of_row: Tensor  # int64 [R]
    slot_of_row: Tensor
    stream_of_row: Tensor
    capacity: int
    runs: list[Run]
    cross_rows: Tensor | None  # int64: which rows attend to a source
    cross_runs: list[Run]


class Caches:
    """All caches of a stepper; see the module's text.

    Memory: the slots up to the last one in use, each as long as the longest of those in use needs. Where more
    than ``SLACK`` times that is held, a window that begins gives the rest back; ``release`` tells which slots
    are no longer in use, and the last one of several to be released gives back everything.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.width = network.head_dim  # of one head's keys or values in memory
        self.own: list[Tensor] = []
        self.cross: list[Tensor] = []
        self.prefix: dict[int, list[int]] = {}
        self.sources: dict[int, list[int]] = {}
        self.moves = 0  # changes whenever tensors are replaced: addresses are good as long as this stands
        self._wanted: dict[int, tuple[Room, Room]] = {}  # of each slot in use: own, cross
        self._asked: tuple[Room, Room] = (Room(), Room())

    def _new(self, shape: list[int]) -> Tensor:
        return torch.zeros(shape, dtype=self.network.cache_dtype, device=self.network.device)

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in (*self.own, *self.cross))

    def _fit(self, caches: list[Tensor], slots: int, room: Room) -> None:
        """Make every layer's cache large enough and not much larger, one after the other: running out of
        memory on the way leaves all of them usable.
        """
        net = self.network
        slots = max([slots, *(slot + 1 for slot in self._wanted)])
        wanted = (slots, room.streams, room.length)
        have = (0, 0, 0)
        if caches:
            shape = caches[0].shape
            have = (shape[1], shape[2], shape[4])
        both = tuple(max(pair) for pair in zip(have, wanted, strict=True))
        target = both if math.prod(both) <= SLACK * math.prod(wanted) else wanted
        if target == have:
            return

        def shaped(dims: tuple[int, ...]) -> list[int]:
            return [2, dims[0], dims[1], net.heads, dims[2], self.width]

        self.moves += 1
        if not caches:
            caches += [self._new(shaped(target)) for _ in net.layers]
            return
        for i in range(len(caches)):
            try:
                caches[i] = self._moved(caches[i], shaped(target))
            except BaseException:
                # all layers must have one shape: the kernels ask the first for it
                for before in range(i):
                    caches[before] = self._moved(caches[before], shaped(have))
                raise

    def _moved(self, cache: Tensor, shape: list[int]) -> Tensor:
        """A cache of another shape with the contents of the slots in use."""
        new = self._new(shape)
        _, slots, streams, _, length, _ = (min(pair) for pair in zip(shape, cache.shape, strict=True))
        for slot in self._wanted:
            if slot < slots:
                new[:, slot, :streams, :, :length] = cache[:, slot, :streams, :, :length]
        return new

    def reserve(self, slots: int, streams: int, length: int) -> None:
        """Room for ``slots`` slots of ``streams`` streams and ``length`` places, beside what is in use."""
        asked = Room(streams, _up(length, STEP_BUCKET))
        self._asked = (asked, Room())
        self._fit(self.own, slots, asked.beside(own for own, _ in self._wanted.values()))

    def reserve_cross(self, slots: int, sources: list[int]) -> None:
        """Room for cross-attention to sources of these lengths, one for each stream that has one. For the
        window that ``reserve`` was asked for last.
        """
        asked = Room(len(sources), _up(max(sources, default=0), CROSS_BUCKET))
        self._asked = (self._asked[0], asked)
        room = asked.beside(cross for _, cross in self._wanted.values())
        if room.streams:
            self._fit(self.cross, slots, room)

    def release(self, slot: int) -> None:
        """A slot's contents are no longer needed."""
        self._wanted.pop(slot, None)
        if not self._wanted and self.own and self.own[0].shape[1] > 1:
            self.moves += 1
            self.own.clear()
            self.cross.clear()

    def clear(self, slot: int) -> None:
        """Forget a slot's contents."""
        for cache in (*self.own, *self.cross):
            if slot < cache.shape[1]:
                cache[:, slot] = 0

    def fill(
        self, layer: int, slot: int, stream: int, k: Tensor, v: Tensor, begin: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values [S, H*hd] of places ``begin``…; returns those of all places up to there, [H,
        begin + S, hd] of the cache.
        """
        net, steps = self.network, len(k)
        at = self.own[layer][:, slot, stream, :, : begin + steps]
        for part, value in zip(at, (k, v), strict=True):
            part[:, begin:].copy_(value.view(steps, net.heads, net.head_dim).transpose(0, 1))
        return at[0], at[1]

    def fill_cross(
        self, number: int, slot: int, heard: int, layer: Layer, source: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Project and store a source [L, D]; returns keys and values [H, L, hd].

        ``heard`` counts the slot's streams that have a source: those without take no room.
        """
        k, v = self.network.project_cross(layer, source.to(self.network.device))
        at = self.cross[number][:, slot, heard, :, : len(source)]
        at[0].copy_(k)
        at[1].copy_(v)
        return at[0], at[1]

    def source(self, number: int, slot: int, heard: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [H, L, hd] of a source of a slot that ``fill_cross`` has stored."""
        at = self.cross[number][:, slot, heard, :, :length]
        return at[0], at[1]

    def set_lengths(self, slot: int, prefix: list[int], sources: list[int]) -> None:
        """Note the prefix steps and source lengths of each stream (0: none). The slot is in use from here on,
        with the room that was reserved last.
        """
        self.prefix[slot], self.sources[slot] = prefix, sources
        self._wanted[slot] = self._asked

    def copy(self, source: int, target: int) -> None:
        """Make one slot's caches like another's. Both lie within what was reserved."""
        for cache in (*self.own, *self.cross):
            if max(source, target) < cache.shape[1]:
                cache[:, target] = cache[:, source]
        self.prefix[target], self.sources[target] = list(self.prefix[source]), list(self.sources[source])
        self._wanted[target] = self._wanted[source]

    def group(self, slots: Sequence[int], steps: Sequence[int]) -> Group:
        """How the rows of these slots, fed with these steps, lie in the caches."""
        device = self.network.device
        counts: list[int] = []
        owner: list[int] = []
        position: list[int] = []
        slot_of: list[int] = []
        stream_of: list[int] = []
        cross_rows: list[int] = []
        own_runs: list[tuple[int, int, int, int, list[int]]] = []
        cross_runs: list[tuple[int, int, int, int, list[int]]] = []
        for i, (slot, step) in enumerate(zip(slots, steps, strict=True)):
            first = len(owner)
            prefix = self.prefix[slot]
            counts.append(len(prefix))
            places = [before + step for before in prefix]
            owner += [i] * len(prefix)
            slot_of += [slot] * len(prefix)
            stream_of += list(range(len(prefix)))
            position += places
            bucket = _up(max(places) + 1, STEP_BUCKET)
            own_runs.append((first, slot, len(prefix), bucket, [p + 1 for p in places]))
            heard = [length for length in self.sources[slot] if length]
            if heard:
                cross_first = len(cross_rows)
                cross_rows += [first + c for c, length in enumerate(self.sources[slot]) if length]
                cross_runs.append((cross_first, slot, len(heard), _up(max(heard), CROSS_BUCKET), heard))
        return Group(
            counts,
            torch.tensor(owner, device=device),
            torch.tensor(position, device=device),
            torch.tensor(slot_of, device=device),
            torch.tensor(stream_of, device=device),
            max(position) + 1,
            self._runs(own_runs, self.own),
            torch.tensor(cross_rows, device=device) if cross_rows else None,
            self._runs(cross_runs, self.cross),
        )

    def _runs(self, parts: list[tuple[int, int, int, int, list[int]]], caches: list[Tensor]) -> list[Run]:
        """Join neighbours in the cache that have one length; masks hide what lies beyond each row's own."""
        joined: list[tuple[int, int, int, int, list[int]]] = []
        for part in parts:
            first, slot, streams, length, lengths = part
            if joined:
                _, last_slot, last_streams, last_length, _ = joined[-1]
                full = caches[0].shape[2] == streams == last_streams
                held = len(joined[-1][4]) // streams
                if full and last_length == length and last_slot + held == slot:
                    joined[-1][4].extend(lengths)
                    continue
            joined.append((first, slot, streams, length, list(lengths)))
        device = self.network.device
        runs = []
        for first, slot, streams, length, lengths in joined:
            beyond = torch.arange(length) >= torch.tensor(lengths)[:, None]
            mask = torch.zeros(len(lengths), length).masked_fill_(beyond, float("-inf"))[:, None].to(device)
            runs.append(Run(first, len(lengths), slot, streams, length, mask))
        return runs

    def attend(self, layer: int, group: Group, qkv: Tensor) -> Tensor:
        """Store this step's keys and values and attend: qkv [R, 3*H*hd] -> [R, H*hd]."""
        net, cache = self.network, self.own[layer]
        rows = qkv.shape[0]
        q, kv = qkv.split([net.config.dim, 2 * net.config.dim], dim=1)
        kv = kv.view(rows, 2, net.heads, net.head_dim).to(cache.dtype)
        cache[:, group.slot_of_row, group.stream_of_row, :, group.position_of_row] = kv
        return self._attend(cache, group.runs, q)

    def attend_cross(self, layer: int, group: Group, q: Tensor) -> Tensor:
        """q [Rc, H*hd] of the rows that have a source -> [Rc, H*hd]."""
        return self._attend(self.cross[layer], group.cross_runs, q)

    def _attend(self, cache: Tensor, runs: list[Run], q: Tensor) -> Tensor:
        parts = []
        for run in runs:
            slots = run.rows // run.streams
            at = cache[:, run.slot : run.slot + slots, : run.streams, :, : run.length]
            keys, values = at.flatten(1, 2)
            rows = q[run.first : run.first + run.rows]
            parts.append(self.network.attend(rows, keys, values, run.mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
