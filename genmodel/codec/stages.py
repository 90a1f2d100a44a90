"""SEANet as a chain of streaming stages: exact for any chunking, both paddings, causal or not.

Each stage is a pure function ``step(state, x, last) -> (state, y)`` over channels-last chunks ``[B, n, C]``:
it emits every output sample that can no longer change, and keeps the few input columns that later outputs
still need. Feeding a signal in any pieces (also empty ones) and saying ``last`` once gives the samples of the
whole-signal module in ``seanet.py``; nothing is computed twice and no halo is recomputed. Look-ahead is
delay: a convolution waits for its right context, a residual unit holds its shortcut back until the block has
caught up.

States are values: never changed in place, so that keeping one is a snapshot, and every tensor in one has its
rows first, so that streams can be joined and parted. A ``Chain`` holds packed weights
and is read-only; many streams may use one at once, from several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genmodel.codec.kernels import Conv, Linear, RecurrentStack, Upsample, can_pack, pointwise
from genmodel.codec.seanet import (
    PaddedConv,
    ResidualLSTM,
    ResidualUnit,
    TrimmedConvTranspose,
    extra_right_padding,
)


class Stage(Protocol):
    n_out: int

    def start(self, x: Tensor) -> Any:
        """The state before the first column; ``x`` ``[B, 0, C]`` gives rows, width, dtype and device."""

    def step(self, state: Any, x: Tensor, last: bool) -> tuple[Any, Tensor]: ...

    def emitted(self, seen: int) -> int:
        """How many columns have come out after ``seen`` have gone in, before ``last``."""


class PointwiseStage:
    """An activation: no state, no delay."""

    def __init__(self, module: nn.Module, width: int) -> None:
        self._module, self.n_out = module, width

    def start(self, x: Tensor) -> None:
        return None

    def step(self, state: None, x: Tensor, last: bool) -> tuple[None, Tensor]:
        return None, self._module(x)

    def emitted(self, seen: int) -> int:
        return seen


@dataclass(frozen=True)
class ConvState:
    kept: Tensor  # [B, m, C] columns still needed, left padding included once begun
    used: int  # leading columns of `kept` that only a reflection at the end may still read
    seen: int  # columns received so far; stops counting where the count no longer matters
    begun: bool  # left padding is in place


class ConvStage:
    """A padded, possibly strided and dilated convolution."""

    def __init__(self, module: PaddedConv, packed: bool) -> None:
        self._conv = Conv(module.weights, packed)
        self.n_out = self._conv.n_out
        self._left, self._right, self._mode = module.left, module.right, module.pad_mode
        # A strided convolution may have consumed columns that the last, extra padding mirrors.
        self._history = self._right + self._conv.stride if self._mode == "reflect" else 0
        self._wait = self._left + 1 if self._mode == "reflect" and self._left else 1
        # Without a stride, longer signals all end alike: one state for every position lets streams be joined.
        self._counted = max(self._left, self._right) + 1 if self._conv.stride == 1 else None

    def start(self, x: Tensor) -> ConvState:
        return ConvState(x, 0, 0, False)

    def step(self, state: ConvState, x: Tensor, last: bool) -> tuple[ConvState, Tensor]:
        conv = self._conv
        seen = state.seen + x.shape[1]
        kept = torch.cat([state.kept, x], 1) if state.kept.shape[1] else x
        begun = state.begun
        right = self._right + extra_right_padding(seen, conv.stride) if last else 0
        if not begun:
            if seen < self._wait and not last:
                return ConvState(kept, 0, seen, False), self._empty(x)
            reach = max(self._left, right)
            if self._left:
                kept = torch.cat([self._left_pad(kept, reach), kept], 1)
            begun = True
        if last and right:
            kept = torch.cat([kept, self._right_pad(kept, seen, right)], 1)
        if self._counted is not None:
            seen = min(seen, self._counted)
        used = state.used
        count = max(0, (kept.shape[1] - used - conv.reach) // conv.stride + 1)
        if count == 0:
            return ConvState(kept, used, seen, begun), self._empty(x)
        y = conv(kept[:, used : used + (count - 1) * conv.stride + conv.reach])
        used += count * conv.stride
        drop = max(0, min(used - self._history, kept.shape[1]))
        # clone: a view would keep the whole chunk alive
        return ConvState(kept[:, drop:].clone(), used - drop, seen, begun), y

    def emitted(self, seen: int) -> int:
        if seen < self._wait:
            return 0
        return max(0, (self._left + seen - self._conv.reach) // self._conv.stride + 1)

    def _empty(self, x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], 0, self.n_out)

    def _left_pad(self, x: Tensor, reach: int) -> Tensor:
        """Padding before the first columns ``x``; ``reach`` is the larger of both paddings."""
        if self._mode == "constant":
            return x.new_zeros(x.shape[0], self._left, x.shape[2])
        if self._mode == "replicate":
            return x[:, :1].expand(-1, self._left, -1)
        if x.shape[1] <= self._left:  # the signal is over and shorter than its padding
            x = _zeros_after(x, reach + 1 - x.shape[1])
        return x[:, 1 : self._left + 1].flip(1)

    def _right_pad(self, kept: Tensor, seen: int, right: int) -> Tensor:
        """Padding after the last column of ``kept``, whose last ``min(seen, …)`` columns are the signal's."""
        if self._mode == "constant":
            return kept.new_zeros(kept.shape[0], right, kept.shape[2])
        if self._mode == "replicate":
            return kept[:, -1:].expand(-1, right, -1)
        missing = max(self._left, right) + 1 - seen
        if missing <= 0:
            return kept[:, -right - 1 : -1].flip(1)
        # Short input: zeros to the right first, then reflected around the last of them, then cut. All of the
        # signal that the reflection reaches is still in `kept`.
        zeros = kept.new_zeros(kept.shape[0], missing, kept.shape[2])
        longer = torch.cat([kept, zeros], 1)
        mirrored = longer[:, -right - 1 : -1].flip(1)
        return torch.cat([zeros, mirrored], 1)[:, :right]


def _zeros_after(x: Tensor, count: int) -> Tensor:
    return torch.cat([x, x.new_zeros(x.shape[0], count, x.shape[2])], 1)


@dataclass(frozen=True)
class UpsampleState:
    before: Tensor  # [B, 1, C] the last column received, zeros before the first
    begun: bool


class UpsampleStage:
    """A trimmed transposed convolution of kernel ``2 * stride``."""

    def __init__(self, module: TrimmedConvTranspose, packed: bool) -> None:
        self._up = Upsample(module.weights, packed)
        self.n_out = self._up.n_out
        self._left, self._right = module.left, module.right

    def start(self, x: Tensor) -> UpsampleState:
        return UpsampleState(x.new_zeros(x.shape[0], 1, x.shape[2]), False)

    def step(self, state: UpsampleState, x: Tensor, last: bool) -> tuple[UpsampleState, Tensor]:
        n = x.shape[1]
        if n == 0 and not last:
            return state, x.new_empty(x.shape[0], 0, self.n_out)
        columns = [state.before, x]
        if last:
            columns.append(torch.zeros_like(state.before))
        y = self._up(torch.cat(columns, 1))
        if not state.begun and self._left:
            y = y[:, self._left :]
        if last and self._right:
            y = y[:, : -self._right]
        before = x[:, -1:].clone() if n else state.before
        return UpsampleState(before, True), y

    def emitted(self, seen: int) -> int:
        return max(0, seen * self._up.stride - self._left)


class RecurrentStage:
    """The residual LSTM; its state is ``(h, c)``, each ``[B, layers, C]``."""

    def __init__(self, module: ResidualLSTM, packed: bool) -> None:
        self._stack = RecurrentStack(module.lstm, packed)
        self.n_out = self._stack.width

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros(x.shape[0], self._stack.layers, self.n_out)
        return zeros, zeros

    def step(
        self, state: tuple[Tensor, Tensor], x: Tensor, last: bool
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        if x.shape[1] == 0:
            return state, x
        h, c = (s.transpose(0, 1).contiguous() for s in state)
        y, (h, c) = self._stack(x, (h, c))
        return (h.transpose(0, 1), c.transpose(0, 1)), y + x

    def emitted(self, seen: int) -> int:
        return seen


@dataclass(frozen=True)
class ResidualState:
    first: ConvState
    shortcut: Tensor  # [B, m, C] inputs whose block output is still to come


class ResidualStage:
    """A residual unit. Its second convolution has kernel 1, so only the first one delays."""

    def __init__(self, module: ResidualUnit, packed: bool) -> None:
        first, second = module.convs
        self._act_1, self._act_2 = module.block[0], module.block[2]
        self._first = ConvStage(first, packed)
        self._second = pointwise(second.weights, packed)
        self._shortcut: Linear | None = None
        if isinstance(module.shortcut, PaddedConv):
            self._shortcut = pointwise(module.shortcut.weights, packed)
        self.n_out: int = second.weights.out_channels

    def start(self, x: Tensor) -> ResidualState:
        return ResidualState(self._first.start(x), x)

    def step(self, state: ResidualState, x: Tensor, last: bool) -> tuple[ResidualState, Tensor]:
        waiting = torch.cat([state.shortcut, x], 1) if state.shortcut.shape[1] else x
        first, hidden = self._first.step(state.first, self._act_1(x), last)
        n = hidden.shape[1]
        if n == 0:
            return ResidualState(first, waiting), x.new_empty(x.shape[0], 0, self.n_out)
        through = waiting[:, :n].contiguous()
        if self._shortcut is not None:
            through = self._shortcut(through)
        y = self._second(self._act_2(hidden), add=through)
        return ResidualState(first, waiting[:, n:].clone()), y

    def emitted(self, seen: int) -> int:
        return self._first.emitted(seen)


def _stages(modules: nn.Sequential, width: int, packed: bool) -> list[Stage]:
    stages: list[Stage] = []
    for module in modules:
        stage: Stage
        if isinstance(module, PaddedConv):
            stage = ConvStage(module, packed)
        elif isinstance(module, TrimmedConvTranspose):
            stage = UpsampleStage(module, packed)
        elif isinstance(module, ResidualLSTM):
            stage = RecurrentStage(module, packed)
        elif isinstance(module, ResidualUnit):
            stage = ResidualStage(module, packed)
        else:
            stage = PointwiseStage(module, width)
        width = stage.n_out
        stages.append(stage)
    return stages


class Chain:
    """A SEANet half as stages. ``packed=None`` packs the weights where that is possible."""

    def __init__(self, modules: nn.Sequential, width_in: int, packed: bool | None = None) -> None:
        weight = next(modules.parameters())
        self.width_in = width_in
        self.device, self.dtype = weight.device, weight.dtype
        with torch.no_grad():
            self._stages = _stages(modules, width_in, can_pack(weight) if packed is None else packed)

    def start(self, rows: int) -> tuple[Any, ...]:
        """The state of a fresh stream of ``rows`` signals."""
        states, width = [], self.width_in
        for stage in self._stages:
            states.append(stage.start(torch.zeros(rows, 0, width, device=self.device, dtype=self.dtype)))
            width = stage.n_out
        return tuple(states)

    @torch.no_grad()
    def step(self, states: Sequence[Any], x: Tensor, last: bool) -> tuple[tuple[Any, ...], Tensor]:
        """``x`` ``[B, n, width_in]`` -> new states and the ``[B, m, width_out]`` that became final."""
        after = []
        for stage, state in zip(self._stages, states, strict=True):
            state, x = stage.step(state, x, last)
            after.append(state)
        return tuple(after), x

    def run(self, x: Tensor, block: int) -> Tensor:
        """The whole signal ``[B, T, width_in]`` in blocks of ``block`` columns, which bounds memory."""
        states, pieces = self.start(x.shape[0]), []
        blocks = x.split(block, dim=1)
        for i, piece in enumerate(blocks):
            states, y = self.step(states, piece, last=i == len(blocks) - 1)
            pieces.append(y)
        return torch.cat(pieces, 1)

    def emitted(self, seen: int) -> int:
        """Columns out after ``seen`` columns in, before the end is known."""
        for stage in self._stages:
            seen = stage.emitted(seen)
        return seen
