"""Memory of the GPUs as the driver sees it, without torch: whoever holds it, from whichever process.

Read through NVIDIA's management library by ctypes, which costs no context on the device. Where there is no
such library (other GPUs, none at all) the answer is None and nobody claims to have measured.
"""

from __future__ import annotations

import ctypes
import functools
import os


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL("libnvidia-ml.so.1")
        return found if found.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def used_bytes() -> int | None:
    """Bytes in use on all NVIDIA devices together, or None where that cannot be asked."""
    library = _library()
    if library is None:
        return None
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return None
    total = 0
    for index in range(count.value):
        device, memory = ctypes.c_void_p(), _Memory()
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
            return None
        if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
            return None
        total += memory.used
    return total


def _physical(index: int) -> int | None:
    """The driver's number of the device that this process would call `index`; None: there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return index
    words = [word.strip() for word in visible.split(",") if word.strip()]
    if index >= len(words) or words[index] == "-1":
        return None
    return int(words[index]) if words[index].isdigit() else index


def free_and_total(index: int = 0) -> tuple[int, int] | None:
    """(free bytes, all bytes) of one NVIDIA device, or None where there is none or it cannot be asked."""
    library, physical = _library(), _physical(index)
    if library is None or physical is None:
        return None
    device, memory = ctypes.c_void_p(), _Memory()
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(physical), ctypes.byref(device)) != 0:
        return None
    if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
        return None
    return int(memory.free), int(memory.total)
