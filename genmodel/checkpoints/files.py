"""Tensors out of files that strangers made: PyTorch packages and safetensors.

A file is never trusted: pickles are read by PyTorch's restricted unpickler, which runs nothing, and
everything that can be wrong with a file ends in a CheckpointError that names it.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from genmodel.errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
# how torch names what a refused pickle asked for
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_MAX_TEXT_BYTES = 64 * 2**20


def _present(path: Path) -> Path:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise CheckpointError(f"{path} is {what}, a model file was expected", field="model")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty", field="model")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} may not be read by this user", field="model")
    return path


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file, or CheckpointError."""
    if _present(path).stat().st_size > _MAX_TEXT_BYTES:
        raise CheckpointError(f"{path} is too large for a configuration", field="model")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable text: {error}", field="model") from error


def _unsafe(path: Path, said: str) -> CheckpointError:
    """Say what a refused pickle wanted; its names are listed without running it."""
    try:
        wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the listing itself meets what the file is made of
        wanted = sorted(set(_GLOBAL.findall(said)))
    if wanted and all(
        name.startswith(("omegaconf.", "typing.", "collections.", "builtins.")) for name in wanted
    ):
        return CheckpointError(
            f"{path} stores its configuration as live objects, which Segue does not unpickle. Convert it "
            "once where AudioCraft is installed: audiocraft.utils.export.export_lm(checkpoint, "
            "'state_dict.bin') for a language model, export_encodec(checkpoint, "
            "'compression_state_dict.bin') for a codec",
            field="model",
        )
    names = f" ({', '.join(wanted[:4])})" if wanted else ""
    return CheckpointError(
        f"{path} wants to run code when it is opened{names}; it was refused and nothing was run",
        field="model",
    )


def read_package(path: Path) -> dict[str, Any]:
    """A PyTorch file's dictionary, tensors mapped from disk and on the CPU; strings and numbers beside them.

    Raises CheckpointError for a missing, empty, truncated or foreign file, and for a pickle that asks for
    anything but plain data (which is refused before it runs).
    """
    with _present(path).open("rb") as file:
        magic = file.read(4)
    if magic[:1] not in (_ZIP_MAGIC[:1], _PICKLE_MAGIC):
        raise CheckpointError(f"{path} is not a PyTorch file (it begins with {magic!r})", field="model")
    zipped = magic == _ZIP_MAGIC
    if zipped:
        _check_zip(path)
    try:
        package = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        # torch raises anything from UnpicklingError and RuntimeError to KeyError and EOFError on broken input
        if (
            "weights" in str(error).lower()
            and "load failed" in str(error).lower()
            or "Unsupported" in str(error)
        ):
            raise _unsafe(path, str(error)) from None
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is damaged or not a PyTorch file: {first}", field="model") from error
    if not isinstance(package, Mapping):
        raise CheckpointError(
            f"{path} holds {type(package).__name__}, a dictionary was expected", field="model"
        )
    return dict(package)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.namelist()):
                raise CheckpointError(f"{path} is a zip archive, but no PyTorch file", field="model")
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path} is cut short or damaged; get it again (a complete copy is needed)", field="model"
        ) from None


def read_safetensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of one safetensors file whose names are wanted, mapped from disk."""
    _present(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is cut short, damaged or no safetensors file: {str(error).strip()[:160]}", field="model"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError if it is something else."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", field="model") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, an object was expected", field="model")
    return value


# In order of preference: no pickle before a pickle.
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_weights(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder: safetensors whole or in shards, else ``pytorch_model.bin``
    likewise.
    """
    for whole in _WHOLE:
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file():
            return _read_any(folder / whole, wanted)
        if index.is_file():
            return _read_shards(folder, index, wanted)
    raise CheckpointError(
        f"{folder} has no weights",
        field="model",
        allowed="model.safetensors or pytorch_model.bin, whole or sharded",
    )


def has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for whole in _WHOLE for name in (whole, f"{whole}.index.json"))


def _read_shards(folder: Path, index: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", field="model")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(
                f"{index} names a shard outside its folder", field="model", value=str(shard)
            )
        if wanted(name):
            shards.setdefault(shard, set()).add(name)
    state: dict[str, Tensor] = {}
    for shard, names in shards.items():
        found = _read_any(folder / shard, names.__contains__)
        if missing := sorted(names - set(found)):
            raise CheckpointError(f"{folder / shard} lacks {_some(missing)}", field="model")
        state.update(found)
    return state


def _read_any(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path, wanted)
    return {name: value for name, value in tensors_of(read_package(path), path).items() if wanted(name)}


def tensors_of(state: Any, path: Path, what: str = "tensors") -> dict[str, Tensor]:
    """``state`` as a flat dictionary of tensors, or CheckpointError."""
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds no {what}", field="model")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: {name!r} is {type(value).__name__}, a tensor was expected", field="model"
            )
    return dict(state)


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


# torch.Tensor's methods and torch.nn.init's functions of these names
_DRAWING = frozenset(("normal_", "trunc_normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_"))


class _Undrawn(TorchFunctionMode):
    """Makes ``normal_`` and its kin do nothing. On the meta device they import half of torch's compiler (2
    s).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have shapes but no values, and nothing is drawn for them; ``load_into`` fills
    them.
    """
    with torch.device("meta"), _Undrawn():
        yield


def own_copy(tensor: Tensor) -> Tensor:
    """A tensor of a file in memory of its own, floats as float32.

    Never the mapping itself: the file may be written to while the model is in use.
    """
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def _all_finite(values: Tensor) -> bool:
    """One NaN or infinity makes the sum one, and a sum is had at a fifth of the cost of looking at each."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def unchanged(path: Path) -> Callable[[], None]:
    """A check to be called later: CheckpointError unless the weights in a file or folder are still these."""

    def look() -> list[tuple[str, int, int, int]]:
        found = []
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.suffix in (".safetensors", ".bin"):
                of = file.stat()
                found.append((file.name, of.st_ino, of.st_size, of.st_mtime_ns))
        return found

    begun = look()

    def check() -> None:
        try:
            same = look() == begun
        except OSError:
            same = False
        if not same:
            raise CheckpointError(
                f"{path} was changed since the model was loaded; load it again", field="model"
            )

    return check


def load_into(module: torch.nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    """Give a module's parameters and buffers the values of ``state``, in their own copies and float32.

    Missing, superfluous or misshaped names raise CheckpointError naming the first few. The module may live on
    the meta device. Half-precision tensors become float32.
    """
    own = module.state_dict()
    if missing := sorted(set(own) - set(state)):
        raise CheckpointError(f"{path}: the {what} lacks {_some(missing)}", field="model")
    if extra := sorted(set(state) - set(own)):
        raise CheckpointError(f"{path}: the {what} has unknown {_some(extra)}", field="model")
    for name, value in own.items():
        if tuple(state[name].shape) != tuple(value.shape):
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the configuration asks for "
                f"{tuple(value.shape)}",
                field="model",
            )
    values: dict[str, Tensor] = {}
    for name in own:
        tensor = state.pop(name)
        values[name] = own_copy(tensor)
        if tensor.is_floating_point() and not _all_finite(values[name]):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity", field="model")
    module.load_state_dict(values, strict=True, assign=True)
    module.requires_grad_(False)
