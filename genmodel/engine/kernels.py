"""Linear layers by device: prepacked where that is faster, and with rows that do not know how many they are.

A row's result must not depend on the rows beside it, or a take would depend on its company. Measured (torch
2.13, one and two threads, K up to 4096, rows 1…33): oneDNN's prepacked kernel gives each row the same bits
for every count of rows from two on; MKL's plain one only for equal counts, so it is always given blocks of
eight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from genmodel.errors import GenModelError

Linear = Callable[[Tensor], Tensor]
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,  # of what goes in and out of layers; weights and products are integers (native/)
}
PLAIN_ROWS = 8
CUDA_ROWS = (
    16  # eight sessions with guidance in one block; cuBLAS too chooses its kernel by the count of rows
)
MAX_STEP_ROWS = 64  # more rows than this are a prefill, which runs alone: its count is its own
# Prefills are filled up to whole blocks, because oneDNN keeps a kernel for every count of rows it has met.
PREFILL_ROWS = 64
PACKED_ROWS = 2  # also the row count that the weight's layout is chosen for


class PlainLinear:
    """y = x W^T + b in W's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.block = PLAIN_ROWS if weight.device.type == "cpu" else CUDA_ROWS

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows > MAX_STEP_ROWS:
            return F.linear(x, self.weight, self.bias)
        if rows % self.block:
            x = F.pad(x, (0, 0, 0, self.block - rows % self.block))
        parts = [F.linear(part, self.weight, self.bias) for part in x.split(self.block)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[:rows]


class PackedLinear:
    """The same through oneDNN with the weight laid out in advance (float32 or bfloat16, CPU)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
        self.bias = bias
        self.run = torch.ops.mkldnn._linear_pointwise.default
        self.run_binary = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        return self.activated(x, "none")

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """f(x W^T + b) with f "none", "relu" or "gelu" (of the unrounded product)."""
        rows = x.shape[0]
        if rows < PACKED_ROWS:
            x = F.pad(x, (0, 0, 0, PACKED_ROWS - rows))
        elif rows > PREFILL_ROWS and rows % PREFILL_ROWS:
            x = F.pad(x, (0, 0, 0, PREFILL_ROWS - rows % PREFILL_ROWS))
        y = self.run(x, self.packed, self.bias, activation, [], "none")
        return y if len(y) == rows else y[:rows]

    def plus(self, added: Tensor, x: Tensor) -> Tensor:
        """added + x W^T + b of at most MAX_STEP_ROWS rows, float32; ``added`` may be written over."""
        if x.dtype != added.dtype:
            return added.add_(self(x))
        rows = x.shape[0]
        if rows < PACKED_ROWS:
            more = (0, 0, 0, PACKED_ROWS - rows)
            return self.plus(F.pad(added, more), F.pad(x, more))[:rows]
        return self.run_binary(x, added, self.packed, self.bias, "add")


def packing_available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of torch and this processor can prepack weights of ``dtype``."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def make_linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packed: bool = True) -> Linear:
    """The fastest y = x W^T + b here; x [M, in] of ``dtype`` -> [M, out] of ``dtype``."""
    weight = weight.detach().to(dtype).contiguous()
    bias = None if bias is None else bias.detach().to(dtype)
    if packed and weight.device.type == "cpu" and packing_available(dtype):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


def native_absent() -> str | None:
    """Why the native kernels cannot be had here, in one sentence; None where they can. May compile them (once
    on a machine, some ten seconds).
    """
    from genmodel.engine.native.build import NativeAbsentError
    from genmodel.engine.native.library import kernels

    try:
        kernels()
    except NativeAbsentError as error:
        return str(error)
    return None


def native_floats() -> bool:
    """Whether the native kernels run float32 and bfloat16 here, as they do but for the portable path: that is
    not faster than torch. May compile them.

    Measured (musicgen-small's shape, two cores, a step): float32 34.5 ms beside torch's 49.0, bfloat16 20.9
    beside 31.8.
    """
    from genmodel.engine.native.library import kernels

    return native_absent() is None and kernels().path != "portable"


def choose_precision(name: str | None, device: torch.device) -> str:
    """The precision of the layers: as asked, else AudioCraft's rule (float16 on CUDA), float32 elsewhere.

    Raises GenModelError for one that this device does not compute at speed.
    """
    if name is None or name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    usable = ["float32"]
    said = f"this {device.type} does not run {name}"
    if device.type == "cuda":
        usable += ["float16", "bfloat16"]
    elif device.type == "cpu":
        if packing_available(torch.bfloat16) or (name == "bfloat16" and native_floats()):
            usable.append("bfloat16")
        absent = native_absent() if name == "int8" else None
        if absent is None:
            usable.append("int8")
        else:
            said = absent
    if name not in usable:
        raise GenModelError(
            said,
            field="engine.precision",
            value=name,
            allowed=", ".join(["auto", *usable]),
        )
    return name
