"""Switching Audacity's script pipe on, and whether it is on.

Audacity loads the module only when its configuration says 1 for it *and* holds the time of the very file:
with another time it takes the module for a new one, writes 4 ("ask") and opens no pipe. Audacity writes its
configuration when it ends, so that it must not run meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from bridge_clients.installing import BAD, NOTE, Copy, Finding, Setting, chosen_folder
from bridge_clients.settings_file import SettingsFile
from protocol.errors import SegueError

MODULE = "mod-script-pipe"
PROCESS = "audacity"
CONFIG = "audacity.cfg"
AFTERWARDS = (
    "Start Audacity (after its very first start: close it and start it once more), select, and type"
    " `segue audacity continue`."
)
_MODULE_FOLDERS = (
    "usr/lib/audacity/modules",
    "usr/lib64/audacity/modules",
    "usr/local/lib/audacity/modules",
    "usr/lib/x86_64-linux-gnu/audacity/modules",
    "usr/lib/aarch64-linux-gnu/audacity/modules",
    "Applications/Audacity.app/Contents/modules",
    "Program Files/Audacity/modules",
)
_NAMES = (f"{MODULE}.so", f"{MODULE}.dll")


def module_file(root: Path) -> Path | None:
    """The module of the Audacity that is installed below `root` ("/", or a drive), or None."""
    for folder in _MODULE_FOLDERS:
        for name in _NAMES:
            if (root / folder / name).is_file():
                return root / folder / name
    return None


def config_file(platform: str, home: Path, environment: Mapping[str, str]) -> Path:
    """audacity.cfg of this user, or in the folder that was chosen (of a portable Audacity)."""
    chosen = chosen_folder(environment)
    if chosen is not None:
        return chosen / CONFIG
    if platform == "win32":
        roaming = environment.get("APPDATA")
        return (Path(roaming) if roaming else home / "AppData/Roaming") / "audacity" / CONFIG
    if platform == "darwin":
        return home / "Library/Application Support/audacity" / CONFIG
    old = home / ".audacity-data" / CONFIG  # before 3.2
    given = environment.get("XDG_CONFIG_HOME")
    new = (Path(given) if given else home / ".config") / "audacity" / CONFIG
    return old if old.exists() and not new.exists() else new


def _root(platform: str, environment: Mapping[str, str]) -> Path:
    return Path(environment.get("SystemDrive", "C:") + "/") if platform == "win32" else Path("/")


def _stamp(module: Path) -> str:
    """The module's time as Audacity writes it: in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(module.stat().st_mtime))


def files(platform: str, home: Path, environment: Mapping[str, str]) -> list[Copy | Setting]:
    """The lines of audacity.cfg that switch the pipe on. Raises E_ARGUMENT where there is no module."""
    module = module_file(_root(platform, environment))
    if module is None:
        raise SegueError(
            "E_ARGUMENT",
            f"No Audacity with {MODULE} was found.",
            field="host",
            value="audacity",
            allowed="Audacity 3, installed where its installer puts it",
        )
    target = config_file(platform, home, environment)
    path = str(module).replace("\\", "\\\\")  # a backslash begins an escape in this file
    lines = {"Module": "1", "ModulePath": path, "ModuleDateTime": _stamp(module)}
    return [Setting(target, section, MODULE, value, PROCESS) for section, value in lines.items()]


def check(platform: str, home: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Whether there is an Audacity with the module, and whether the pipe is on."""
    module = module_file(_root(platform, environment))
    target = config_file(platform, home, environment)
    if module is None:
        advice = "install Audacity 3 with mod-script-pipe"
        return [Finding("audacity", f"no {MODULE} was found", NOTE, advice)]
    again = "close Audacity, then `segue install audacity`"
    try:
        found = SettingsFile.read(target)
    except OSError as error:
        return [Finding("audacity", f"{target} cannot be read ({error.strerror})", BAD, again)]
    if found.get("Module", MODULE) != "1":
        return [Finding("audacity", "its script pipe is not switched on", BAD, again)]
    if found.get("ModuleDateTime", MODULE) != _stamp(module):
        return [Finding("audacity", f"{module.name} is newer than audacity.cfg says", BAD, again)]
    return [Finding("audacity", f"the script pipe is on ({target})")]
