"""The compiled kernels as Python sees them: C structures, which paths run here, and torch's own threads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmodel.engine.native.build import PATHS, NativeAbsentError, library, load

# A thread for each so many bytes of weights: less is done before a second has begun. No bits depend on it.
BYTES_PER_THREAD = 2**19
_BYTES_PER_LOGIT = 16  # drawing from one takes about as long as a product with so many bytes of weights
_POOL = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
# Of weights, keys and values: what segue.h calls kInts, kHalves, kFloats.
FORMS = {torch.int8: 0, torch.bfloat16: 1, torch.float32: 2}
_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32


class CLinear(ctypes.Structure):
    """``SegueLinear``."""

    _fields_ = [
        ("weights", _POINTER), ("scale", _POINTER), ("bias", _POINTER), ("sums", _POINTER),
        ("inputs", _INT), ("outputs", _INT), ("form", _INT),
    ]  # fmt: skip


class CNorm(ctypes.Structure):
    """``SegueNorm``."""

    _fields_ = [("weight", _POINTER), ("bias", _POINTER), ("epsilon", ctypes.c_float)]


class CLayer(ctypes.Structure):
    """``SegueLayer``."""

    _fields_ = [
        ("norm1", CNorm), ("norm_cross", CNorm), ("norm2", CNorm),
        ("qkv", CLinear), ("out", CLinear), ("cross_q", CLinear), ("cross_out", CLinear),
        ("up", CLinear), ("down", CLinear), ("has_cross", _INT),
    ]  # fmt: skip


class CModel(ctypes.Structure):
    """``SegueModel``."""

    _fields_ = [
        ("layers", ctypes.POINTER(CLayer)), ("out_norm", CNorm),
        ("layer_count", _INT), ("dim", _INT), ("heads", _INT), ("head_dim", _INT), ("feedforward", _INT),
        ("relu", _INT), ("form", _INT), ("score_scale", ctypes.c_float),
    ]  # fmt: skip


class CCache(ctypes.Structure):
    """``SegueCache``."""

    _fields_ = [
        ("keys", ctypes.POINTER(_POINTER)), ("values", ctypes.POINTER(_POINTER)),
        ("slots", _INT), ("streams", _INT), ("places", _INT), ("form", _INT),
    ]  # fmt: skip


class CRun(ctypes.Structure):
    """``SegueRun``."""

    _fields_ = [("first", _INT), ("rows", _INT), ("slot", _INT), ("stream", _INT), ("start", _INT)]


class CBatch(ctypes.Structure):
    """``SegueBatch``."""

    _fields_ = [
        ("rows", _INT), ("own_run_count", _INT), ("cross_row_count", _INT), ("cross_run_count", _INT),
        ("sessions", _INT), ("longest", _INT),
        ("own_runs", ctypes.POINTER(CRun)), ("own_rows", ctypes.POINTER(_INT)),
        ("cross_rows", ctypes.POINTER(_INT)), ("cross_runs", ctypes.POINTER(CRun)),
        ("cross_order", ctypes.POINTER(_INT)),
        ("mix_first", ctypes.POINTER(_INT)), ("mix_rows", ctypes.POINTER(_INT)),
        ("mix_weights", ctypes.POINTER(ctypes.c_float)),
    ]  # fmt: skip


class CInputs(ctypes.Structure):
    """``SegueInputs``."""

    _fields_ = [
        ("x", _POINTER), ("tokens", _POINTER), ("embedding", _POINTER), ("positions", _POINTER),
        ("added", _POINTER), ("session", ctypes.POINTER(_INT)), ("place", ctypes.POINTER(_INT)),
        ("codebooks", _INT), ("table_rows", _INT),
    ]  # fmt: skip


class CDraw(ctypes.Structure):
    """``SegueDraw``."""

    _fields_ = [
        ("keys", _POINTER), ("near", _POINTER), ("key_stride", ctypes.c_int64),
        ("near_stride", ctypes.c_int64), ("bonus", ctypes.c_float), ("temperature", ctypes.c_float),
        ("top_k", _INT),
    ]  # fmt: skip


class CNoise(ctypes.Structure):
    """``SegueNoise``."""

    _fields_ = [("table", _POINTER), ("salts", _POINTER), ("shift", _INT)]


class CPool(ctypes.Structure):
    """``SeguePool``."""

    _fields_ = [
        ("parallel", _POINTER), ("thread_number", _POINTER), ("thread_count", _POINTER), ("threads", _INT),
    ]  # fmt: skip


def ints(values: Sequence[int]) -> Any:
    """A C array of int32."""
    return (_INT * max(1, len(values)))(*values)


def floats(values: Sequence[float]) -> Any:
    """A C array of float32."""
    return (ctypes.c_float * max(1, len(values)))(*values)


def runs(values: Sequence[tuple[int, int, int, int, int]]) -> Any:
    """A C array of runs."""
    return (CRun * max(1, len(values)))(*(CRun(*value) for value in values))


def _torch_pool() -> Any:
    """The OpenMP runtime that torch ships and has loaded, or None: two runtimes would be two pools of threads
    fighting for the same cores.
    """
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            found = ctypes.CDLL(str(path))
            if all(
                hasattr(found, name)
                for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            ):
                return found
        except OSError:
            continue
    return None


class Kernels:
    """A loaded library on one path; see ``source/segue.h``. Calls release the interpreter's lock."""

    def __init__(self, path: str | None = None, own_threads: bool = False) -> None:
        """``path``: one of ``PATHS`` (None: the best that runs here). ``own_threads``: not torch's pool.

        Raises NativeAbsentError.
        """
        file = library()
        self._library, self.paths = load(file)
        loaded = self._library
        self.path = path or self.paths[-1]
        if self.path not in self.paths:
            raise NativeAbsentError(
                f"this processor has no {self.path}; of the native kernels it runs {', '.join(self.paths)}"
            )
        self._number = PATHS.index(self.path)
        self.version = f"{file.stem} {self.path}"
        pool = None if own_threads else _torch_pool()
        self._entries: list[Any] = [None, None, None]
        if pool is not None:
            self._entries = [ctypes.cast(getattr(pool, name), _POINTER) for name in _POOL]
        for name in ("scratch", "linear_scratch", "draw_scratch"):
            getattr(loaded, f"segue_{name}_bytes").restype = ctypes.c_int64
        for name in ("forward", "linear", "draw"):
            getattr(loaded, f"segue_{name}").restype = None

    def _pool(self, weights_bytes: int) -> CPool:
        threads = min(torch.get_num_threads(), 1 + weights_bytes // BYTES_PER_THREAD)
        return CPool(*self._entries, threads)

    def forward(
        self,
        model: CModel,
        own: CCache,
        cross: CCache,
        batch: CBatch,
        inputs: CInputs,
        mixed: Tensor,
        scratch: Scratch,
        weights_bytes: int,
    ) -> None:
        """The inputs of all rows through all layers; guidance's mix of each session to ``mixed`` [n, D]."""
        pool = self._pool(weights_bytes)
        by = ctypes.byref
        size = self._library.segue_scratch_bytes(by(model), batch.rows, batch.longest, pool.threads)
        self._library.segue_forward(
            self._number, by(pool), by(model), by(own), by(cross), by(batch), by(inputs),
            _POINTER(mixed.data_ptr()), _POINTER(scratch.address(size)),
        )  # fmt: skip

    def linear(self, linear: CLinear, x: Tensor, y: Tensor, scratch: Scratch) -> None:
        """x float32 [rows, in] -> y float32 [rows, out in whole panels]."""
        pool = self._pool(linear.inputs * linear.outputs * (1 << linear.form))
        by = ctypes.byref
        rows, width = x.shape
        size = self._library.segue_linear_scratch_bytes(by(linear), rows, pool.threads)
        self._library.segue_linear(
            self._number, by(pool), by(linear), _POINTER(x.data_ptr()), width, rows,
            _POINTER(y.data_ptr()), _POINTER(scratch.address(size)),
        )  # fmt: skip

    def draw(
        self, draws: Any, noise: CNoise, logits: Tensor, tokens: Tensor, finite: Tensor, scratch: Scratch
    ) -> None:
        """Logits float32 [n, K, card] (a row's together) -> tokens int64 [n, K]; finite bool [n, K]."""
        takes, codebooks, card = logits.shape
        pool = self._pool(takes * codebooks * card * _BYTES_PER_LOGIT)
        by = ctypes.byref
        size = self._library.segue_draw_scratch_bytes(card, pool.threads)
        self._library.segue_draw(
            self._number, by(pool), draws, by(noise), takes, codebooks, card,
            ctypes.c_int64(logits.stride(0)), _POINTER(logits.data_ptr()), _POINTER(tokens.data_ptr()),
            _POINTER(finite.data_ptr()), _POINTER(scratch.address(size)),
        )  # fmt: skip


class Scratch(threading.local):
    """Memory that kernels work in, each thread's own; grows to the largest need."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def address(self, size_bytes: int) -> int:
        """Of at least so many bytes, aligned to 64."""
        if len(self._memory) < size_bytes + 64:
            self._memory = torch.empty(size_bytes + 64, dtype=torch.uint8)
        return -(-self._memory.data_ptr() // 64) * 64


@lru_cache(maxsize=8)
def _kernels(path: str | None, own_threads: bool) -> Kernels | str:
    try:
        return Kernels(path, own_threads)
    except NativeAbsentError as error:
        return str(
            error
        )  # the answer of this process: what failed to compile will not compile at the next step


def kernels(path: str | None = None, own_threads: bool = False) -> Kernels:
    """The kernels, loaded once; see ``Kernels``. Raises NativeAbsentError."""
    found = _kernels(path, own_threads)
    if isinstance(found, str):
        raise NativeAbsentError(found)
    return found
