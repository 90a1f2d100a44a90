"""What belongs into REAPER's folders, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bridge_clients.installing import (
    BAD,
    NOTE,
    OK,
    Copy,
    Finding,
    check_command_file,
    chosen_folder,
    command_file,
)
from bridge_clients.reaper import SCRIPTS, script_files
from protocol.errors import SegueError

COMMAND_FILE = "segue-command.txt"
AFTERWARDS = (
    "In REAPER, once: Actions > Show action list > New action > Load ReaScript, "
    "choose \u201cSegue - Settings.lua\u201d in Scripts/Segue and run it; "
    "it puts the other actions into the list."
)
_AGAIN = "segue install reaper"


def resource_folder(platform: str, home: Path, environment: Mapping[str, str]) -> Path:
    """REAPER's resource path, where it keeps what belongs to the user; a portable REAPER has its own."""
    if platform == "win32":
        return Path(environment.get("APPDATA") or home / "AppData" / "Roaming") / "REAPER"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "REAPER"
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "REAPER"


def files(platform: str, home: Path, environment: Mapping[str, str]) -> list[Copy]:
    """The scripts with their library, and the file that names the command.

    Raises E_ARGUMENT where REAPER has never been started and no folder is named.
    """
    to = chosen_folder(environment)
    if to is None:
        resources = resource_folder(platform, home, environment)
        if not resources.is_dir():
            raise SegueError(
                "E_ARGUMENT",
                "No folder of REAPER is here: start REAPER once, or name a portable one's folder with --to.",
                field="host", value="reaper", allowed="a REAPER that has been started once",
            )  # fmt: skip
        to = resources / "Scripts" / "Segue"
    copies = [Copy(to / source.relative_to(SCRIPTS), source=source) for source in script_files()]
    return [*copies, command_file(to / COMMAND_FILE, environment)]


def check(platform: str, home: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Whether the scripts are there and current and lead to a `segue`. Nothing where there is no REAPER."""
    resources = resource_folder(platform, home, environment)
    if not resources.is_dir():
        return []
    folder = resources / "Scripts" / "Segue"
    if not (folder / COMMAND_FILE).exists():
        return [Finding("reaper", f"{folder} has no Segue scripts", NOTE, _AGAIN)]
    found = [check_command_file("reaper", folder / COMMAND_FILE)]
    other = [path.name for path in script_files() if _differs(path, folder / path.relative_to(SCRIPTS))]
    if other:
        found.append(
            Finding("reaper", f"{', '.join(other)} in {folder} are of another Segue, or missing", BAD, _AGAIN)
        )
    else:
        found.append(Finding("reaper", f"{len(script_files())} files in {folder}", OK))
    return found


def _differs(mine: Path, there: Path) -> bool:
    try:
        return mine.read_bytes() != there.read_bytes()
    except OSError:
        return True
