"""Files that are cut short, renamed, foreign, or want to run code: one sentence each, and nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from genmodel.checkpoints import audiocraft, files, hf, registry
from genmodel.errors import CheckpointError
from tests.checkpoints.making import copy_golden, edit_json, edit_package, musicgen, save
from tests.golden_files import folder, package

NAME = "audiogen-tiny"
LM, CODEC = "state_dict.bin", "compression_state_dict.bin"


@pytest.fixture(autouse=True)
def _own_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "models"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return copy_golden(NAME, tmp_path)


def refused(path: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        registry.load(str(path), device="cpu")
    sentence = str(caught.value)
    assert caught.value.code == "E_MODEL"
    for word in words:
        assert word in sentence, sentence
    return sentence


class RunsCode:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", [LM, CODEC])
@pytest.mark.parametrize("inside", [True, False], ids=["zip", "bare"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_never_run(
    mine: Path, file: str, inside: bool
) -> None:
    trap = mine / "trap"
    if inside:
        edit = package(NAME, file)
        torch.save({**edit, "history": RunsCode(trap)}, mine / file)
    else:
        (mine / file).write_bytes(pickle.dumps(RunsCode(trap), protocol=2))
    sentence = refused(mine, file, "wants to run code", "nothing was run")
    assert "mkdir" in sentence
    assert not trap.exists()
    torch.load(mine / file, weights_only=False) if inside else pickle.loads((mine / file).read_bytes())
    assert trap.is_dir()  # the trap was armed


def test_hugging_faces_pickles_are_read_as_carefully(tmp_path: Path) -> None:
    model = save(musicgen(), tmp_path / "hf", safe_serialization=False)
    state = torch.load(model / "pytorch_model.bin", weights_only=True)
    torch.save({**state, "decoder.x": RunsCode(tmp_path / "trap")}, model / "pytorch_model.bin")
    refused(model, "pytorch_model.bin", "wants to run code")
    assert not (tmp_path / "trap").exists()


def test_live_configuration_objects_say_how_to_convert(mine: Path) -> None:
    stored = package(NAME, LM)
    torch.save({**stored, "xp.cfg": OmegaConf.create({"a": 1})}, mine / LM)
    refused(mine, LM, "export_lm", "does not unpickle")


@pytest.mark.parametrize("keep", [0, 3, 1000, 100_000])
def test_truncated_files(mine: Path, keep: int) -> None:
    whole = (mine / LM).read_bytes()
    (mine / LM).write_bytes(whole[:keep])
    refused(mine, LM)


def test_bit_rot_is_not_a_crash(mine: Path) -> None:
    whole = bytearray((mine / LM).read_bytes())
    with zipfile.ZipFile(mine / LM) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        start = archive.getinfo(name).header_offset + 60
    for at in range(start, start + 2000, 97):
        whole[at] ^= 0x5A
    (mine / LM).write_bytes(bytes(whole))
    refused(mine, LM)


def test_foreign_files(mine: Path) -> None:
    (mine / LM).write_bytes(b"RIFF....WAVEfmt ")
    refused(mine, LM, "not a PyTorch file")
    with zipfile.ZipFile(mine / LM, "w") as archive:
        archive.writestr("song.txt", "la la la")
    refused(mine, LM, "zip archive")
    torch.save([1, 2, 3], mine / LM)
    refused(mine, LM, "dictionary was expected")
    torch.save({"best_state": {"emb.0.weight": "text"}, "xp.cfg": "a: 1"}, mine / LM)
    refused(mine, LM, "tensor was expected")
    torch.save({"weights": torch.zeros(2)}, mine / LM)
    refused(mine, LM, "no AudioCraft checkpoint")
    torch.save({"best_state": {}, "xp.cfg": "a: 1"}, mine / LM)
    refused(mine, LM, "no tensors")


def test_exchanged_and_renamed_files(mine: Path) -> None:
    (mine / LM).rename(mine / "x")
    (mine / CODEC).rename(mine / LM)
    (mine / "x").rename(mine / CODEC)
    refused(mine, LM, "is a codec, a language model was expected")
    shutil.copyfile(folder(NAME) / LM, mine / LM)
    refused(mine, CODEC, "is a language model, a codec was expected")
    (mine / CODEC).unlink()
    refused(mine, "no codec beside")
    (mine / LM).rename(mine / "model.bin")
    refused(mine, "no model in a form")
    shutil.copyfile(folder(NAME) / CODEC, mine / CODEC)
    registry.load(str(mine / "model.bin"), device="cpu")  # a renamed file that is named is what it is


def test_a_codec_of_another_model_is_refused(mine: Path) -> None:
    shutil.copyfile(folder("musicgen-tiny-mono") / CODEC, mine / CODEC)
    refused(mine, "do not belong together")


def altered(change: Any, file: str = LM) -> dict[str, torch.Tensor]:
    state = dict(package(NAME, file)["best_state"])
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda s: s.pop("out_norm.weight"), "out_norm.weight"),
        (lambda s: s.update({"transformer.layers.0.extra": torch.zeros(1)}), "transformer.layers.0.extra"),
        (lambda s: s.update({"linears.1.weight": torch.zeros(5, 5)}), "linears.1.weight"),
        (lambda s: s.update({"emb.0.weight": torch.zeros(99, 32)}), "card"),
        (lambda s: s.update({"emb.4.weight": torch.zeros(33, 32)}), "n_q"),
        (lambda s: [s.pop(k) for k in list(s) if "layers.1" in k], "num_layers"),
        (lambda s: s.clear(), "no tensors"),
        (lambda s: s["out_norm.bias"].fill_(float("nan")), "out_norm.bias"),
        (
            lambda s: s.update(
                {"condition_provider.conditioners.description.output_proj.weight": torch.zeros(32, 768)}
            ),
            "48 wide",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(mine: Path, change: Any, names: str) -> None:
    edit_package(mine / LM, best_state=altered(change))
    refused(mine, LM, names)


def test_codec_tensors_that_do_not_fit_are_named(mine: Path) -> None:
    edit_package(mine / CODEC, best_state=altered(lambda s: s.pop("encoder.model.0.conv.conv.bias"), CODEC))
    refused(mine, CODEC, "encoder.model.0.conv.conv.bias")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, "xp.cfg"),
        ("- a\n- b\n", "mapping"),
        ("a: [1, 2", "YAML"),
        ("transformer_lm: ${nowhere}\n", "nowhere"),
        ("transformer_lm: {dim: 32, num_heads: 2, norm_first: true}\n", "num_layers"),
        ("x: &x [1]\ny: [" + ", ".join(["*x"] * 60) + "]\n", "refers to itself"),
        ("a: " + "x" * 2**20, "large"),
        ("lm_model: transformer_lm_magnet\ntransformer_lm: {dim: 32}\n", "transformer_lm_magnet"),
        ("transformer_lm: 3\n", LM),
    ],
)
def test_configurations_that_cannot_be_used(mine: Path, text: str | None, names: str) -> None:
    edit_package(mine / LM, xp_cfg=text)
    refused(mine, LM, names)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (LM, "transformer_lm.dim", float("inf")),
        (LM, "transformer_lm.num_heads", [1]),
        (LM, "fuser.cross", 3),
        (LM, "conditioners.description.t5", "x"),
        (LM, "compression_model_n_q", "x"),
        (LM, "codebooks_pattern.delay.delays", "x"),
        (CODEC, "seanet.decoder", [1, 2]),
        (CODEC, "seanet.ratios", None),
        (CODEC, "encodec", float("nan")),
        (CODEC, "rvq.bins", -1),
    ],
)
def test_values_of_any_type_anywhere(mine: Path, file: str, key: str, value: Any) -> None:
    cfg = OmegaConf.create(package(NAME, file)["xp.cfg"])
    OmegaConf.update(cfg, key, value, merge=False)
    edit_package(mine / file, xp_cfg=OmegaConf.to_yaml(cfg))
    refused(mine)
    registry.list_models()


@pytest.mark.parametrize("value", [100, "x", None, [], {"a": 1}])
@pytest.mark.parametrize("section", ["audio_encoder", "decoder", "text_encoder"])
def test_sections_of_any_type(tmp_path: Path, section: str, value: Any) -> None:
    model = save(musicgen(), tmp_path / "models" / "hf")
    edit_json(model / "config.json", **{section: value})
    refused(model)
    assert registry.list_models()


def test_an_absurd_configuration_allocates_nothing(mine: Path) -> None:
    text = package(NAME, LM)["xp.cfg"]
    edit_package(mine / LM, xp_cfg=text.replace("hidden_scale: 4", "hidden_scale: 400000000"))
    refused(mine, LM, "linear1.weight")


def test_damaged_safetensors(tmp_path: Path) -> None:
    model = save(musicgen(), tmp_path / "hf")
    whole = (model / "model.safetensors").read_bytes()
    for keep in (0, 5, 2000, len(whole) - 1):
        (model / "model.safetensors").write_bytes(whole[:keep])
        refused(model, "model.safetensors")


def test_damaged_folders(tmp_path: Path) -> None:
    model = save(musicgen(), tmp_path / "hf", max_shard_size="500KB")
    index = model / "model.safetensors.index.json"
    before = index.read_text()
    edit_json(index, weight_map=None)
    refused(model, "weight_map")
    edit_json(index, weight_map={"decoder.x": "../../etc/passwd"})
    refused(model, "outside its folder")
    index.write_text(before)
    victim = sorted(model.glob("model-*.safetensors"))[-1]
    content = victim.read_bytes()
    victim.unlink()
    refused(model, victim.name)
    save_file({"other": torch.zeros(1)}, victim)
    refused(model, victim.name, "lacks")
    victim.write_bytes(content)
    edit_json(
        model / "config.json",
        decoder={"hidden_size": 64, "num_codebooks": 4, "num_hidden_layers": 3, "vocab_size": 64},
    )
    refused(model, "num_layers")
    edit_json(model / "config.json", decoder="none")
    refused(model, "decoder")
    (model / "config.json").write_text("{")
    refused(model)


def test_bits_of_a_folder_are_named(tmp_path: Path) -> None:
    model = save(musicgen(), tmp_path / "hf")
    for name in ("spiece.model", "tokenizer_config.json"):
        (model / name).unlink()
    refused(model, "no tokenizer")
    (model / "spiece.model").write_bytes(b"not sentencepiece")
    refused(model, "tokenizer")


def test_hugging_faces_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weights = files.read_safetensors(save(musicgen(), tmp_path / "hf") / "model.safetensors")
    decoder = {
        key: value for key, value in weights.items() if key.startswith(("decoder.", "enc_to_dec_proj."))
    }
    query = "decoder.model.decoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match="lacks its q part"):
        hf.rename({key: value for key, value in decoder.items() if key != query}, tmp_path)
    with pytest.raises(CheckpointError, match="do not fit"):
        hf.rename({**decoder, query: torch.zeros(3)}, tmp_path)
    with pytest.raises(CheckpointError, match="unknown tensor decoder.surprise"):
        hf.rename({**decoder, "decoder.surprise": torch.zeros(3)}, tmp_path)


def test_a_file_that_may_not_be_read(mine: Path) -> None:
    (mine / LM).chmod(0)
    if os.access(mine / LM, os.R_OK):
        pytest.skip("this user may read everything")
    refused(mine, LM, "may not be read")


def test_old_style_torch_files_are_read(mine: Path) -> None:
    stored = package(NAME, LM)
    buffer = io.BytesIO()
    torch.save(stored, buffer, _use_new_zipfile_serialization=False)
    (mine / LM).write_bytes(buffer.getvalue())
    assert audiocraft.load_lm(mine / LM).card == 32
