"""Where models lie on this machine.

The models folder is ``platformdirs.user_data_dir("segue")/models`` (environment ``SEGUE_MODELS`` overrides
it). What was pulled lies there as ``org--name``; a checkpoint, an encoder or a codec copied there by hand
keeps its own name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import platformdirs

# Repositories that moved: the name old checkpoints use -> where it is published now.
MOVED: dict[str, str] = {
    "t5-small": "google-t5/t5-small",
    "t5-base": "google-t5/t5-base",
    "t5-large": "google-t5/t5-large",
    "t5-3b": "google-t5/t5-3b",
    "t5-11b": "google-t5/t5-11b",
}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z", re.ASCII)
_PART_SUFFIX = ".part"


def models_dir() -> Path:
    """The models folder; it need not exist yet."""
    override = os.environ.get("SEGUE_MODELS")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_data_dir("segue", appauthor=False)) / "models"


def is_repo_id(name: str) -> bool:
    """Whether a name has the form ``org/name`` of a published repository."""
    return bool(_REPO_ID.match(name)) and ".." not in name and "--" not in name


def repo_id(name: str) -> str:
    """A name as it is published today."""
    return MOVED.get(name, name)


def folder_name(repo: str) -> str:
    """``org/name`` -> ``org--name``."""
    return repo.replace("/", "--")


def is_partial(folder: Path) -> bool:
    """Whether a folder is an unfinished download."""
    return folder.name.endswith(_PART_SUFFIX)


def part_folder(folder: Path) -> Path:
    return folder.with_name(folder.name + _PART_SUFFIX)


def hub_cache_dir() -> Path:
    """The local Hugging Face cache, by its own environment variables."""
    if explicit := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def hub_snapshots(repo: str) -> Iterator[Path]:
    """Snapshots of a repository in the local Hugging Face cache, the one ``main`` points to first."""
    root = hub_cache_dir() / f"models--{folder_name(repo)}"
    snapshots = root / "snapshots"
    if not snapshots.is_dir():
        return
    main = root / "refs" / "main"
    if main.is_file():
        current = snapshots / main.read_text(encoding="utf-8").strip()
        if current.is_dir():
            yield current
    yield from sorted(path for path in snapshots.iterdir() if path.is_dir())


def _inside(folder: Path, name: str) -> Iterator[Path]:
    """A named thing inside a folder: as org/name, as org--name, by its last part."""
    for form in dict.fromkeys((name, folder_name(name), name.rpartition("/")[2])):
        if form and ".." not in Path(form).parts:
            yield folder / form


def places(name: str, checkpoint: Path | None = None) -> Iterator[Path]:
    """Every place where something that a checkpoint names may lie, best first, existing or not.

    As a path; beside the checkpoint's folder; inside it; in the models folder; among what was pulled; in the
    local Hugging Face cache.
    """
    path = Path(name).expanduser()
    yield path
    if path.is_absolute():
        return
    published = repo_id(name)
    if checkpoint is not None:
        yield from _inside(checkpoint.parent, name)
        yield from _inside(checkpoint, name)
    for known in dict.fromkeys((name, published)):
        yield from _inside(models_dir(), known)
    if "/" not in name and models_dir().is_dir():
        yield from sorted(found for found in models_dir().glob(f"*--{_literal(name)}") if found.is_dir())
    for known in dict.fromkeys((published, name)):
        yield from hub_snapshots(known)


def _literal(name: str) -> str:
    """A name with the characters escaped that a glob would read."""
    return re.sub(r"([*?\[])", r"[\1]", name)
