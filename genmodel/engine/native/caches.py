"""Caches of the native kernels, laid out as the base class says: [2, slots, streams, H, T, width], in the
last two dimensions as ``source/attend.h`` reads them, block of sixteen places after block.

Beside weights of int8 own keys and values are bytes unless asked otherwise, with a scale for each head and
place: at 30 s they are as much to read as the weights. Those of cross-attention are few and of the network's
``cache_dtype``, as own ones are that are no bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmodel.engine.caches import Caches, Group, Room
from genmodel.engine.native.batches import Line
from genmodel.engine.native.library import _POINTER, FORMS, CCache
from genmodel.engine.native.weights import LANE, up, zeros
from genmodel.engine.network import Layer, Network

_SCALE_BYTES = 4  # of each head and place, float32


@dataclass(frozen=True)
class NativeGroup(Group):
    """The rows of a step, as lines."""

    lines: tuple[Line, ...] = ()


def native_lines(group: Group) -> tuple[Line, ...]:
    """The lines of a group that ``NativeCaches`` made."""
    if not isinstance(group, NativeGroup):
        raise TypeError("this group is another network's")
    return group.lines


class NativeCaches(Caches):
    """See the module's text."""

    def __init__(self, network: Network, byte_caches: bool = True) -> None:
        super().__init__(network)
        self._lanes = up(network.head_dim, LANE)
        self._dtype = self._own_dtype = torch.int8 if byte_caches else network.cache_dtype
        self.width = self._lanes + (_SCALE_BYTES if byte_caches else 0)

    def _fit(self, caches: list[Tensor], slots: int, room: Room) -> None:
        width = self.width
        if caches is self.cross:
            self._dtype, self.width = self.network.cache_dtype, self._lanes
        try:
            super()._fit(caches, slots, room)
        finally:
            self._dtype, self.width = self._own_dtype, width

    def _new(self, shape: list[int]) -> Tensor:
        return zeros(tuple(shape), self._dtype)

    def lines(self, slot: int, stream: int, places: Sequence[int]) -> list[Line]:
        """Rows of a stream at these places; the slot's lengths must have been set."""
        sources = self.sources[slot]
        heard = sum(length > 0 for length in sources[:stream]) if sources[stream] else -1
        return [Line(slot, stream, place, heard, sources[stream]) for place in places]

    def group(self, slots: Sequence[int], steps: Sequence[int]) -> NativeGroup:
        counts, owner, lines = [], [], []
        for i, (slot, step) in enumerate(zip(slots, steps, strict=True)):
            prefix = self.prefix[slot]
            counts.append(len(prefix))
            owner += [i] * len(prefix)
            for stream, before in enumerate(prefix):
                lines += self.lines(slot, stream, [before + step])
        places = [line.place for line in lines]
        return NativeGroup(
            counts,
            torch.tensor(owner),
            torch.tensor(places),
            torch.tensor([line.slot for line in lines]),
            torch.tensor([line.stream for line in lines]),
            max(places) + 1,
            [],
            None,
            [],
            tuple(lines),
        )

    def fill_cross(
        self, number: int, slot: int, heard: int, layer: Layer, source: Tensor
    ) -> tuple[Tensor, Tensor]:
        k, v = self.network.project_cross(layer, source)
        steps, dim = len(source), self.network.head_dim
        keys, values = self.cross[number][:, slot, heard]
        values[:, :steps, :dim] = v
        blocks = keys.view(keys.shape[0], -1, self._lanes, LANE)
        padded = torch.zeros(k.shape[0], up(steps, LANE), dim, dtype=k.dtype)
        padded[:, :steps] = k
        blocks[:, : padded.shape[1] // LANE, :dim] = padded.view(k.shape[0], -1, LANE, dim).transpose(2, 3)
        return k, v

    def c_form(self, caches: list[Tensor]) -> CCache:
        """Where ``own`` or ``cross`` lie; keeps nothing alive."""
        if not caches:
            return CCache()
        _, slots, streams, _, places, _ = caches[0].shape
        return CCache(
            (_POINTER * len(caches))(*[cache[0].data_ptr() for cache in caches]),
            (_POINTER * len(caches))(*[cache[1].data_ptr() for cache in caches]),
            slots,
            streams,
            places,
            FORMS[caches[0].dtype],
        )
