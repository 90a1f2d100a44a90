"""The whole frame step over ``Tables`` and ``Caches``: static shapes, nothing asked of the host, nothing told
to it.

Rows are lanes times streams, filled up to whole blocks as ``kernels`` wants them, so that products have the
same shape in every company. Rows of lanes that rest, and of streams that a session does not have, compute
something that nobody reads: their keys and values go to a place beyond every window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmodel.engine.caches import CROSS_BUCKET, STEP_BUCKET, Caches
from genmodel.engine.captured.attention import StepAttention
from genmodel.engine.captured.drawing import choose_by_row
from genmodel.engine.captured.tables import Tables
from genmodel.engine.kernels import CUDA_ROWS
from genmodel.engine.leaning import leaned
from genmodel.engine.network import Layer, Network
from genmodel.engine.noise import gumbel_noise
from genmodel.engine.session import UNKNOWN


class FrameStep:
    """One step of the first ``lanes`` lanes, attention over the first ``span`` places. Holds the tensors of
    the tables and caches as they are: it ends with them. ``apart``: lanes attend one after the other and rows
    are not filled up, as a CPU likes it; None means on a CPU.
    """

    def __init__(
        self,
        net: Network,
        caches: Caches,
        tables: Tables,
        lanes: int,
        span: int,
        *,
        top_p: bool,
        apart: bool | None = None,
    ) -> None:
        self.net, self.caches, self.tables, self.lanes = net, caches, tables, lanes
        device, self.streams = net.device, caches.own[0].shape[2]
        # caches of sources with fewer lanes than that are left from earlier: nobody aboard hears one
        heard = bool(caches.cross) and caches.cross[0].shape[1] >= lanes
        self.sources = caches.cross[0].shape[2] if heard else 0
        self.rows = lanes * self.streams
        apart = device.type == "cpu" if apart is None else apart
        self._block = 1 if apart else CUDA_ROWS
        self._top_p = top_p
        self._room: dict[str, Tensor] = {}  # kept: filling up is one copy then, and not three kernels
        self._lane = torch.arange(lanes, device=device)
        self._stream = torch.arange(self.streams, device=device)
        self._slot_of_row = self._lane.repeat_interleave(self.streams)
        self._stream_of_row = self._stream.repeat(lanes)
        length = caches.own[0].shape[4]
        self._beyond = length - 1
        self._positions = net.positions(length)
        self._own = StepAttention(net, lanes, self.streams, span, STEP_BUCKET, apart=apart)
        if self.sources:
            wide = caches.cross[0].shape[4]
            self._cross = StepAttention(net, lanes, self.sources, wide, CROSS_BUCKET, apart=apart)

    @torch.no_grad()
    def __call__(self) -> None:
        """Make one step of the lanes that are active."""
        self.write(self._mixed(self._hidden()))

    def _filled(self, what: str, rows: Tensor) -> Tensor:
        """``rows`` [n, D] in whole blocks, zeros after them; valid until the next call for the same thing."""
        missing = -len(rows) % self._block
        if not missing:
            return rows
        if what not in self._room:
            self._room[what] = rows.new_zeros(len(rows) + missing, rows.shape[1])
        self._room[what][: len(rows)] = rows
        return self._room[what]

    def _hidden(self) -> Tensor:
        """What the last norm gives for the rows, [lanes, C, D]."""
        net, tables, n = self.net, self.tables, self.lanes
        fed = (tables.step[:n] - 1).clamp_min(0)
        tokens = tables.sequence[:n].gather(2, fed[:, None, None].expand(-1, net.config.n_q, 1))[..., 0]
        live = tables.active[:n, None] & (self._stream < tables.streams[:n, None])
        place = torch.where(live, tables.prefix[:n, : self.streams] + fed[:, None], 0)
        lengths = place + 1
        at = torch.where(live, place, self._beyond).view(-1)
        x = net.embed(tokens.clamp_min(0))[:, None] + self._positions[place]
        if tables.added is not None:
            x = x + tables.added[self._lane[:, None], self._stream, fed[:, None]]
        x = self._filled("inputs", x.view(self.rows, -1))
        mask = self._own.mask(lengths)
        heard = self._heard(live) if self.sources else None
        for i, layer in enumerate(net.layers):
            cache = self.caches.own[i]
            qkv = layer.qkv(net.normed(x, layer.norm1))[: self.rows]
            q, kv = qkv.split([net.config.dim, 2 * net.config.dim], dim=1)
            kv = kv.view(self.rows, 2, net.heads, net.head_dim).to(cache.dtype)
            cache[:, self._slot_of_row, self._stream_of_row, :, at] = kv
            x = x + layer.out(self._filled("own", self._own(cache, q, lengths, mask)))
            if heard is not None:
                x = self._listened(i, layer, x, *heard)
            x = x + layer.down(net.activation(layer.up(net.normed(x, layer.norm2))))
        return net.finish(x[: self.rows]).view(n, self.streams, -1)

    def _heard(self, live: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the rows that attend to sources: which they are, whether there is one, lengths, mask."""
        tables, n = self.tables, self.lanes
        hears, lengths = tables.hears[:n, : self.sources], tables.source[:n, : self.sources]
        there = (lengths > 0) & live.gather(1, hears)
        lengths = torch.where(there, lengths, 1)
        rows = (self._lane[:, None] * self.streams + hears).view(-1)
        return rows, there.view(-1, 1), lengths, self._cross.mask(lengths)

    def _listened(
        self, number: int, layer: Layer, x: Tensor, rows: Tensor, there: Tensor, lengths: Tensor, mask: Tensor
    ) -> Tensor:
        """x after cross-attention; rows without a source stay as they are."""
        if layer.cross_q is None or layer.cross_out is None:
            return x
        count = len(rows)
        q = layer.cross_q(self._filled("queries", self.net.normed(x[rows], layer.norm_cross)))[:count]
        y = self._filled("cross", self._cross(self.caches.cross[number], q, lengths, mask))
        y = layer.cross_out(y)[:count].to(x.dtype)
        return x.index_add_(0, rows, torch.where(there, y, 0.0))  # x is this step's own

    def _mixed(self, hidden: Tensor) -> Tensor:
        """``Network.mix`` with the tables' weights and numbers of streams: [lanes, C, D] -> [lanes, D]."""
        tables, n = self.tables, self.lanes
        last = tables.streams[:n] - 1
        base = hidden[self._lane, last]
        mixed = base
        for stream in range(self.streams - 1):
            nearer = mixed + tables.weight[:n, stream, None] * (hidden[:, stream] - base)
            mixed = torch.where((stream < last)[:, None], nearer, mixed)
        return mixed

    @torch.no_grad()
    def write(self, mixed: Tensor) -> None:
        """Choose the tokens of each active lane's present step, mixed [lanes, D], and move on."""
        tables, n = self.tables, self.lanes
        active, step = tables.active[:n], tables.step[:n]
        at = step.clamp_max(tables.steps - 1)[:, None, None].expand(-1, tables.sequence.shape[1], 1)
        logits = self.net.logits(mixed)
        tables.finite[:n].logical_and_(torch.isfinite(logits).flatten(1).all(1) | ~active)
        logits = logits.float()
        if tables.near is not None:
            near = tables.near[:n].gather(2, at)[..., 0]
            logits = leaned(logits, near, tables.bonus[:n, None, None])
        noise = gumbel_noise(tables.keys[:n].gather(2, at)[..., 0], logits.shape[-1])
        chosen = choose_by_row(
            logits,
            noise,
            tables.temperature[:n],
            tables.top_k[:n],
            tables.top_p[:n] if self._top_p else None,
            tables.greedy[:n],
        )
        column = tables.sequence[:n].gather(2, at)[..., 0]
        column = torch.where(active[:, None] & (column == UNKNOWN), chosen, column)
        tables.sequence[:n].scatter_(2, at, column[..., None])
        step.add_(active)
