"""What the native kernels do around the layers: embedding and drawing, bit for bit what PyTorch does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genmodel.engine.drawing import Draw, draw_tokens
from genmodel.engine.kernels import native_absent
from genmodel.engine.native import draws
from genmodel.engine.native.draws import Draws, drawable
from genmodel.engine.native.library import PATHS, Scratch, kernels
from genmodel.engine.native.network import NativeNetwork
from genmodel.engine.noise import position_keys
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.request import Sampling
from tests.engine.test_company import session
from tests.engine.test_native import SHAPES, takes, threads
from tests.engine.tiny import tiny_lm

absent = native_absent()
pytestmark = pytest.mark.skipif(absent is not None, reason=str(absent))
__all__ = ["threads"]  # a fixture

LOGITS = {
    "random": lambda shape: 4 * torch.randn(shape),
    "many-alike": lambda shape: torch.randn(shape).round(),
    "all-alike": torch.zeros,
    "huge": lambda shape: 1e30 * torch.randn(shape),
    "tiny": lambda shape: 1e-40 * torch.randn(shape),
    "below-zero": lambda shape: -torch.rand(shape) - 5,
}


@pytest.mark.parametrize("path", [p for p in PATHS if absent is None and p in kernels().paths])
@pytest.mark.parametrize("kind", LOGITS)
def test_tokens_are_those_of_the_slow_twin(path: str, kind: str, threads: int) -> None:
    for card in (1, 7, 40, 2048):
        kernel = Draws(kernels(path), Scratch(), card)
        for number, temperature in enumerate((0.0, 0.1, 0.7, 1.0, 1.3, 100.0)):
            for top_k in (0, 1, 2, 250, card, card + 9):
                torch.manual_seed(number + top_k)
                keys, near = position_keys(number, top_k, 9, 4), torch.randint(-1, card + 1, (4, 9))
                how = Sampling(temperature=temperature, top_k=top_k)
                asked = [
                    Draw(how, keys[:, 2]),
                    Draw(Sampling(use_sampling=False), keys[:, 2]),
                    Draw(how, keys[:, 3], near[:, 1], 4.2),
                    Draw(how, keys[:, 8], near[:, 2], 1e4),
                    Draw(Sampling(top_k=5), keys[:, 0]),
                ]
                logits = LOGITS[kind]((len(asked), 4, card))
                tokens, finite = kernel(logits, asked)
                wanted, of_twin = draw_tokens(logits, asked)
                assert torch.equal(tokens, wanted) and torch.equal(finite, of_twin)


def test_logits_may_lie_in_wider_rows() -> None:
    kernel, keys = Draws(kernels(), Scratch(), 20), position_keys(0, 0, 9, 3)
    wide = torch.randn(2, 64)
    logits = wide[:, :60].view(2, 3, 20)
    asked = [Draw(Sampling(), keys[:, 0]), Draw(Sampling(), keys[:, 5])]
    for given in (logits, logits.transpose(0, 1).contiguous().transpose(0, 1), logits.double()):
        assert torch.equal(kernel(given, asked)[0], draw_tokens(given, asked)[0])


def test_what_the_kernels_do_not_draw_the_slow_twin_does(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    network = NativeNetwork(lm)
    keys = position_keys(0, 0, 9, lm.n_q)
    logits = torch.randn(2, lm.n_q, lm.card)
    plain = Draw(Sampling(), keys[:, 0])
    top_p = Draw(Sampling(top_p=0.8), keys[:, 1])
    assert drawable(plain) and not drawable(top_p)
    assert drawable(Draw(Sampling(use_sampling=False, top_p=0.8), keys[:, 1]))
    tokens, finite = network.choose(logits, [plain, top_p])
    assert torch.equal(tokens, draw_tokens(logits, [plain, top_p])[0]) and bool(finite.all())
    for bad in (float("nan"), float("inf"), float("-inf")):
        broken = logits.clone()
        broken[1, 0, 3] = bad
        tokens, finite = network.choose(broken, [plain, plain])
        assert finite.tolist() == [True, False]
        assert torch.equal(tokens[0], draw_tokens(logits, [plain, plain])[0][0])

    def never(*_: Any) -> Tensor:
        raise AssertionError("the switch is off")

    network.fused = False
    monkeypatch.setattr(draws.Draws, "__call__", never)
    assert torch.equal(network.choose(logits, [plain, plain])[0], draw_tokens(logits, [plain, plain])[0])


@pytest.mark.parametrize("network", SHAPES)
def test_steps_are_the_same_bits_with_and_without_torch_around_the_layers(network: str) -> None:
    lm = tiny_lm(**SHAPES[network])
    made = []
    for fused in (True, False):
        stepper = Stepper(lm, 3, "int8")
        stepper.network = NativeNetwork(lm)
        stepper.network.fused = fused
        stepper.caches = stepper.network.caches()
        mixed: list[Tensor] = []
        honest = stepper.network.logits
        stepper.network.logits = lambda x, to=mixed, of=honest: to.append(x) or of(x)  # type: ignore
        aboard = [*takes(lm, 12, 3), *takes(lm, 20, 2)]
        if not SHAPES[network].get("frames"):
            aboard.append(session(lm, None, 15, 7))
        run_sessions(stepper, aboard)
        made.append((torch.cat(mixed), torch.cat([one.tokens for one in aboard], 1)))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])


def test_a_token_that_is_none_is_not_passed_over() -> None:
    lm = tiny_lm()
    stepper = Stepper(lm, 1, "int8")
    (one,) = takes(lm)
    stepper.admit(one)
    stepper.prefill([one])
    slot = stepper.slots[0]
    assert slot is not None
    slot.sequence[0, one.step - 1] = lm.card + 1
    stepper.step()
    assert not bool(stepper.finite[0])
