"""Sounds and a way to run the command, for all tests of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of audible noise, or of given samples."""

    def make(
        name: str,
        seconds: float = 2.0,
        rate: int = 44_100,
        channels: int = 2,
        subtype: str | None = None,
        samples: np.ndarray | None = None,
    ) -> Path:
        path = tmp_path / name
        if samples is None:
            frames = round(seconds * rate)
            samples = 0.2 * np.random.default_rng(0).standard_normal((frames, channels))
        soundfile.write(path, np.clip(samples, -1, 1), rate, subtype=subtype)
        return path

    return make


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with Segue's own folders below it and no daemon anywhere."""
    for name in ("RUNTIME", "STATE", "MODELS"):
        monkeypatch.setenv(f"SEGUE_{name}", str(tmp_path / name.lower()))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def command(sandbox: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``segue …`` in a process of its own; with ``script`` the fake client answers."""

    def run(*words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
        start = ["-m", "tests.cli.fake", script, "--"] if script else ["-m", "bridge_clients.cli"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        return subprocess.run(
            [sys.executable, *start, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
            stdin=subprocess.DEVNULL,
        )

    return run
