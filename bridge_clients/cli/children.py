"""Child processes: what needs torch or the daemon's own code runs beside the command, never inside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridge_clients.cli.exits import CANCELLED, DEFECT
from protocol.build import code_root


def python_command(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """This Python with ``words``, and an environment in which it finds Segue's packages, and only those.

    -P: the folder in which the user happens to stand must not be able to offer a package called "daemon".
    """
    environment = dict(os.environ)
    root = str(code_root())
    if Path(root).name not in ("site-packages", "dist-packages"):  # a checkout
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return [sys.executable, "-P", *words], environment


def run_python(words: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    """Run this Python with ``words``, the terminal shared; its exit status is ours. ``variables``: of its
    environment, where the user has not set them.

    Ctrl-C is the child's to answer (the terminal sends it to both), and it is waited for until it has;
    SIGTERM is passed on.
    """
    command, environment = python_command(words)
    environment = {**(variables or {}), **environment}
    try:
        child = subprocess.Popen(command, env=environment)
    except OSError as error:
        sys.stderr.write(f"segue: {sys.executable} could not be started ({error.strerror}).\n")
        return DEFECT
    answers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: child.terminate()}
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status in (-signal.SIGINT, -signal.SIGTERM):
        return CANCELLED
    return DEFECT if status < 0 else status


def ask_python(words: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run this Python with ``words`` and give (status, what it printed); a child that hangs ends with status
    124.
    """
    command, environment = python_command(words)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError as error:
        return DEFECT, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()
