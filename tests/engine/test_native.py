"""The native kernels: the arithmetic that int8 promises, and in every precision bits that do not depend on
company. What floats promise: test_native_floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from genmodel.engine.kernels import choose_precision, native_absent
from genmodel.engine.native import library
from genmodel.engine.native.library import PATHS, Scratch, kernels
from genmodel.engine.native.network import NativeNetwork
from genmodel.engine.native.weights import Arena, NativeLinear, quantise
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import make_sessions, run_sessions
from genmodel.errors import GenModelError
from genmodel.lm.lm import LMModel
from genmodel.request import Sampling
from tests.engine.forced import divergence, forced_logits
from tests.engine.native_twin import twin_logits
from tests.engine.test_company import session
from tests.engine.test_resume import resumed
from tests.engine.test_twin import NETWORKS, frame_conditions
from tests.engine.tiny import row, tiny_lm

absent = native_absent()
pytestmark = pytest.mark.skipif(absent is not None, reason=str(absent))

SHAPES: dict[str, dict[str, Any]] = {
    **NETWORKS,
    "one-frame-condition": {"frames": ("transport",)},
    "odd-width": {"dim": 36, "num_heads": 3},
    "one-wide-head": {"dim": 80, "num_heads": 1, "hidden_scale": 2.7},
    "many-heads": {"dim": 64, "num_heads": 32, "hidden_scale": 1},
    "wide": {"dim": 256, "num_heads": 2, "card": 300},
}
LARGER = (
    "one-wide-head",
    "wide",
    "many-heads",
)  # roundings turn more often there, and a turn spreads from layer to layer


PRECISIONS = ["int8", "bfloat16", "float32"]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """So many threads, however little there is to do."""
    monkeypatch.setattr(library, "BYTES_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def takes(lm: LMModel, frames: int = 24, prompt: int = 5) -> list[Session]:
    torch.manual_seed(4)
    codes = torch.randint(0, lm.card, (1, lm.n_q, prompt))
    rows = [row("dark jazz drums piano house", **frame_conditions(lm, frames))]
    return make_sessions(lm, codes, rows, frames, frames, None, Sampling(top_k=20), 9)


def made(lm: LMModel) -> torch.Tensor:
    """Tokens of a take, as float32 makes it."""
    (exact,) = takes(lm)
    run_sessions(Stepper(lm, 1, native=False), [exact])
    return exact.tokens


def native_stepper(lm: LMModel, slots: int = 1, **switches: Any) -> Stepper:
    """A stepper of the native kernels with these switches of ``NativeNetwork``."""
    stepper = Stepper(lm, slots, "int8")
    stepper.network = NativeNetwork(lm, **switches)
    stepper.caches = stepper.network.caches()
    return stepper


@pytest.mark.parametrize("byte_caches", [True, False])
@pytest.mark.parametrize("network", SHAPES)
def test_logits_are_those_of_the_slow_twin_and_close_to_float32(network: str, byte_caches: bool) -> None:
    lm = tiny_lm(**SHAPES[network], num_layers=1 if network in LARGER else 2)
    tokens = made(lm)
    native = forced_logits(native_stepper(lm, byte_caches=byte_caches), takes(lm)[0], tokens)
    assert len(native) > 12
    twin = twin_logits(lm, takes(lm)[0], tokens, byte_caches)[: len(native)]
    exact = forced_logits(Stepper(lm, 1, native=False), takes(lm)[0], tokens)
    # Most steps agree to the last bits of float32 (5e-8 to 8e-5). Where a sum's last bit turns an activation
    # to the other side of a rounding, that step is as far from the twin as eight bits are from float32.
    errors = (native - twin).flatten(1).norm(dim=1) / twin.flatten(1).norm(dim=1)
    assert float((errors < 1e-3).double().mean()) >= 0.5
    apart = float((native - exact).norm() / exact.norm())
    assert 1e-3 < apart < 0.05  # eight bits were really used, and are enough
    kl, same = divergence(exact, native)
    # 40 tokens of a random model are nearly alike, so the likeliest changes easily; their shares do not
    assert kl < 0.003 and same > 0.6


@pytest.mark.parametrize("path", [p for p in PATHS if absent is None and p in kernels().paths])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 32, 64), (2, 1024, 128), (7, 36, 50), (33, 100, 200)]
)
def test_a_linear_is_exact_but_for_its_last_rounding(
    path: str, rows: int, inputs: int, outputs: int, threads: int
) -> None:
    torch.manual_seed(rows)
    weight, bias, x = torch.randn(outputs, inputs), torch.randn(outputs), 10 * torch.randn(rows, inputs)
    x[0, 0] = 1e4  # an outlier spoils its own row only
    linear = NativeLinear(kernels(path), Scratch(), Arena(0), weight, bias)
    integers, worth = quantise(weight)
    largest = x.abs().amax(1, keepdim=True)
    q = (x * (127 / largest)).round().double()
    wanted = q @ integers.double().T * worth.double() * (largest / 127).double() + bias.double()
    assert torch.allclose(linear(x).double(), wanted, rtol=3e-7, atol=3e-7 * float(wanted.abs().max()))
    assert torch.equal(linear(x), torch.cat([linear(one[None]) for one in x]))
    assert torch.equal(linear(torch.zeros(1, inputs)), bias[None])
    x[-1, 1] = float("nan")
    y = linear(x)
    assert bool(y[-1].isnan().all()) and bool(y[:-1].isfinite().all())


@pytest.mark.parametrize("network", ["cross", "prepend", "biases", "odd-width", "many-heads", "wide"])
def test_every_path_gives_the_same(network: str) -> None:
    lm = tiny_lm(**SHAPES[network])
    tokens = made(lm)
    found = {}
    for path in kernels().paths:
        for own_threads in (False, True):
            stepper = native_stepper(lm, path=path, own_threads=own_threads)
            found[path, own_threads] = forced_logits(stepper, takes(lm)[0], tokens)
        assert torch.equal(found[path, False], found[path, True])
    if ("avx512", False) in found:  # both fuse multiplication and addition
        assert torch.equal(found["avx2", False], found["avx512", False])
    reference = found["portable", False]
    for logits in found.values():  # it does not fuse: a few activations round to the other side
        assert float((logits - reference).norm() / reference.norm()) < 0.02


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", ["cross", "prepend", "one-frame-condition", "odd-width", "wide"])
def test_logits_are_the_same_bits_in_any_company_and_however_many_are_fed_at_once(
    network: str, precision: str, threads: int
) -> None:
    lm = tiny_lm(**SHAPES[network])
    heard: list[torch.Tensor] = []

    def stepping(count: int, at: int) -> torch.Tensor:
        """Logits of one take at every step, made beside others."""
        stepper = Stepper(lm, count, precision)
        honest = stepper.network.logits
        stepper.network.logits = lambda mixed: heard.append(honest(mixed)) or heard[-1]  # type: ignore
        try:
            aboard = [session(lm, "fast", 60, 20 + i, prompt=i) for i in range(count)]
            aboard[at] = session(lm, "slow warm piano", 50, 5, prompt=3)
            for one in aboard:
                stepper.admit(one)
                stepper.prefill([one])
            heard.clear()
            while not aboard[at].done:
                stepper.step()
        finally:
            del stepper.network.logits
        return torch.stack([logits[at] for logits in heard])

    alone = stepping(1, 0)
    for count, at in ((2, 1), (5, 0), (16, 9)):
        assert torch.equal(stepping(count, at), alone), count

    # what stepping left in the caches, prefill and replay leave too
    whole = session(lm, "slow warm piano", 50, 5, prompt=3)
    stepper = Stepper(lm, 1, precision)
    run_sessions(stepper, [whole])
    replayed = forced_logits(stepper, session(lm, "slow warm piano", 50, 5, prompt=3), whole.tokens)
    assert torch.equal(replayed[1 : 1 + len(alone)], alone[: len(replayed) - 1])
    step, prefilled = Stepper(lm, 1, precision), Stepper(lm, 1, precision)
    for one, known in ((step, 3), (prefilled, 45)):
        again = session(lm, "slow warm piano", 50, 5, prompt=3)
        again.tokens[:, :known] = whole.tokens[:, :known]
        one.admit(again)
        again.step = again.pattern().first_step_of_frame(known)
        one.prefill([again])
        while again.step < again.pattern().first_step_of_frame(45) + 1:
            one.step()
    fed = again.step - 1
    assert fed > 40
    for own, other in zip(step.caches.own, prefilled.caches.own, strict=True):
        blocks = [c[:, 0].flatten(3).unflatten(3, (c.shape[4] // 16, -1)) for c in (own, other)]
        assert torch.equal(*(c[:, :, :, : fed // 16] for c in blocks))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", ["cross", "prepend", "one-frame-condition", "odd-width"])
def test_a_take_goes_on_at_the_next_frame_and_windows_slide(network: str, precision: str) -> None:
    lm = tiny_lm(**SHAPES[network])
    whole = resumed(lm, 0, precision=precision)
    assert len(whole.windows) > 1
    for frames in (5, 30, 59, 61, 75, 90):
        again = resumed(lm, frames, whole.tokens, precision=precision)
        assert torch.equal(again.tokens, whole.tokens), frames


@pytest.mark.parametrize("stop", [1, 40, 62])
def test_a_restored_moment_goes_on_as_if_nothing_had_happened(stop: int) -> None:
    lm = tiny_lm()
    whole, begun = (session(lm, "slow warm piano", 90, 5, prompt=4, window=60) for _ in range(2))
    run_sessions(Stepper(lm, 1, "int8"), [whole])
    stepper = Stepper(lm, 2, "int8")
    stepper.admit(begun)
    for _ in range(stop):
        if begun in stepper.waiting():
            stepper.prefill([begun])
        stepper.step()
    moment = stepper.snapshot(begun)
    again = session(lm, "slow warm piano", 90, 5, prompt=4, window=60)
    again.restore(moment)
    run_sessions(Stepper(lm, 1, "int8"), [again])
    assert torch.equal(again.tokens, whole.tokens)


def test_variations_share_the_first_pass() -> None:
    lm = tiny_lm()
    base = session(lm, "fast", 30, 5, prompt=6)

    def variation(number: int) -> Session:
        return Session(
            base.tokens.clone(), base.windows, lm.pattern, base.streams(), base.sampling, 5, number
        )

    together, alone = [variation(v) for v in range(3)], [variation(v) for v in range(3)]
    stepper = Stepper(lm, 3, "int8")
    for one in together:
        stepper.admit(one)
    stepper.prefill(together)
    while stepper.step():
        pass
    for one, other in zip(together, alone, strict=True):
        run_sessions(Stepper(lm, 1, "int8"), [other])
        assert torch.equal(one.tokens, other.tokens)


def test_not_a_number_is_an_error_and_leaves_nothing_behind() -> None:
    lm, broken = tiny_lm(), tiny_lm()
    clean, after = session(lm, None, 20, 1), session(broken, None, 20, 1)
    run_sessions(Stepper(lm, 1, "int8"), [clean])
    with torch.no_grad():
        broken.condition_provider.conditioners["description"].output_proj.weight.fill_(float("inf"))
    stepper = Stepper(broken, 1, "int8")
    with pytest.raises(GenModelError) as caught:
        run_sessions(stepper, [session(broken, "fast", 20, 1)])
    assert caught.value.code == "E_NOT_FINITE" and caught.value.value == "int8"
    run_sessions(stepper, [after])
    assert torch.equal(after.tokens, clean.tokens)


def test_it_is_chosen_by_name_only() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("int8", cpu) == "int8"
    assert choose_precision("auto", cpu) == choose_precision(None, cpu) == "float32"
    with pytest.raises(GenModelError):
        choose_precision("int8", torch.device("meta"))
    lm = tiny_lm(dim=256)
    stepper = Stepper(lm, 1, "int8")
    layers = sum(p.numel() for p in lm.transformer.parameters() if p.dim() == 2)
    layers -= sum(2 * 256 * 256 for _ in lm.transformer.layers)  # cross-attention's keys and values
    assert stepper.network.precision == "int8"
    assert layers <= stepper.network.step_bytes <= 1.1 * layers + 256 * 256
