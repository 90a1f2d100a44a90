"""What is known about a model on disk without loading it: format, licence, rates, stems, conditions,
fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from genmodel.checkpoints import audiocraft, hf
from genmodel.checkpoints.assemble import reading
from genmodel.checkpoints.files import has_weights, read_json
from genmodel.checkpoints.paths import models_dir
from genmodel.errors import CheckpointError, GenModelError

Format = Literal["audiocraft", "huggingface", "segue", "debug"]
UNKNOWN_LICENCE = "unknown"
FACEBOOK_LICENCE = "CC-BY-NC 4.0"
RECEIPT = "segue.json"  # written by ``pull``: where a folder came from and what was in it
MANIFEST = "manifest.json"  # pocket's own description
_HASHES = ".fingerprints.json"
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class CheckpointInfo:
    """What was loaded. ``path`` is None for models made in memory; ``sha256`` covers every file that was
    read.
    """

    name: str
    path: Path | None
    format: Format
    sha256: str | None
    licence: str
    family: str
    stems: tuple[str, ...] = ("mix",)
    conditions: tuple[str, ...] = ()
    manifest: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be named. ``present`` is False for published models that were not pulled yet."""

    name: str
    present: bool
    path: Path | None = None
    format: Format | None = None
    family: str | None = None
    size_bytes: int | None = None
    rate: int | None = None
    channels: int | None = None
    stems: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    licence: str | None = None
    note: str | None = None


def format_of(path: Path) -> Format | None:
    """How the model at a path (folder, or file of a language model) is stored; None if it is none."""
    if path.is_file():
        return "segue" if path.suffix == ".safetensors" else "audiocraft"
    if hf.is_model(path) and has_weights(path):
        return "huggingface"
    found = audiocraft.find_file(path, audiocraft.LM_FILES)
    if found is None:
        return None
    return "segue" if found.suffix == ".safetensors" else "audiocraft"


def files_of(path: Path) -> list[Path]:
    """The files that make up a model, in a fixed order."""
    form = format_of(path)
    if form == "huggingface":
        wanted = [path / "config.json", path / "generation_config.json"]
        safe = sorted(path.glob("model*.safetensors"))
        wanted += safe or sorted(path.glob("pytorch_model*.bin"))
        return [file for file in wanted if file.is_file()]
    folder = path.parent if path.is_file() else path
    found = [path if path.is_file() else audiocraft.find_file(folder, audiocraft.LM_FILES)]
    found.append(audiocraft.find_file(folder, audiocraft.CODEC_FILES))
    files = [file for file in found if file is not None]
    beside = [file.with_suffix(".yaml") for file in files if file.suffix == ".safetensors"]
    return [*files, *(file for file in beside if file.is_file())]


def size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class Fingerprints:
    """SHA-256 of files, remembered in the models folder by path, size and modification time.

    The memory is a convenience: where there is no models folder, or it cannot be written, files are hashed
    again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or models_dir()) / _HASHES
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = {}
        self._known: dict[str, Any] = stored if isinstance(stored, dict) else {}

    def of(self, path: Path) -> str:
        """The hash of one file."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path.resolve()))
        if isinstance(known, list) and known[:2] == mark and isinstance(known[2], str):
            return known[2]
        digest = sha256_of(path)
        self._known[str(path.resolve())] = [*mark, digest]
        self._save()
        return digest

    def of_all(self, files: Sequence[Path]) -> str:
        """One hash over the names and contents of several files."""
        lines = "".join(f"{self.of(file)}  {file.name}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def _save(self) -> None:
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=_HASHES)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({key: value for key, value in self._known.items() if Path(key).is_file()}, file)
            os.replace(temporary, self._path)


def manifest_of(path: Path) -> dict[str, Any] | None:
    """``manifest.json`` beside a model in Segue's own layout."""
    folder = path.parent if path.is_file() else path
    return read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None


def licence_of(name: str, path: Path, manifest: dict[str, Any] | None) -> str:
    """The licence: the manifest's, the download's, Facebook's for what Facebook published, else "unknown"."""
    if manifest and isinstance(manifest.get("licence") or manifest.get("license"), str):
        return str(manifest.get("licence") or manifest["license"])
    folder = path.parent if path.is_file() else path
    receipt = read_json(folder / RECEIPT) if (folder / RECEIPT).is_file() else {}
    if isinstance(receipt.get("licence"), str):
        return str(receipt["licence"])
    cached = f"models--{name.replace('/', '--')}" in folder.parts
    if name.startswith("facebook/") and (folder.name == name.replace("/", "--") or cached):
        return FACEBOOK_LICENCE
    return UNKNOWN_LICENCE


def family_of(name: str, cfg: DictConfig | None, rate_hz: int) -> str:
    """``audiogen`` or ``musicgen``: by the solver, the name, or AudioGen's rate of 16 kHz."""
    solver = OmegaConf.select(cfg, "solver", default=None) if cfg is not None else None
    if solver == "audiogen" or "audiogen" in name.lower() or rate_hz == 16000:
        return "audiogen"
    return "musicgen"


def stems_of(cfg: DictConfig | None) -> tuple[str, ...]:
    if cfg is not None and OmegaConf.select(cfg, "stems.use", default=False):
        return tuple(str(name) for name in OmegaConf.select(cfg, "stems.names", default=()))
    return ("mix",)


def conditions_of(cfg: DictConfig | None) -> tuple[str, ...]:
    node = OmegaConf.select(cfg, "conditioners", default=None) if cfg is not None else None
    return tuple(str(name) for name in (node or {}) if name != "args")


def read_config(path: Path) -> DictConfig:
    """The configuration of the model at a path, its tensors unread."""
    if format_of(path) == "huggingface":
        generation = path / "generation_config.json"
        return hf.audiocraft_config(
            read_json(path / "config.json"), read_json(generation) if generation.is_file() else {}, path
        )
    file = path if path.is_file() else audiocraft.find_file(path, audiocraft.LM_FILES)
    if file is None:
        raise CheckpointError(f"{path} holds no model", field="model")
    return audiocraft.read(file).cfg


def describe(name: str, path: Path) -> ModelEntry:
    """What a listing says about the model at a path; a broken one says what is wrong in ``note``."""
    form = format_of(path)
    try:
        with reading(path):
            cfg = read_config(path)
            manifest = manifest_of(path)
            rate = int(OmegaConf.select(cfg, "sample_rate", default=0) or 0)
            return ModelEntry(
                name=name,
                present=True,
                path=path,
                format=form,
                family=family_of(name, cfg, rate),
                size_bytes=size_bytes(path),
                rate=rate or None,
                channels=int(OmegaConf.select(cfg, "channels", default=1) or 1),
                stems=stems_of(cfg),
                conditions=conditions_of(cfg),
                licence=licence_of(name, path, manifest),
            )
    except (GenModelError, OSError) as error:
        return ModelEntry(name=name, present=True, path=path, format=form, note=str(error)[:500])
