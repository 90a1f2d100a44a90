"""Bringing a model to this machine: from Hugging Face, or from a folder (a disk, another machine's copy).

Files arrive in ``NAME.part`` in the models folder, each is checked against the size and hash that its source
states, and only the complete folder gets its name, by one rename. An interrupted pull leaves the ``.part``
folder, which nothing lists or loads, and the next pull of that name goes on from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse

from genmodel.checkpoints import audiocraft, hf
from genmodel.checkpoints.files import has_weights, read_package
from genmodel.checkpoints.info import (
    FACEBOOK_LICENCE,
    RECEIPT,
    UNKNOWN_LICENCE,
    files_of,
    format_of,
    read_config,
)
from genmodel.checkpoints.paths import (
    folder_name,
    is_repo_id,
    models_dir,
    part_folder,
    places,
    repo_id,
)
from genmodel.checkpoints.published import unreadable
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound

_SPARE_BYTES = 64 * 2**20
_COPY_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Progress:
    """Where a pull stands. ``done`` and ``total`` are bytes of one repository; ``file`` is the one in
    work.
    """

    name: str
    file: str
    done: int
    total: int
    licence: str


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file at its source: size in bytes and a hash to check it by (``sha256:…`` or git's ``blob:…``), if
    stated.
    """

    name: str
    size: int
    digest: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a source offers under a name."""

    name: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]


class Source(Protocol):
    """Somewhere models come from."""

    def listing(self) -> Listing:
        """What is there; GenModelError in one sentence if it cannot be reached or does not exist."""

    def fetch(self, file: RemoteFile, folder: Path, report: Callable[[int], None]) -> None:
        """Put one file into ``folder``; ``report`` is told the bytes of it that are there."""


# Small files that belong to a model whatever its format.
_ALWAYS = frozenset(
    (
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "spiece.model",
        "manifest.json",
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
        "README.md",
    )
)
# Weights in order of preference; the first kind that is there is taken.
_WEIGHTS: tuple[re.Pattern[str], ...] = (
    re.compile(r"(lm|codec)\.(safetensors|yaml)\Z"),
    re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?\Z"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?\Z"),
    re.compile(r"(compression_)?state_dict\.bin\Z"),
)
_FIRST = re.compile(
    r"(lm|model|pytorch_model|state_dict|compression_state_dict|model-0+1-.*|pytorch_model-0+1-.*)\."
)


def choose(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of a repository that a model needs: one kind of weights (no pickle before a pickle) and the
    rest.
    """
    flat = {file.name: file for file in files if "/" not in file.name and "\\" not in file.name}
    for kind in _WEIGHTS:
        weights = [file for name, file in flat.items() if kind.match(name)]
        if any(_FIRST.match(file.name) and not file.name.endswith(".json") for file in weights):
            small = [file for name, file in flat.items() if name in _ALWAYS]
            return tuple(sorted([*weights, *small], key=lambda file: file.name))
    return ()


def verify(path: Path, file: RemoteFile) -> None:
    """CheckpointError unless a file has the size and hash that its source stated."""
    size = path.stat().st_size
    if size != file.size:
        raise CheckpointError(f"{file.name} arrived with {size} bytes instead of {file.size}; pull it again")
    kind, _, expected = (file.digest or "").partition(":")
    if not expected:
        return
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(_COPY_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise CheckpointError(f"{file.name} arrived damaged (its hash differs); pull it again")


class FolderSource:
    """A folder on this machine, in any of the formats."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listing(self) -> Listing:
        if not self.folder.is_dir():
            raise ModelNotFound(f"there is no folder {self.folder}")
        receipt = self.folder / RECEIPT
        stated = _json(receipt) if receipt.is_file() else {}
        files = [
            RemoteFile(path.name, path.stat().st_size) for path in self.folder.iterdir() if path.is_file()
        ]
        name = stated.get("name") or self.folder.resolve().name.replace("--", "/", 1)
        return Listing(
            str(name), "local", str(stated.get("licence") or _licence_of(str(name))), choose(files)
        )

    def fetch(self, file: RemoteFile, folder: Path, report: Callable[[int], None]) -> None:
        """Copy, and compare what was written with what was read."""
        digest, done = hashlib.sha256(), 0
        target = folder / file.name
        with (self.folder / file.name).open("rb") as source, target.open("wb") as copy:
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
                copy.write(chunk)
                done += len(chunk)
                report(done)
            copy.flush()
            os.fsync(copy.fileno())
        verify(target, RemoteFile(file.name, file.size, f"sha256:{digest.hexdigest()}"))


def _json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _licence_of(name: str) -> str:
    return FACEBOOK_LICENCE if name.startswith("facebook/") else UNKNOWN_LICENCE


def source_of(name: str) -> Source:
    """Where a name comes from: ``file://`` and folders are copied, ``org/name`` is downloaded."""
    if name.startswith("file://"):
        return FolderSource(Path(unquote(urlparse(name).path)))
    if Path(name).expanduser().is_dir() and (not is_repo_id(name) or (Path(name) / "config.json").is_file()):
        return FolderSource(Path(name).expanduser())
    published = repo_id(name)
    if not is_repo_id(published):
        raise ModelNotFound(
            f"{name} is neither a published model (org/name) nor a folder; run: segue models", value=name
        )
    if why := unreadable(published):
        raise CheckpointError(f"{published} {why}, which Segue does not read", field="model", value=published)
    from genmodel.checkpoints.hub import HubSource

    return HubSource(published)


def pull(name: str, progress: ProgressCallback | None = None) -> Path:
    """Bring a model, or a text encoder or codec that one needs, into the models folder, and return its
    folder.

    ``name`` is ``org/name`` of a published repository, a folder, or a ``file://`` address of one. What the
    model names beside its own files (a text encoder, a codec) is pulled too. Already complete: nothing is
    done. ``progress`` is called with a :class:`Progress` as bytes arrive.

    Raises GenModelError (E_MODEL) in one sentence: unreachable, no such model, no room, damaged on the way,
    being pulled by another process. Nothing half-done ever has a model's name.
    """
    report = progress or (lambda state: None)
    source = source_of(name)
    folder = _pull_one(source, report)
    for needed in companions(folder, source.folder if isinstance(source, FolderSource) else None):
        _pull_one(needed, report)
    return folder


def _pull_one(source: Source, progress: ProgressCallback) -> Path:
    listing = source.listing()
    if not listing.files:
        raise CheckpointError(
            f"{listing.name} has no model in a form that Segue reads",
            field="model",
            allowed="safetensors with config.json, or AudioCraft's state_dict.bin",
        )
    target = models_dir() / folder_name(listing.name)
    if is_usable(target):
        whole = sum(file.size for file in listing.files)
        progress(Progress(listing.name, "", whole, whole, listing.licence))
        return target
    part = part_folder(target)
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _alone(part, listing.name):
            _fetch_all(source, listing, part, progress)
            _finish(listing, part, target)
    except OSError as error:
        raise GenModelError(
            f"{listing.name} cannot be stored in {models_dir()}: {error.strerror or error}",
            code="E_MODEL",
            field="model",
        ) from error
    return target


@contextlib.contextmanager
def _alone(part: Path, name: str) -> Iterator[None]:
    """Hold a lock beside the part folder, so that two pulls of one model do not write into each other's
    files.
    """
    lock = part.with_name(f".{part.name}.lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise GenModelError(
                f"{name} is being pulled by another process; wait for it", code="E_MODEL", field="model"
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _fetch_all(source: Source, listing: Listing, part: Path, progress: ProgressCallback) -> None:
    total = sum(file.size for file in listing.files)
    have = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    free = shutil.disk_usage(part).free
    if total - min(have, total) + _SPARE_BYTES > free:
        raise GenModelError(
            f"{listing.name} needs {_gib(total)} and {models_dir()} has room for {_gib(free)}; free some "
            "space or set SEGUE_MODELS to another disk",
            code="E_MODEL",
            field="model",
        )
    before = 0
    for file in listing.files:

        def told(done: int, before: int = before, file: RemoteFile = file) -> None:
            progress(Progress(listing.name, file.name, min(total, before + done), total, listing.licence))

        told(0)
        path = part / file.name
        if not _is_whole(path, file):
            source.fetch(file, part, told)
            try:
                verify(path, file)
            except CheckpointError:
                path.unlink(missing_ok=True)  # the next pull must not take it for whole
                raise
        told(file.size)
        before += file.size


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether an earlier pull already brought this file; without a hash to check it by, it comes again."""
    if not path.is_file() or file.digest is None:
        return False
    try:
        verify(path, file)
    except CheckpointError:
        return False
    return True


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _finish(listing: Listing, part: Path, target: Path) -> None:
    """Check that the folder can be read as what it is, write the receipt, give it its name."""
    if not is_usable(part):
        raise CheckpointError(f"{listing.name} arrived, but is no model that Segue reads", field="model")
    for extra in part.iterdir():
        if extra.name not in {file.name for file in listing.files}:
            shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
    receipt: Mapping[str, object] = {
        "name": listing.name,
        "revision": listing.revision,
        "licence": listing.licence,
        "files": {file.name: {"size": file.size, "digest": file.digest} for file in listing.files},
    }
    (part / RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
    if target.exists():  # an unusable folder of that name, e.g. copied by hand and never completed
        shutil.rmtree(target)
    os.replace(part, target)


def is_usable(folder: Path) -> bool:
    """Whether a folder holds a whole model, codec, or text encoder, as far as its file list tells."""
    if not folder.is_dir():
        return False
    form = format_of(folder)
    if form == "huggingface":
        return True
    if form is not None:
        return audiocraft.find_file(folder, audiocraft.CODEC_FILES) is not None
    if audiocraft.find_file(folder, audiocraft.CODEC_FILES) is not None:
        return True
    return hf.model_type(folder) is not None and has_weights(folder)


def companions(folder: Path, origin: Path | None = None) -> list[Source]:
    """Where what a pulled model names beside its own files comes from: text encoders and codecs that are not
    here.

    ``origin`` is the folder it was copied from; what lies around that is copied too.
    """
    if format_of(folder) not in ("audiocraft", "segue"):
        return []
    wanted: list[str] = []
    for node in (read_config(folder).get("conditioners") or {}).values():
        if node.get("model") == "t5":
            wanted.append(str(node.t5.name))
    codec = next((file for file in files_of(folder) if file.name in audiocraft.CODEC_FILES), None)
    if codec is not None and codec.suffix == ".bin":
        pointer = read_package(codec).get("pretrained")
        if isinstance(pointer, str):
            wanted.append(pointer.removeprefix("//pretrained/"))
    sources: list[Source] = []
    for name in dict.fromkeys(wanted):
        if any(is_usable(place) for place in places(name, folder)):
            continue
        around = next((place for place in places(name, origin) if is_usable(place)), None) if origin else None
        if around is not None:
            sources.append(FolderSource(around))
        elif is_repo_id(repo_id(name)):
            sources.append(source_of(repo_id(name)))
    return sources
