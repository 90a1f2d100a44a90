"""Steps of few operations against the long form: equal to rounding, and no row knows of those beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genmodel.engine.kernels import packing_available
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.request import Sampling
from tests.engine.forced import forced_logits
from tests.engine.test_company import session
from tests.engine.tiny import tiny_lm

pytestmark = pytest.mark.skipif(not packing_available(), reason="this build of torch cannot prepack weights")

SHAPES: dict[str, dict[str, Any]] = {
    "cross": {},
    "prepend": {"text": "prepend"},
    "frames": {"frames": ("transport",)},
    "biases": {"bias_attn": True, "bias_ff": True, "bias_proj": True},
    "relu": {"activation": "relu"},
    "odd-width": {"dim": 36, "num_heads": 3},
    "wide": {"dim": 128, "num_heads": 4, "card": 96},
}
PRECISIONS = [
    ("float32", 1e-5),
    pytest.param(
        "bfloat16", 0.02,
        marks=pytest.mark.skipif(not packing_available(torch.bfloat16), reason="no bfloat16 kernels"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "bound"), PRECISIONS)
@pytest.mark.parametrize("network", SHAPES)
def test_lean_steps_are_long_ones_to_rounding(network: str, precision: str, bound: float) -> None:
    lm = tiny_lm(**SHAPES[network])
    made = session(lm, "slow warm piano", 40, 5, prompt=3)
    run_sessions(Stepper(lm, 1, precision), [made])
    found = {}
    for lean in (True, False):
        stepper = Stepper(lm, 1, precision, native=False)
        assert stepper.network.lean
        stepper.network.lean = lean
        try:
            found[lean] = forced_logits(stepper, session(lm, "slow warm piano", 40, 5, prompt=3), made.tokens)
        finally:
            stepper.network.lean = True
    error = float((found[True] - found[False]).norm() / found[False].norm())
    assert error < bound
    if precision == "float32":
        assert torch.equal(found[True].argmax(-1), found[False].argmax(-1))


@pytest.mark.parametrize(("precision", "bound"), PRECISIONS)
@pytest.mark.parametrize("network", SHAPES)
def test_lean_tokens_are_equal_in_any_company(network: str, precision: str, bound: float) -> None:
    lm = tiny_lm(**SHAPES[network])

    def logits_in(count: int, at: int, guided: bool = True) -> torch.Tensor:
        stepper = Stepper(lm, count, precision)
        heard: list[torch.Tensor] = []
        honest = stepper.network.logits
        stepper.network.logits = lambda mixed: heard.append(honest(mixed)) or heard[-1]  # type: ignore
        sampling = Sampling(top_k=20) if guided else Sampling(top_k=20, cfg_coef=1.0)
        try:
            aboard = [
                session(lm, ("fast", None, "dark jazz drums piano house")[i % 3], 60, 20 + i, prompt=i)
                for i in range(count)
            ]
            aboard[at] = session(lm, "slow warm piano", 50, 5, prompt=3, sampling=sampling)
            for one in aboard:
                stepper.admit(one)
                stepper.prefill([one])
            heard.clear()
            while not aboard[at].done:
                stepper.step()
        finally:
            del stepper.network.logits
        return torch.stack([logits[at] for logits in heard])

    for guided in (True, False):  # one row of its own, which kernels take for two, or two
        alone = logits_in(1, 0, guided)
        for count, at in ((2, 1), (5, 0), (16, 9)):
            assert torch.equal(logits_in(count, at, guided), alone), (count, guided)


def test_its_name_is_part_of_what_a_take_was_made_with() -> None:
    lm = tiny_lm()
    assert Stepper(lm, 1, native=False).network.kernels_version.startswith("lean-")
    assert not Stepper(lm, 1, packed=False).network.lean
    assert Stepper(lm, 1, packed=False).network.kernels_version == ""
