"""Attention of one step over static caches: lengths are data.

On a GPU one call for all rows over one span, what lies beyond a row's length masked. torch's
memory-efficient kernel is asked for because each of its blocks runs over all keys of one row and head, in
order, in tiles: neither the number of rows nor masked keys at the end (they add exact zeros) can change what
a row gets. The fused kernels that torch would rather take split the keys by how busy the GPU is. On a CPU row
by row over each session's own length, rounded up as ``Caches`` does: the bits of the plain step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from genmodel.engine.network import Network

_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # the second where a head's width is odd


class StepAttention:
    """Of ``lanes`` lanes with ``rows`` rows each, over the first ``span`` places of caches. ``apart``: row by
    row, over lengths rounded up to ``bucket``.
    """

    def __init__(self, net: Network, lanes: int, rows: int, span: int, bucket: int, *, apart: bool) -> None:
        self.net, self.lanes, self.rows, self.span, self.bucket = net, lanes, rows, span, bucket
        self._places = torch.arange(span, device=net.device)
        self._apart = apart

    def mask(self, lengths: Tensor) -> Tensor:
        """Lengths int64 [lanes, rows], at least 1 -> what is added to the scores, [lanes * rows, 1, span]."""
        beyond = self._places >= lengths.view(-1, 1, 1)
        return torch.zeros_like(beyond, dtype=self.net.cache_dtype).masked_fill_(beyond, float("-inf"))

    def __call__(self, cache: Tensor, q: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        """cache [2, slots, rows, H, T, hd], q [lanes * rows, H*hd] -> as q."""
        if self._apart:
            return self._row_by_row(cache, q, lengths, mask)
        net, n = self.net, self.lanes * self.rows
        keys, values = cache[:, : self.lanes, :, :, : self.span].flatten(1, 2)
        with sdpa_kernel(_KERNELS, set_priority=True):
            y = F.scaled_dot_product_attention(
                q.to(keys.dtype).view(n, net.heads, 1, net.head_dim), keys, values, attn_mask=mask[:, None]
            )
        return y.reshape(n, -1).to(net.dtype)

    def _row_by_row(self, cache: Tensor, q: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        parts = []
        for lane, longest in enumerate(lengths.max(1).values.tolist()):
            span = -(-longest // self.bucket) * self.bucket
            keys, values = cache[:, lane, :, :, :span]
            rows = slice(lane * self.rows, (lane + 1) * self.rows)
            parts.append(self.net.attend(q[rows], keys, values, mask[rows, :, :span]))
        return torch.cat(parts)
