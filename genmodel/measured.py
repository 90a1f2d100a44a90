"""What ``segue bench`` measured here, and the precision that ``worker.precision=auto`` takes because of it.

A record holds for one checkpoint (hash of its files), one processor and the kernels that ran. ``auto`` takes
another precision than the device's usual one only where a record says that it is both safe and faster;
without a record, or where weights, processor or kernels are others now, nothing changes.

A checkpoint may bring a record of its own, ``measured.json`` beside its weights, as pocket does. It counts
until something was measured here, and for what ran in the native kernels alone: how far that is from float32
is the same wherever they run, and they read half or a quarter of the memory. How fast torch's half precision
is, differs too much.

Safe means, over ``MIN_TOKENS`` places of takes that float32 sampled from this checkpoint:

* mean KL(float32 || other) <= 1e-3 nats. By Pinsker's inequality at most 2.2 % of the draws can then differ;
  it is what a change of temperature by 3.3 % does to pocket. bfloat16, the usual form of half precision, has
  1.4e-5 on pocket in torch and 7e-6 in the native kernels; int8 has 9.0e-4.
* its 99th percentile <= 1e-2: no kind of place at which it is far off (at most 7 % of the draws there).
* the likeliest token is the same at 95 % of the places: near ties flip first, and do no harm (int8 on pocket:
  95.4 %, where the likeliest token has a probability of 0.19 on average).

Faster: whole takes, codec included, at least 1.25 times as fast as the fastest of those that are closer to
float32, so that noise does not decide, and nothing is given up for a little.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genmodel.checkpoints.paths import models_dir
from genmodel.engine import lean
from genmodel.engine.kernels import choose_precision

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

MAX_KL, MAX_KL_P99, MIN_TOP1, MIN_TOKENS, MIN_GAIN = 1e-3, 1e-2, 0.95, 4000, 1.25
VERSION = 1
BROUGHT = "measured.json"  # beside the weights of a checkpoint
_NAME = ".measured.json"
_NATIVE = "segue-"  # how the native kernels' version begins
_SLOW_PATH = " portable"  # how it ends where they know nothing of the processor
_LOG = logging.getLogger("segue.measured")


@dataclass(frozen=True)
class Figures:
    """One precision on one machine. ``xrt``: seconds of audio per second, whole takes; ``kl`` in nats."""

    kernels: str
    xrt: float
    kl: float
    kl_p99: float
    top1: float
    tokens: int

    @property
    def unsafe(self) -> str | None:
        """Why this precision is not to be taken for this checkpoint, in words; None where it may be."""
        if self.tokens < MIN_TOKENS:
            return f"too little was measured ({self.tokens} tokens)"
        if not self.kl <= MAX_KL:
            return f"its distributions differ too much (KL {self.kl:.1e}, allowed {MAX_KL:.0e})"
        if not self.kl_p99 <= MAX_KL_P99:
            return f"some of its distributions differ too much (KL {self.kl_p99:.1e} at the 99th percentile)"
        if not self.top1 >= MIN_TOP1:
            return f"its likeliest token is another one too often (the same at {100 * self.top1:.1f} %)"
        return None


@dataclass(frozen=True)
class Record:
    """All precisions that were measured together. ``date``: of the measurement, ISO 8601."""

    sha256: str
    device: str
    processor: str
    threads: int
    date: str
    precisions: dict[str, Figures]

    @property
    def key(self) -> str:
        return f"{self.sha256} {self.device} {self.processor}"


@dataclass(frozen=True)
class Choice:
    """What ``auto`` takes, and why, in words for the manifest."""

    precision: str
    why: str


def processor(device: torch.device) -> str:
    """What computes, by the name of its make and what it can do."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def kernels_of(precision: str) -> str | None:
    """What multiplies in a precision, equal where its bits are; None where it cannot be had here. Compiles
    nothing.
    """
    from genmodel.engine.native import build
    from genmodel.engine.native.library import kernels

    with contextlib.suppress(build.NativeAbsentError):
        if build.present() is not None and (precision == "int8" or kernels().path != "portable"):
            return kernels().version
    return None if precision == "int8" else f"torch {torch.__version__} {lean.VERSION}"


def store_path() -> Path:
    """Where records are kept: beside the models."""
    return models_dir() / _NAME


def _read(path: Path) -> dict[str, Any]:
    """The records by key as they lie on the disk; what cannot be read is said in the log and counts as
    nothing.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("%s cannot be read and is left aside (%s)", path, error)
        return {}
    if not isinstance(stored, dict) or stored.get("version") != VERSION:
        _LOG.warning("%s is of another Segue and is left aside", path)
        return {}
    records = stored.get("records")
    return records if isinstance(records, dict) else {}


def _parsed(entry: Any) -> Record:
    """A record from what was read. Raises KeyError, TypeError or ValueError."""
    figures = {}
    for name, given in entry["precisions"].items():
        one = Figures(**given)
        numbers = (one.xrt, one.kl, one.kl_p99, one.top1)
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ValueError(f"figures of {name}")
        if not isinstance(one.tokens, int) or not isinstance(one.kernels, str):
            raise ValueError(f"figures of {name}")
        figures[str(name)] = one
    words = {name: str(entry[name]) for name in ("sha256", "device", "processor", "date")}
    return Record(**words, threads=int(entry["threads"]), precisions=figures)


def recall(sha256: str | None, device: torch.device, path: Path | None = None) -> Record | None:
    """The record of a checkpoint on this machine, or None."""
    if not sha256:
        return None
    path = path or store_path()
    entry = _read(path).get(f"{sha256} {device.type} {processor(device)}")
    if entry is None:
        return None
    try:
        record = _parsed(entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _LOG.warning("a record in %s is damaged and is left aside (%s)", path, error)
        return None
    return record if record.sha256 == sha256 else None


def save(record: Record, path: Path | None = None) -> Path:
    """Keep a record, beside those of other checkpoints. Raises OSError."""
    return _write(_read(path or store_path()) | {record.key: asdict(record)}, path)


def forget(sha256: str, path: Path | None = None) -> int:
    """Forget what was measured of a checkpoint; how many records that were. Raises OSError."""
    records = _read(path or store_path())
    kept = {key: entry for key, entry in records.items() if not key.startswith(f"{sha256} ")}
    if len(kept) < len(records):
        _write(kept, path)
    return len(records) - len(kept)


def _write(records: dict[str, Any], path: Path | None) -> Path:
    path = path or store_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_NAME)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "records": records}, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return path


def choose(model: BaseGenModel, path: Path | None = None) -> Choice:
    """What ``auto`` means for this model here and now."""
    usual = choose_precision(None, model.device)
    sha256 = None if model.checkpoint is None else model.checkpoint.sha256
    record = recall(sha256, model.device, path)
    if record is not None:
        return best_of(record, usual)
    record = brought(model)
    choice = None if record is None else _elsewhere(record, usual)
    return choice or Choice(usual, "auto: not measured here")


def brought(model: BaseGenModel) -> Record | None:
    """The record that lies beside the weights of a model, if it is about these weights and this device."""
    if model.checkpoint is None or model.checkpoint.path is None:
        return None
    file = model.checkpoint.path / BROUGHT
    if not file.is_file():
        return None
    records = list(_read(file).values())
    try:
        record = _parsed(records[0])
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        _LOG.warning("%s is damaged and is left aside (%s)", file, error)
        return None
    same = (record.sha256, record.device) == (model.checkpoint.sha256, model.device.type)
    return record if same else None


def _elsewhere(record: Record, usual: str) -> Choice | None:
    """What another machine found safe and faster in native kernels, where they know this one's processor."""

    def here_too(name: str, one: Figures) -> bool:
        kernels = kernels_of(name) or ""
        return (
            one.kernels.startswith(_NATIVE)
            and kernels.startswith(_NATIVE)
            and not kernels.endswith(_SLOW_PATH)
        )

    best = usual if usual not in record.precisions else _fastest(record, usual, here_too)
    if best == usual:
        return None
    return Choice(best, f"auto: measured with the model on {_words(record, best, usual)}")


def best_of(record: Record, usual: str) -> Choice:
    """The fastest precision that is safe, if it is worth it; else ``usual``."""
    base, date = record.precisions.get(usual), record.date[:10]
    if base is None or base.kernels != kernels_of(usual):
        return Choice(usual, f"auto: measured on {date} with other kernels")

    def still_the_same(name: str, one: Figures) -> bool:
        if one.kernels != kernels_of(name):
            _LOG.warning("%s was measured with other kernels: run segue bench again", name)
            return False
        return True

    best = _fastest(record, usual, still_the_same)
    if best == usual:
        return Choice(usual, f"auto: nothing safe was faster when measured on {date}")
    return Choice(best, f"auto: measured on {_words(record, best, usual)}")


def _fastest(record: Record, usual: str, good: Callable[[str, Figures], bool]) -> str:
    """From the closest to float32 to the farthest, whatever is safe, ``good``, and worth it."""
    best = usual
    for name, one in sorted(record.precisions.items(), key=lambda found: found[1].kl):
        if name == usual or one.unsafe is not None or one.xrt < MIN_GAIN * record.precisions[best].xrt:
            continue
        if good(name, one):
            best = name
    return best


def _words(record: Record, name: str, usual: str) -> str:
    one = record.precisions[name]
    gain = f"{one.xrt / record.precisions[usual].xrt:.1f} times as fast as {usual}"
    return f"{record.date[:10]}: {gain}, KL {one.kl:.0e}, likeliest token the same {one.top1:.1%}"
