"""The native kernels' arithmetic once more, slowly and plainly: the same roundings, everything else exact."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genmodel.engine.session import Session
from genmodel.lm.lm import LMModel
from genmodel.lm.transformer import Attention, sinusoidal_positions


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 [M, N] as whole numbers -127…127 of each row, and what one is worth [M, 1]."""
    unit = x.abs().amax(1, keepdim=True) / 127
    return (x / torch.where(unit > 0, unit, 1.0)).round(), unit


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    weight = weight.detach().double() if scale is None else (weight * scale[:, None]).detach().double()
    offset = 0.0 if bias is None else bias.detach().double()
    if scale is not None and bias is not None:
        offset = offset * scale.detach().double()
    (q, unit), (w, worth) = quantised(x), quantised(weight)
    return q @ w.T * unit * worth.T + offset


def half(x: Tensor) -> Tensor:
    return x.float().bfloat16().double()


def norm(x: Tensor, module: torch.nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], module.weight.double(), module.bias.double(), module.eps)


def whole(x: Tensor, largest: int) -> Tensor:
    """Float64 [..., N] rounded to whole parts, as many of each vector's largest magnitude."""
    unit = x.abs().amax(-1, keepdim=True) / largest
    return (x / torch.where(unit > 0, unit, 1.0)).round() * unit


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool, byte_caches: bool) -> Tensor:
    """Own attention is the causal one; cross-attention's keys and values are bfloat16 always."""
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    if causal and byte_caches:
        q, k, v = whole(q, 127 * 64), whole(k, 127), whole(v, 127)
    else:
        k, v = half(k), half(v)
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def attend(
    module: Attention, x: Tensor, source: Tensor | None, scale: Tensor | None, byte_caches: bool
) -> Tensor:
    dim, heads = x.shape[1], module.num_heads
    weight, bias = module.in_proj_weight, module.in_proj_bias
    if source is None:
        y = attention(*linear(x, weight, bias).chunk(3, 1), heads, True, byte_caches)
    else:
        bias_q, bias_kv = (None, None) if bias is None else (bias[:dim], bias[dim:])
        kv = linear(source.double(), weight[dim:], bias_kv)
        y = attention(linear(x, weight[:dim], bias_q), *kv.chunk(2, 1), heads, False, byte_caches)
    return linear(y, module.out_proj.weight, module.out_proj.bias, scale)


@torch.no_grad()
def twin_logits(lm: LMModel, session: Session, tokens: Tensor, byte_caches: bool = True) -> Tensor:
    """[steps, K, card] of every step that makes something, for the one window of these tokens [K, F]."""
    window = session.at
    sequence = lm.pattern(window.frames).build_pattern_sequence(tokens[None], lm.special_token_id)[0][0]
    fed = sequence[:, :-1]
    embedded = sum(table.weight[row].double() for table, row in zip(lm.emb, fed, strict=True))
    streams = session.streams()
    hidden = []
    for stream in streams:
        added = stream.added(window.start, sequence.shape[1])
        x = embedded if added is None else embedded + added[: fed.shape[1]].double()
        if stream.prefix is not None:
            x = torch.cat([stream.prefix.double(), x])
        config = lm.config
        places = sinusoidal_positions(torch.arange(len(x)), config.dim, config.max_period)
        x = x + config.positional_scale * places.double()
        for layer in lm.transformer.layers:
            own, cross, ff = (
                getattr(getattr(layer, f"layer_scale_{part}", None), "scale", None)
                for part in ("1", "cross", "2")
            )
            x = x + attend(layer.self_attn, norm(x, layer.norm1), None, own, byte_caches)
            if layer.cross_attention is not None and stream.cross is not None:
                heard = norm(x, layer.norm_cross)
                x = x + attend(layer.cross_attention, heard, stream.cross, cross, byte_caches)
            y = layer.activation(linear(norm(x, layer.norm2), layer.linear1.weight, layer.linear1.bias))
            x = x + linear(y, layer.linear2.weight, layer.linear2.bias, ff)
        hidden.append(norm(x, lm.out_norm)[-fed.shape[1] :])
    mixed = hidden[-1]
    for stream, row in zip(streams[:-1], hidden[:-1], strict=True):
        mixed = mixed + stream.weight * (row - hidden[-1])
    logits = torch.stack([linear(mixed, *lm.head(k)) for k in range(lm.n_q)], 1)
    return logits[session.first_step() - 1 :]
