"""Rows of codes from a language model: what AudioCraft's ``generate`` does, driven through the stepper.

Every row is a session of its own, so rows may differ in everything but their length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genmodel.engine.captured.stepper import stepper_for
from genmodel.engine.conditions import Stream, encode_streams
from genmodel.engine.session import UNKNOWN, Session, Window, plan_windows
from genmodel.engine.stepper import MAX_SLOTS, Stepper
from genmodel.errors import ContractError, GenModelError
from genmodel.lm.conditioning import ConditioningAttributes
from genmodel.lm.lm import LMModel
from genmodel.request import Sampling

Progress = Callable[[int, int], None]


def draw_seed() -> int:
    """A seed from torch's global generator, so that ``torch.manual_seed`` makes scripts reproducible."""
    return int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))


def run_sessions(stepper: Stepper, sessions: Sequence[Session], callback: Progress | None = None) -> None:
    """Make all sessions whole. ``callback(done, total)``: steps of the whole, true totals over all windows.

    Steps of several rows count once, as they are made together. Raising from the callback cancels: the
    stepper is left empty.
    """
    pending = list(sessions)
    running: list[Session] = []
    total = sum(session.steps_total for session in sessions)
    per_row = max((session.steps_total for session in sessions), default=0)
    told = 0
    try:
        while pending or running:
            while pending and stepper.free:
                running.append(pending.pop(0))
                stepper.admit(running[-1])
            ready = [session for session in running if session not in stepper.waiting()]
            waiting = [session for session in running if session not in ready]
            if waiting:
                stepper.prefill(waiting[:1])
            else:
                stepper.step()
            for session in [session for session in running if session.done]:
                stepper.check_finite(session)
                stepper.release(session)
                running.remove(session)
            done = sum(session.steps_done for session in sessions) * per_row // max(total, 1)
            if callback is not None and done > told:
                for step in range(told + 1, done + 1):
                    callback(step, per_row)
            told = max(told, done)
    finally:
        for session in running:
            stepper.release(session)


def check_codes(lm: LMModel, prompt: Tensor) -> None:
    """GenModelError unless ``prompt`` is codes int64 [B, K, P] of this model (the special token included)."""
    if prompt.dim() != 3 or prompt.shape[1] != lm.n_q or prompt.is_floating_point():
        raise GenModelError(
            "the prompt's codes do not fit this model",
            field="prompt",
            value=tuple(prompt.shape),
            allowed=f"integers [batch, {lm.n_q}, frames]",
        )
    if prompt.numel() and not 0 <= int(prompt.min()) <= int(prompt.max()) <= lm.card:
        raise GenModelError("the prompt holds a code out of range", field="prompt", allowed=f"0…{lm.card}")


def make_sessions(
    lm: LMModel,
    prompt: Tensor | None,
    attributes: Sequence[ConditioningAttributes],
    total: int,
    window: int,
    stride: int | None,
    sampling: Sampling,
    seed: int,
    negative_text: str | None = None,
    attributes_of: Callable[[int, Window], ConditioningAttributes] | None = None,
) -> list[Session]:
    """One session per row of ``attributes``; ``attributes_of(row, window)`` where conditions differ by
    window.
    """
    if prompt is not None:
        check_codes(lm, prompt)
        if len(prompt) != len(attributes):
            raise ContractError(
                "prompts and conditions differ in number",
                field="prompt",
                value=(len(prompt), len(attributes)),
            )
    known = 0 if prompt is None else prompt.shape[-1]
    windows = plan_windows(known, total, window, stride)
    encoded: list[tuple[ConditioningAttributes, tuple[Stream, ...]]] = []

    def streams_of(row: int) -> Any:
        if attributes_of is not None:
            return lambda at: encode_streams(lm, attributes_of(row, at), sampling, negative_text, total)
        given = attributes[row]
        for other, streams in encoded:
            if other is given or (other.text == given.text and not (given.wav or given.frames or other.wav)):
                return streams
        encoded.append((given, encode_streams(lm, given, sampling, negative_text, total)))
        return encoded[-1][1]

    sessions = []
    for row in range(len(attributes)):
        tokens = torch.full((lm.n_q, total), UNKNOWN, dtype=torch.int64, device=lm.device)
        if prompt is not None:
            tokens[:, :known] = prompt[row].to(tokens)
        sessions.append(Session(tokens, windows, lm.pattern, streams_of(row), sampling, seed, row))
    return sessions


def generate_window(
    lm: LMModel,
    prompt: Tensor | None,
    conditions: Sequence[ConditioningAttributes],
    num_samples: int | None,
    max_gen_len: int,
    settings: dict[str, Any],
    remove_prompts: bool,
    callback: Progress | None,
    seed: int | None,
) -> Tensor:
    """``LMModel.generate``: codes [B, K, max_gen_len] in one window."""
    counts = {len(conditions)} if conditions else set()
    if prompt is not None:
        counts.add(len(prompt))
    if num_samples is not None:
        counts.add(num_samples)
    if len(counts) > 1:
        raise ContractError("the numbers of samples, prompts and conditions differ", value=sorted(counts))
    rows = counts.pop() if counts else 1
    attributes = list(conditions) or [ConditioningAttributes()] * rows
    sessions = make_sessions(
        lm,
        prompt,
        attributes,
        max_gen_len,
        max_gen_len,
        None,
        Sampling(**settings),
        draw_seed() if seed is None else seed,
    )
    run_sessions(stepper_for(lm, min(MAX_SLOTS, rows)), sessions, callback)
    codes = torch.stack([session.tokens for session in sessions])
    return codes[..., 0 if prompt is None or not remove_prompts else prompt.shape[-1] :]
