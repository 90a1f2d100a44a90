"""The wheel that is built really: with the kernels inside where a compiler is, without them where none is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from genmodel.engine.native import build

pytest.importorskip("hatchling.build", reason="hatchling is not installed here")
ROOT = Path(__file__).resolve().parents[2]
PLACE = "genmodel/engine/native/"
has_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here")
HEAVY = shutil.ignore_patterns("__pycache__", "node_modules", "*.safetensors", "*.png", "*.flac", "*.so")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources without pocket's weights, which only take time here."""
    place = tmp_path_factory.mktemp("tree")
    for name in ("protocol", "genmodel", "daemon", "bridge_clients"):
        shutil.copytree(ROOT / name, place / name, ignore=HEAVY)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    return place


def compiler(folder: Path, script: str) -> str:
    """A compiler of our own."""
    made = folder / "c++"
    made.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    made.chmod(0o755)
    return str(made)


def built(tree: Path, into: Path, kind: str = "wheel", **variables: str) -> tuple[Path, str]:
    """What the backend makes, and its words. ``variables`` are all it has of PATH, CXX and SEGUE_NATIVE."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PATH", "CXX", build.SWITCH)}
    code = f"import sys, hatchling.build as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(into)], cwd=tree, env={**environment, "PATH": "", **variables},
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1], done.stdout + done.stderr


def kernels_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        return [name for name in packed.namelist() if name.startswith(PLACE) and name.endswith(".so")]


def tag_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/WHEEL"))
        return packed.read(name).decode()


@has_compiler
def test_a_wheel_made_with_a_compiler_brings_the_kernels_along(tree: Path, tmp_path: Path) -> None:
    command = compiler(tmp_path, f'PATH={os.environ["PATH"]} exec {build.compiler()} "$@" -O0')
    wheel, said = built(tree, tmp_path, CXX=command)
    assert kernels_in(wheel) == [PLACE + build.library_name()] and "compiled into the wheel" in said
    assert wheel.stem.split("-")[2:4] == ["py3", "none"] and not wheel.stem.endswith("any")
    assert "Root-Is-Purelib: false" in tag_of(wheel)
    from packaging.tags import sys_tags

    tags = [line.removeprefix("Tag: ") for line in tag_of(wheel).splitlines() if line.startswith("Tag: ")]
    assert tags == ["-".join(wheel.stem.split("-")[2:])] and set(tags) <= {str(tag) for tag in sys_tags()}
    assert not list(tree.rglob("*.so"))  # nothing is left among the sources

    # as installed on a machine that has no compiler, and a cache that cannot be written
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    cache = tmp_path / "cache"
    cache.write_text("a file where the folder should be", encoding="utf-8")
    code = (
        "import json, torch\n"
        "from genmodel.engine.native import build, library, weights\n"
        "kernels = library.kernels()\n"
        "linear = weights.NativeLinear(kernels, library.Scratch(), weights.Arena(0), torch.eye(70), None)\n"
        "print(json.dumps([str(build.library()), kernels.paths, linear(torch.ones(3, 70)).tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PATH": "", "CXX": "", "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file, paths, y = json.loads(done.stdout)
    assert Path(file) == installed / PLACE / build.library_name() and "portable" in paths
    assert y == [[1.0] * 70] * 3


@pytest.mark.parametrize(
    ("script", "variables", "reason"),
    [
        (None, {}, "none was found"),
        ("echo 'x.cpp:1: error: no such luck' >&2; exit 1", {}, "no such luck"),
        ("exit 0", {}, "could not be compiled"),  # it says yes and makes nothing
        ("exit 1", {build.SWITCH: "0"}, "switched off"),
    ],
)
def test_without_one_the_wheel_is_for_every_machine_and_says_so(
    tree: Path, tmp_path: Path, script: str | None, variables: dict[str, str], reason: str
) -> None:
    if script is not None:
        variables = {**variables, "CXX": compiler(tmp_path, script)}
    wheel, said = built(tree, tmp_path, **variables)
    assert wheel.name.endswith("-py3-none-any.whl") and not kernels_in(wheel)
    assert "Root-Is-Purelib: true" in tag_of(wheel)
    (line,) = (line for line in said.splitlines() if "native" in line)
    assert reason in line


def test_an_editable_install_leaves_it_to_the_first_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from genmodel.engine.native.hook import NativeBuildHook

    monkeypatch.setenv("CXX", compiler(tmp_path, f"touch {tmp_path}/asked; exit 1"))
    hook = NativeBuildHook(str(ROOT), {}, None, None, str(tmp_path), "wheel")
    given: dict[str, object] = {"pure_python": True, "force_include": {}}
    hook.initialize("editable", given)
    hook.finalize("editable", given, "")
    assert given == {"pure_python": True, "force_include": {}} and not (tmp_path / "asked").exists()


def test_an_archive_of_the_sources_can_be_built_again(tree: Path, tmp_path: Path) -> None:
    archive, _ = built(tree, tmp_path, "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    native = unpacked / PLACE
    there = {path.relative_to(native) for path in native.rglob("*") if path.is_file()}
    wanted = {path.relative_to(tree / PLACE) for path in (tree / PLACE).rglob("*") if path.is_file()}
    wanted = {path for path in wanted if path.suffix != ".pyc"}  # the build itself leaves some
    assert wanted == there and Path("source/entry.cpp") in there
    wheel, _ = built(unpacked, tmp_path)
    assert wheel.is_file()
