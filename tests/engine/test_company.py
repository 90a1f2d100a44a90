"""A take does not depend on its company, on the slot it has, or on having been interrupted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genmodel.engine.network import Network
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import make_sessions, run_sessions
from genmodel.errors import GenModelError
from genmodel.lm.lm import LMModel
from genmodel.request import Sampling
from tests.engine.tiny import row, tiny_lm

SAMPLED = Sampling(top_k=20)
NETWORKS: dict[str, dict[str, Any]] = {
    "cross": {},
    "prepend": {"text": "prepend"},
    "frames": {"frames": ("transport",)},
    "odd-width": {"dim": 36, "num_heads": 3},
    "wide": {"dim": 128, "num_heads": 4, "card": 96},
}


def session(
    lm: LMModel,
    text: str | None,
    frames: int,
    seed: int,
    prompt: int = 0,
    sampling: Sampling = SAMPLED,
    window: int = 80,
) -> Session:
    torch.manual_seed(seed)
    codes = torch.randint(0, lm.card, (1, lm.n_q, prompt)) if prompt else None
    given = {"transport": torch.cat([torch.ones(frames, 1), torch.randn(frames, 10)], 1)}
    attributes = row(text, **{name: given[name] for name in lm.fuser.frame_conditions})
    return make_sessions(lm, codes, [attributes], frames, window, window // 2, sampling, seed)[0]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("network", NETWORKS)
def test_tokens_are_equal_alone_and_in_any_company(network: str, packed: bool) -> None:
    lm = tiny_lm(**NETWORKS[network])

    def wanted() -> Session:
        return session(lm, "slow warm piano", 75, 5, prompt=4)

    alone = wanted()
    run_sessions(Stepper(lm, 1, packed=packed), [alone])
    others = [
        session(lm, "fast", 70, 6, prompt=9),
        session(lm, None, 33, 7, sampling=Sampling(use_sampling=False)),
        session(
            lm, "dark jazz drums piano house", 90, 8, sampling=Sampling(top_k=0, top_p=0.9, cfg_coef=1.0)
        ),
    ]
    for position in (0, 2, 3):
        company = wanted()
        run_sessions(Stepper(lm, 4, packed=packed), [*others[:position], company, *others[position:]])
        others = [
            session(lm, "fast", 70, 6, prompt=9),
            session(lm, "slow", 33 + position, 7),
            session(lm, "dark jazz drums piano house", 120, 8),
        ]
        assert torch.equal(company.tokens, alone.tokens)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_logits_are_the_same_bits_alone_and_in_a_batch(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm(dim=64)
    seen: list[torch.Tensor] = []
    honest = Network.logits

    def listening(self: Network, mixed: torch.Tensor) -> torch.Tensor:
        seen.append(honest(self, mixed))
        return seen[-1]

    monkeypatch.setattr(Network, "logits", listening)

    def heard(count: int) -> list[torch.Tensor]:
        seen.clear()
        stepper = Stepper(lm, count, packed=packed)
        sessions = [session(lm, "slow warm piano", 70, 5, prompt=3) for _ in range(count)]
        for one in sessions:
            stepper.admit(one)
        for one in sessions:
            stepper.prefill([one])
        while stepper.step():
            pass
        return [logits[-1] for logits in seen[count - 1 :]]

    for count in (2, 4, 7):
        assert all(torch.equal(a, b) for a, b in zip(heard(1), heard(count), strict=True)), count


def test_variations_share_the_first_pass_and_then_differ() -> None:
    lm = tiny_lm()
    alone = []
    for variation in range(3):
        one = session(lm, "fast", 30, 5, prompt=6)
        one = Session(one.tokens, one.windows, lm.pattern, one.streams(), SAMPLED, 5, variation)
        run_sessions(Stepper(lm), [one])
        alone.append(one.tokens)
    base = session(lm, "fast", 30, 5, prompt=6)
    together = [
        Session(base.tokens.clone(), base.windows, lm.pattern, base.streams(), SAMPLED, 5, v)
        for v in range(3)
    ]
    stepper = Stepper(lm, 3)
    for one in together:
        stepper.admit(one)
    stepper.prefill(together)
    while stepper.step():
        pass
    for one, tokens in zip(together, alone, strict=True):
        assert torch.equal(one.tokens, tokens)
    assert not torch.equal(alone[0], alone[1]) and not torch.equal(alone[1], alone[2])


@pytest.mark.parametrize("network", ["cross", "prepend", "frames"])
@pytest.mark.parametrize("stop", [1, 7, 40, 62, 100])
def test_a_restored_moment_goes_on_as_if_nothing_had_happened(network: str, stop: int) -> None:
    lm = tiny_lm(**NETWORKS[network])
    whole = session(lm, "slow warm piano", 90, 5, prompt=4, window=60)
    run_sessions(Stepper(lm, 1), [whole])

    begun = session(lm, "slow warm piano", 90, 5, prompt=4, window=60)
    stepper = Stepper(lm, 2)
    stepper.admit(begun)
    for _ in range(stop):
        if begun.done:
            break
        if begun in stepper.waiting():
            stepper.prefill([begun])
        stepper.step()
    moment = stepper.snapshot(begun)
    steps = begun.steps_done
    for _ in range(5):  # go on, so that there is something to come back from
        if begun in stepper.waiting():
            stepper.prefill([begun])
        stepper.step()
    stepper.release(begun)

    again = session(lm, "slow warm piano", 90, 5, prompt=4, window=60)
    again.restore(moment)
    assert again.steps_done == steps
    assert torch.equal(again.snapshot().tokens, moment.tokens)
    run_sessions(Stepper(lm, 1), [again])
    assert torch.equal(again.tokens, whole.tokens)
    begun.restore(moment)
    run_sessions(Stepper(lm, 1), [begun])
    assert torch.equal(begun.tokens, whole.tokens)


def test_a_slot_that_is_used_again_holds_nothing_of_its_last_owner() -> None:
    lm = tiny_lm()
    stepper = Stepper(lm, 1)
    first, second = session(lm, "fast", 60, 1), session(lm, "slow warm piano", 20, 2)
    run_sessions(stepper, [first, second])
    fresh = session(lm, "slow warm piano", 20, 2)
    run_sessions(Stepper(lm, 1), [fresh])
    assert torch.equal(second.tokens, fresh.tokens)


def test_not_a_number_is_an_error_and_leaves_nothing_behind() -> None:
    lm = tiny_lm()
    good = session(lm, "fast", 20, 1)
    run_sessions(Stepper(lm, 1), [good])
    broken = tiny_lm()
    with torch.no_grad():
        broken.condition_provider.conditioners["description"].output_proj.weight.fill_(float("inf"))
    bad, after = session(broken, "fast", 20, 1), session(broken, None, 20, 1)
    stepper = Stepper(broken, 1)
    with pytest.raises(GenModelError) as caught:
        run_sessions(stepper, [bad])
    assert caught.value.code == "E_NOT_FINITE"
    run_sessions(stepper, [after])
    clean = session(lm, None, 20, 1)
    run_sessions(Stepper(lm, 1), [clean])
    assert torch.equal(after.tokens, clean.tokens)


def test_weights_that_change_are_prepared_again() -> None:
    lm = tiny_lm()
    before = session(lm, "fast", 20, 1)
    run_sessions(Stepper(lm), [before])
    with torch.no_grad():
        lm.transformer.layers[0].linear1.weight.mul_(-2)
    after = session(lm, "fast", 20, 1)
    run_sessions(Stepper(lm), [after])
    assert not torch.equal(before.tokens, after.tokens)


def test_bfloat16_is_close_and_float16_is_refused_on_a_cpu() -> None:
    lm = tiny_lm(dim=64)
    with pytest.raises(GenModelError) as caught:
        Stepper(lm, precision="float16")
    assert caught.value.field == "engine.precision"
    try:
        stepper = Stepper(lm, precision="bfloat16")
    except GenModelError:
        pytest.skip("this processor has no bfloat16 kernels")
    exact, rough = session(lm, "fast", 40, 1), session(lm, "fast", 40, 1)
    run_sessions(Stepper(lm), [exact])
    run_sessions(stepper, [rough])
    assert (
        float((exact.tokens == rough.tokens).float().mean()) > 0.3
    )  # one different token changes all after it
