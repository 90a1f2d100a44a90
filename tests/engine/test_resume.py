"""A take that goes on from its tokens is the undisturbed one to the last bit, alone and in company."""

from __future__ import annotations

import random

import pytest
import torch

from genmodel.base import BaseGenModel
from genmodel.engine.engine import Engine, GenerationJob, TokensDiffer
from genmodel.engine.kernels import packing_available
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.lm.lm import LMModel
from genmodel.request import AudioClip, GenerationRequest
from tests.engine.test_company import NETWORKS, session
from tests.engine.tiny import tiny_lm

Heard = list[tuple[int, str, int, bool, torch.Tensor]]


def asked(frames: int, *, prompt: bool = False, seed: int = 3, variations: int = 2) -> GenerationRequest:
    clip = AudioClip(0.3 * torch.sin(torch.arange(32_000) * 0.05)[None], 32_000) if prompt else None
    return GenerationRequest(
        mode="continue" if prompt else "generate", frames=frames, prompt=clip, text="slow piano", seed=seed,
        variations=variations, chunk_frames=20,
    )  # fmt: skip


def heard(engine: Engine, job: GenerationJob) -> Heard:
    """Run a job to its end; all its chunks in the order of variation, stem, position."""
    found: Heard = []
    while job in engine.jobs:
        for owner, chunk in engine.step():
            if owner is job and chunk is None and job.error is not None:
                raise job.error
            if owner is job and chunk is not None:
                found.append((chunk.variation, chunk.stem, chunk.position, chunk.last, chunk.samples))
    return sorted(found, key=lambda entry: entry[:3])


def same(left: Heard, right: Heard) -> bool:
    return len(left) == len(right) and all(
        a[:4] == b[:4] and torch.equal(a[4], b[4]) for a, b in zip(left, right, strict=True)
    )


@pytest.fixture(scope="module")
def pocket() -> BaseGenModel:
    model = BaseGenModel.get_pretrained("pocket", "cpu")
    model.max_duration = 2.0  # windows of 100 frames, 60 apart: a short take slides too
    return model


@pytest.mark.parametrize("prompt", [False, True], ids=["generate", "continue"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_goes_on_at_the_next_frame(pocket: BaseGenModel, precision: str, prompt: bool) -> None:
    if precision == "bfloat16" and not packing_available(torch.bfloat16):
        pytest.skip("this processor has no bfloat16 kernels")
    pocket.precision = precision
    dice = random.Random(precision)
    engine = Engine(pocket)
    first = engine.add(asked(130, prompt=prompt))
    whole = heard(engine, first)
    tokens = [take.session.tokens[:, take.first :] for take in first.takes]
    total = tokens[0].shape[1]
    for company in (False, True):
        engine = Engine(pocket)
        if company:
            engine.add(asked(60, seed=8, variations=dice.randint(1, 3)))
            for _ in range(dice.randint(1, 30)):
                engine.step()
        job = engine.add(asked(130, prompt=prompt))
        ends = [total, dice.randint(105, total)] if company else [dice.randint(1, 95), dice.randint(90, 125)]
        engine.resume(job, [made[:, :end] for made, end in zip(tokens, ends, strict=True)])
        assert same(heard(engine, job), whole), ends
        assert all(
            torch.equal(a.session.tokens, b.session.tokens)
            for a, b in zip(job.takes, first.takes, strict=True)
        )


def test_replayed_steps_leave_the_bits_that_stepping_leaves(pocket: BaseGenModel) -> None:
    pocket.precision = "float32"
    engine = Engine(pocket)
    job = engine.add(asked(90, variations=1))
    while job.steps_done < 80:
        engine.step()
    moment = job.takes[0].session
    engine.stepper.sync(moment)
    final = moment.final_frames
    again = Engine(pocket)
    twin = again.add(asked(90, variations=1))
    again.resume(twin, [moment.tokens[:, :final]])
    while twin.takes[0].session.replaying or not twin.takes[0].session.step:
        again._admit()
        assert not (again._begin_one() or again._replay_one())
    fed = twin.takes[0].session.step - 1
    assert fed > 40
    whole = fed // 16 * 16  # the native caches lay places in blocks of sixteen
    for own, made in zip(engine.stepper.caches.own, again.stepper.caches.own, strict=True):
        assert torch.equal(own[:, 0, :, :, :whole], made[:, 0, :, :, :whole])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_every_kind_of_network(network: str, packed: bool) -> None:
    lm = tiny_lm(**NETWORKS[network])
    whole = resumed(lm, 0, packed=packed)
    for frames in (5, 30, 59, 61, 75, 89, 90):
        again = resumed(lm, frames, whole.tokens, packed=packed)
        assert torch.equal(again.tokens, whole.tokens), frames


def resumed(
    lm: LMModel,
    frames: int,
    tokens: torch.Tensor | None = None,
    *,
    packed: bool = True,
    precision: str = "auto",
) -> Session:
    """A session of two windows, made from its first ``frames`` frames on, beside another one."""
    one = session(lm, "slow warm piano", 90, 5, prompt=4, window=60)
    stepper = Stepper(lm, 3, precision, packed)
    beside = session(lm, "fast", 33, 6)
    if tokens is not None:
        one.tokens[:, :frames] = tokens[:, :frames]
        one.resume(frames)
        stepper.admit(beside)
    if not one.done:
        stepper.admit(one)
    while not one.done:
        for waiting in stepper.waiting():
            stepper.prefill([waiting])
        if one.replaying:
            assert stepper.replay(one)
        stepper.step()
    return one


def test_foreign_tokens_are_refused(pocket: BaseGenModel) -> None:
    pocket.precision = "float32"
    engine = Engine(pocket)
    job = engine.add(asked(90, variations=1))
    books = job.takes[0].session.tokens.shape[0]
    with pytest.raises(TokensDiffer):
        engine.resume(job, [torch.full((books, 30), pocket.lm.card)])
    with pytest.raises(TokensDiffer):
        engine.resume(job, [torch.zeros(books, 91, dtype=torch.int64)])
    engine.resume(job, [torch.zeros(books, 30, dtype=torch.int64)])
    with pytest.raises(TokensDiffer):
        heard(engine, job)
    assert not engine.busy and engine.stepper.free == 8
