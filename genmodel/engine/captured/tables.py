"""What decides the next token of every session, on the device: one row a slot, of one size for all.

The host writes to a row when a window begins, and says which rows are under way; the frame step reads the
rest and moves it on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genmodel.engine.conditions import Stream
from genmodel.engine.leaning import NOTHING
from genmodel.engine.network import Network
from genmodel.engine.session import UNKNOWN
from genmodel.request import Sampling


class Tables:
    """``lanes`` rows. Shapes: N lanes, K codebooks, S steps, C streams, E sources; they grow by ``grow``."""

    def __init__(self, net: Network, lanes: int) -> None:
        self.net, self.lanes = net, lanes
        device, books = net.device, net.config.n_q
        self.active = torch.zeros(lanes, dtype=torch.bool, device=device)  # whose next step is made
        self.finite = torch.ones(lanes, dtype=torch.bool, device=device)  # every logit so far
        self.step = torch.ones(lanes, dtype=torch.int64, device=device)  # the step that is made next
        self.sequence = torch.full((lanes, books, 0), UNKNOWN, device=device)  # int64 [N, K, S]
        self.keys = torch.zeros(lanes, books, 0, dtype=torch.int64, device=device)  # of the noise
        self.near: Tensor | None = None  # int64 [N, K, S]: a source's tokens
        self.added: Tensor | None = None  # float32 [N, C, S, D]: added to the input of each step
        self.streams = torch.ones(lanes, dtype=torch.int64, device=device)  # how many a session has
        self.prefix = torch.zeros(lanes, 0, dtype=torch.int64, device=device)  # [N, C]
        self.weight = torch.zeros(lanes, 0, device=device)  # [N, C]
        self.hears = torch.zeros(lanes, 0, dtype=torch.int64, device=device)  # [N, E]: the stream of a source
        self.source = torch.zeros(lanes, 0, dtype=torch.int64, device=device)  # [N, E]: its length, 0: none
        self.temperature = torch.ones(lanes, device=device)
        self.top_k = torch.zeros(lanes, dtype=torch.int64, device=device)
        self.top_p = torch.zeros(lanes, device=device)
        self.greedy = torch.ones(lanes, dtype=torch.bool, device=device)
        self.bonus = torch.zeros(lanes, device=device)
        self._listeners: list[list[int]] = [[] for _ in range(lanes)]  # streams with a source
        self.moves = 0  # changes whenever tensors are replaced: addresses are good as long as this stands

    @property
    def steps(self) -> int:
        return self.sequence.shape[2]

    def tensors(self) -> list[Tensor]:
        """All that a captured step has the addresses of."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def grow(self, steps: int, streams: int, sources: int, *, near: bool, added: bool) -> None:
        """Room for windows of so many steps, streams and sources; ``near``, ``added``: whether some session
        has such.
        """
        device, books, dim = self.net.device, self.net.config.n_q, self.net.config.dim
        before = self.tensors()
        steps, streams = max(steps, self.steps), max(streams, self.prefix.shape[1])
        sources = max(sources, self.hears.shape[1])
        long = (self.lanes, books, steps)
        self.sequence = _grown(self.sequence, long, UNKNOWN)
        self.keys = _grown(self.keys, long, 0)
        self.prefix = _grown(self.prefix, (self.lanes, streams), 0)
        self.weight = _grown(self.weight, (self.lanes, streams), 0)
        self.source = _grown(self.source, (self.lanes, sources), 0)
        if self.hears.shape[1] < sources:
            # rows without a source point to the other streams: no row of the step is named twice
            self.hears = _grown(self.hears, (self.lanes, sources), 0)
            for lane in range(self.lanes):
                self._hear(lane)
        if near or self.near is not None:
            have = self.near if self.near is not None else torch.empty(self.lanes, books, 0, device=device)
            self.near = _grown(have.to(torch.int64), long, NOTHING)
        if added or self.added is not None:
            have = self.added if self.added is not None else torch.empty(self.lanes, 0, 0, dim, device=device)
            self.added = _grown(have, (self.lanes, streams, steps, dim), 0)
        after = self.tensors()
        self.moves += len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True))

    def _hear(self, lane: int) -> None:
        """The streams of a lane that have a source come first, then others, each once."""
        heard = self._listeners[lane]
        order = [*heard, *(c for c in range(self.prefix.shape[1]) if c not in heard)]
        self.hears[lane] = torch.tensor(order[: self.hears.shape[1]], device=self.net.device)

    def load(
        self,
        lane: int,
        streams: Sequence[Stream],
        sampling: Sampling,
        step: int,
        sequence: Tensor,
        keys: Tensor,
        near: Tensor | None,
        bonus: float,
        added: Sequence[Tensor | None],
    ) -> None:
        """Put a session's window into its row: sequence, keys, near int64 [K, S], added [S, D] a stream. Room
        must have been made.
        """
        steps = sequence.shape[1]
        self.sequence[lane, :, :steps] = sequence
        self.keys[lane, :, :steps] = keys
        if self.near is not None:
            self.near[lane] = NOTHING
            if near is not None:
                self.near[lane, :, :steps] = near
        if self.added is not None:
            self.added[lane] = 0
            for stream, bias in enumerate(added):
                if bias is not None:
                    self.added[lane, stream, :steps] = bias
        device = self.net.device
        lengths = {c: len(s.cross) for c, s in enumerate(streams) if s.cross is not None}
        self.streams[lane] = len(streams)
        self.prefix[lane, : len(streams)] = torch.tensor([s.prefix_steps for s in streams], device=device)
        self.weight[lane, : len(streams)] = torch.tensor([s.weight for s in streams], device=device)
        self.source[lane] = 0
        if lengths:
            self.source[lane, : len(lengths)] = torch.tensor(list(lengths.values()), device=device)
        self._listeners[lane] = list(lengths)
        if self.hears.shape[1]:
            self._hear(lane)
        self.step[lane] = step
        self.temperature[lane] = 1.0 if sampling.greedy else sampling.temperature
        self.top_k[lane], self.top_p[lane] = sampling.top_k, sampling.top_p
        self.greedy[lane], self.bonus[lane] = sampling.greedy, bonus


def _grown(have: Tensor, shape: tuple[int, ...], fill: int) -> Tensor:
    """``have`` itself where it is large enough, else a larger tensor that begins with it."""
    if tuple(have.shape) == shape:
        return have
    new = torch.full(shape, fill, dtype=have.dtype, device=have.device)
    new[tuple(slice(0, n) for n in have.shape)] = have
    return new
