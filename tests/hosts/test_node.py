"""The Node client: its own tests (node:test) with the vectors and the real daemon, and what it ships."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.house import ROOT
from tests.hosts.conftest import HostHouse

NODE = ROOT / "bridge_clients" / "node"
OLDEST_NODE = 18


def node() -> str:
    """The program, or a skip that says what is missing."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node {version.strip()} is older than {OLDEST_NODE}")
    if not (NODE / "node_modules" / "zeromq").is_dir():
        pytest.skip("the npm packages are not installed: `npm ci` in bridge_clients/node")
    return found


def run_tests(name: str, **environment: str) -> str:
    """Run one file of node:test; its report when all passed."""
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap", f"test/{name}.test.js"],
        cwd=NODE,
        env=dict(os.environ, SEGUE_TEST_PYTHON=sys.executable, **environment),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def count(report: str, what: str) -> int:
    found = re.search(rf"^# {what} (\d+)$", report, re.M)
    assert found, report[-500:]
    return int(found.group(1))


@pytest.mark.parametrize(
    ("name", "least"),
    [("vectors", 60), ("parts", 8), ("retry", 11), ("daemon", 19), ("network", 4), ("max", 9)],
)
def test_the_clients_own_tests_pass(name: str, least: int) -> None:
    report = run_tests(name)
    assert count(report, "fail") == 0 and count(report, "skipped") == 0
    assert count(report, "pass") >= least


def test_it_speaks_with_the_real_model(pocket_house: HostHouse) -> None:
    report = run_tests("pocket", SEGUE_TEST_RUNTIME=str(pocket_house.runtime))
    assert count(report, "pass") == 1 and count(report, "skipped") == 0


def test_the_lock_file_names_versions_and_hashes_and_no_place() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    packages = {name: found for name, found in lock["packages"].items() if name}
    assert {"node_modules/zeromq", "node_modules/@msgpack/msgpack"} <= set(packages)
    for name, found in packages.items():
        assert "resolved" not in found, name
        assert found["version"] and found["integrity"].startswith("sha512-"), name
    for file in ("package.json", "package-lock.json"):
        assert "://" not in (NODE / file).read_text(), file


def test_no_file_of_it_outgrows_one_reason_to_exist() -> None:
    shipped = [
        *NODE.glob("*.js"),
        *NODE.glob("*.ts"),
        *(NODE / "lib").glob("*.js"),
        *(NODE / "max").glob("*.js"),
    ]
    assert len(shipped) >= 10
    for file in shipped:
        text = file.read_text()
        assert text.count("\n") <= 400, file.name
        assert text.startswith(("//", "/**")), f"{file.name} does not say what it is"
        assert not re.search(r"\b(eval|Function)\(|child_process.*\bexec\b|shell: true", text), file.name


def test_it_was_written_from_the_page_alone(tmp_path: Path) -> None:
    """Nothing of this repository is read at run time: the client works from a folder of its own."""
    program = node()
    for item in ("index.js", "package.json", "lib"):
        source = NODE / item
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / item)
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    done = subprocess.run(
        [program, "-e", "import('./index.js').then((found) => console.log(typeof found.Segue.connect))"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "function", done.stderr
