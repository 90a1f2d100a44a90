"""Prefill in slices: what is known of a window goes through the layers a bounded number of rows at a time.

Between two slices others make their steps, so that nobody waits for a whole prompt. Where slices begin and
end follows from the request alone; the schedule changes no bit. Keys and values of earlier slices are read
from the caches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from genmodel.engine.caches import Caches
    from genmodel.engine.conditions import Stream
    from genmodel.engine.network import Network

SLICE_ROWS = {"cpu": 128, "cuda": 512}
"""Rows of one slice by kind of device: enough that weights are read for many rows, few enough that one slice
lasts a few steps."""

Slices = Generator[None, None, Tensor]
"""Each ``next`` runs one slice; the value returned at the end is what the heads take, [D]."""


def slice_rows(device: torch.device) -> int:
    return SLICE_ROWS.get(device.type, SLICE_ROWS["cuda"])


def cuts(lengths: Sequence[int], rows: int | None) -> Iterator[list[tuple[int, int, int]]]:
    """Slices of streams of these lengths: for each slice (stream, begin, end), all streams ending in the last
    one. ``rows`` is how many one slice may have; None: everything at once.
    """
    longest = max(lengths)
    block = longest if rows is None else max(1, rows // len(lengths))
    for after in reversed(range(0, longest, block)):  # so many places come after this slice
        ends = [(c, length - after) for c, length in enumerate(lengths)]
        yield [(c, max(0, end - block), end) for c, end in ends if end > 0]


def prefill_slices(
    net: Network, caches: Caches, slot: int, streams: Sequence[Stream], inputs: Sequence[Tensor],
    rows: int | None,
) -> Slices:  # fmt: skip
    """A slot's inputs [S, D] of each stream, from its first place on; fills the caches. The slot's lengths
    must have been set. Nothing of the caches is held from one slice to the next: they may be moved meanwhile.
    """
    final = torch.empty(0)
    heard = {c: h for h, c in enumerate(c for c, s in enumerate(streams) if s.cross is not None)}
    for number, parts in enumerate(cuts([len(x) for x in inputs], rows)):
        if number:
            yield
        final = _slice(net, caches, slot, streams, inputs, parts, heard, fresh=number == 0)
    return net.mix(net.finish(final), [stream.weight for stream in streams])


def _slice(
    net: Network, caches: Caches, slot: int, streams: Sequence[Stream], inputs: Sequence[Tensor],
    parts: Sequence[tuple[int, int, int]], heard: dict[int, int], *, fresh: bool,
) -> Tensor:  # fmt: skip
    """One slice through all layers; the last row of each stream in it, [c, D]. ``fresh``: sources are
    projected, else they are in the caches.
    """
    x = torch.cat([inputs[c][begin:end] for c, begin, end in parts])  # weights are read once for all streams
    lengths = [end - begin for _, begin, end in parts]
    hearing = torch.cat([torch.full((end - begin,), c in heard) for c, begin, end in parts])
    rows = hearing.nonzero()[:, 0].to(net.device)
    listeners = [(c, end - begin) for c, begin, end in parts if c in heard]
    sources = [s.cross for s in streams if s.cross is not None]
    for i, layer in enumerate(net.layers):
        if fresh and layer.cross_kv is not None:
            for h, source in enumerate(sources):  # of all streams, also of those that begin later
                caches.fill_cross(i, slot, h, layer, source)
        done = []
        split = layer.qkv(net.normed(x, layer.norm1)).split(lengths)
        for (c, begin, _), part in zip(parts, split, strict=True):
            q, k, v = part.chunk(3, dim=-1)
            done.append(attend(net, q, *caches.fill(i, slot, c, k, v, begin), begin))
        x = x + layer.out(torch.cat(done))
        if layer.cross_q is not None and layer.cross_out is not None and listeners:
            queries = layer.cross_q(net.normed(x[rows], layer.norm_cross)).split([n for _, n in listeners])
            done = []
            for (c, _), q in zip(listeners, queries, strict=True):
                keys, values = caches.source(i, slot, heard[c], len(sources[heard[c]]))
                done.append(attend(net, q, keys, values, None))
            x = x.index_add(0, rows, layer.cross_out(torch.cat(done)).to(x.dtype))
        x = x + layer.down(net.activation(layer.up(net.normed(x, layer.norm2))))
    return x[torch.tensor(lengths, device=net.device).cumsum(0) - 1]


def attend(net: Network, q: Tensor, k: Tensor, v: Tensor, begin: int | None) -> Tensor:
    """Places ``begin``… of one session: q [S, H*hd] against [H, T, hd] -> [S, H*hd]. A place hears itself and
    those before it; all where ``begin`` is None.
    """
    rows = q.to(k.dtype).view(len(q), net.heads, net.head_dim).transpose(0, 1)
    mask = None
    if begin:
        mask = torch.ones(len(q), k.shape[1], dtype=torch.bool, device=q.device).tril(begin)
    y = F.scaled_dot_product_attention(rows[None], k[None], v[None], attn_mask=mask, is_causal=begin == 0)[0]
    return y.transpose(0, 1).reshape(len(q), -1).to(net.dtype)
