"""Requests of random tokens on a model, and the time of their steps: what ``lm`` and ``batch`` share."""

from __future__ import annotations

import time

import torch

from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import make_sessions
from genmodel.lm.conditioning import ConditioningAttributes
from genmodel.lm.lm import LMModel
from genmodel.request import Sampling


def take(lm: LMModel, frames: int, seed: int, prompt_frames: int = 0) -> Session:
    """A request of its own; ``frames`` are made after the prompt."""
    prompt = None
    if prompt_frames:
        generator = torch.Generator().manual_seed(seed)
        shape = (1, lm.n_q, prompt_frames)
        prompt = torch.randint(0, lm.card, shape, generator=generator)
    rows = [ConditioningAttributes(text={"description": "a text"})]
    total = prompt_frames + frames
    return make_sessions(lm, prompt, rows, total, total, None, Sampling(), seed)[0]


def timed_steps(stepper: Stepper, sessions: list[Session]) -> tuple[float, list[float]]:
    """Seconds of the first one's prefill, and of each step while all are aboard."""
    prefill_s = 0.0
    for session in sessions:
        stepper.admit(session)
        begun = time.perf_counter()
        stepper.prefill([session])
        prefill_s = prefill_s or time.perf_counter() - begun
    steps: list[float] = []
    while not any(session.done for session in sessions):
        begun = time.perf_counter()
        stepper.step()
        steps.append(time.perf_counter() - begun)
    while not all(session.done for session in sessions):
        stepper.step()
    for session in sessions:
        stepper.release(session)
    return prefill_s, steps
