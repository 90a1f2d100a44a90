"""The pre-norm transformer of MusicGen, as a plain module: no cache, no state, trainable.

    x += self_attn(norm1(x))
    x += cross_attention(norm_cross(x), source)
    x += linear2(gelu(linear1(norm2(x))))

Parameter names are AudioCraft's. The engine (``genmodel/engine``) computes the same step by step with caches;
this is what it is compared with, and what training uses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmodel.lm.config import LMConfig


def sinusoidal_positions(positions: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Position code, float32 [..., dim]: cosines of all frequencies, then their sines.

    Frequency i of dim/2 is max_period^(-i / (dim/2 - 1)): the last one is exactly 1/max_period.
    """
    half = dim // 2
    index = torch.arange(half, device=positions.device, dtype=torch.float32)
    phase = positions[..., None].to(torch.float32) / (
        torch.tensor(max_period, device=positions.device, dtype=torch.float32) ** (index / max(half - 1, 1))
    )
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


class Attention(nn.Module):
    """Multi-head attention with one fused input projection: rows [q; k; v], each head after head."""

    def __init__(self, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        if bias:
            self.in_proj_bias: nn.Parameter | None = nn.Parameter(torch.zeros(3 * dim))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = nn.Linear(dim, dim, bias=bias)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, S, n*D] -> [n, B, H, S, D/H]."""
        dim = self.out_proj.in_features
        return x.view(*x.shape[:2], x.shape[2] // dim, self.num_heads, -1).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, S, D] attends to itself causally, or to source [B, L, D]; mask broadcasts to [B, 1, S, L],
        true = seen.

        A self-attention mask must contain the causal rule itself.
        """
        if source is None:
            q, k, v = self._heads(F.linear(x, self.in_proj_weight, self.in_proj_bias))
        else:
            dim = self.out_proj.in_features
            bias = self.in_proj_bias
            (q,) = self._heads(F.linear(x, self.in_proj_weight[:dim], None if bias is None else bias[:dim]))
            k, v = self._heads(
                F.linear(source, self.in_proj_weight[dim:], None if bias is None else bias[dim:])
            )
        causal = source is None and mask is None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out_proj(y.transpose(1, 2).reshape(x.shape))


class LayerScale(nn.Module):
    """Multiplies each channel of a residual branch by a learnt number."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TransformerLayer(nn.Module):
    """One block; ``cross_attention`` is None in models whose conditions are prepended or summed."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.activation = F.gelu if config.activation == "gelu" else F.relu
        self.dropout = nn.Dropout(config.dropout)
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.self_attn = Attention(dim, config.num_heads, config.bias_attn)
        self.cross_attention: Attention | None = None
        if config.cross_attention:
            self.norm_cross = nn.LayerNorm(dim, eps=config.norm_eps)
            self.cross_attention = Attention(dim, config.num_heads, config.bias_attn)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.linear1 = nn.Linear(dim, config.feedforward_dim, bias=config.bias_ff)
        self.linear2 = nn.Linear(config.feedforward_dim, dim, bias=config.bias_ff)
        scale = LayerScale if config.layer_scale else _identity
        self.layer_scale_1 = scale(dim)
        self.layer_scale_2 = scale(dim)
        if config.cross_attention:
            self.layer_scale_cross = scale(dim)

    def forward(
        self, x: Tensor, source: Tensor | None, source_mask: Tensor | None, self_mask: Tensor | None
    ) -> Tensor:
        x = x + self.layer_scale_1(self.dropout(self.self_attn(self.norm1(x), mask=self_mask)))
        if self.cross_attention is not None and source is not None:
            y = self.cross_attention(self.norm_cross(x), source, source_mask)
            x = x + self.layer_scale_cross(self.dropout(y))
        y = self.linear2(self.dropout(self.activation(self.linear1(self.norm2(x)))))
        return x + self.layer_scale_2(self.dropout(y))


def _identity(dim: int) -> nn.Module:
    return nn.Identity()


class Transformer(nn.Module):
    """The stack of layers with its position code."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))

    def forward(
        self,
        x: Tensor,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """x [B, S, D] and the cross source [B, L, D] -> [B, S, D].

        source_mask [B, L] and visible [B, S] are true where there is something. Invisible inputs (padding in
        front of a short prefix) are seen by nobody, and each row's positions count from its first visible
        input.
        """
        positions = torch.arange(x.shape[1], device=x.device)[None]
        self_mask = None
        if visible is not None and not bool(visible.all()):
            positions = (visible.long().cumsum(1) - 1).clamp_min(0)
            causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            # the diagonal keeps the softmax of padding rows finite; nobody reads them
            own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            self_mask = ((visible[:, None, :] & causal) | own)[:, None]
        code = sinusoidal_positions(positions, self.config.dim, self.config.max_period)
        x = x + self.config.positional_scale * code
        mask = None
        if source is not None and source_mask is not None:
            # A source without anything is zeros: to look at all of it adds exactly nothing where there are no
            # biases, and what AudioCraft adds where there are.
            mask = fill_null_mask(source_mask)[:, None, None]
        for layer in self.layers:
            x = layer(x, source, mask, self_mask)
        return x


def fill_null_mask(mask: Tensor) -> Tensor:
    """bool [B, L]: the mask, with everything visible in rows that have nothing at all."""
    mask = mask.bool()
    return mask | ~mask.any(1, keepdim=True)


def init_weights(module: nn.Module, config: LMConfig) -> None:
    """Start values for training: truncated normals of variance 1/fan-in, residual outputs scaled down with
    depth.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2:
            continue
        std = 1 / math.sqrt(parameter.shape[1])
        if name.endswith(("out_proj.weight", "linear2.weight")):
            std /= math.sqrt(2 * config.num_layers)
        nn.init.trunc_normal_(parameter, 0.0, std, -3 * std, 3 * std)
