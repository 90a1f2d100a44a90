"""Child processes: what needs torch or the daemon's own code runs beside the command, never inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge_clients.cli.exits import DEFECT, status_of
from protocol.build import code_root
from protocol.errors import SegueError


def _command(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """This Python with ``words``, and an environment in which it finds Segue's packages, and only those.

    -P: the folder in which the user happens to stand must not be able to offer a package called "daemon".
    """
    environment = dict(os.environ)
    root = str(code_root())
    if Path(root).name not in ("site-packages", "dist-packages"):  # a checkout
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return [sys.executable, "-P", *words], environment


def run_python(words: Sequence[str]) -> int:
    """Run this Python with ``words``, the terminal shared; its exit status is ours."""
    command, environment = _command(words)
    try:
        status = subprocess.run(command, env=environment, check=False).returncode
    except OSError as error:
        failed = SegueError("E_INTERNAL", f"{sys.executable} could not be started ({error.strerror}).")
        sys.stderr.write(f"segue: {failed.message}\n")
        return status_of(failed)
    return DEFECT if status < 0 else status


def ask_python(words: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run this Python with ``words`` and give (status, what it printed); a child that hangs ends with status
    124.
    """
    command, environment = _command(words)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError as error:
        return DEFECT, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()
