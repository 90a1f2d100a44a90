"""Each part of the chaos suite at its CI scale, with a seed of its own that a failure shows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.chaos.__main__ import PARTS
from tests.daemon.house import ROOT

WRITTEN = [name for name, module in PARTS.items() if importlib.util.find_spec(module)]


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WRITTEN)
def test_the_promise_holds(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--ci", "--only", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    shown = f"{ended.stdout[-8000:]}\n{ended.stderr[-8000:]}"
    assert ended.returncode == 0, shown
    (part,) = json.loads(ended.stdout.splitlines()[-1])["parts"]
    assert part["part"] == name and part["holds"] and (part["figures"] or part["skipped"]), shown
