"""Prefill in slices: the tokens of the one pass, the same bits in any schedule, and nobody waits for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genmodel.base import BaseGenModel
from genmodel.engine import prefilling
from genmodel.engine.engine import Engine
from genmodel.engine.kernels import native_absent
from genmodel.engine.prefilling import cuts
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.lm.lm import LMModel
from genmodel.request import AudioClip, GenerationRequest, Sampling
from tests.engine.test_company import NETWORKS, session
from tests.engine.tiny import tiny_lm

ROWS = 16


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prefilling.SLICE_ROWS, "cpu", ROWS)


def prompted(lm: LMModel, **more: Any) -> Session:
    return session(lm, "slow warm piano", 75, 5, prompt=41, **more)


@pytest.mark.parametrize("lengths", [(1,), (7, 7), (20, 23, 20), (64,), (8, 1)])
@pytest.mark.parametrize("rows", [1, 2, 9, 16, None])
def test_slices_hold_every_place_once_in_order_and_all_streams_end_in_the_last(
    lengths: tuple[int, ...], rows: int | None
) -> None:
    slices = list(cuts(lengths, rows))
    assert len(slices) == 1 or rows is not None
    for c, length in enumerate(lengths):
        parts = [(begin, end) for one in slices for stream, begin, end in one if stream == c]
        assert [place for part in parts for place in range(*part)] == list(range(length))
    assert sorted(stream for stream, _, _ in slices[-1]) == list(range(len(lengths)))
    if rows is not None:
        assert all(sum(end - begin for _, begin, end in one) <= max(rows, len(lengths)) for one in slices)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("network", NETWORKS)
def test_tokens_are_those_of_the_one_pass(network: str, packed: bool) -> None:
    lm = tiny_lm(**NETWORKS[network])
    for sampling in (Sampling(use_sampling=False), Sampling(top_k=20)):
        sliced, whole = prompted(lm, sampling=sampling, window=60), prompted(lm, sampling=sampling, window=60)
        run_sessions(Stepper(lm, 1, packed=packed), [sliced])
        run_sessions(Stepper(lm, 1, packed=packed, slices=False), [whole])
        assert torch.equal(sliced.tokens, whole.tokens)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("network", ["cross", "prepend", "frames"])
def test_the_schedule_changes_no_bit(network: str, precision: str) -> None:
    if precision == "int8" and (absent := native_absent()):
        pytest.skip(absent)
    lm = tiny_lm(**{**NETWORKS[network], **({"dim": 64} if precision == "int8" else {})})
    alone, between = Stepper(lm, 3, precision), Stepper(lm, 3, precision)
    one, other = prompted(lm), prompted(lm)
    alone.admit(one)
    alone.prefill([one])
    beside = session(lm, "fast", 70, 6)
    between.admit(other)
    beginning = between.begin([other])
    assert not beginning.advance()
    between.admit(beside)
    between.prefill([beside])  # a slot that is longer than the caches so far: they move
    while other in between.waiting() and not beginning.advance():
        assert between.step() == [beside]
    assert one.step == other.step > 40
    for own, made in zip(alone.caches.own, between.caches.own, strict=True):
        # the native caches lay places in blocks of sixteen
        assert torch.equal(own[:, 0, :, :, :32], made[:, 0, :, :, :32])
    while alone.step():
        pass
    while between.step():
        pass
    assert torch.equal(one.tokens, other.tokens)


def asked(frames: int, prompt_frames: int = 0, variations: int = 1, seed: int = 3) -> GenerationRequest:
    wave = 0.3 * torch.sin(torch.arange(640 * prompt_frames) * 0.05)[None]
    clip = AudioClip(wave, 32_000) if prompt_frames else None
    return GenerationRequest(
        mode="continue" if clip else "generate", frames=frames, prompt=clip, text="slow piano", seed=seed,
        variations=variations, chunk_frames=20,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pocket() -> BaseGenModel:
    model = BaseGenModel.get_pretrained("pocket", "cpu")
    model.max_duration = 2.0
    model.precision = "float32"
    return model


def tokens(engine: Engine, request: GenerationRequest) -> list[torch.Tensor]:
    job = engine.add(request)
    while job in engine.jobs:
        engine.step()
    return [take.session.tokens for take in job.takes]


def test_no_step_waits_for_a_prefill_and_variations_share_it(pocket: BaseGenModel) -> None:
    alone = tokens(Engine(pocket), asked(130, 60, variations=2))
    engine = Engine(pocket)
    live = engine.add(asked(90, seed=8))
    while live.steps_done < 20:
        engine.step()
    long = engine.add(asked(130, 60, variations=2))
    slices, beginnings = 0, []
    while long in engine.jobs:
        before = live.steps_done
        engine.step()
        if engine._beginning is not None:
            slices += 1
            if engine._beginning not in beginnings:
                beginnings.append(engine._beginning)
            if live in engine.jobs and before < live.steps_total:
                assert live.steps_done == before + 1
    assert slices > 8
    assert [len(one.sessions) for one in beginnings[:1]] == [2]  # the first window is read once for both
    assert len(beginnings) >= 3  # and each take's next window is begun in slices too
    assert all(torch.equal(take.session.tokens, made) for take, made in zip(long.takes, alone, strict=True))


def test_a_cancel_between_slices_frees_the_slot_and_leaves_nothing(pocket: BaseGenModel) -> None:
    alone = tokens(Engine(pocket), asked(60))[0]
    engine = Engine(pocket, slots=1)
    dropped = engine.add(asked(90, 60))
    for _ in range(3):
        engine.step()
    assert engine._beginning is not None and dropped.state == "prefill"
    for cache in engine.stepper.caches.own:
        cache[:, 0, :, :, :4] = float("nan")  # whatever the slices have left
    engine.drop(dropped)
    assert engine._beginning is None and engine.stepper.free == 1 and not engine.busy
    assert torch.equal(tokens(engine, asked(60))[0], alone)


def test_what_fails_in_a_slice_fails_that_job_alone(
    pocket: BaseGenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tokens(Engine(pocket), asked(60))[0]
    engine = Engine(pocket)
    good = engine.add(asked(60))
    engine.step()
    bad = engine.add(asked(90, 60))
    honest = engine.stepper.network.prefill

    def failing(*args: Any, **more: Any) -> prefilling.Slices:
        slices = honest(*args, **more)
        for _ in range(2):
            yield next(slices)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(engine.stepper.network, "prefill", failing)
    while engine.busy:
        engine.step()
    assert bad.state == "failed" and bad.error is not None and bad.error.code == "E_MEMORY"
    assert good.state == "done" and torch.equal(good.takes[0].session.tokens, alone)
    assert engine.stepper.free == 8 and not engine.stepper.partial
