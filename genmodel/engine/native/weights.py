"""Weights as small integers, bfloat16 or float32, laid out for the kernels in one block of memory of large
pages.
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import torch
from torch import Tensor

from genmodel.engine.native.library import FORMS, CLinear, CNorm, Kernels, Scratch

LANE, PANEL = 16, 64
MOST_INPUTS = 2**17  # so many products of 127 by 127 fit into 32 bits
_PAGE = 2 * 2**20


def up(value: int, step: int) -> int:
    return -(-value // step) * step


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in memory that asks for large pages: read at 52 GB/s where small ones give 46."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < _PAGE:
        return torch.zeros(shape, dtype=dtype)
    # private: shared memory is not given large pages
    block = mmap.mmap(-1, up(size, _PAGE) + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            block.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    start = torch.frombuffer(block, dtype=torch.uint8, count=1).data_ptr()
    offset = -start % _PAGE
    return torch.frombuffer(block, dtype=dtype, count=count, offset=offset).view(shape)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 [out, in] -> int8 of the same shape, -127…127, and what one unit of each row is worth."""
    largest = weight.abs().amax(1)
    scale = largest / 127
    integers = (weight / torch.where(scale > 0, scale, 1.0)[:, None]).round_().clamp_(-127, 127)
    return integers.to(torch.int8), scale


class Arena:
    """One block of memory for ``count`` weights, that linears are laid into one after the other."""

    def __init__(self, count: int, dtype: torch.dtype = torch.int8) -> None:
        self._memory = zeros((count,), dtype)
        self._used = 0

    def take(self, count: int) -> Tensor:
        if self._used + count > len(self._memory):
            return torch.zeros(count, dtype=self._memory.dtype)
        self._used += count
        return self._memory[self._used - count : self._used]


def _padded(values: Tensor, size: int) -> Tensor:
    made = torch.zeros(size, dtype=values.dtype)
    made[: len(values)] = values
    return made


class NativeLinear:
    """y = x W^T + b in float32, with W as bfloat16 or float32, or both W and x as int8 with a scale for each
    row: the arena's kind.
    """

    def __init__(
        self, kernels: Kernels, scratch: Scratch, arena: Arena, weight: Tensor, bias: Tensor | None
    ) -> None:
        self._kernels, self._scratch = kernels, scratch
        self.outputs, inputs = weight.shape
        if inputs > MOST_INPUTS:
            raise ValueError(f"a linear of {inputs} inputs: its sums do not fit into 32 bits")
        rows, columns = up(self.outputs, PANEL), up(inputs, LANE)
        self._weights = arena.take(rows * columns)
        self._bias = torch.zeros(rows) if bias is None else _padded(bias.detach().float(), rows)
        dtype = self._weights.dtype
        self.size_bytes = self._weights.nbytes
        self._scale = self._sums = torch.empty(0)
        values = weight.detach().to(dtype)
        if dtype == torch.int8:
            values, scale = quantise(weight.detach().float())
            self._scale = _padded(scale, rows)
        full = values
        if (rows, columns) != tuple(values.shape):
            full = torch.zeros(rows, columns, dtype=dtype)
            full[: self.outputs, :inputs] = values
        # Panels of 64 outputs, in each as many inputs beside each other as fill 32 bits. One by one, because
        # torch turns matrices quickly and nothing else.
        panels = full.contiguous().view(torch.int32).view(rows // PANEL, PANEL, -1)
        laid = self._weights.view(torch.int32).view(rows // PANEL, -1, PANEL)
        for place, panel in zip(laid, panels, strict=True):
            place.copy_(panel.t())
        if dtype == torch.int8:
            self._sums = full.sum(1, dtype=torch.int32)
        self.c = CLinear(
            self._weights.data_ptr(), self._scale.data_ptr(), self._bias.data_ptr(), self._sums.data_ptr(),
            columns, rows, FORMS[dtype],
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        """x [M, in] -> float32 [M, out]."""
        y = torch.empty(len(x), self.c.outputs)
        self._kernels.linear(self.c, x.float().contiguous(), y, self._scratch)
        return y[:, : self.outputs]


class NativeNorm:
    """A layer norm's numbers, padded to whole lanes."""

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        size = up(len(weight), LANE)
        self._weight, self._bias = _padded(weight, size), _padded(bias, size)
        self.c = CNorm(self._weight.data_ptr(), self._bias.data_ptr(), epsilon)


def weight_count(outputs: int, inputs: int) -> int:
    """What a linear of this shape takes of an arena."""
    return up(outputs, PANEL) * up(inputs, LANE)


def c_array(values: list[Any], kind: Any) -> Any:
    """A C array of structures."""
    return (kind * max(1, len(values)))(*values)
