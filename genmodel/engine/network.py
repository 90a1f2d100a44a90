"""The transformer again, for making tokens: prepared weights, caches handed in, guidance mixed before the
heads.

Numerically the forward of ``genmodel/lm`` (float32: equal to rounding). Layers compute in ``precision``;
embeddings, position code, residual, norms and heads stay float32, which is what AudioCraft's float16 autocast
amounts to. On a CPU attention is float32 in any precision: its half-precision kernels are slower there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from genmodel.engine.drawing import Draw, draw_tokens
from genmodel.engine.kernels import PRECISIONS, Linear, make_linear, native_floats, packing_available
from genmodel.engine.lean import VERSION, LeanStep
from genmodel.engine.prefilling import Slices, prefill_slices
from genmodel.lm.lm import LMModel
from genmodel.lm.transformer import Attention, TransformerLayer, sinusoidal_positions
from genmodel.memory import trim

if TYPE_CHECKING:
    from genmodel.engine.caches import Caches, Group
    from genmodel.engine.conditions import Stream

Norm = tuple[Tensor, Tensor, float]


@dataclass(frozen=True)
class Layer:
    """One block's weights, ready to run."""

    norm1: Norm
    qkv: Linear
    out: Linear
    norm_cross: Norm | None
    cross_q: Linear | None
    cross_kv: Linear | None
    cross_out: Linear | None
    norm2: Norm
    up: Linear
    down: Linear


def _norm(module: torch.nn.LayerNorm) -> Norm:
    return module.weight.detach().float(), module.bias.detach().float(), module.eps


class Network:
    """Weights of an ``LMModel`` prepared for one device and precision."""

    kernels_version = ""  # changes with the bits, as far as they are not torch's own affair

    lean_steps = True  # false: all float networks take torch's long form, which is what is captured on a GPU

    def __init__(self, lm: LMModel, precision: str = "float32", packed: bool = True) -> None:
        config = lm.config
        self.config, self.device = config, lm.device
        self.precision, self.dtype, self._packed = precision, PRECISIONS[precision], packed
        self.heads, self.head_dim = config.num_heads, config.dim // config.num_heads
        self.scale = self.head_dim**-0.5
        self.activation = F.gelu if config.activation == "gelu" else F.relu
        # on a CPU keys and values are kept in float32: half precision attention is the slower one there
        self.cache_dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        self.embedding = torch.cat([table.detach().float() for table in lm.emb.parameters()])
        self.offsets = torch.arange(config.n_q, device=self.device) * (config.card + 1)
        self.out_norm = _norm(lm.out_norm)
        parts = [lm.head(k) for k in range(config.n_q)]
        bias = None if parts[0][1] is None else torch.cat([b for _, b in parts if b is not None])
        self.head = self._linear(torch.cat([w for w, _ in parts]), bias, torch.float32)
        self.layers = []
        for i, layer in enumerate(lm.transformer.layers):
            self.layers.append(self._layer(layer))  # type: ignore[arg-type]
            lm.rest(f"transformer.layers.{i}")
        lm.rest("linears")
        self._positions = torch.empty(0, config.dim, device=self.device)
        #: steps take fewer operations (``LeanStep``); false: the long form, which they are compared with
        self.lean = packed and precision != "int8" and self.device.type == "cpu"
        self.lean = self.lean and packing_available(self.dtype)
        if self.lean:
            self.kernels_version = VERSION

    def _linear(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
        return make_linear(weight, bias, dtype, self._packed)

    def _layer(self, layer: TransformerLayer) -> Layer:
        def linear(weight: Tensor, bias: Tensor | None, scaled: torch.nn.Module | None = None) -> Linear:
            scale = getattr(scaled, "scale", None)
            if scale is not None:  # a layer scale is the same as scaled rows
                weight = weight * scale[:, None]
                bias = None if bias is None else bias * scale
            return self._linear(weight, bias, self.dtype)

        def rows(attention: Attention, first: int, last: int) -> tuple[Tensor, Tensor | None]:
            dim = self.config.dim
            bias = attention.in_proj_bias
            part = slice(first * dim, last * dim)
            return attention.in_proj_weight[part], None if bias is None else bias[part]

        own, cross = layer.self_attn, layer.cross_attention
        return Layer(
            _norm(layer.norm1),
            linear(*rows(own, 0, 3)),
            linear(own.out_proj.weight, own.out_proj.bias, layer.layer_scale_1),
            None if cross is None else _norm(layer.norm_cross),
            None if cross is None else linear(*rows(cross, 0, 1)),
            None if cross is None else linear(*rows(cross, 1, 3)),
            None
            if cross is None
            else linear(cross.out_proj.weight, cross.out_proj.bias, layer.layer_scale_cross),
            _norm(layer.norm2),
            linear(layer.linear1.weight, layer.linear1.bias),
            linear(layer.linear2.weight, layer.linear2.bias, layer.layer_scale_2),
        )

    def positions(self, length: int) -> Tensor:
        """The position code of the first ``length`` places, float32 [length, D]."""
        if len(self._positions) < length:
            places = torch.arange(max(length, 2 * len(self._positions)), device=self.device)
            code = sinusoidal_positions(places, self.config.dim, self.config.max_period)
            self._positions = self.config.positional_scale * code
        return self._positions[:length]

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [N, K] -> [N, D]."""
        return F.embedding(tokens + self.offsets, self.embedding).sum(1)

    def normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        """Layer norm in float32, then the layers' dtype."""
        if norm is None:
            raise RuntimeError("this network has no cross-attention")
        weight, bias, eps = norm
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps).to(self.dtype)

    def project_cross(self, layer: Layer, source: Tensor) -> tuple[Tensor, Tensor]:
        """Source [L, D] -> keys and values [H, L, hd] of the cache's dtype."""
        if layer.cross_kv is None:
            raise RuntimeError("this network has no cross-attention")
        kv = layer.cross_kv(source.to(self.dtype)).to(self.cache_dtype)
        k, v = kv.view(len(source), 2, self.heads, self.head_dim).permute(1, 2, 0, 3)
        return k, v

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """One step: q [N, H*hd], keys and values [N, H, T, hd], mask [N, 1, T] added to the scores -> [N,
        H*hd].

        On a CPU by plain products, not by torch's fused kernel: that one splits its work by how many rows
        there are, and a row's bits would depend on its company.
        """
        n = q.shape[0]
        q = q.to(keys.dtype).view(n, self.heads, 1, self.head_dim)
        if q.device.type != "cpu":
            bias = None if mask is None else mask[:, None].to(q.dtype)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
            return y.view(n, -1).to(self.dtype)
        flat = (n * self.heads, -1, self.head_dim)
        scores = torch.bmm((q * self.scale).reshape(flat), keys.reshape(flat).transpose(1, 2))
        if mask is not None:
            scores = (scores.view(n, self.heads, -1) + mask).view(scores.shape)
        return torch.bmm(scores.softmax(-1), values.reshape(flat)).view(n, -1).to(self.dtype)

    def caches(self) -> Caches:
        """Empty caches of this network's kind."""
        from genmodel.engine.caches import Caches

        return Caches(self)

    def feed(
        self,
        caches: Caches,
        group: Group,
        tokens: Tensor,
        added: Tensor | None,
        weights: Sequence[Sequence[float]],
    ) -> Tensor:
        """``step`` from tokens [n, K] of the sessions of a group; ``added`` [R, D] is added to the inputs."""
        x = self.embed(tokens)[group.session_of_row]
        x = x + self.positions(group.capacity)[group.position_of_row]
        return self.step(caches, group, x if added is None else x + added, weights)

    def step(self, caches: Caches, group: Group, x: Tensor, weights: Sequence[Sequence[float]]) -> Tensor:
        """Inputs [R, D] of the rows of a group through all layers, then guidance with each session's weights:
        what the heads take, [n, D].
        """
        if self.lean and self.lean_steps:
            return self._mixed(LeanStep(self, caches, group).run(caches, x.clone()), group, weights)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(self.normed(x, layer.norm1))
            x = x + layer.out(caches.attend(i, group, qkv))
            if layer.cross_q is not None and layer.cross_out is not None and group.cross_rows is not None:
                rows = group.cross_rows
                q = layer.cross_q(self.normed(x[rows], layer.norm_cross))
                y = layer.cross_out(caches.attend_cross(i, group, q))
                x = x.index_add(0, rows, y.to(x.dtype))
            x = x + layer.down(self.activation(layer.up(self.normed(x, layer.norm2))))
        return self._mixed(x, group, weights)

    def _mixed(self, x: Tensor, group: Group, weights: Sequence[Sequence[float]]) -> Tensor:
        parts = self.finish(x).split(group.rows_of_session)
        return torch.stack([self.mix(part, mix) for part, mix in zip(parts, weights, strict=True)])

    def prefill(
        self,
        caches: Caches,
        slot: int,
        streams: Sequence[Stream],
        inputs: Sequence[Tensor],
        rows: int | None = None,
    ) -> Slices:
        """A slot's inputs [S, D] of each stream, from its first place on, ``rows`` at a time (None: in one
        pass); fills the caches. Gives what the heads take for the last place, [D]. The slot's lengths must
        have been set.
        """
        return prefill_slices(self, caches, slot, streams, inputs, rows)

    def mix(self, hidden: Tensor, weights: Sequence[float]) -> Tensor:
        """Guidance on hidden states [c, D] after the last norm -> [D].

        The weights add up to one and the heads are affine, so mixing before them equals mixing their logits.
        """
        base = hidden[-1]
        mixed = base
        for weight, row in zip(weights[:-1], hidden[:-1], strict=True):
            mixed = mixed + weight * (row - base)
        return mixed

    def finish(self, x: Tensor) -> Tensor:
        """The last norm, float32."""
        weight, bias, eps = self.out_norm
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    def logits(self, mixed: Tensor) -> Tensor:
        """[N, D] float32 -> [N, K, card]."""
        return self.head(mixed).view(len(mixed), self.config.n_q, self.config.card)

    def choose(self, logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """Tokens int64 [n, K] from logits [n, K, card], and bool [n]: whether a take's logits are finite."""
        return draw_tokens(logits, draws)


def _prepare(lm: LMModel, precision: str, packed: bool, native: bool) -> Network:
    if precision == "int8" or (native and native_floats()):
        from genmodel.engine.native.network import NativeNetwork

        return NativeNetwork(lm, precision=precision)
    return Network(lm, precision, packed)


def network_for(lm: LMModel, precision: str, packed: bool = True, native: bool = True) -> Network:
    """The prepared weights of a model, made once and again when its parameters change. ``native``: on a CPU,
    by the native kernels where they are the faster ones; int8 always is.
    """
    native &= packed and Network.lean_steps and lm.device.type == "cpu"
    version = (lm.device, packed, native, lm.version())
    held = lm.prepared.get(precision)
    if held is None or held[0] != version:
        lm.prepared.clear()  # one form at a time: each is as large as the model
        held = lm.prepared[precision] = (version, _prepare(lm, precision, packed, native))
        if lm.resting:
            trim()
    network: Network = held[1]
    return network
