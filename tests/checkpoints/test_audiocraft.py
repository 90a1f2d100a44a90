"""AudioCraft's packages: the golden models in every form in which such files come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from genmodel.checkpoints import audiocraft, hf, registry
from genmodel.errors import CheckpointError, ModelNotFound
from genmodel.lm.conditioning import ConditioningAttributes
from tests.checkpoints.making import copy_golden, edit_package, musicgen, save
from tests.golden_files import MODELS, facts, folder, package, tensors

NAME = "musicgen-tiny-mono"


@pytest.fixture(autouse=True)
def _own_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "models"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return copy_golden(NAME, tmp_path)


def is_the_golden_model(path: Path, name: str = NAME, tolerance: float = 1e-4) -> None:
    codec, lm, _ = registry.load(str(path), device="cpu")
    expected = tensors(name)
    rows = [ConditioningAttributes(text={"description": text}) for text in facts(name)["texts"]]
    with torch.no_grad():
        logits = lm(expected["lm.sequence"], rows)
    assert (logits - expected["lm.logits"]).abs().max() < tolerance * expected["lm.logits"].abs().max()
    assert codec.cardinality == lm.card and not lm.training and not codec.training
    assert {parameter.dtype for parameter in [*lm.parameters(), *codec.parameters()]} == {torch.float32}


@pytest.mark.parametrize("name", MODELS)
def test_golden_models_load_from_folder_and_file(name: str) -> None:
    is_the_golden_model(folder(name), name)
    is_the_golden_model(folder(name) / "state_dict.bin", name)


@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_stays_at_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody")
    _, lm, info = registry.load(str(folder(name)), device="cpu")
    assert lm.cfg is not None and lm.cfg.dataset.segment_duration == 30.0
    assert lm.cfg.interleave_stereo_codebooks.use == (name == "musicgen-tiny-stereo")
    assert "somebody" not in lm.cfg.dora.dir
    assert info.format == "audiocraft" and info.stems == ("mix",) and info.conditions == ("description",)
    assert info.family == ("audiogen" if name.startswith("audiogen") else "musicgen")
    assert info.sha256 is not None and len(info.sha256) == 64 and info.licence == "unknown"


def test_training_checkpoints_are_nested(mine: Path) -> None:
    for file in ("state_dict.bin", "compression_state_dict.bin"):
        state = package(NAME, file)["best_state"]
        edit_package(mine / file, best_state={"model": state}, exported=None)
    is_the_golden_model(mine)
    edit_package(
        mine / "state_dict.bin",
        best_state=None,
        fsdp_best_state={"model": package(NAME, "state_dict.bin")["best_state"]},
    )
    is_the_golden_model(mine)


def test_half_precision_becomes_single(mine: Path) -> None:
    state = package(NAME, "state_dict.bin")["best_state"]
    edit_package(mine / "state_dict.bin", best_state={key: value.half() for key, value in state.items()})
    is_the_golden_model(mine, tolerance=1e-2)


def test_strangers_among_the_tensors_are_left_out(mine: Path) -> None:
    state = dict(package(NAME, "state_dict.bin")["best_state"])
    state["compression_model.encoder.weight"] = torch.zeros(3)
    state["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.zeros(16)
    state["condition_provider.conditioners.description.t5.shared.weight"] = torch.zeros(2, 2)
    edit_package(mine / "state_dict.bin", best_state=state)
    is_the_golden_model(mine)


def test_torchs_own_attention_has_one_name_more(mine: Path) -> None:
    state = package(NAME, "state_dict.bin")["best_state"]
    renamed = {
        key.replace("self_attn.", "self_attn.mha.").replace("cross_attention.", "cross_attention.mha."): value
        for key, value in state.items()
    }
    edit_package(mine / "state_dict.bin", best_state=renamed)
    is_the_golden_model(mine)


def test_the_safetensors_twin_is_the_same_model(tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for file, name in (("state_dict.bin", "lm"), ("compression_state_dict.bin", "codec")):
        stored = package(NAME, file)
        save_file(
            {key: value.contiguous() for key, value in stored["best_state"].items()},
            twin / f"{name}.safetensors",
        )
        (twin / f"{name}.yaml").write_text(stored["xp.cfg"])
    (twin / "manifest.json").write_text('{"licence": "MIT", "prompt_level_db": -17}')
    (tmp_path / "t5-tiny-11").symlink_to(folder("t5-tiny-11"))
    is_the_golden_model(twin)
    _, _, info = registry.load(str(twin), device="cpu")
    assert (
        info.format == "segue"
        and info.licence == "MIT"
        and info.manifest == {"licence": "MIT", "prompt_level_db": -17}
    )
    (twin / "manifest.json").write_text(json.dumps({"sha256": {"codec.safetensors": "0" * 64}}))
    with pytest.raises(CheckpointError, match=r"codec\.safetensors is not the file"):
        registry.load(str(twin))
    (twin / "lm.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"lm\.yaml"):
        registry.load(str(twin))


def test_the_models_own_encoder_is_loaded_where_it_was_trained(mine: Path) -> None:
    stored = package(NAME, "state_dict.bin")
    encoder = audiocraft.load_lm(mine / "state_dict.bin").condition_provider.conditioners["description"].t5
    prefix = "condition_provider.conditioners.description.t5."
    state = dict(stored["best_state"])
    for key, value in encoder.state_dict().items():
        if key != "encoder.embed_tokens.weight":
            state[prefix + key] = value * 1.5
    edit_package(
        mine / "state_dict.bin",
        best_state=state,
        xp_cfg=stored["xp.cfg"].replace("finetune: false", "finetune: true"),
    )
    lm = audiocraft.load_lm(mine / "state_dict.bin")
    own = {key: value for key, value in lm.state_dict().items() if key.startswith(prefix)}
    assert torch.equal(own[prefix + "shared.weight"], encoder.state_dict()["shared.weight"] * 1.5)
    assert own[prefix + "encoder.embed_tokens.weight"].equal(own[prefix + "shared.weight"])


@pytest.mark.parametrize("where", ["name beside", "path", "models folder", "hugging face"])
def test_a_codec_may_be_a_pointer(mine: Path, where: str, tmp_path: Path) -> None:
    codec = mine / "compression_state_dict.bin"
    if where == "path":
        target = tmp_path / "elsewhere.bin"
        codec.rename(target)
        pointer = str(target)
    elif where == "hugging face":
        target = tmp_path / "models" / "facebook--encodec_32khz"
        musicgen().audio_encoder.save_pretrained(target)
        pointer = "//pretrained/facebook/encodec_32khz"
    else:
        base = tmp_path if where == "name beside" else tmp_path / "models"
        target = base / "encodec_32khz" / "compression_state_dict.bin"
        target.parent.mkdir(parents=True)
        codec.rename(target)
        pointer = "facebook/encodec_32khz" if where == "name beside" else "encodec_32khz"
    torch.save({"pretrained": pointer, "exported": True}, codec)
    is_the_golden_model(mine)


def test_a_pointer_into_nothing_says_what_to_do(mine: Path) -> None:
    codec = mine / "compression_state_dict.bin"
    torch.save({"pretrained": "facebook/encodec_32khz"}, codec)
    with pytest.raises(ModelNotFound, match="segue pull facebook/encodec_32khz"):
        registry.load(str(mine))
    torch.save({"pretrained": "dac_44khz"}, codec)
    with pytest.raises(CheckpointError, match="DAC"):
        registry.load(str(mine))
    torch.save({"pretrained": str(codec)}, codec)
    with pytest.raises(CheckpointError, match="points back"):
        registry.load(str(mine))


def test_a_loaded_model_does_not_need_its_files(mine: Path) -> None:
    _, lm, _ = registry.load(str(mine), device="cpu")
    before = lm.emb[0].weight.clone()
    with (mine / "state_dict.bin").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(b"\0" * size)
    assert torch.equal(lm.emb[0].weight, before)


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    registry.load(str(folder(NAME)), device="cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_melody_checkpoints_play_without_a_melody(tmp_path: Path) -> None:
    origin = save(musicgen(melody=True), tmp_path / "origin")
    expected = hf.load_lm(origin)
    assert expected.cfg is not None
    state = dict(expected.state_dict())
    state["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.zeros(16384)
    text = OmegaConf.to_yaml(expected.cfg).replace("chroma_length: 20", "cache_path: ${oc.env:HOME}/x")
    target = tmp_path / "melody"
    target.mkdir()
    torch.save({"best_state": state, "xp.cfg": text}, target / "state_dict.bin")
    (tmp_path / "t5-base").symlink_to(folder("t5-tiny-11"))
    lm = audiocraft.load_lm(target / "state_dict.bin")
    tensors_ = lm.condition_provider.embed([ConditioningAttributes(text={"description": "piano"})])
    assert tensors_["self_wav"][0].shape == (1, 235, 64)
    column = state["condition_provider.conditioners.self_wav.output_proj.weight"][:, 0]
    bias = state["condition_provider.conditioners.self_wav.output_proj.bias"]
    assert torch.allclose(tensors_["self_wav"][0], (column + bias).expand(1, 235, 64))
