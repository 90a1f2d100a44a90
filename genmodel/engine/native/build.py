"""From the C++ beside this file to a library on disk: found, or compiled once into the user's cache folder.

A library's name carries a hash of the sources and flags, so an old one is never taken for a new one. It holds
every path this kind of processor may have; which of them runs is decided when it is loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
_COMPILE_LIMIT_S = 120  # it takes 8 s of processor time


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


def refuse_if_switched_off() -> None:
    """Raises NativeAbsentError where ``SEGUE_NATIVE`` says so."""
    if os.environ.get(SWITCH, "").strip().lower() in ("0", "off", "no", "false"):
        raise NativeAbsentError(f"the native kernels are switched off ({SWITCH}={os.environ[SWITCH]})")


def compile_library(target: Path) -> None:
    """Compile everything to ``target``, which appears whole or not at all. Raises NativeAbsentError."""
    refuse_if_switched_off()
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
        made.replace(target)


def _trusted(path: Path) -> bool:
    """Whether a file is there that nobody but its owner (this user, or root) can have written."""
    try:
        about = path.stat()
    except OSError:
        return False
    return about.st_uid in (os.getuid(), 0) and not about.st_mode & 0o022


def library() -> Path:
    """The compiled library: the one that was installed, the one in the cache, or one compiled now (once, even
    if several processes ask). Raises NativeAbsentError.
    """
    if os.name != "posix" or platform.system() == "Windows":
        raise NativeAbsentError("the native kernels are not made for this operating system")
    refuse_if_switched_off()
    name = library_name()
    installed = PACKAGE / name
    if installed.is_file():
        return installed
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cached = folder / name
        if _trusted(cached):
            return cached
        with open(folder / f"{name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _trusted(cached):
                compile_library(cached)
                cached.chmod(0o700)
            return cached
    except OSError as error:
        raise NativeAbsentError(f"the native kernels could not be kept in {folder} ({error})") from error


def may_be_had() -> bool:
    """Whether ``library`` has a chance, without compiling anything."""
    try:
        refuse_if_switched_off()
    except NativeAbsentError:
        return False
    name = library_name()
    return (PACKAGE / name).is_file() or (cache_folder() / name).is_file() or compiler() is not None
