"""The native kernels with weights of bfloat16 and float32: torch's long form to rounding, on every path."""

from __future__ import annotations

import copy

import pytest
import torch

from genmodel.engine import kernels as choices
from genmodel.engine.kernels import native_absent
from genmodel.engine.native.library import PATHS, Scratch, kernels
from genmodel.engine.native.network import NativeNetwork
from genmodel.engine.native.weights import Arena, NativeLinear
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.lm.lm import LMModel
from tests.engine.forced import divergence, forced_logits
from tests.engine.test_native import SHAPES, made, native_stepper, takes, threads
from tests.engine.tiny import tiny_lm

absent = native_absent()
pytestmark = pytest.mark.skipif(absent is not None, reason=str(absent))
HERE = [p for p in PATHS if absent is None and p in kernels().paths]
__all__ = ["threads"]  # a fixture


def long_form(lm: LMModel) -> Stepper:
    """torch's own, in float32 and operation by operation."""
    stepper = Stepper(lm, 1, packed=False)
    assert type(stepper.network) is not NativeNetwork and not stepper.network.lean
    return stepper


@pytest.mark.parametrize("path", HERE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 32, 64), (2, 1024, 128), (7, 36, 50), (33, 300, 200)]
)
def test_a_linear_is_its_sum_to_rounding(
    path: str, dtype: torch.dtype, rows: int, inputs: int, outputs: int, threads: int
) -> None:
    torch.manual_seed(rows)
    weight, bias, x = torch.randn(outputs, inputs), torch.randn(outputs), 10 * torch.randn(rows, inputs)
    linear = NativeLinear(kernels(path), Scratch(), Arena(0, dtype), weight, bias)
    wanted = x.double() @ weight.to(dtype).double().T + bias.double()
    size = x.double().abs() @ weight.double().abs().T + 1
    assert bool(((linear(x) - wanted).abs() < 5e-7 * size).all())
    assert torch.equal(linear(x), torch.cat([linear(one[None]) for one in x]))
    assert torch.equal(linear(torch.zeros(1, inputs)), bias[None]) and linear(x[:0]).shape == (0, outputs)
    x[-1, 1] = float("nan")
    y = linear(x)
    assert bool(y[-1].isnan().all()) and torch.equal(y[:-1], linear(x[:-1]))
    weight[3, 3] = float("nan")
    spoilt = NativeLinear(kernels(path), Scratch(), Arena(0, dtype), weight, bias)(x[:1])
    assert bool(spoilt[:, 3].isnan().all()) and int(spoilt.isnan().sum()) in (1, outputs)


@pytest.mark.parametrize("network", SHAPES)
def test_float32_is_torch_to_rounding_and_its_greedy_tokens(network: str) -> None:
    lm = tiny_lm(**SHAPES[network])
    tokens = made(lm)
    exact = forced_logits(long_form(lm), takes(lm)[0], tokens)
    native = Stepper(lm, 1, "float32")
    assert isinstance(native.network, NativeNetwork) == choices.native_floats()
    found = forced_logits(native, takes(lm)[0], tokens)
    assert float((found - exact).norm() / exact.norm()) < 2e-6
    assert torch.equal(found.argmax(-1), exact.argmax(-1))


@pytest.mark.parametrize("network", SHAPES)
def test_bfloat16_is_float32_of_rounded_weights(network: str) -> None:
    lm = tiny_lm(**SHAPES[network])
    tokens = made(lm)
    rounded = copy.deepcopy(lm)
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if weight.dim() == 2 and name.startswith(("transformer.layers", "linears")):
                scales = lm.config.logit_scale if name.startswith("linears") else ()
                scale = scales[int(name.split(".")[1])] if scales else 1.0  # they are rounded with it
                weight.copy_((weight * scale).bfloat16().float() / scale)
    twin = forced_logits(long_form(rounded), takes(rounded)[0], tokens)
    exact = forced_logits(long_form(lm), takes(lm)[0], tokens)
    found = forced_logits(native_stepper(lm, precision="bfloat16"), takes(lm)[0], tokens)
    apart = float((found - twin).norm() / twin.norm())
    assert apart < 4e-3  # of keys and values, which it keeps as bfloat16
    kl, same = divergence(exact, found)
    assert kl < 3e-5 and same > 0.9  # 40 tokens of a random model are nearly alike


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", ["cross", "prepend", "biases", "odd-width", "many-heads", "wide"])
def test_every_path_gives_the_same(network: str, precision: str) -> None:
    lm = tiny_lm(**SHAPES[network])
    tokens = made(lm)
    found = {}
    for path in HERE:
        for own_threads in (False, True):
            stepper = native_stepper(lm, path=path, own_threads=own_threads, precision=precision)
            found[path, own_threads] = forced_logits(stepper, takes(lm)[0], tokens)
        assert torch.equal(found[path, False], found[path, True])
    if "avx512" in HERE:
        assert torch.equal(found["avx2", False], found["avx512", False])
    reference = found[HERE[0], False]
    bound = 2e-6 if precision == "float32" else 2e-3  # a last bit turns a key's rounding
    for logits in found.values():
        assert float((logits - reference).norm() / reference.norm()) < bound


def test_who_takes_the_kernels_and_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm(dim=256)
    weights = sum(p.numel() for p in lm.transformer.parameters() if p.dim() == 2)
    if choices.native_floats():
        for precision, size in (("float32", 4), ("bfloat16", 2)):
            network = Stepper(lm, 1, precision).network
            assert isinstance(network, NativeNetwork) and network.precision == precision
            assert network.step_bytes > 0.8 * size * weights
            name = str(getattr(torch, precision)).removeprefix("torch.")
            assert network.kernels_version.endswith(name)
    assert not isinstance(Stepper(lm, 1, native=False).network, NativeNetwork)
    assert not isinstance(Stepper(lm, 1, packed=False).network, NativeNetwork)
    monkeypatch.setattr("genmodel.engine.network.native_floats", lambda: False)
    other = Stepper(tiny_lm(dim=256), 1)
    assert not isinstance(other.network, NativeNetwork)


def test_takes_of_float32_are_those_of_torch() -> None:
    lm = tiny_lm(**SHAPES["wide"])
    (one,), (other,) = takes(lm, 60), takes(lm, 60)
    run_sessions(Stepper(lm, 1, "float32"), [one])
    run_sessions(long_form(lm), [other])
    assert torch.equal(one.tokens, other.tokens)
