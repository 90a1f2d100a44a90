"""What each half of guidance listens to: the streams of a session.

A stream is one row of the batch: its cross-attention source, its prefix, what is added to its input, and its
weight in the mix. Plain guidance u + c (x - u) is weights c and 1 - c; double guidance u + c (w + b (x - w) -
u) is c b, c (1 - b), 1 - c. Streams that hear the same are one, and a weight of zero is left out, which is
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmodel.lm.conditioning import ConditioningAttributes, null_conditions
from genmodel.lm.lm import LMModel, visible_prefix
from genmodel.request import Sampling


@dataclass(frozen=True, eq=False)
class Stream:
    """``cross`` [L, D] (None: nothing to attend to), ``prefix`` [P, D], ``bias`` [N, D] by absolute step."""

    weight: float
    cross: Tensor | None = None
    prefix: Tensor | None = None
    bias: Tensor | None = None

    @property
    def prefix_steps(self) -> int:
        return 0 if self.prefix is None else self.prefix.shape[0]


def _same(a: ConditioningAttributes, b: ConditioningAttributes) -> bool:
    """Whether two rows of one request hear the same."""
    if any((a.text.get(name) or "") != (b.text.get(name) or "") for name in {*a.text, *b.text}):
        return False
    if set(a.wav) != set(b.wav):
        return False
    return all(
        a.wav[name] is b.wav[name] or not int(a.wav[name].length.sum()) + int(b.wav[name].length.sum())
        for name in a.wav
    )


def guidance_rows(
    attributes: ConditioningAttributes, coef: float, beta: float | None, negative_text: str | None
) -> list[tuple[ConditioningAttributes, float]]:
    """The rows that guidance mixes, and their weights, which add up to one. The base comes last."""
    (null,) = null_conditions([attributes])
    if negative_text is not None:
        null.text = dict.fromkeys(null.text, negative_text)
    rows = [(attributes, coef), (null, 1.0 - coef)]
    if beta is not None:
        (wav_only,) = null_conditions([attributes], keep_wav=True)
        rows = [(attributes, coef * beta), (wav_only, coef * (1.0 - beta)), (null, 1.0 - coef)]
    merged: list[tuple[ConditioningAttributes, float]] = []
    for row, weight in reversed(rows):
        for i, (other, so_far) in enumerate(merged):
            if _same(row, other):
                merged[i] = (other, so_far + weight)
                break
        else:
            merged.append((row, weight))
    return [pair for pair in reversed(merged) if pair[1] != 0.0]


@torch.no_grad()
def encode_streams(
    lm: LMModel,
    attributes: ConditioningAttributes,
    sampling: Sampling,
    negative_text: str | None,
    steps: int,
) -> tuple[Stream, ...]:
    """The streams of one request; ``steps``: for how many absolute steps added conditions are laid out."""
    coef = lm.cfg_coef if sampling.cfg_coef is None else sampling.cfg_coef
    rows = guidance_rows(attributes, coef, sampling.cfg_coef_beta, negative_text)
    if not lm.condition_provider.conditioners:
        return (Stream(1.0),)
    two_step = sampling.two_step_cfg or lm.two_step_cfg
    groups: Sequence[Sequence[ConditioningAttributes]]
    groups = [[row] for row, _ in rows] if two_step else [[row for row, _ in rows]]
    encoded = [lm.encode_conditions(group) for group in groups]
    fuser = lm.fuser
    # Zeros without biases attend to nothing and add exactly nothing; else the null row must be computed.
    null_is_free = not lm.config.bias_attn and not fuser.cross_attention_pos_emb
    streams = []
    for number, (_, weight) in enumerate(rows):
        tensors, at = (encoded[number], 0) if two_step else (encoded[0], number)
        row = {name: (value[at : at + 1], mask[at : at + 1]) for name, (value, mask) in tensors.items()}
        cross = prefix = None
        source = fuser.cross(row)
        if source is not None:
            seen = source[1][0].bool()
            if bool(seen.any()):
                cross = source[0][0, seen]
            elif not null_is_free:
                cross = source[0][0]
        before = fuser.prefix(visible_prefix(row, fuser))
        if before is not None:
            prefix = before[0][0, before[1][0].bool()]
        bias = fuser.bias(row, steps)
        streams.append(Stream(weight, cross, prefix, None if bias is None else bias[0].float()))
    return tuple(streams)
