"""A source leans on the draw and on nothing else: the twin draws the same, alone, in company and resumed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genmodel.base import BaseGenModel
from genmodel.engine.engine import Engine, TokensDiffer
from genmodel.engine.leaning import NOTHING, SAME, Lean, bonus_of, leaned
from genmodel.engine.separate import separated
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import make_sessions, run_sessions
from genmodel.errors import GenModelError
from genmodel.lm.lm import LMModel
from genmodel.request import AudioClip, GenerationRequest, Sampling
from tests.engine.test_resume import heard, same
from tests.engine.tiny import row, slow_twin, tiny_lm
from tests.model.models import tiny

FRAMES, WINDOW, STRIDE, PROMPT = 30, 14, 8, 5


def source(lm: LMModel, seed: int = 5) -> torch.Tensor:
    """Tokens for some frames, nothing for others."""
    torch.manual_seed(seed)
    tokens = torch.randint(0, lm.card, (lm.n_q, FRAMES))
    tokens[:, :PROMPT] = NOTHING
    tokens[:, 20:23] = NOTHING
    return tokens


def leaning(lm: LMModel, sampling: Sampling, lean: Lean | None) -> Session:
    torch.manual_seed(1)
    prompt = torch.randint(0, lm.card, (1, lm.n_q, PROMPT))
    (made,) = make_sessions(lm, prompt, [row("slow piano")], FRAMES, WINDOW, STRIDE, sampling, 11)
    made.lean = lean
    return made


@pytest.mark.parametrize("sampling", [Sampling(use_sampling=False), Sampling(top_k=7), Sampling(top_p=0.8)])
@pytest.mark.parametrize("bonus", [2.0, SAME])
def test_the_twin_leans_the_same_alone_and_in_company(sampling: Sampling, bonus: float) -> None:
    lm = tiny_lm()
    lean = Lean(source(lm), bonus)
    slow = slow_twin(lm, leaning(lm, sampling, lean), row("slow piano"), sampling)
    for company in (0, 3):
        fast = leaning(lm, sampling, lean)
        others = [leaning(lm, sampling, None) for _ in range(company)]
        run_sessions(Stepper(lm, 4), [*others[:1], fast, *others[1:]])
        assert torch.equal(fast.tokens, slow)
        free = leaning(lm, sampling, None)
        run_sessions(Stepper(lm, 1), [free])
        assert all(torch.equal(other.tokens, free.tokens) for other in others)
        assert not torch.equal(fast.tokens, free.tokens)
    there = lean.tokens >= 0
    kept = (slow == lean.tokens)[there].float().mean()
    assert kept == 1 if bonus == SAME else kept > 0.15


def test_strength_says_how_far() -> None:
    assert bonus_of(0) == SAME and bonus_of(1) == 0
    steps = [bonus_of(strength / 10) for strength in range(11)]
    assert steps == sorted(steps, reverse=True)
    logits = torch.zeros(2, 3, 5)
    tokens = torch.tensor([[0, 4, NOTHING], [5, 2, 1]])  # 5 is the special token
    raised = leaned(logits, tokens, 2.0)
    assert raised.sum() == 8 and raised[0, 0, 0] == raised[1, 1, 2] == raised[1, 2, 1] == 2


def clip(seconds: float, hz: float) -> AudioClip:
    return AudioClip(0.3 * torch.sin(torch.arange(round(seconds * 32_000)) * hz / 5093)[None], 32_000)


@pytest.mark.parametrize("prompt", [False, True])
def test_at_strength_0_a_plain_model_says_its_source_again(prompt: bool) -> None:
    model = tiny()
    request = GenerationRequest(
        mode="continue" if prompt else "generate", frames=40, prompt=clip(1.0, 200) if prompt else None,
        source=clip(0.4, 330), strength=0.0,
    )  # fmt: skip
    engine = Engine(model)
    job = engine.add(request)
    heard(engine, job)
    codes = model.compression_model.encode(clip(0.4, 330).samples[None])[0][0]
    seam = job.prepared.seam
    assert torch.equal(job.takes[0].session.tokens[:, seam : seam + codes.shape[1]], codes)
    free = engine.add(dataclasses.replace(request, strength=1.0))
    assert free.prepared.lean is None
    heard(engine, free)


@pytest.fixture(scope="module")
def pocket() -> BaseGenModel:
    model = BaseGenModel.get_pretrained("pocket", "cpu")
    model.max_duration = 1.0
    return model


def test_a_variation_and_an_accompaniment_go_on_from_their_tokens(pocket: BaseGenModel) -> None:
    vary = GenerationRequest("generate", 60, source=clip(1.2, 330), strength=0.5, seed=3, chunk_frames=20)
    drums = GenerationRequest(
        "generate", 60, context=clip(1.2, 220), given=("bass", "other"), seed=3, chunk_frames=20
    )
    for request in (vary, drums):
        engine = Engine(pocket)
        first = engine.add(request)
        whole = heard(engine, first)
        tokens = first.takes[0].session.tokens
        if request.given:
            assert {stem for _, stem, *_ in whole} == {"drums"}
            assert (
                (tokens[1::3] == 1024).all() and (tokens[2::3] == 1024).all() and (tokens[::3] < 1024).all()
            )
        again = engine.add(request)
        engine.resume(again, [tokens[:, :37]])
        assert same(heard(engine, again), whole)
        wrong = tokens[:, :37].clone()
        wrong[1, 3] = 7 if request.given else -1
        third = engine.add(request)
        with pytest.raises(TokensDiffer):
            engine.resume(third, [wrong])
        engine.drop(third)


def test_the_parts_of_a_mix_add_up_to_it() -> None:
    torch.manual_seed(2)
    time = torch.arange(32_000) / 32_000
    bass, tone = 0.4 * torch.sin(2 * torch.pi * 60 * time), 0.3 * torch.sin(2 * torch.pi * 1500 * time)
    hits = 0.5 * torch.randn(32_000) * torch.exp(-(time % 0.25) * 200)
    parts = separated(bass + tone + hits, 32_000, ("other", "drums", "bass"))
    assert (parts.sum(0) - (bass + tone + hits)).abs().max() < 1e-5
    for part, own in zip(parts, (tone, hits, bass), strict=True):
        likeness = [float(torch.corrcoef(torch.stack([part, other]))[0, 1]) for other in (tone, hits, bass)]
        assert max(likeness) == float(torch.corrcoef(torch.stack([part, own]))[0, 1]) > 0.7
    with pytest.raises(GenModelError):
        separated(bass, 32_000, ("vocals", "rest"))
