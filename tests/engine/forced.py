"""The logits of every step of a take whose tokens are given, so that two precisions can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper


def forced_logits(stepper: Stepper, session: Session, tokens: Tensor) -> Tensor:
    """[steps, K, card] while a fresh session of one window is led along ``tokens`` [K, F]."""
    heard: list[Tensor] = []
    honest = stepper.network.logits

    def listening(mixed: Tensor) -> Tensor:
        heard.append(honest(mixed))
        return heard[-1]

    session.tokens[:, :-1] = tokens[:, :-1]  # the last frame is left to be made: there the replay ends
    session.resume(tokens.shape[1] - 1)
    stepper.network.logits = listening  # type: ignore[method-assign]
    try:
        stepper.admit(session)
        stepper.prefill([session])
        while session.replaying:
            stepper.replay(session)
        stepper.release(session)
    finally:
        del stepper.network.logits
    return torch.cat(heard)


def divergence(exact: Tensor, rough: Tensor) -> tuple[float, float]:
    """Mean Kullback-Leibler divergence in nats of the choices, and the share of equal likeliest tokens."""
    p, q = exact.double().log_softmax(-1), rough.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return float(kl), float((exact.argmax(-1) == rough.argmax(-1)).double().mean())
