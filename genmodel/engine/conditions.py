"""What each half of guidance listens to: the streams of a session.

A stream is one row of the batch: its cross-attention source, its prefix, what is added to its input, and its
weight in the mix. Plain guidance u + c (x - u) is weights c and 1 - c; double guidance u + c (w + b (x - w) -
u) is c b, c (1 - b), 1 - c. Streams that hear the same are one, and a weight of zero is left out, which is
exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmodel.lm.conditioning import ConditioningAttributes, null_conditions
from genmodel.lm.fuser import hold_frames
from genmodel.lm.lm import ConditionTensors, LMModel, visible_prefix
from genmodel.request import Sampling


@dataclass(frozen=True, eq=False)
class Stream:
    """``cross`` [L, D] (None: nothing to attend to), ``prefix`` [P, D]; the rest is added to the input."""

    weight: float
    cross: Tensor | None = None
    prefix: Tensor | None = None
    by_frame: Tensor | None = None  # [N, D] in frames of the take
    by_window: Callable[[int], Tensor | None] | None = None  # steps of a window -> [steps, D]

    @property
    def prefix_steps(self) -> int:
        return 0 if self.prefix is None else self.prefix.shape[0]

    def added(self, start: int, steps: int) -> Tensor | None:
        """What is added to the input of each step of a window that starts at a frame: [steps, D], or None."""
        total = None if self.by_window is None else self.by_window(steps)
        if self.by_frame is not None:
            frames = hold_frames(self.by_frame[None, start:], steps)[0]
            total = frames if total is None else total + frames
        return total


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
    return list(reversed(merged))


@torch.no_grad()
def encode_streams(
    lm: LMModel,
    attributes: ConditioningAttributes,
    sampling: Sampling,
    negative_text: str | None,
    frames: int,
) -> tuple[Stream, ...]:
    """The streams of one request; ``frames``: for how many frames of the take per-frame conditions are laid
    out.
    """
    coef = lm.cfg_coef if sampling.cfg_coef is None else sampling.cfg_coef
    rows = guidance_rows(attributes, coef, sampling.cfg_coef_beta, negative_text)
    if not lm.condition_provider.conditioners:
        return (Stream(1.0),)
    two_step = sampling.two_step_cfg or lm.two_step_cfg
    groups: Sequence[Sequence[ConditioningAttributes]]
    groups = [[row] for row, _ in rows] if two_step else [[row for row, _ in rows]]
    encoded = [lm.encode_conditions(group) for group in groups]
    streams = []
    for number, (_, weight) in enumerate(rows):
        if weight == 0.0:  # nobody hears it, but it was encoded: it may have lengthened a null prefix
            continue
        tensors, at = (encoded[number], 0) if two_step else (encoded[0], number)
        row = {name: (value[at : at + 1], mask[at : at + 1]) for name, (value, mask) in tensors.items()}
        streams.append(_stream(lm, weight, row, frames))
    return tuple(streams)


def _stream(lm: LMModel, weight: float, row: ConditionTensors, frames: int) -> Stream:
    """One row's condition tensors as a stream."""
    fuser = lm.fuser
    # Zeros without biases attend to nothing and add exactly nothing; else the null row must be computed.
    null_is_free = not lm.config.bias_attn and not fuser.cross_attention_pos_emb
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
    of_frames = {name: value for name, value in row.items() if name in fuser.frame_conditions}
    others = {name: value for name, value in row.items() if name not in fuser.frame_conditions}
    by_frame = fuser.bias(of_frames, frames)

    def by_window(steps: int) -> Tensor | None:
        bias = fuser.bias(others, steps)
        return None if bias is None else bias[0].float()

    added = any(fuser.cond2fuse.get(name) in ("sum", "input_interpolate") for name in others)
    return Stream(
        weight, cross, prefix, None if by_frame is None else by_frame[0].float(), by_window if added else None
    )
