"""AudioCraft's checkpoints: a package for the language model and one for the codec.

A folder holds ``state_dict.bin`` and ``compression_state_dict.bin`` (PyTorch packages with ``best_state`` and
the training configuration as YAML text under ``xp.cfg``), or the same two as ``lm.safetensors`` + ``lm.yaml``
and ``codec.safetensors`` + ``codec.yaml``, which is how ``pocket`` is stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from genmodel.checkpoints.assemble import assemble_lm, reading
from genmodel.checkpoints.config import parse_config, setting
from genmodel.checkpoints.encoders import LocalEncoders
from genmodel.checkpoints.files import read_package, read_safetensors, read_text, tensors_of
from genmodel.checkpoints.paths import places
from genmodel.codec import EncodecModel, encodec_config_from_audiocraft, load_encodec
from genmodel.errors import CheckpointError, ModelNotFound
from genmodel.lm.conditioners.build import EncoderSource
from genmodel.lm.lm import LMModel

LM_FILES = ("lm.safetensors", "state_dict.bin")
CODEC_FILES = ("codec.safetensors", "compression_state_dict.bin")
_MAX_REDIRECTS = 4


class Package(NamedTuple):
    """One stored model: its tensors, its configuration, and the name of another that it only points to."""

    path: Path
    state: dict[str, Tensor]
    cfg: DictConfig
    pretrained: str | None


def find_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_audiocraft(folder: Path) -> bool:
    return find_file(folder, LM_FILES) is not None


def read(path: Path) -> Package:
    """A package from ``*.bin`` (PyTorch) or ``*.safetensors`` with ``*.yaml`` beside it."""
    if path.suffix == ".safetensors":
        text = path.with_suffix(".yaml")
        if not text.is_file():
            raise CheckpointError(f"{path} has no {text.name} beside it", field="model")
        return Package(path, read_safetensors(path), parse_config(read_text(text), text), None)
    package = read_package(path)
    pretrained = package.get("pretrained")
    if pretrained is not None:
        return Package(path, {}, parse_config(package.get("xp.cfg") or "{}", path), str(pretrained))
    if "best_state" not in package and "fsdp_best_state" not in package:
        what = "bare weights without a configuration" if _looks_bare(package) else "no best_state"
        raise CheckpointError(f"{path} is no AudioCraft checkpoint: it holds {what}", field="model")
    # training checkpoints nest what exported ones store flat
    state = package.get("fsdp_best_state") or package.get("best_state")
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    return Package(path, tensors_of(state, path), parse_config(package.get("xp.cfg"), path), None)


def _looks_bare(package: dict[str, Any]) -> bool:
    return bool(package) and all(isinstance(value, Tensor) for value in package.values())


def load_lm(path: Path, encoders: EncoderSource | None = None) -> LMModel:
    """The language model of one package, in float32 on the CPU, with ``cfg`` and conditioners, in eval
    mode.
    """
    package = read(path)
    cfg = package.cfg
    if package.pretrained is not None or "transformer_lm" not in cfg:
        kind = "a codec" if package.pretrained or "compression_model" in cfg else "something else"
        raise CheckpointError(f"{path} is {kind}, a language model was expected", field="model")
    found = encoders or LocalEncoders(path.parent)
    return assemble_lm(cfg, package.state, path, found, lambda: read(path).state)


def load_codec(path: Path, checkpoint: Path | None = None, *, _redirects: int = 0) -> EncodecModel:
    """The codec of one package, following ``pretrained`` to where that lies on this machine, in eval mode."""
    package = read(path)
    if package.pretrained is not None:
        if _redirects >= _MAX_REDIRECTS:
            raise CheckpointError(f"{path} points to a codec that points back", field="pretrained")
        return load_named_codec(
            package.pretrained, checkpoint or path.parent, path, _redirects=_redirects + 1
        )
    if "transformer_lm" in package.cfg and "compression_model" not in package.cfg:
        raise CheckpointError(f"{path} is a language model, a codec was expected", field="model")
    kind = setting(package.cfg, "compression_model", path, default="encodec")
    if kind != "encodec":
        raise CheckpointError(
            f"{path}: this kind of codec is not supported",
            field="compression_model",
            value=kind,
            allowed="encodec",
        )
    with reading(path):
        codec = load_encodec(encodec_config_from_audiocraft(package.cfg), package.state)
    return codec.eval()


def load_named_codec(name: str, checkpoint: Path, source: Path, *, _redirects: int = 0) -> EncodecModel:
    """A codec that a package names: a file, a folder in either format, or something that was pulled."""
    from genmodel.checkpoints import hf

    wanted = name.removeprefix("//pretrained/")
    if wanted.startswith("dac_"):
        raise CheckpointError(
            f"{source} needs the DAC codec, which Segue does not read", field="pretrained", value=name
        )
    for place in places(wanted, checkpoint):
        if place.is_file():
            return load_codec(place, place.parent, _redirects=_redirects)
        if hf.has_codec(place):
            return hf.load_codec(place)
        package = find_file(place, CODEC_FILES)
        if package is not None and package.resolve() != source.resolve():
            return load_codec(package, place, _redirects=_redirects)
    raise ModelNotFound(
        f"the codec {wanted} that {source} names is not on this machine; run: segue pull {wanted}",
        value=wanted,
    )
