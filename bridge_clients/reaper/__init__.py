"""REAPER: actions in Lua over the job directory (`scripts/`), what `segue install reaper` copies, and the
index that ReaPack reads. The Lua side talks to nobody but `segue job`; nothing here runs inside REAPER.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "scripts"


def script_files() -> list[Path]:
    """Every Lua file that belongs together, actions first, by their paths."""
    return sorted(SCRIPTS.glob("*.lua")) + sorted((SCRIPTS / "segue").glob("*.lua"))
