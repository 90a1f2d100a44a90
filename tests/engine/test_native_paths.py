"""The native kernels without Python: under sanitizers, and those of another processor under its emulator."""

from __future__ import annotations

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from genmodel.engine.kernels import native_absent
from genmodel.engine.native import build
from genmodel.engine.native.library import PATHS, Scratch, kernels
from genmodel.engine.native.network import NativeNetwork
from genmodel.engine.native.weights import MOST_INPUTS, Arena, NativeLinear
from tests.engine.tiny import tiny_lm

pytestmark = pytest.mark.timeout(900)  # 20 s of compilers, on a machine that may be busy
DRIVER = Path(__file__).with_name("native_driver.cpp")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
Hashes = dict[str, dict[str, str]]  # case -> path -> what came out


def driver(folder: Path, command: str, machine: str, *flags: str) -> Path:
    """The driver, compiled with the kernels as ``build`` compiles them for this kind of processor."""
    common = [*build._COMMON, *flags]
    sources = {build.SOURCE / f"{name}.cpp": own for name, own in build.units(machine).items()}
    sources[DRIVER] = (f"-I{build.SOURCE}",)

    def compiled(source: Path) -> str:
        made = str(folder / f"{source.stem}.o")
        call = [command, *common, *sources[source], "-c", str(source), "-o", made]
        subprocess.run(call, check=True, timeout=500)
        return made

    with ThreadPoolExecutor(2) as side_by_side:
        objects = list(side_by_side.map(compiled, sources))
    subprocess.run([command, *common, *objects, "-pthread", "-o", str(folder / "driver")], check=True)
    return folder / "driver"


def run(*command: str) -> Hashes:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0 and not done.stderr, done.stdout[-300:] + done.stderr[-3000:]
    found: Hashes = {}
    for line in done.stdout.splitlines():
        case, path, value = line.split()
        found.setdefault(case, {})[path] = value
    assert len(found) == 35
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Hashes:
    """What comes out on this processor, with sanitizers looking on where the compiler has them."""
    command = build.compiler()
    if command is None:
        pytest.skip("no C++ compiler here")
    folder = tmp_path_factory.mktemp("driver")
    trial = folder / "trial.cpp"
    trial.write_text("int main() { return 0; }\n", encoding="utf-8")
    tried = [command, *SANITIZERS, str(trial), "-o", str(folder / "trial")]
    able = subprocess.run(tried, capture_output=True, check=False).returncode == 0
    able = able and subprocess.run([str(folder / "trial")], check=False).returncode == 0
    return run(str(driver(folder, command, platform.machine(), "-O1", *(SANITIZERS if able else ()))))


def same_where_fused(found: Hashes) -> dict[str, str]:
    """One value for each case, having made sure that all paths with a fused multiply-add agree."""
    unfused = {"portable"} if platform.machine() in ("x86_64", "AMD64") else set()
    values = {case: {v for path, v in of.items() if path not in unfused} for case, of in found.items()}
    assert all(len(of) <= 1 for of in values.values()), found
    return {case: of.pop() for case, of in values.items() if of}


def test_odd_shapes_are_within_bounds_and_alike_on_every_path_and_in_any_company(here: Hashes) -> None:
    paths = {path for of in here.values() for path in of}
    assert "portable" in paths and paths <= set(PATHS)
    assert all(set(of) == paths for of in here.values())
    same_where_fused(here)


@pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)), reason=f"needs {CROSS} and {EMULATOR}"
)
def test_arm_gives_the_bits_of_x86(here: Hashes, tmp_path: Path) -> None:
    made = str(driver(tmp_path, str(shutil.which(CROSS)), "aarch64", "-O1", "-static"))
    newer = run(EMULATOR, "-cpu", "max", made)
    assert all(set(of) == {"portable", "neon", "dotprod"} for of in newer.values())
    assert all(len(set(of.values())) == 1 for of in newer.values()), newer  # all of them fuse
    for case, value in same_where_fused(here).items():
        assert newer[case]["neon"] == value, case
    # a processor without the dot product is not sent there
    known = subprocess.run([EMULATOR, "-cpu", "cortex-a53", made], capture_output=True, text=True, check=True)
    assert " neon " in known.stdout and " dotprod " not in known.stdout


@pytest.mark.skipif(native_absent() is not None, reason=str(native_absent()))
@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_finite_stays_so_and_spoils_its_own_row_only(path: str) -> None:
    if path not in kernels().paths:
        pytest.skip(f"this processor has no {path}")
    torch.manual_seed(1)

    def linear(weight: torch.Tensor) -> NativeLinear:
        return NativeLinear(kernels(path), Scratch(), Arena(0), weight, None)

    weight, x = torch.randn(50, 36), torch.randn(7, 36)
    fine = linear(weight)(x)
    assert linear(weight)(x[:0]).shape == (0, 50)
    x[1, 3], x[2, 0], x[4, 35] = float("inf"), float("nan"), -float("inf")
    x[5] = 1e-41  # too small to divide by: as good as nothing, and no infinity
    x[5, 0] = 0
    y = linear(weight)(x)
    assert bool(y[[1, 2, 4]].isnan().all()) and torch.equal(y[[0, 3, 6]], fine[[0, 3, 6]])
    assert float(y[5].abs().max()) < 1e-36
    weight[3, 3], weight[4, 4] = float("nan"), float("inf")
    spoilt = linear(weight)(x[[0, 3, 6]])
    kept = [i for i in range(50) if i not in (3, 4)]
    assert not bool(spoilt[:, 3:5].isfinite().any())
    assert torch.equal(spoilt[:, kept], fine[[0, 3, 6]][:, kept])
    with pytest.raises(ValueError, match="32 bits"):
        linear(torch.empty(1, MOST_INPUTS + 1))


@pytest.mark.skipif(native_absent() is not None, reason=str(native_absent()))
def test_heads_too_wide_for_the_sums_of_byte_caches_get_wider_ones() -> None:
    lm = tiny_lm(dim=1040, num_heads=1, num_layers=1, hidden_scale=1)
    assert not NativeNetwork(lm).byte_caches and NativeNetwork(tiny_lm()).byte_caches
    assert "bfloat16" in NativeNetwork(lm).kernels_version
