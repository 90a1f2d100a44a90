"""Where the native kernels come from, and that a machine without them says so in one sentence."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genmodel.engine import kernels as choices
from genmodel.engine.native import build, library
from genmodel.engine.native.build import NativeAbsentError
from genmodel.engine.stepper import Stepper
from genmodel.errors import GenModelError
from tests.engine.tiny import tiny_lm

has_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here")


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has not asked for the kernels yet, with an empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(build, "cache_folder", lambda: folder)
    monkeypatch.setattr(build, "PACKAGE", tmp_path)
    library._kernels.cache_clear()
    monkeypatch.setattr(library, "_kernels", library._kernels.__wrapped__)
    return folder


def test_without_a_compiler_int8_is_refused_and_float32_runs(
    nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "compiler", lambda: None)
    with pytest.raises(GenModelError) as caught:
        Stepper(tiny_lm(), precision="int8")
    assert caught.value.field == "engine.precision" and "compiler" in str(caught.value)
    assert "int8" not in str(caught.value.allowed)
    assert Stepper(tiny_lm(), precision="auto").network.precision == "float32"


def test_a_compiler_that_fails_is_told_by_its_first_error(
    nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such luck' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(build, "compiler", lambda: str(broken))
    assert "no such luck" in str(choices.native_absent())
    assert [path.suffix for path in nothing_loaded.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_said(
    nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_loaded.write_text("a file where the folder should be", encoding="utf-8")
    assert "could not be kept" in str(choices.native_absent())


def test_a_path_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if choices.native_absent() is not None:
        pytest.skip("no native kernels here")
    monkeypatch.setattr(library, "PATHS", (*library.PATHS, "of-tomorrow"))
    with pytest.raises(NativeAbsentError) as caught:
        library.Kernels("of-tomorrow")
    assert "this processor has no of-tomorrow" in str(caught.value)


def test_they_can_be_switched_off(nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")
    assert "SEGUE_NATIVE=0" in str(choices.native_absent())
    with pytest.raises(NativeAbsentError):
        build.present()
    assert not nothing_loaded.exists()


@has_compiler
def test_it_is_compiled_once_for_all_who_ask_and_again_when_the_source_changes(
    nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    wrapper = tmp_path / "c++"
    script = f'#!/bin/sh\necho once >> {count}\nexec {build.compiler()} "$@" -O0\n'
    wrapper.write_text(script, encoding="utf-8")
    wrapper.chmod(0o755)
    asking = (
        "import sys; from pathlib import Path; from genmodel.engine.native import build\n"
        "build.cache_folder = lambda: Path(sys.argv[1])\n"
        "build.PACKAGE = Path(sys.argv[1])\n"
        "print(build.library())"
    )
    environment = {**os.environ, "CXX": str(wrapper)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", asking, str(nothing_loaded)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for _ in range(2)
    ]
    said = {one.communicate(timeout=250)[0].strip() for one in both}
    assert all(one.returncode == 0 for one in both) and len(said) == 1
    made = Path(said.pop())
    assert len(count.read_text(encoding="utf-8").splitlines()) == len(build.units()) + 1
    assert made.parent == nothing_loaded and stat.S_IMODE(nothing_loaded.stat().st_mode) == 0o700
    assert {path.suffix for path in nothing_loaded.iterdir()} == {".so", ".lock"}
    monkeypatch.setattr(build, "_LINK", (*build._LINK, "-Wl,-O1"))
    assert build.library_name() != made.name
    monkeypatch.undo()
    # what others could have written is not loaded
    monkeypatch.setattr(build, "cache_folder", lambda: nothing_loaded)
    assert build.present() == build.library() == made
    made.chmod(0o722)
    assert build.present() is None
    made.chmod(0o755)
    nothing_loaded.chmod(0o777)
    assert build.present() is None and "others may write" in str(choices.native_absent())


@has_compiler
def test_what_killed_compilers_left_is_taken_away_and_what_works_is_not(
    nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "compile_library", lambda target: target.write_bytes(b""))
    nothing_loaded.mkdir(mode=0o700)
    for name in ("old", "new"):
        (nothing_loaded / f".build-{name}").mkdir()
        (nothing_loaded / f".build-{name}" / "entry.o").write_bytes(b"")
    os.utime(nothing_loaded / ".build-old", (1e9, 1e9))
    build.library()
    assert {path.name for path in nothing_loaded.glob(".build-*")} == {".build-new"}
    assert "could not be loaded" in str(choices.native_absent())  # an empty file is no library


def test_other_processors_get_the_portable_path() -> None:
    assert set(build.units("riscv64")) == {"entry", "path_portable"}
    for machine in ("x86_64", "aarch64", "arm64"):
        assert all((build.SOURCE / f"{name}.cpp").is_file() for name in build.units(machine))
        assert set(build.units(machine)) > set(build.units("riscv64"))


@has_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
def test_the_sources_have_no_warnings(tmp_path: Path) -> None:
    for name, flags in build.units().items():
        command = [str(build.compiler()), *build._COMMON, *flags, "-Wall", "-Wextra", "-fsyntax-only"]
        done = subprocess.run(
            [*command, str(build.SOURCE / f"{name}.cpp")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_threads_are_those_of_torch() -> None:
    if choices.native_absent() is not None:
        pytest.skip("no native kernels here")
    if library._torch_pool() is None:
        pytest.skip("this torch ships no libgomp")
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("needs /proc")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert any(str(Path(torch.__file__).parent) in path for path in loaded)
    own = {path for path in loaded if "torch" not in path}
    assert not own - {path for path in own if ".libs/" in path}, "a second pool of threads was loaded"
