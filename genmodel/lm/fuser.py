"""Where each condition enters the transformer.

* ``cross``: concatenated on time, the source of cross-attention;
* ``prepend``: put in front of the sequence, each new one in front of the last;
* ``sum``: added to the input. One value per row is added everywhere; a per-frame condition adds the value of
  frame s at sequence step s, and holds its last value beyond the end (:func:`hold_frames`);
* ``input_interpolate``: stretched to the input's length, then added;
* ``ignore``: embedded and left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmodel.errors import GenModelError

ConditionTensors = Mapping[str, tuple[Tensor, Tensor]]
METHODS = ("sum", "prepend", "cross", "ignore", "input_interpolate")


class Fused(NamedTuple):
    """The transformer's input [B, P + S, D] (P prefix steps), its mask, and the cross-attention source."""

    input: Tensor
    input_mask: Tensor
    cross: Tensor | None
    cross_mask: Tensor | None
    prefix_steps: int


def sinusoid(positions: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """AudioCraft's position code: [cos | sin] of positions / max_period^(i / (dim/2 - 1)); float32 [...,
    dim].
    """
    half = dim // 2
    exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / max(half - 1, 1)
    phase = positions.float()[..., None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def hold_frames(values: Tensor, frames: int) -> Tensor:
    """[B, F, D] cut or continued with its last value to [B, frames, D]."""
    have = values.shape[1]
    if have >= frames:
        return values[:, :frames]
    return torch.cat([values, values[:, -1:].expand(-1, frames - have, -1)], dim=1)


class ConditionFuser(nn.Module):
    """Knows by which method each condition is fused; holds no parameters and no state."""

    def __init__(
        self,
        fuse2cond: Mapping[str, Sequence[str]],
        cross_attention_pos_emb: bool = False,
        cross_attention_pos_emb_scale: float = 1.0,
        frame_conditions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if unknown := sorted(set(fuse2cond) - set(METHODS)):
            raise GenModelError(
                f"unknown way to fuse conditions: {', '.join(unknown)}",
                field="fuser",
                value=unknown,
                allowed=", ".join(METHODS),
            )
        self.fuse2cond: dict[str, list[str]] = {how: list(fuse2cond.get(how) or ()) for how in METHODS}
        self.cond2fuse: dict[str, str] = {}
        for how, names in self.fuse2cond.items():
            for name in names:
                if name in self.cond2fuse:
                    raise GenModelError(f"condition {name} is fused twice", field="fuser", value=name)
                self.cond2fuse[name] = how
        self.cross_attention_pos_emb = cross_attention_pos_emb
        self.cross_attention_pos_emb_scale = float(cross_attention_pos_emb_scale)
        self.frame_conditions = tuple(frame_conditions)

    @property
    def has_prepend(self) -> bool:
        return bool(self.fuse2cond["prepend"])

    @property
    def has_cross(self) -> bool:
        return bool(self.fuse2cond["cross"])

    def _of(self, how: str, conditions: ConditionTensors) -> list[tuple[Tensor, Tensor]]:
        if stray := sorted(set(conditions) - set(self.cond2fuse)):
            raise GenModelError(
                f"nothing says where the condition {', '.join(stray)} enters", field="fuser", value=stray
            )
        return [value for name, value in conditions.items() if self.cond2fuse[name] == how]

    def cross(self, conditions: ConditionTensors) -> tuple[Tensor, Tensor] | None:
        """The cross-attention source [B, L, D] and its mask [B, L], or None."""
        found = self._of("cross", conditions)
        if not found:
            return None
        source = torch.cat([value for value, _ in found], dim=1)
        mask = torch.cat([mask for _, mask in found], dim=1)
        if self.cross_attention_pos_emb:
            positions = torch.arange(source.shape[1], device=source.device)
            code = sinusoid(positions, source.shape[-1]) * self.cross_attention_pos_emb_scale
            source = source + code.to(source.dtype)
        return source, mask

    def prefix(self, conditions: ConditionTensors) -> tuple[Tensor, Tensor] | None:
        """What goes before the first step: [B, P, D] and its mask [B, P], the last condition foremost; or
        None.
        """
        found = self._of("prepend", conditions)[::-1]
        if not found:
            return None
        return torch.cat([v for v, _ in found], dim=1), torch.cat([m for _, m in found], dim=1)

    def bias(self, conditions: ConditionTensors, steps: int) -> Tensor | None:
        """The sum of everything that is added to the input at each of ``steps`` steps: [B, steps, D], or
        None.
        """
        total: Tensor | None = None
        for name, (value, _) in conditions.items():
            how = self.cond2fuse.get(name)
            if how == "sum":
                added = hold_frames(value, steps)
            elif how == "input_interpolate":
                added = F.interpolate(value.transpose(1, 2), size=steps).transpose(1, 2)
            else:
                continue
            total = added if total is None else total + added
        return total

    def forward(self, x: Tensor, conditions: ConditionTensors, *, first: bool = True) -> Fused:
        """Fuse everything into the embedded input x [B, S, D] of steps 0…S-1.

        ``first`` is False for later pieces of the same sequence, which get no second prefix.
        """
        bias = self.bias(conditions, x.shape[1])
        if bias is not None:
            x = x + bias.to(x.dtype)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        prefix = self.prefix(conditions) if first else None
        steps = 0
        if prefix is not None:
            steps = prefix[0].shape[1]
            x = torch.cat([prefix[0].to(x.dtype), x], dim=1)
            mask = torch.cat([prefix[1].bool(), mask], dim=1)
        source, source_mask = self.cross(conditions) or (None, None)
        return Fused(x, mask, source, source_mask, steps)
