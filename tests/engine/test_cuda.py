"""The engine on a CUDA device: the same noise, the same tokens in float32, AudioCraft's half precision by
default.
"""

from __future__ import annotations

import pytest
import torch

from genmodel.engine.noise import gumbel_noise, position_keys
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from tests.engine.test_company import session
from tests.engine.test_resume import resumed
from tests.engine.tiny import tiny_lm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_noise_is_the_same_bits() -> None:
    keys = position_keys(7, 1, 200, 4)
    assert torch.equal(gumbel_noise(keys.cuda(), 300).cpu(), gumbel_noise(keys, 300))


def test_float32_tokens_are_those_of_the_cpu() -> None:
    here, there = tiny_lm(), tiny_lm().cuda()
    one, other = (
        session(here, "slow warm piano", 60, 5, prompt=4),
        session(there, "slow warm piano", 60, 5, prompt=4),
    )
    run_sessions(Stepper(here), [one])
    run_sessions(Stepper(there, precision="float32"), [other])
    assert torch.equal(one.tokens, other.tokens.cpu())


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_half_precision_tokens_do_not_depend_on_company(precision: str) -> None:
    lm = tiny_lm().cuda()
    alone = session(lm, "slow warm piano", 60, 5, prompt=4)
    run_sessions(Stepper(lm, precision=precision), [alone])
    company = session(lm, "slow warm piano", 60, 5, prompt=4)
    run_sessions(
        Stepper(lm, precision=precision), [session(lm, "fast", 70, 6), company, session(lm, None, 33, 7)]
    )
    assert torch.equal(alone.tokens, company.tokens)


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
def test_a_take_goes_on_at_the_next_frame(precision: str) -> None:
    lm = tiny_lm().cuda()
    whole = resumed(lm, 0, precision=precision)
    for frames in (5, 30, 61, 75):
        assert torch.equal(resumed(lm, frames, whole.tokens, precision=precision).tokens, whole.tokens), (
            frames
        )
