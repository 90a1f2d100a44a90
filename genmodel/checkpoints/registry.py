"""Names of models: what they mean, where they lie, loading, listing, pulling.

    pocket                      our own model, in the package
    debug                       AudioCraft's debug size, random weights
    facebook/musicgen-small …   published repositories, from the models folder (``segue pull`` fills it)
    small, medium, melody …     AudioCraft's short names for these, with a warning
    a path                      a folder in either format, or the language model's file in one

Nothing here downloads; a name that is not on this machine is a ModelNotFound with the command that gets it.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from genmodel.checkpoints import audiocraft, debug, hf
from genmodel.checkpoints.assemble import check_pair
from genmodel.checkpoints.info import (
    MANIFEST,
    CheckpointInfo,
    Fingerprints,
    ModelEntry,
    conditions_of,
    describe,
    family_of,
    files_of,
    format_of,
    licence_of,
    manifest_of,
    stems_of,
)
from genmodel.checkpoints.paths import folder_name, hub_snapshots, is_partial, is_repo_id, models_dir
from genmodel.checkpoints.published import PUBLISHED, SHORT_NAMES
from genmodel.codec import EncodecModel
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
from genmodel.lm.lm import LMModel

POCKET = "pocket"
_POCKET_FOLDER = Path(__file__).resolve().parent.parent / POCKET


def full_name(name: str, family: str | None = None) -> str:
    """A short name of AudioCraft's as the repository it stands for (with a warning); others as they are."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise GenModelError("a model is named by text", code="E_MODEL", field="model", value=str(name)[:80])
    repo = SHORT_NAMES.get(family or "musicgen", {}).get(name)
    if repo is None:
        return name
    warnings.warn(f"the short name {name!r} stands for {repo}; use that", stacklevel=3)
    return repo


def _places(name: str) -> Iterator[Path]:
    if name == POCKET:
        yield _POCKET_FOLDER
        return
    path = Path(name).expanduser()
    if path.is_absolute() or path.exists():
        yield path
    if path.is_absolute() or ".." in path.parts:
        return
    yield models_dir() / folder_name(name)
    yield models_dir() / name
    if is_repo_id(name):
        yield from hub_snapshots(name)


def resolve(name: str, family: str | None = None) -> Path | None:
    """Where a model lies on this machine: a folder, or the file that was named. None if it is not here.

    ``debug`` has no place and gives None too; ``load`` knows it.
    """
    try:
        for place in _places(full_name(name, family)):
            if not is_partial(place) and format_of(place) is not None:
                return place
    except OSError:  # a name that no file system takes
        return None
    return None


def _not_found(name: str) -> GenModelError:
    path = Path(name).expanduser()
    try:
        there = path.exists() or (models_dir() / folder_name(name)).is_dir()
    except OSError:
        there = False
    if there:
        return CheckpointError(
            f"{name} holds no model in a form that Segue reads",
            field="model",
            allowed="state_dict.bin with compression_state_dict.bin, or config.json with weights",
        )
    if is_repo_id(name):
        return ModelNotFound(f"{name} is not on this machine; run: segue pull {name}", value=name)
    names = [POCKET, debug.NAME, *PUBLISHED, *SHORT_NAMES["musicgen"]]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; the nearest name is {close[0]}" if close else "; run: segue models"
    shown = name if len(name) <= 80 else name[:79] + "…"
    return ModelNotFound(f"there is no model named {shown}{hint}")


def _default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(
    name: str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    family: str | None = None,
) -> tuple[EncodecModel, LMModel, CheckpointInfo]:
    """The codec (not yet wrapped), the language model and what they are, in eval mode on ``device``.

    ``device`` defaults to a GPU if there is one. ``dtype`` is that of the transformer's layers (embeddings,
    heads, projections and the codec stay float32); None leaves float32. ``family`` ("musicgen", "audiogen")
    decides what short names and ``debug`` mean.

    Raises ModelNotFound, CheckpointError, or GenModelError E_MEMORY.
    """
    name = full_name(name, family)
    try:
        where = torch.device(device) if device is not None else _default_device()
    except (RuntimeError, TypeError) as error:
        raise GenModelError("there is no such device", field="device", value=str(device)) from error
    try:
        codec, lm, info = _load(name, family)
        if dtype is not None:
            lm.transformer.to(dtype)
        return codec.to(where), lm.to(where), info
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise GenModelError(
            f"{name} does not fit into the memory of {where}", code="E_MEMORY", field="model"
        ) from error


def _load(name: str, family: str | None) -> tuple[EncodecModel, LMModel, CheckpointInfo]:
    if name == debug.NAME:
        family = family if family in debug.RATES_HZ else "musicgen"
        lm = debug.build_lm(family)
        info = CheckpointInfo(
            name, None, "debug", None, debug.LICENCE, family, conditions=conditions_of(lm.cfg)
        )
        return debug.build_codec(family), lm, info
    path = resolve(name, family)
    if path is None:
        raise _not_found(name)
    form = format_of(path)
    if form == "huggingface":
        lm, codec = hf.load_lm(path), hf.load_codec(path)
    else:
        file = path if path.is_file() else audiocraft.find_file(path, audiocraft.LM_FILES)
        codec_file = audiocraft.find_file(path.parent if path.is_file() else path, audiocraft.CODEC_FILES)
        if file is None or codec_file is None:
            raise CheckpointError(
                f"{path} has no codec beside its language model",
                field="model",
                allowed=" or ".join(audiocraft.CODEC_FILES),
            )
        lm, codec = audiocraft.load_lm(file), audiocraft.load_codec(codec_file)
    check_pair(lm, codec, path)
    manifest, prints = manifest_of(path), Fingerprints()
    _check_hashes(path, manifest, prints)
    return (
        codec,
        lm,
        CheckpointInfo(
            name=name,
            path=path,
            format=form or "audiocraft",
            sha256=prints.of_all(files_of(path)),
            licence=licence_of(name, path, manifest),
            family=family or family_of(name, lm.cfg, codec.sample_rate),
            stems=stems_of(lm.cfg),
            conditions=conditions_of(lm.cfg),
            manifest=manifest,
        ),
    )


def _check_hashes(path: Path, manifest: dict[str, Any] | None, prints: Fingerprints) -> None:
    """CheckpointError where weights differ from what the manifest beside them states."""
    stated = (manifest or {}).get("sha256")
    if not isinstance(stated, dict):
        return
    for file in files_of(path):
        expected = stated.get(file.name) if file.suffix == ".safetensors" else None
        if isinstance(expected, str) and prints.of(file) != expected:
            raise CheckpointError(
                f"{file} is not the file that {MANIFEST} beside it describes; install it again", field="model"
            )


def list_models(*, published: bool = True) -> list[ModelEntry]:
    """Every model that can be named: pocket, what lies in the models folder, ``debug``, and what could be
    pulled.
    """
    entries: list[ModelEntry] = []
    if format_of(_POCKET_FOLDER) is not None:
        entries.append(describe(POCKET, _POCKET_FOLDER))
    folder = models_dir()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not is_partial(path) and not path.name.startswith(".") and format_of(path):
            entries.append(describe(path.name.replace("--", "/", 1), path))
    here = {entry.name for entry in entries}
    entries.append(
        ModelEntry(
            name=debug.NAME,
            present=True,
            format="debug",
            family="musicgen",
            rate=debug.RATES_HZ["musicgen"],
            channels=1,
            stems=("mix",),
            conditions=("description",),
            licence=debug.LICENCE,
            note="random weights, for tests",
        )
    )
    if published:
        entries += [model.entry() for repo, model in PUBLISHED.items() if repo not in here]
    return entries


def pull(name: str, progress: Callable[..., None] | None = None, family: str | None = None) -> Path:
    """Bring a model here: see ``download.pull``."""
    from genmodel.checkpoints import download

    return download.pull(full_name(name, family), progress)
