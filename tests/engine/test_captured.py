"""The step whose state is on the device makes the tokens of the plain step, in any company and bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from genmodel.base import BaseGenModel
from genmodel.engine.captured.drawing import choose_by_row
from genmodel.engine.captured.frame import FrameStep
from genmodel.engine.captured.graphs import Graphs
from genmodel.engine.captured.stepper import CapturedStepper, lanes_for, span_for, stepper_for
from genmodel.engine.captured.tables import Tables
from genmodel.engine.engine import Engine, TokensDiffer
from genmodel.engine.leaning import Lean
from genmodel.engine.network import Network
from genmodel.engine.noise import gumbel_noise, position_keys
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.errors import GenModelError
from genmodel.lm.lm import LMModel
from genmodel.lm.sampling import choose
from genmodel.request import Sampling
from tests.engine import test_company, test_twin
from tests.engine.test_company import session
from tests.engine.test_resume import asked, heard, same
from tests.engine.tiny import tiny_lm

NETWORKS = {**test_twin.NETWORKS, **test_company.NETWORKS}
SETTINGS = [
    Sampling(use_sampling=False),
    Sampling(top_k=5),
    Sampling(top_k=0, temperature=1.3),
    Sampling(top_k=250, temperature=0.7),
    Sampling(top_k=5, top_p=0.6),
    Sampling(temperature=0.0, top_k=3),
    Sampling(top_k=1),
]


@pytest.fixture(autouse=True)
def _long_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured is the long form of a step, and that is what it is compared with."""
    monkeypatch.setattr(Network, "lean_steps", False)


def test_rows_with_settings_of_their_own_are_drawn_as_by_the_twin() -> None:
    torch.manual_seed(0)
    keys = position_keys(3, 0, len(SETTINGS), 4).T
    for _ in range(20):
        logits = 3 * torch.randn(len(SETTINGS), 4, 60)
        logits[:, 1] = logits[:, 1].round()  # equal ones at the threshold are all kept
        noise = gumbel_noise(keys, 60)
        drawn = choose_by_row(
            logits,
            noise,
            torch.tensor([s.temperature for s in SETTINGS]),
            torch.tensor([s.top_k for s in SETTINGS]),
            torch.tensor([s.top_p for s in SETTINGS]),
            torch.tensor([s.greedy for s in SETTINGS]),
        )
        for row, sampling in enumerate(SETTINGS):
            own = None if sampling.greedy else noise[row]
            wanted = choose(logits[row], own, sampling.temperature, sampling.top_k, sampling.top_p)
            assert torch.equal(drawn[row], wanted), sampling
        keys = keys + 1


def mixed_company(lm: LMModel) -> list[Session]:
    """Takes of all kinds, some of several windows."""
    guidance = [Sampling(top_k=20), *SETTINGS[:5], Sampling(top_k=7, cfg_coef=1.0)]
    texts = ["slow warm piano", "fast", None, "dark jazz drums piano house", "jazz", "house warm", "fast"]
    takes = [
        session(lm, text, 20 + 9 * i, 5 + i, prompt=3 * i, sampling=sampling, window=60)
        for i, (text, sampling) in enumerate(zip(texts, guidance, strict=True))
    ]
    torch.manual_seed(9)
    near = torch.randint(-1, lm.card, takes[3].tokens.shape)
    takes[3].lean = Lean(near, 2.0)
    return takes


@pytest.mark.parametrize("network", NETWORKS)
def test_tokens_are_those_of_the_plain_step(network: str) -> None:
    lm = tiny_lm(**NETWORKS[network])
    plain, captured = mixed_company(lm), mixed_company(lm)
    run_sessions(Stepper(lm, 8), plain)
    run_sessions(CapturedStepper(lm, 8), captured)
    for one, other in zip(plain, captured, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert one.done and other.done


def test_a_take_of_fewer_streams_after_one_of_more() -> None:
    lm = tiny_lm()

    def takes() -> list[Session]:
        lengths = (400, 20, 20, 20, 60)  # each window less than half of the first: the caches give room back
        return [
            session(lm, "fast", length, number, sampling=Sampling(top_k=5, cfg_coef=coef), window=500)
            for number, (length, coef) in enumerate(zip(lengths, (3.0, 1.0, 1.0, 1.0, 3.0), strict=True))
        ]

    plain, captured = takes(), takes()
    for stepper, sessions in ((Stepper(lm, 2), plain), (CapturedStepper(lm, 2), captured)):
        for one in sessions:
            run_sessions(stepper, [one])  # nobody else is aboard: the caches give back what they can
    for one, other in zip(plain, captured, strict=True):
        assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_form_for_gpus_computes_the_same(network: str) -> None:
    """All lanes in one call over one span, rows in whole blocks: other products, hence other roundings."""
    lm = tiny_lm(**NETWORKS[network])
    plain, captured = mixed_company(lm), mixed_company(lm)
    run_sessions(Stepper(lm, 8), plain)
    run_sessions(CapturedStepper(lm, 8, apart=False), captured)
    for one, other in zip(plain, captured, strict=True):
        assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("network", test_company.NETWORKS)
def test_caches_hold_the_same_bits(network: str, packed: bool) -> None:
    lm = tiny_lm(**NETWORKS[network])
    plain, captured = Stepper(lm, 4, packed=packed), CapturedStepper(lm, 4, packed=packed)
    for stepper in (plain, captured):
        for one in (session(lm, "fast", 70, 6, prompt=9), session(lm, "slow warm piano", 75, 5)):
            stepper.admit(one)
            stepper.prefill([one])
        for _ in range(55):
            stepper.step()
    for own, made in zip(plain.caches.own, captured.caches.own, strict=True):
        for slot, steps in ((0, 9 + 54), (1, 54)):
            assert torch.equal(own[:, slot, :, :, :steps], made[:, slot, :, :, :steps])


def test_a_take_does_not_depend_on_who_comes_and_goes() -> None:
    lm = tiny_lm()
    alone = mixed_company(lm)
    for one in alone:
        run_sessions(CapturedStepper(lm, 1), [one])
    together = mixed_company(lm)
    stepper = CapturedStepper(lm, 16)
    coming = list(reversed(together))
    steps = 0
    while coming or stepper.free < 16:
        if coming and steps % 7 == 0:
            stepper.admit(coming.pop())
        for waiting in stepper.waiting():
            stepper.prefill([waiting])
        stepper.step()
        steps += 1
        for one in together:
            if one.done and any(slot is not None and slot.session is one for slot in stepper.slots):
                stepper.release(one)
        if steps == 20:  # one leaves in the middle of it and comes back
            stepper.release(together[0])
            assert 0 < together[0].step < together[0].pattern().steps
            coming.append(together[0])
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.tokens, other.tokens)


def test_variations_share_the_first_pass() -> None:
    lm = tiny_lm()
    made: list[list[torch.Tensor]] = []
    for kind in (Stepper, CapturedStepper):
        base = session(lm, "fast", 30, 5, prompt=6)
        takes = [
            Session(base.tokens.clone(), base.windows, lm.pattern, base.streams(), Sampling(top_k=20), 5, v)
            for v in range(3)
        ]
        stepper = kind(lm, 3)
        for one in takes:
            stepper.admit(one)
        stepper.prefill(takes)
        while stepper.step():
            pass
        made.append([one.tokens for one in takes])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
    assert not torch.equal(made[1][0], made[1][1])


@pytest.mark.parametrize("network", test_company.NETWORKS)
def test_a_resumed_take_makes_its_steps_once_more(network: str) -> None:
    lm = tiny_lm(**NETWORKS[network])

    def take() -> Session:
        return session(lm, "slow warm piano", 90, 5, prompt=4, window=60)

    whole = take()
    run_sessions(Stepper(lm, 1), [whole])
    for frames in (5, 30, 59, 61, 75, 89):
        for wrong in (False, True):
            again, stepper = take(), CapturedStepper(lm, 3)
            again.tokens[:, :frames] = whole.tokens[:, :frames]
            if wrong:
                again.tokens[1, frames - 3] = (again.tokens[1, frames - 3] + 1) % lm.card
            again.resume(frames)
            stepper.admit(session(lm, "fast", 33, 6))
            stepper.admit(again)
            equal = True
            while not again.done:
                for waiting in stepper.waiting():
                    stepper.prefill([waiting])
                if again.replaying:
                    kept = again.tokens.clone()
                    equal = equal and stepper.replay(again)
                    stepper.sync(again)
                    assert not again.replaying or torch.equal(again.tokens, kept)
                stepper.step()
            assert wrong or (equal and torch.equal(again.tokens, whole.tokens)), frames
            if wrong and frames in (30, 59):
                assert not equal


def test_not_a_number_is_an_error_and_leaves_nothing_behind() -> None:
    lm, broken = tiny_lm(), tiny_lm()
    with torch.no_grad():
        broken.condition_provider.conditioners["description"].output_proj.weight.fill_(float("inf"))
    stepper = CapturedStepper(broken, 2)
    good, bad = session(broken, None, 40, 2), session(broken, "fast", 20, 1)
    stepper.admit(good)
    stepper.prefill([good])
    stepper.admit(bad)
    stepper.prefill([bad])
    for _ in range(5):
        stepper.step()
    with pytest.raises(GenModelError) as caught:
        stepper.check_finite(bad)
    assert caught.value.code == "E_NOT_FINITE"
    stepper.check_finite(good)
    stepper.release(bad)
    after = session(broken, None, 20, 1)
    stepper.admit(after)
    stepper.prefill([after])
    while stepper.step():
        pass
    for made, other in ((good, session(lm, None, 40, 2)), (after, session(lm, None, 20, 1))):
        run_sessions(Stepper(lm, 1), [other])
        assert torch.equal(made.tokens, other.tokens)


def test_a_step_in_which_all_rest_changes_nothing() -> None:
    lm = tiny_lm(frames=("transport",))
    stepper = CapturedStepper(lm, 4)
    for one in (session(lm, "fast", 70, 6, prompt=9), session(lm, "slow", 75, 5, sampling=SETTINGS[4])):
        stepper.admit(one)
        stepper.prefill([one])
    for _ in range(4):
        stepper.step()
    stepper.tables.active.zero_()
    kept = [tensor.clone() for tensor in stepper.tables.tensors()]
    caches = [cache[..., :-1, :].clone() for cache in (*stepper.caches.own, *stepper.caches.cross)]
    for lanes in (1, 2):
        FrameStep(stepper.network, stepper.caches, stepper.tables, lanes, 64, top_p=True)()
    assert all(torch.equal(a, b) for a, b in zip(stepper.tables.tensors(), kept, strict=True))
    after = [cache[..., :-1, :] for cache in (*stepper.caches.own, *stepper.caches.cross)]
    assert all(torch.equal(a, b) for a, b in zip(after, caches, strict=True))


def test_where_nothing_can_be_captured_the_step_runs_as_written_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_lm()
    plain = session(lm, "fast", 40, 1)
    run_sessions(Stepper(lm, 1), [plain])
    resting: list[bool] = []

    def full(self: Graphs, step: FrameStep) -> Any:
        resting.append(not bool(step.tables.active.any()))
        step()
        raise torch.OutOfMemoryError("no room for a graph")

    monkeypatch.setattr(Graphs, "_captured", full)
    stepper, one = CapturedStepper(lm, 1, capture=True), session(lm, "fast", 40, 1)
    with caplog.at_level(logging.WARNING):
        run_sessions(stepper, [one])
    assert torch.equal(one.tokens, plain.tokens)
    assert resting and all(resting) and stepper.graphs.captured == 0
    assert len(caplog.records) == len(resting) and "no room for a graph" in caplog.text


def test_which_stepper_is_used() -> None:
    lm = tiny_lm()
    assert type(stepper_for(lm)) is Stepper
    assert type(stepper_for(lm, capture="on")) is CapturedStepper
    assert type(stepper_for(lm, capture="off")) is Stepper
    assert stepper_for(lm, capture="on").kernels_version != stepper_for(lm).kernels_version
    with pytest.raises(GenModelError) as caught:
        stepper_for(lm, capture="perhaps")
    assert caught.value.field == "engine.capture"


@pytest.fixture(scope="module")
def pocket() -> Iterator[BaseGenModel]:
    model = BaseGenModel.get_pretrained("pocket", "cpu")
    model.max_duration, model.precision = 2.0, "float32"
    yield model


@pytest.mark.parametrize("prompt", [False, True], ids=["generate", "continue"])
def test_the_engine_gives_the_same_audio(pocket: BaseGenModel, prompt: bool) -> None:
    pocket.capture = "off"
    plain = Engine(pocket)
    first = plain.add(asked(130, prompt=prompt))
    whole = heard(plain, first)
    pocket.capture = "on"
    engine = Engine(pocket)
    assert isinstance(engine.stepper, CapturedStepper)
    engine.add(asked(60, seed=8, variations=1))
    for _ in range(11):
        engine.step()
    assert same(heard(engine, engine.add(asked(130, prompt=prompt))), whole)
    tokens = [take.session.tokens[:, take.first :] for take in first.takes]
    engine = Engine(pocket)
    job = engine.add(asked(130, prompt=prompt))
    engine.resume(job, [made[:, :end] for made, end in zip(tokens, (40, 110), strict=True)])
    assert same(heard(engine, job), whole)
    assert all(
        torch.equal(a.session.tokens, b.session.tokens) for a, b in zip(job.takes, first.takes, strict=True)
    )
    engine = Engine(pocket)
    job = engine.add(asked(90, variations=1))
    engine.resume(job, [torch.zeros(tokens[0].shape[0], 30, dtype=torch.int64)])
    with pytest.raises(TokensDiffer):
        heard(engine, job)
    assert not engine.busy and engine.stepper.free == 8


def test_memory_follows_what_is_aboard() -> None:
    lm = tiny_lm()
    stepper = CapturedStepper(lm, 16)
    takes = [session(lm, "fast", 20, seed) for seed in range(9)]
    for one in takes:
        stepper.admit(one)
        stepper.prefill([one])
    stepper.step()
    assert stepper.caches.own[0].shape[1] == 16
    for one in takes[1:]:
        stepper.release(one)
    stepper.step()
    late = session(lm, "slow warm piano", 75, 5)
    stepper.admit(late)
    stepper.prefill([late])
    assert stepper.caches.own[0].shape[1] == 2
    while stepper.step():
        pass
    for made, other in (
        (takes[0], session(lm, "fast", 20, 0)),
        (late, session(lm, "slow warm piano", 75, 5)),
    ):
        run_sessions(Stepper(lm, 1), [other])
        assert torch.equal(made.tokens, other.tokens)


def test_steps_are_kept_from_one_take_to_the_next() -> None:
    lm = tiny_lm()
    stepper = CapturedStepper(lm, 4)
    run_sessions(stepper, [session(lm, "fast", 40, seed) for seed in range(4)])
    kept, moves = dict(stepper.graphs._steps), stepper.caches.moves
    one = session(lm, "slow warm piano", 40, 5)
    run_sessions(stepper, [session(lm, "fast", 40, 1), session(lm, "fast", 40, 2), one])
    assert stepper.caches.moves == moves and kept.items() <= stepper.graphs._steps.items()
    alone = session(lm, "slow warm piano", 40, 5)
    run_sessions(Stepper(lm, 1), [alone])
    assert torch.equal(one.tokens, alone.tokens)


def test_buckets() -> None:
    assert [lanes_for(n) for n in (1, 2, 3, 5, 8, 9, 16)] == [1, 2, 4, 8, 8, 16, 16]
    assert [span_for(n) for n in (1, 64, 65, 129, 257, 1500)] == [64, 64, 128, 256, 512, 1536]


@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_the_step_asks_nothing_of_the_host(lanes: int, streams: int) -> None:
    """On tensors without data, in float16: whatever waits for a number raises."""
    lm = tiny_lm(dim=64, num_heads=1, frames=("transport",)).to("meta")
    net = Network(lm, "float16")
    tables, caches = Tables(net, 16), net.caches()
    tables.grow(256, streams, 1, near=True, added=True)
    caches.reserve(lanes, streams, 320)
    caches.reserve_cross(lanes, [16])
    addresses = [id(tensor) for tensor in tables.tensors()]
    step = FrameStep(net, caches, tables, lanes, 256, top_p=True)
    mixed = step._mixed(step._hidden())
    assert mixed.shape == (lanes, 64) and mixed.dtype == torch.float32
    assert net.cache_dtype == torch.float16
    step()
    assert [id(tensor) for tensor in tables.tensors()] == addresses
