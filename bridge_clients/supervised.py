"""Whether the system's service manager starts the daemon of this user, and how it is asked to.

A client that started a daemon of its own beside an installed service would take its place: the service
manager finds the folders taken, gives up, and nobody starts the daemon again after the next crash.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

UNIT_NAME = "segue.service"
AGENT_LABEL = "org.segue-daw.segued"
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "%": "%%"}


def quoted(word: str) -> str:
    """A word as systemd reads it back: quoted, with its own escapes, and no specifiers."""
    return '"' + "".join(_ESCAPES.get(letter, letter) for letter in word) + '"'


def unit_path() -> Path:
    """Where systemd looks for this user's units."""
    chosen = os.environ.get("XDG_CONFIG_HOME", "")
    config = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".config"
    return config / "systemd" / "user" / UNIT_NAME


def agent_path() -> Path:
    """Where launchd looks for this user's agents."""
    return Path.home() / "Library" / "LaunchAgents" / f"{AGENT_LABEL}.plist"


def start_command(platform: str = sys.platform) -> list[str] | None:
    """What starts the installed service; None when there is none, or it is one of other folders than those
    that this process would use.
    """
    import shutil

    try:
        if platform.startswith("linux") and shutil.which("systemctl"):
            text = unit_path().read_text("utf-8")
            if all(_same(text, name) for name in ("SEGUE_RUNTIME", "SEGUE_STATE", "SEGUE_CONFIG")):
                return ["systemctl", "--user", "start", UNIT_NAME]
        elif platform == "darwin" and agent_path().is_file() and "SEGUE_RUNTIME" not in os.environ:
            return ["launchctl", "kickstart", f"gui/{os.getuid()}/{AGENT_LABEL}"]
    except (OSError, ValueError, RuntimeError):  # no home, no file, or one that is not ours to read
        return None
    return None


def _same(text: str, name: str) -> bool:
    value = os.environ.get(name)
    if value:
        value = str(Path(value).expanduser().absolute())
        return f"Environment={quoted(f'{name}={value}')}" in text.splitlines()
    return f'Environment="{name}=' not in text
