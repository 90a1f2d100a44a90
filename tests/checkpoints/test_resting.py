"""Weights that the engine has in its own form are let go of, and come back when somebody looks at them."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch

from genmodel.checkpoints import registry
from genmodel.engine.kernels import packing_available
from genmodel.engine.network import network_for
from genmodel.errors import CheckpointError
from genmodel.lm.lm import LMModel
from tests.checkpoints.making import musicgen, save
from tests.engine.tiny import tiny_lm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(musicgen(), tmp_path_factory.mktemp("resting") / "small")


@pytest.fixture(params=["audiocraft", "huggingface"])
def lm(request: pytest.FixtureRequest, folder: Path) -> LMModel:
    return registry.load("pocket" if request.param == "audiocraft" else str(folder), "cpu")[1]


def held(lm: LMModel) -> int:
    """Bytes of weights that lie in the module."""
    every = [value for child in lm.modules() for value in child._parameters.values() if value is not None]
    return sum(value.nbytes for value in every if not value.is_meta)


@torch.no_grad()
def test_a_prepared_model_keeps_no_second_copy_and_gives_all_of_it_back(lm: LMModel) -> None:
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    in_layers = sum(value.nbytes for value in lm.transformer.parameters())
    in_heads = sum(value.nbytes for value in lm.linears.parameters())
    count, bytes_before = lm.parameter_count, held(lm)
    network = network_for(lm, "float32")
    assert lm.resting and held(lm) == bytes_before - in_layers - in_heads
    assert lm.parameter_count == count and lm.device.type == "cpu"
    assert network_for(lm, "float32") is network and lm.resting  # still prepared, and nothing was woken
    after = lm.state_dict()
    assert not lm.resting and list(after) == list(before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert network_for(lm, "float32") is network  # what came back is what it was made of
    assert not any(p.requires_grad for p in lm.parameters())


@torch.no_grad()
def test_everything_that_needs_values_wakes(lm: LMModel) -> None:
    tokens = torch.randint(0, lm.card, (1, lm.n_q, 5))
    wanted = lm(tokens)
    weight = lm.transformer.layers[0].linear1.weight.clone()  # type: ignore[union-attr]
    network_for(lm, "float32")
    assert lm.resting and torch.equal(lm(tokens), wanted)
    lm.prepared.clear()
    network_for(lm, "float32")
    assert lm.resting and torch.equal(lm.transformer.layers[0].linear1.weight, weight)  # type: ignore
    lm.prepared.clear()
    network_for(lm, "float32")
    assert lm.resting and all(p.device.type == "cpu" for p in lm.parameters())
    lm.prepared.clear()
    network_for(lm, "float32")
    assert lm.resting
    twin = copy.deepcopy(lm)
    assert torch.equal(twin(tokens), wanted) and not twin.resting
    lm.prepared.clear()
    network_for(lm, "float32")
    assert lm.resting and torch.equal(lm.double()(tokens), copy.deepcopy(twin).double()(tokens))


@pytest.mark.skipif(not packing_available(torch.bfloat16), reason="this processor has no bfloat16 kernels")
@torch.no_grad()
def test_another_precision_is_made_of_the_file_again(lm: LMModel) -> None:
    x = torch.randn(4, lm.dim)
    first = network_for(lm, "float32").layers[-1].up(x)
    half = network_for(lm, "bfloat16").layers[-1].up(x.bfloat16())
    assert lm.resting and list(lm.prepared) == ["bfloat16"]
    assert torch.allclose(half.float(), first, atol=0.05, rtol=0.05)
    assert torch.equal(network_for(lm, "float32").layers[-1].up(x), first)


@torch.no_grad()
def test_weights_that_were_changed_stay(lm: LMModel) -> None:
    lm.transformer.layers[0].linear1.weight.mul_(2)  # type: ignore[operator, union-attr]
    network = network_for(lm, "float32")
    assert not lm.resting and not lm.as_in_file
    lm.transformer.layers[0].linear1.weight.mul_(2)  # type: ignore[operator, union-attr]
    assert network_for(lm, "float32") is not network


@torch.no_grad()
def test_other_weights_that_were_changed_are_prepared_again(lm: LMModel) -> None:
    network = network_for(lm, "float32")
    lm.emb[0].weight.mul_(2)  # type: ignore[operator, union-attr]
    again = network_for(lm, "float32")
    assert again is not network and not torch.equal(again.embedding, network.embedding)


def test_what_is_to_be_trained_stays(lm: LMModel) -> None:
    lm.requires_grad_(True)
    network_for(lm, "float32")
    assert not lm.resting


def test_a_model_made_in_code_stays() -> None:
    lm = tiny_lm()
    network_for(lm, "float32")
    assert not lm.resting


def test_a_file_that_was_written_to_is_refused(folder: Path, tmp_path: Path) -> None:
    path = save(musicgen(), tmp_path / "other")
    lm = registry.load(str(path), "cpu")[1]
    network_for(lm, "float32")
    weights = path / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed since"):
        lm.state_dict()
    assert lm.resting
    weights.unlink()
    with pytest.raises(CheckpointError, match="changed since"):
        lm.state_dict()
