"""A soak: random requests come and go on one engine, and every take must equal its solo twin, to the bit.

Requests differ in mode, length (several windows long at most), seed, text, tempo, variations, stems, chunk
size and sampling. They begin at random steps beside others, some are cancelled, and some are thrown off and
resumed from their tokens, as after the death of a worker. Of each, tokens and audio are compared with those
of the same request alone on an engine of its own; of a cancelled one, the audio that it gave so far.

``--count`` requests in all, shared among the precisions that run here; ``--captured`` adds the other way to
run a step (with all of its state on the device, ``worker.capture``); ``--seed`` repeats a run. Solo twins
are made the plain way.
"""

from __future__ import annotations

import contextlib
import random
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from genmodel.base import BaseGenModel
from genmodel.engine.engine import Engine, GenerationJob
from genmodel.engine.network import Network
from genmodel.request import AudioClip, GenerationRequest, Sampling, TempoChange, TempoMap
from tests.bench.aims import Aim
from tests.model.models import STEMS, stems_model, tiny

OF_ALL = False  # minutes of its own; its record stands in RESULTS.md all the same
COUNT, SLOTS, MOST_JOBS = 2000, 8, 12
WINDOW_S = 3.0  # 75 frames, so that many takes need more than one window
MODES = ("generate", "continue", "vary", "accompany", "fill")
AIMS = (
    Aim("random requests, each compared with its solo twin", "requests", least=COUNT),
    Aim("takes that differ from their solo twin", "different", most=0),
)
TEXTS = (None, "slow warm piano", "fast", "dark jazz drums piano house")
Audio = dict[tuple[int, str], list[Tensor]]  # chunks by variation and stem


@dataclass(eq=False)
class Guest:
    """A request while it is aboard."""

    number: int
    mode: str
    request: GenerationRequest
    job: GenerationJob
    audio: Audio = field(default_factory=dict)
    resumed: int = 0


@dataclass
class Tally:
    """What happened so far."""

    finished: int = 0
    cancelled: int = 0
    resumed: int = 0
    most_aboard: int = 0
    steps: int = 0
    modes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODES, 0))
    different: list[str] = field(default_factory=list)


def _clip(dice: random.Random, frames: int) -> AudioClip:
    """Noise of so many frames (25 a second), often at another rate or in stereo."""
    rate = dice.choice((32_000, 32_000, 44_100, 22_050))
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    samples = torch.randn(
        dice.choice((1, 1, 2)), frames * rate // 25 + dice.randrange(900), generator=generator
    )
    return AudioClip(0.1 * samples, rate)


def random_request(dice: random.Random, stems: bool) -> tuple[str, GenerationRequest]:
    """(mode as a musician calls it, request)."""
    mode = dice.choice(MODES if stems else MODES[:3])
    frames = dice.choice((dice.randint(1, 12), dice.randint(5, 60), dice.randint(60, 130)))
    given: dict[str, Any] = {
        "mode": "continue" if mode == "continue" else "generate",
        "frames": frames,
        "text": dice.choice(TEXTS),
        "seed": dice.randrange(2**40),
        "variations": dice.choice((1, 1, 1, 2, 3)),
        "chunk_frames": dice.choice((1, 5, 12, 25, 50)),
        "sampling": dice.choice(
            (None, Sampling(top_k=20), Sampling(top_p=0.9, cfg_coef=1.0), Sampling(use_sampling=False),
             Sampling(temperature=1.3, cfg_coef=5.0))
        ),
    }  # fmt: skip
    if given["text"] and dice.random() < 0.2:
        given["negative_text"] = "fast house"
    if mode == "continue":
        given["prompt"] = _clip(dice, dice.randint(6, 60))
    if mode == "vary":
        given |= {"source": _clip(dice, frames), "strength": dice.choice((0.0, 0.3, 0.5, 1.0))}
    if stems:
        if dice.random() < 0.6:
            change = TempoChange(0, dice.choice((84, 120, Fraction(1401, 10))), dice.choice((4, 3)))
            given["tempo_map"] = TempoMap((change,), Fraction(dice.randrange(16), 4))
        if mode == "accompany":
            given |= {"context": _clip(dice, frames + 5), "given": (dice.choice(STEMS),)}
        if mode == "fill":
            given |= {"following": _clip(dice, 20), "following_s": Fraction(frames, 25), "heard_from": frames}
        if dice.random() < 0.3:
            left = [name for name in STEMS if name not in given.get("given", ())]
            given["stems"] = (dice.choice(left),)
    return mode, GenerationRequest(**given)


def _joined(audio: Audio) -> dict[tuple[int, str], Tensor]:
    return {key: torch.cat(chunks, 1) for key, chunks in audio.items()}


def _take_in(audio: Audio, chunk: Any) -> None:
    audio.setdefault((chunk.variation, chunk.stem), []).append(chunk.samples)


def solo(engine: Engine, request: GenerationRequest) -> tuple[list[Tensor], dict[tuple[int, str], Tensor]]:
    """Tokens of each variation and audio, made with nobody else aboard."""
    job, audio = engine.add(request), {}
    while engine.busy:
        for _, chunk in engine.step():
            if chunk is None:
                raise job.error or RuntimeError("a solo twin failed")
            _take_in(audio, chunk)
    return [session.tokens for session in job.sessions], _joined(audio)


def _verdict(guest: Guest, twin: Engine, whole: bool) -> str | None:
    """What differs from the solo twin, in words."""
    tokens, audio = solo(twin, guest.request)
    named = f"request {guest.number} ({guest.mode}, {guest.request.frames} frames, resumed {guest.resumed})"
    made = _joined(guest.audio)
    if whole and set(made) != set(audio):
        return f"{named}: variations or stems are missing"
    for key, samples in made.items():
        wanted = audio[key] if whole else audio[key][:, : samples.shape[1]]
        if not torch.equal(samples, wanted):
            return f"{named}: the audio of {key} differs"
    if whole and not all(map(torch.equal, [s.tokens for s in guest.job.sessions], tokens)):
        return f"{named}: tokens differ"
    return None


def _resume(engine: Engine, guest: Guest) -> None:
    """Throw a request off and let it go on from its tokens, as another worker would."""
    made = [take.session.tokens[:, take.first : take.pushed].clone() for take in guest.job.takes]
    engine.drop(guest.job)
    guest.job = engine.add(guest.request)
    engine.resume(guest.job, made)
    guest.audio, guest.resumed = {}, guest.resumed + 1


def soak(
    model: BaseGenModel, precision: str, count: int, dice: random.Random, tally: Tally, capture: str = "off"
) -> None:
    """``count`` requests on one engine of ``model``; what happened goes to ``tally``."""
    model.precision, model.capture = precision, "off"
    twin = Engine(model, 4)
    model.capture = capture
    engine = Engine(model, SLOTS)
    guests: list[Guest] = []
    begun = 0
    while begun < count or guests:
        while begun < count and len(guests) < MOST_JOBS and dice.random() < 0.3:
            mode, request = random_request(dice, model.stems != ("mix",))
            guests.append(Guest(begun, mode, request, engine.add(request)))
            tally.modes[mode] += 1
            begun += 1
        for job, chunk in engine.step():
            owner = next(guest for guest in guests if guest.job is job)
            if chunk is None:
                tally.different.append(f"request {owner.number} ({owner.mode}) failed: {job.error}")
                guests.remove(owner)
                continue
            _take_in(owner.audio, chunk)
        tally.steps += 1
        tally.most_aboard = max(tally.most_aboard, SLOTS - engine.stepper.free)
        for guest in [guest for guest in guests if guest.job.state == "done"]:
            guests.remove(guest)
            tally.finished += 1
            _judge(tally, _verdict(guest, twin, whole=True), precision)
        if guests and dice.random() < 0.02:
            guest = dice.choice(guests)
            guests.remove(guest)
            engine.drop(guest.job)
            tally.cancelled += 1
            _judge(tally, _verdict(guest, twin, whole=False), precision)
        if guests and dice.random() < 0.02:
            _resume(engine, dice.choice(guests))
            tally.resumed += 1
    if engine.stepper.free != SLOTS or engine.busy:
        tally.different.append(f"{precision}: slots were not given back")


def _judge(tally: Tally, wrong: str | None, precision: str) -> None:
    if wrong is not None:
        tally.different.append(f"{precision}: {wrong}")


@contextlib.contextmanager
def _long_form_back() -> Iterator[None]:
    before = Network.lean_steps
    try:
        yield
    finally:
        Network.lean_steps = before


def run(args: Namespace) -> dict[str, Any]:
    from tests.bench.lm import precisions

    count, names = args.count or COUNT, precisions(args.precision)
    makers = (lambda: stems_model(WINDOW_S), lambda: tiny(max_duration=WINDOW_S))
    ways = [(name, "off") for name in names]
    if getattr(args, "captured", False):
        ways += [(name, "on") for name in names if name != "int8"]  # the native kernels have no such step
    shares = [(way, make) for way in ways for make in makers]
    tally, begun = Tally(), time.perf_counter()
    with torch.no_grad(), _long_form_back():
        for number, ((name, capture), make) in enumerate(shares):
            Network.lean_steps = capture == "off"  # what is captured is the long form of a step
            share = count * (number + 1) // len(shares) - count * number // len(shares)
            soak(make(), name, share, random.Random(f"{args.seed} {number}"), tally, capture)
    return {
        "requests": sum(tally.modes.values()),
        "different": len(tally.different),
        "finished": tally.finished,
        "cancelled": tally.cancelled,
        "resumed": tally.resumed,
        "modes": tally.modes,
        "most_aboard": tally.most_aboard,
        "steps": tally.steps,
        "precisions": names,
        "captured_too": [name for name, capture in ways if capture == "on"],
        "seed": args.seed,
        "examples": tally.different[:5],
        "failed": bool(tally.different),
        "seconds": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
    }
