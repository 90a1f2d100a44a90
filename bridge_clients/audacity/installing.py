"""Switching Audacity's script pipe on, and whether it is on.

Audacity loads the module only when its configuration says 1 for it *and* holds the time of the very file:
with another time it takes the module for a new one, writes 4 ("ask") and opens no pipe. Audacity writes its
configuration when it ends, so that it must not run meanwhile.
"""

from __future__ import annotations

import configparser
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridge_clients.installing import BAD, NOTE, Copy, Finding, Setting

MODULE = "mod-script-pipe"
PROCESS = "audacity"
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
    """audacity.cfg of this user."""
    if platform == "win32":
        roaming = environment.get("APPDATA")
        return (Path(roaming) if roaming else home / "AppData/Roaming") / "audacity/audacity.cfg"
    if platform == "darwin":
        return home / "Library/Application Support/audacity/audacity.cfg"
    old = home / ".audacity-data/audacity.cfg"  # before 3.2
    given = environment.get("XDG_CONFIG_HOME")
    new = (Path(given) if given else home / ".config") / "audacity/audacity.cfg"
    return old if old.exists() and not new.exists() else new


def _root(platform: str, environment: Mapping[str, str]) -> Path:
    return Path(environment.get("SystemDrive", "C:") + "/") if platform == "win32" else Path("/")


def _stamp(module: Path, platform: str) -> str:
    """The module's time as Audacity writes it: UTC, and on Windows too."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(module.stat().st_mtime))


def files(platform: str, home: Path, environment: Mapping[str, str]) -> Sequence[Copy | Setting]:
    """The lines of audacity.cfg that switch the pipe on; none where there is no module to be found."""
    module = module_file(_root(platform, environment))
    if module is None:
        return []
    target = config_file(platform, home, environment)
    lines = {
        "Module": "1",
        "ModulePath": str(module),
        "ModuleDateTime": _stamp(module, platform),
    }
    return [Setting(target, section, MODULE, value, PROCESS) for section, value in lines.items()]


def check(platform: str, home: Path, environment: Mapping[str, str]) -> Sequence[Finding]:
    """Whether there is an Audacity with the module, and whether the pipe is on."""
    module = module_file(_root(platform, environment))
    target = config_file(platform, home, environment)
    if module is None:
        advice = "install Audacity 3 with mod-script-pipe"
        return [Finding("audacity", f"no {MODULE} was found", NOTE, advice)]
    again = "close Audacity, then `segue install audacity`"
    found = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True, delimiters=("=",)
    )
    found.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        found.read_string("[]\n" + target.read_text("utf-8"))
    except FileNotFoundError:
        return [Finding("audacity", "its script pipe is not switched on", BAD, again)]
    except (OSError, ValueError, configparser.Error) as error:
        return [Finding("audacity", f"{target} cannot be read ({error})", BAD, again)]
    if found.get("Module", MODULE, fallback="") != "1":
        return [Finding("audacity", "its script pipe is not switched on", BAD, again)]
    if found.get("ModuleDateTime", MODULE, fallback="") != _stamp(module, platform):
        return [Finding("audacity", f"{module.name} is newer than audacity.cfg says", BAD, again)]
    return [Finding("audacity", f"the script pipe is on ({target})")]
