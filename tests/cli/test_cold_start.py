"""`segue ping` is what hosts call most often: it may not pay for what it does not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT

HEAVY = (
    "numpy",
    "torch",
    "soundfile",
    "rich",
    "matplotlib",
    "asyncio",
    "omegaconf",
    "soxr",
    "genmodel",
    "daemon",
)
_ASK = """
import sys
sys.path.insert(0, {root!r})
from bridge_clients.cli.main import main
status = main(["ping"])
print(status, *[name for name in {heavy!r} if name in sys.modules])
"""


def test_ping_imports_nothing_heavy(sandbox: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASK.format(root=str(ROOT), heavy=HEAVY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["5"], done.stdout + done.stderr


@pytest.mark.parametrize("words", [["ping"], ["--help"], ["continue", "nowhere.wav"]])
def test_the_command_answers_quickly(sandbox: Path, words: list[str]) -> None:
    """150 ms beside Python's own start on an idle machine; here twice that, and time on a processor, because
    tests share the machine.
    """

    def best_s(*line: str) -> float:
        times = []
        for _ in range(5):
            before = os.times()
            subprocess.run([sys.executable, *line], capture_output=True, check=False, cwd=ROOT)
            after = os.times()
            used = after.children_user + after.children_system
            times.append(used - before.children_user - before.children_system)
        return min(times)

    assert best_s("-m", "bridge_clients.cli", *words) - best_s("-c", "pass") < 0.30
