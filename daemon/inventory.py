"""The list of models, fetched from a child process without waiting for it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import platformdirs

FRESH_S = 600.0
GIVE_UP_S = 30.0
_PACKAGES = Path(__file__).resolve().parents[1]


class Inventory:
    """Owned by the front-end's one thread; `poll` reads what has come."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        chosen = environment.get("SEGUE_MODELS") or os.environ.get("SEGUE_MODELS")
        self._models = Path(chosen) if chosen else Path(platformdirs.user_data_dir("segue")) / "models"
        self._seen: object = None
        self._process: subprocess.Popen[bytes] | None = None
        self._read = bytearray()
        self._begun_s = 0.0
        self._fetched_s: float | None = None
        self.entries: list[dict[str, Any]] = []
        self.failed = False

    @property
    def fresh(self) -> bool:
        """Nothing was pulled or removed since the list was made, and it is not old."""
        aged = self._fetched_s is None or time.monotonic() - self._fetched_s > FRESH_S
        return not aged and not self.failed and self._seen == self._look()

    def _look(self) -> object:
        try:
            return sorted((entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(self._models))
        except OSError:
            return None

    @property
    def asking(self) -> bool:
        return self._process is not None

    def ask(self) -> None:
        """Start a child, if none is on its way and what is known has aged."""
        if self._process is not None or self.fresh:
            return
        variables = dict(os.environ) | self._environment
        variables["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(_PACKAGES), variables.get("PYTHONPATH", "")])
        )
        self._begun_s, self._read, self._seen = time.monotonic(), bytearray(), self._look()
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "daemon.workers.inventory"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=variables,
                start_new_session=True,
            )  # fmt: skip
        os.set_blocking(self._process.stdout.fileno(), False)  # type: ignore[union-attr]

    def poll(self) -> None:
        """Take in what the child said; after `GIVE_UP_S` it is ended and the last list stays."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(process.stdout.fileno(), 1 << 16):  # type: ignore[union-attr]
                self._read += data
        if process.poll() is None:
            if time.monotonic() - self._begun_s > GIVE_UP_S:
                process.kill()
            return
        process.stdout.close()  # type: ignore[union-attr]
        self._process, self._fetched_s = None, time.monotonic()
        try:
            self.entries, self.failed = json.loads(bytes(self._read)), False
        except ValueError:
            self.failed = True

    def files_bytes(self, model: str) -> int | None:
        """How large a model's files are, as far as the last list says."""
        for entry in self.entries:
            size = entry.get("size_bytes", entry.get("bytes"))
            if entry.get("name") == model and isinstance(size, (int, float)) and size > 0:
                return int(size)
        return None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
