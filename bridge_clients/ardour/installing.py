"""What belongs into Ardour's folders, and whether it is there."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from bridge_clients.ardour.compose import HERE
from bridge_clients.installing import (
    BAD,
    NOTE,
    Copy,
    Finding,
    check_command_file,
    chosen_folder,
    command_file,
)
from protocol.errors import SegueError

COMMAND_FILE = "segue-command.txt"
AFTERWARDS = (
    "In Ardour, once: Edit > Lua Scripts > Script Manager; tab Action Hooks, New Hook, "
    "\u201cSegue: jobs\u201d; "
    "tab Action Scripts, an empty line for each action that you want."
)
_HOOK = "Segue: jobs"


def _folders(platform: str, home: Path, environment: Mapping[str, str]) -> list[Path]:
    """Ardour's own folders of all its versions that are here."""
    if platform == "darwin":
        base = home / "Library" / "Preferences"
    else:
        base = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    try:
        names = [path for path in base.iterdir() if re.fullmatch(r"[Aa]rdour[0-9]+", path.name)]
    except OSError:
        names = []
    return sorted(path for path in names if path.is_dir())


def files(platform: str, home: Path, environment: Mapping[str, str]) -> list[Copy]:
    """The scripts and the command's path for each version of Ardour that has been started once.

    Raises E_ARGUMENT where there is none, and on Windows, where Ardour's Lua can start no program.
    """
    if platform == "win32":
        raise SegueError(
            "E_ARGUMENT",
            "On Windows Ardour's scripts can start no program, so Segue does not work in it there.",
            field="host", value="ardour", allowed="Linux or macOS",
        )  # fmt: skip
    to = chosen_folder(environment)
    targets = [to] if to else [path / "scripts" for path in _folders(platform, home, environment)]
    if not targets:
        raise SegueError(
            "E_ARGUMENT",
            "No folder of Ardour is here: start Ardour once, or name its scripts folder with --to.",
            field="host", value="ardour", allowed="an Ardour that has been started once",
        )  # fmt: skip
    found = []
    for target in targets:
        for source in sorted((HERE / "scripts").glob("*.lua")):
            found.append(Copy(target / source.name, source=source))
        found.append(command_file(target / COMMAND_FILE, environment))
    return found


def check(platform: str, home: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Whether the scripts are there and current, lead to a `segue`, and the hook is switched on."""
    found = []
    for folder in _folders(platform, home, environment):
        scripts = folder / "scripts"
        if not (scripts / COMMAND_FILE).exists():
            advice = "segue install ardour"
            found.append(Finding("ardour", f"{folder} has no Segue scripts", NOTE, advice))
            continue
        found.append(check_command_file("ardour", scripts / COMMAND_FILE))
        old = [
            source.name
            for source in sorted((HERE / "scripts").glob("*.lua"))
            if not (scripts / source.name).is_file()
            or (scripts / source.name).read_bytes() != source.read_bytes()
        ]
        if old:
            found.append(
                Finding(
                    "ardour",
                    f"{', '.join(old)} in {scripts} are of another Segue",
                    BAD,
                    "segue install ardour",
                )
            )
        if not _hook_is_on(folder / "ui_scripts"):
            found.append(
                Finding("ardour", f"the hook \u201c{_HOOK}\u201d is not switched on", NOTE, AFTERWARDS)
            )
    return found


def _hook_is_on(path: Path) -> bool:
    """Ardour keeps the hooks in use with their source, each as base64 of Lua."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return False
    for name, code in re.findall(r'<LuaCallback[^>]* name="([^"]*)"[^>]*>([^<]*)<', text):
        if name.startswith(_HOOK):
            return True
        try:
            if _HOOK.encode() in base64.b64decode(code, validate=False):
                return True
        except ValueError:
            continue
    return False
