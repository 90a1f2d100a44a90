"""Tiny random models for the engine's tests, and the slow twin that the engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genmodel.engine.noise import gumbel_noise
from genmodel.engine.session import UNKNOWN, Session
from genmodel.lm.conditioners.frames import ContextConditioner, HarmonyConditioner, TransportConditioner
from genmodel.lm.conditioners.words import WordsConditioner
from genmodel.lm.conditioning import ConditioningAttributes, ConditioningProvider, null_conditions
from genmodel.lm.config import LMConfig
from genmodel.lm.fuser import ConditionFuser
from genmodel.lm.lm import LMModel
from genmodel.lm.sampling import choose
from genmodel.request import Sampling

WORDS = ["slow", "fast", "piano", "drums", "warm", "dark", "house", "jazz"]
TEXTS = ["slow warm piano", "fast", "dark jazz drums piano house", None]


def tiny_lm(text: str = "cross", frames: Sequence[str] = (), seed: int = 0, **changes: Any) -> LMModel:
    """A model of 2 layers; ``text``: how words enter; ``frames``: per-frame conditions that are summed."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"dim": 32, "num_heads": 4, "num_layers": 2, "n_q": 4, "card": 40}
    shape |= {"cross_attention": text == "cross", **changes}
    config = LMConfig(**shape)
    kinds = {
        "transport": lambda: TransportConditioner(config.dim),
        "harmony": lambda: HarmonyConditioner(config.dim),
        "context": lambda: ContextConditioner(config.dim, 4, config.card, 5),
    }
    conditioners: dict[str, Any] = {"description": WordsConditioner(WORDS, {}, 16, config.dim)}
    conditioners |= {name: kinds[name]() for name in frames}
    fuse: dict[str, list[str]] = {"sum": list(frames)}
    fuse.setdefault(text, []).append("description")
    lm = LMModel(
        config, ConditioningProvider(conditioners), ConditionFuser(fuse, frame_conditions=tuple(frames))
    )
    for name, parameter in lm.named_parameters():
        if name.endswith("bias") or "scale" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return lm.eval()


def row(text: str | None, **frames: Tensor) -> ConditioningAttributes:
    return ConditioningAttributes(text={"description": text}, frames=dict(frames))


@torch.no_grad()
def slow_twin(
    lm: LMModel,
    session: Session,
    attributes: ConditioningAttributes,
    sampling: Sampling,
    negative_text: str | None = None,
) -> Tensor:
    """The session's tokens int64 [K, F] by the plain forward: no cache, no shortcut, every step from the
    start.

    Only the schedule (windows, noise keys) is the session's. Both halves of guidance are computed, logits are
    mixed.
    """
    tokens = session.tokens.clone()
    (null,) = null_conditions([attributes])
    if negative_text is not None:
        null.text["description"] = negative_text
    rows = [attributes, null]
    coef = lm.cfg_coef if sampling.cfg_coef is None else sampling.cfg_coef
    encoded = lm.encode_conditions(rows)
    for window in session.windows:
        pattern = lm.pattern(window.frames)
        part = tokens[None, :, window.start : window.start + window.frames]
        sequence = pattern.build_pattern_sequence(part, lm.special_token_id)[0]
        # per-frame conditions count in frames of the take: from this window's start on
        per_frame = lm.fuser.frame_conditions
        tensors = {
            name: (value[:, min(window.start, value.shape[1] - 1) :], mask)
            if name in per_frame
            else (value, mask)
            for name, (value, mask) in encoded.items()
        }
        for step in range(pattern.first_step_of_frame(window.known) or 1, pattern.steps):
            # what is not known yet lies ahead, where a causal network does not look
            fed = sequence.clamp_min(0).expand(len(rows), -1, -1)
            logits = lm(fed, None, tensors)[:, :, step - 1]
            mixed = logits[1] + coef * (logits[0] - logits[1])
            if session.lean is not None:
                frame = pattern.frame_at[:, step]
                for k in range(mixed.shape[0]):
                    near = int(session.lean.tokens[k, int(frame[k]) + window.start]) if frame[k] >= 0 else -1
                    if 0 <= near < lm.card:
                        mixed[k, near] += session.lean.bonus
            noise = None
            if not sampling.greedy:
                at = pattern.frame_at[:, step].clamp_min(0) + window.start
                noise = gumbel_noise(session.keys.gather(1, at[:, None])[:, 0], lm.card)
            chosen = choose(mixed, noise, sampling.temperature, sampling.top_k, sampling.top_p)
            column = sequence[0, :, step]
            sequence[0, :, step] = torch.where(column == UNKNOWN, chosen, column)
        tokens[:, window.start : window.start + window.frames] = pattern.revert_pattern_sequence(
            sequence, -1
        )[0][0]
    return tokens
