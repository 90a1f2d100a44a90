"""From the C++ beside this file to a library on disk: found, or compiled once into the user's cache folder.

A library's name carries a hash of the sources and flags, so an old one is never taken for a new one. It holds
every path this kind of processor may have; which of them runs is decided when it is loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PATHS = ("portable", "avx2", "avx512", "neon", "dotprod")  # as entry.cpp numbers them, worst first
SWITCH = "SEGUE_NATIVE"  # environment variable; 0: neither compiled nor used
PACKAGE = Path(__file__).resolve().parent
SOURCE = PACKAGE / "source"
_COMMON = (
    # -ffp-contract=off: what is fused is written down, so that all paths round alike
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti",
    "-Wno-psabi",
)  # fmt: skip
_EVERYWHERE: dict[str, tuple[str, ...]] = {"entry": (), "path_portable": ()}
_X86: dict[str, tuple[str, ...]] = {
    "path_avx2": ("-mavx2", "-mfma"),
    "path_avx512": (
        "-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni",
        "-mprefer-vector-width=512",
    ),
}  # fmt: skip
_ARM: dict[str, tuple[str, ...]] = {
    "path_neon": ("-march=armv8-a",),
    "path_dotprod": ("-march=armv8.2-a+dotprod",),
}
_FLAGS = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}
_LINK = ("-shared", "-pthread")
_COMPILE_LIMIT_S = 300  # a file; all take 8 s of processor time


class NativeAbsentError(Exception):
    """The native kernels are not there; the message is one sentence that says why."""


def units(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Source file (without its ending) -> its own flags, for a kind of processor."""
    return {**_EVERYWHERE, **_FLAGS.get(machine or platform.machine(), {})}


def library_name() -> str:
    """``segue-<hash>.so`` of the present sources, flags and kind of processor."""
    digest = hashlib.sha256(repr((platform.machine(), units(), _COMMON, _LINK)).encode())
    for path in sorted(SOURCE.iterdir()):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"segue-{digest.hexdigest()[:20]}.so"


def cache_folder() -> Path:
    """Where libraries are kept that were compiled on first use."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("segue", appauthor=False)) / "native"


def compiler() -> str | None:
    """The C++ compiler: environment ``CXX``, else the first known name on the path."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeAbsentError(f"the native kernels could not be compiled ({error})") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        detail = next((line for line in said if "error" in line), said[0] if said else "no message")
        raise NativeAbsentError(f"the native kernels could not be compiled ({detail.strip()})")


def refuse_if_unwanted() -> None:
    """Raises NativeAbsentError on a system they are not made for, and where ``SEGUE_NATIVE`` says so."""
    if os.name != "posix":
        raise NativeAbsentError("the native kernels are not made for this operating system")
    if os.environ.get(SWITCH, "").strip().lower() in ("0", "off", "no", "false"):
        raise NativeAbsentError(f"the native kernels are switched off ({SWITCH}={os.environ[SWITCH]})")


def compile_library(target: Path) -> None:
    """Compile everything to ``target``, which appears whole or not at all. Raises NativeAbsentError."""
    refuse_if_unwanted()
    command = compiler()
    if command is None:
        raise NativeAbsentError(
            "the native kernels need a C++ compiler, and none was found (c++, g++, clang++)"
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        objects = [f"{folder}/{name}.o" for name in units()]
        calls = [
            [command, *_COMMON, *flags, "-c", str(SOURCE / f"{name}.cpp"), "-o", f"{folder}/{name}.o"]
            for name, flags in units().items()
        ]
        with ThreadPoolExecutor(min(len(calls), os.cpu_count() or 1)) as side_by_side:
            list(side_by_side.map(_run, calls))
        made = Path(folder) / target.name
        _run([command, *_LINK, *objects, "-o", str(made)])
        if not made.is_file():
            raise NativeAbsentError(f"the native kernels could not be compiled ({command} made nothing)")
        with open(made, "rb") as written:
            os.fsync(written)  # or a power cut could leave the name without the content
        made.replace(target)


def _trusted(path: Path) -> bool:
    """Whether something is there that nobody but its owner (this user, or root) can have written."""
    try:
        about = path.stat()
    except OSError:
        return False
    return about.st_uid in (os.getuid(), 0) and not about.st_mode & 0o022


def _sweep(folder: Path) -> None:
    """Take away what compilers left that were killed; one at work is not older than its limit."""
    oldest_s = time.time() - 4 * _COMPILE_LIMIT_S
    for left in folder.glob(".build-*"):
        if left.stat().st_mtime < oldest_s:
            shutil.rmtree(left, ignore_errors=True)


def library() -> Path:
    """The compiled library: the one that was installed, the one in the cache, or one compiled now (once, even
    if several processes ask). Raises NativeAbsentError.
    """
    refuse_if_unwanted()
    import fcntl  # not on every system, and this file is loaded there too when a wheel is built

    name = library_name()
    installed = PACKAGE / name
    if installed.is_file():
        return installed
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cached = folder / name
        if not _trusted(folder):
            raise NativeAbsentError(f"the native kernels are not kept in {folder}: others may write there")
        if _trusted(cached):
            return cached
        with open(folder / f"{name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _trusted(cached):
                _sweep(folder)
                compile_library(cached)
                cached.chmod(0o755)  # readable: root may have made it in another user's folder
            return cached
    except OSError as error:
        raise NativeAbsentError(f"the native kernels could not be kept in {folder} ({error})") from error


def present() -> Path | None:
    """What ``library`` finds without compiling anything. Raises NativeAbsentError where it would refuse."""
    refuse_if_unwanted()
    name, folder = library_name(), cache_folder()
    if (PACKAGE / name).is_file():
        return PACKAGE / name
    return folder / name if _trusted(folder) and _trusted(folder / name) else None


def load(file: Path) -> tuple[Any, tuple[str, ...]]:
    """The library and the paths that this processor runs, worst first. Raises NativeAbsentError."""
    try:
        loaded = ctypes.CDLL(str(file))
        bits = loaded.segue_paths()
    except (OSError, AttributeError) as error:
        raise NativeAbsentError(f"the native kernels could not be loaded ({error})") from error
    return loaded, tuple(name for i, name in enumerate(PATHS) if bits >> i & 1)
