"""The engine on a CUDA device: the same noise, the same tokens in float32, AudioCraft's half precision by
default; captured steps make the tokens of uncaptured ones, and ask nothing of the host.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from genmodel.codec.windows import CodecWindows
from genmodel.engine.captured.stepper import LANES, CapturedStepper
from genmodel.engine.noise import gumbel_noise, position_keys
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.lm.lm import LMModel
from tests.codec.tiny import codec, random_codes
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


WIDE = {"dim": 256, "num_heads": 4, "num_layers": 3, "card": 512}  # heads of 64, as the published models have


@pytest.fixture
def strict() -> Iterator[None]:
    """Inside, any wait of the host for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def captured_alone(lm: LMModel, precision: str) -> Session:
    one = session(lm, "slow warm piano", 300, 5, prompt=4, window=400)
    stepper = CapturedStepper(lm, 1, precision)
    run_sessions(stepper, [one])
    assert stepper.graphs.captured >= 4  # one a span: 64, 128, 256, 512
    return one


@pytest.mark.parametrize("kind", [Stepper, CapturedStepper])
def test_captured_float32_tokens_are_those_of_the_cpu(kind: type[Stepper]) -> None:
    here, there = tiny_lm(), tiny_lm().cuda()
    takes = [
        [
            session(lm, "slow warm piano", 90, 5, prompt=4),
            session(lm, "fast", 70, 6),
            session(lm, None, 33, 7),
        ]
        for lm in (here, there)
    ]
    run_sessions(Stepper(here), takes[0])
    run_sessions(kind(there, precision="float32"), takes[1])
    for one, other in zip(*takes, strict=True):
        assert torch.equal(one.tokens, other.tokens.cpu())


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("company", [count - 1 for count in LANES[1:]])
def test_a_captured_take_does_not_depend_on_its_buckets(precision: str, company: int) -> None:
    lm = tiny_lm(**WIDE).cuda()
    alone = captured_alone(lm, precision)
    one = session(lm, "slow warm piano", 300, 5, prompt=4, window=400)
    others = [session(lm, "fast", 390 - 20 * i, 20 + i, prompt=i, window=400) for i in range(company)]
    run_sessions(CapturedStepper(lm, company + 1, precision), [*others[:-1], one, *others[-1:]])
    assert torch.equal(alone.tokens, one.tokens)


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
def test_replays_of_a_graph_are_the_function_as_written(precision: str) -> None:
    lm = tiny_lm(**WIDE).cuda()
    alone = captured_alone(lm, precision)
    one = session(lm, "slow warm piano", 300, 5, prompt=4, window=400)
    run_sessions(CapturedStepper(lm, 1, precision, capture=False), [one])
    assert torch.equal(alone.tokens, one.tokens)


def test_a_captured_step_waits_for_nothing(request: pytest.FixtureRequest) -> None:
    lm = tiny_lm(**WIDE).cuda()
    stepper = CapturedStepper(lm, 4)
    takes = [session(lm, "slow warm piano", 60, seed, window=400) for seed in range(3)]
    for one in takes:
        stepper.admit(one)
        stepper.prefill([one])
    stepper.step()  # captured here
    request.getfixturevalue("strict")
    for _ in range(30):
        assert stepper.step() == takes


def test_capturing_leaves_the_devices_random_numbers_alone() -> None:
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    captured_alone(tiny_lm(**WIDE).cuda(), "auto")
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_the_codecs_captured_window_gives_the_streams_bits() -> None:
    model = codec("musicgen").cuda()
    windows = CodecWindows(torch.device("cuda", torch.cuda.current_device()))
    codes = random_codes(model, 1, 200).cuda()
    plain, other = model.stream(1), model.stream(1)
    for piece in codes.split(10, 2):
        assert torch.equal(plain.push(piece), windows.push(other, piece))
    assert windows.kept == 1
    assert torch.equal(plain.finish(), other.finish())
