"""How far a precision is from float32 on this very checkpoint.

float32 samples real takes: half from nothing, half going on from what it made. The other precision is then
given the same tokens (teacher-forced) through the kernels that make steps, and at every place its
distribution over the next token is held against float32's, guidance included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from genmodel.engine.network import Network
from genmodel.engine.noise import gumbel_noise
from genmodel.engine.prepare import Prepared, empty_tokens, prepare
from genmodel.engine.session import UNKNOWN, Session
from genmodel.engine.stepper import Stepper
from genmodel.errors import GenModelError
from genmodel.lm.sampling import choose
from genmodel.request import AudioClip, GenerationRequest, TempoChange, TempoMap

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

TEXTS = (
    "house 124 bpm warm piano bass drums",
    "slow calm ambient strings",
    "fast rock drums distorted guitar",
    "jazz trio upright bass brushes",
)
TEMPI = (124, 70, 160, 96)
SEED = 20_240_611
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Take:
    """What float32 made: ``tokens`` int64 [K, F] and ``logits`` float32 [N, K, card] of its N steps."""

    prepared: Prepared
    tokens: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Distance:
    """Between float32 and another precision, over ``tokens`` places.

    ``kl``: mean of KL(float32 || other) in nats, ``kl_p99`` its 99th percentile. ``top1``: share of places
    with the same likeliest token. ``same_draw``: share where the same noise draws the same token.
    """

    kl: float
    kl_p99: float
    top1: float
    same_draw: float
    tokens: int


class _Listening:
    """A network that is heard: keeps the logits that it gives."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.heard: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def logits(self, mixed: Tensor) -> Tensor:
        made = self._network.logits(mixed)
        self.heard.append(made.detach().float().cpu().clone())
        return made


def _heard_stepper(model: BaseGenModel, slots: int, precision: str) -> tuple[Stepper, _Listening]:
    stepper = Stepper(model.lm, slots, precision)
    listening = _Listening(stepper.network)
    stepper.network = cast(Network, listening)
    return stepper, listening


def _session(model: BaseGenModel, prepared: Prepared, variation: int, tokens: Tensor) -> Session:
    return Session(
        tokens, prepared.windows, model.lm.pattern, prepared.streams, prepared.sampling, SEED, variation
    )


def _request(model: BaseGenModel, number: int, frames: int, prompt: AudioClip | None) -> GenerationRequest:
    tempo = TempoMap((TempoChange(0, TEMPI[number % len(TEMPI)]),))
    return GenerationRequest(
        mode="generate" if prompt is None else "continue",
        frames=frames,
        prompt=prompt,
        text=TEXTS[number % len(TEXTS)] if "description" in model.conditions else None,
        seed=SEED,
        tempo_map=tempo if "transport" in model.conditions else None,
    )


@torch.no_grad()
def reference_takes(model: BaseGenModel, count: int, frames: int) -> list[Take]:
    """``count`` takes by float32: the first half from nothing, the others going on from those."""
    frames = min(frames, model.window_frames // 2)
    first = [prepare(model, _request(model, n, frames, None)) for n in range((count + 1) // 2)]
    made = _made(model, first)
    later = []
    for number in range(len(first), count):
        audio = model.generate_audio(made[number - len(first)].tokens[None])[0].cpu()
        if len(audio) > 2:  # stems: a mono mix is a prompt, too
            audio = audio.mean(0, keepdim=True)
        clip = AudioClip(audio, int(model.sample_rate))
        later.append(prepare(model, _request(model, number, frames, clip)))
    return made + (_made(model, later, len(first)) if later else [])


def _made(model: BaseGenModel, prepared: Sequence[Prepared], first: int = 0) -> list[Take]:
    """All of them at once: they have the same number of steps."""
    stepper, network = _heard_stepper(model, len(prepared), "float32")
    sessions = [_session(model, one, first + n, empty_tokens(one, model)) for n, one in enumerate(prepared)]
    for session in sessions:
        stepper.admit(session)
        stepper.prefill([session])
    begun = torch.cat(network.heard)  # [sessions, K, card]: the first step of each
    network.heard.clear()
    while not any(session.done for session in sessions):
        stepper.step()
    rows = [begun, *network.heard]
    if not all(session.done and len(part) == len(sessions) for session in sessions for part in rows):
        raise GenModelError("takes that were made together did not end together", code="E_MODEL")
    for session in sessions:
        stepper.release(session)
    steps = torch.stack(rows, 1)  # [sessions, steps, K, card]
    return [
        Take(one, session.tokens, own) for one, session, own in zip(prepared, sessions, steps, strict=True)
    ]


@torch.no_grad()
def distance(model: BaseGenModel, takes: Sequence[Take], precision: str) -> Distance:
    """How far ``precision`` is from what made the takes. Raises GenModelError where it cannot run."""
    stepper, network = _heard_stepper(model, 1, precision)
    divergences: list[Tensor] = []
    likeliest = drawn = 0
    for number, take in enumerate(takes):
        session = _session(model, take.prepared, number, take.tokens.clone())
        session.tokens[:, -1] = UNKNOWN  # what is known to its end would have nothing left to be begun
        session.resume(session.tokens.shape[1] - 1)
        start, keys = session.first_step(), session.step_keys()
        valid_at = session.pattern().frame_at >= 0
        stepper.admit(session)
        network.heard.clear()
        stepper.prefill([session])
        while session.replaying:
            stepper.replay(session)
        stepper.release(session)
        theirs = torch.cat(network.heard)
        steps = slice(start, start + len(theirs))
        ours, valid = take.logits[: len(theirs)], valid_at[:, steps].T
        log_p, log_q = ours.log_softmax(-1), theirs.log_softmax(-1)
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)[valid])
        likeliest += int((ours.argmax(-1) == theirs.argmax(-1))[valid].sum())
        sampling = replace(take.prepared.sampling, cfg_coef=None)
        noise = None if sampling.greedy else gumbel_noise(keys[:, steps].T.cpu(), ours.shape[-1])
        rule = (sampling.temperature, sampling.top_k, sampling.top_p)
        drawn += int((choose(ours, noise, *rule) == choose(theirs, noise, *rule))[valid].sum())
    every = torch.cat(divergences).double()
    count = len(every)
    if not bool(torch.isfinite(every).all()):
        raise GenModelError(f"{precision} gives numbers that are not finite here", code="E_NOT_FINITE")
    p99 = float(every.sort().values[min(count - 1, int(0.99 * count))])
    return Distance(float(every.mean()), p99, likeliest / count, drawn / count, count)
