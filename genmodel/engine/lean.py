"""The step of ``Network.step`` on a CPU with fewer and smaller operations: the same formulas, other bits.

At batch 1 with guidance each small operation of torch costs 1 to 9 us, and there were fifty in a layer: a
third of a bfloat16 step. Here residuals are added in place, the mask comes with the product of queries and
keys, keys and values are written through one index for all layers, cross-attention takes slices where it took
gathered rows, and GELU is done by the product before it. A row's bits do not depend on the rows beside it, as
in the long form, which stays the twin that tests compare this with (``Network.lean = False``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodel.engine.kernels import Linear, PackedLinear

if TYPE_CHECKING:
    from genmodel.engine.caches import Caches, Group, Run
    from genmodel.engine.network import Layer, Network, Norm

VERSION = "lean-1"  # changes with the bits of what follows


@dataclass(frozen=True)
class _Span:
    """A run as strides: heads of all its rows lie one after the other in a layer's cache."""

    first: int
    rows: int
    offset: int  # of the first head's first key, in values
    stride: int  # from head to head
    length: int
    mask: Tensor  # float32 [rows * H, 1, length], added to the scores


class LeanStep:
    """How the rows of one step lie in the caches, made once for all layers."""

    def __init__(self, network: Network, caches: Caches, group: Group) -> None:
        self.net = network
        self.heads, self.dim = network.heads, network.config.dim
        own = caches.own[0]
        slots, streams, heads, places, width = own.shape[1:]
        head = torch.arange(heads) * places + group.position_of_row[:, None]
        row = (group.slot_of_row * streams + group.stream_of_row) * heads * places
        first = head + row[:, None]  # [R, H]
        values = first + slots * streams * heads * places
        #: where the keys and values of each row go, in rows of one head [R * 2 * H]
        self.places = torch.stack([first, values], 1).reshape(-1)
        self.width = width
        self.own = self._spans(group.runs, own)
        self.cross = self._spans(group.cross_runs, caches.cross[0]) if group.cross_rows is not None else []
        self.hearing = None if group.cross_rows is None else _as_slice(group.cross_rows.tolist())
        self.cross_rows = group.cross_rows

    def _spans(self, runs: Sequence[Run], cache: Tensor) -> list[_Span]:
        streams, heads, places, width = cache.shape[2:]
        spans = []
        for run in runs:
            mask = run.mask.repeat_interleave(heads, 0)
            offset = run.slot * streams * heads * places * width
            spans.append(_Span(run.first, run.rows, offset, places * width, run.length, mask))
        return spans

    def normed(self, x: Tensor, norm: Norm) -> Tensor:
        weight, bias, eps = norm
        y = torch.native_layer_norm(x, (self.dim,), weight, bias, eps)[0]
        return y if self.net.dtype == torch.float32 else y.to(self.net.dtype)

    def attend(self, cache: Tensor, spans: Sequence[_Span], q: Tensor) -> Tensor:
        """q float32 [n, D] -> float32 [n, D]."""
        n, heads, width = q.shape[0], self.heads, self.width
        q = q.reshape(n * heads, 1, width)
        half = cache.stride(0)
        parts = []
        for span in spans:
            own = q if len(spans) == 1 else q[span.first * heads : (span.first + span.rows) * heads]
            count, at = span.rows * heads, span.offset
            keys = cache.as_strided((count, width, span.length), (span.stride, 1, width), at)
            values = cache.as_strided((count, span.length, width), (span.stride, width, 1), at + half)
            # a mask that hides nothing too: whether there is one must not depend on a run's other rows
            scores = torch.baddbmm(span.mask, own, keys, alpha=self.net.scale)
            parts.append(torch.bmm(scores.softmax(-1), values))
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.view(n, self.dim)

    def run(self, caches: Caches, x: Tensor) -> Tensor:
        """Inputs float32 [R, D], which may be written over, through all layers -> [R, D]."""
        net, dim, dtype = self.net, self.dim, self.net.dtype
        for i, layer in enumerate(net.layers):
            qkv = layer.qkv(self.normed(x, layer.norm1))
            cache, width = caches.own[i], self.width
            new = qkv[:, dim:].float().reshape(-1, width)
            cache.view(-1, width).index_copy_(0, self.places, new)
            y = self.attend(cache, self.own, qkv[:, :dim].float())
            x = _packed(layer.out).plus(x, y.to(dtype))
            if self.cross_rows is not None:
                self._cross(x, caches.cross[i], layer, self.cross_rows)
            up = _packed(layer.up).activated(self.normed(x, layer.norm2), net.config.activation)
            x = _packed(layer.down).plus(x, up)
        return x

    def _cross(self, x: Tensor, cache: Tensor, layer: Layer, rows: Tensor) -> None:
        """Add to some rows what they hear."""
        if layer.cross_q is None or layer.cross_out is None or layer.norm_cross is None:
            raise RuntimeError("this network has no cross-attention")
        heard = x[rows] if self.hearing is None else x[self.hearing]
        q = layer.cross_q(self.normed(heard, layer.norm_cross))
        y = layer.cross_out(self.attend(cache, self.cross, q.float()).to(self.net.dtype))
        if self.hearing is None:
            x.index_add_(0, rows, y.to(x.dtype))
        else:
            heard += y  # a view of x


def _packed(linear: Linear) -> PackedLinear:
    if not isinstance(linear, PackedLinear):
        raise TypeError("lean steps are of prepacked weights")
    return linear


def _as_slice(rows: Sequence[int]) -> slice | None:
    """The same rows as a slice, where they are evenly spaced."""
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    evenly = step > 0 and list(rows) == list(range(rows[0], rows[0] + step * len(rows), step))
    return slice(rows[0], rows[-1] + 1, step) if evenly else None
