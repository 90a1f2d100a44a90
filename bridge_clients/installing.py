"""What a host's folder says about its own set-up, for `segue install` and `segue doctor`.

Each host has a module `bridge_clients.<host>.installing` with

    def files(platform: str, home: Path, environment: Mapping[str, str]) -> list[Copy | Setting]
    def check(platform: str, home: Path, environment: Mapping[str, str]) -> list[Finding]

`platform` is as `sys.platform` says it, `home` the user's home folder, `environment` the variables. Neither
function writes anything, and `files` looks only for which folders of the host are there: it raises E_ARGUMENT
with advice when there is none, unless TO_VARIABLE names one (`--to FOLDER`, see `chosen_folder`). What is
copied, and how it is taken back, is `segue install`'s work. A text `AFTERWARDS` in the module is what the
user has to do then, in one sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import SegueError

HOSTS = ("reaper", "ardour", "audacity")
COMMAND_VARIABLE = "SEGUE_COMMAND"
TO_VARIABLE = "SEGUE_INSTALL_TO"
"""Holds the folder of `segue install HOST --to FOLDER`, in the place of the host's own."""
OK, NOTE, BAD = "ok", "note", "bad"


@dataclass(frozen=True)
class Copy:
    """One file that belongs in a host's folder: either a copy of `source`, or a file with this `text`."""

    target: Path
    source: Path | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.text is None):
            raise ValueError(f"{self.target}: give a source or a text")

    def content(self) -> bytes:
        """The bytes that belong there. Raises OSError when the source cannot be read."""
        return self.source.read_bytes() if self.source is not None else (self.text or "").encode()


@dataclass(frozen=True)
class Setting:
    """One line of a host's own configuration in INI form; the value before is put back by an uninstall.

    The host must not run meanwhile: hosts write their configuration when they end. `process` is the name of
    its program.
    """

    target: Path
    section: str
    key: str
    value: str
    process: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``level``: "ok", "note" (worth knowing) or "bad" (do what it advises)."""

    what: str
    found: str
    level: str = OK
    advice: str = ""


def chosen_folder(environment: Mapping[str, str]) -> Path | None:
    """What `--to` named, in the place of the host's own folder; None without it."""
    given = environment.get(TO_VARIABLE)
    return Path(given) if given else None


def command_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of the `segue` command that hosts are to start: what SEGUE_COMMAND names, else the
    one beside this Python, else the first on the PATH. Raises E_ARGUMENT where there is none.
    """
    import shutil

    named = environment.get(COMMAND_VARIABLE)
    ending = ".exe" if sys.platform == "win32" else ""
    beside = Path(sys.executable).parent / f"segue{ending}"
    found = named or (str(beside) if os.access(beside, os.X_OK) else None)
    found = found or shutil.which("segue", path=environment.get("PATH"))
    path = Path(found).expanduser().absolute() if found else None
    if path is None or not path.is_file() or not os.access(path, os.X_OK):
        raise SegueError(
            "E_ARGUMENT",
            f"{path} is not a program." if path else "The `segue` command is not installed: hosts start it.",
            field=COMMAND_VARIABLE,
            value=str(path) if path else None,
            allowed="the path of the segue command; pip install segue-daw makes one",
        )
    return path


def command_file(target: Path, environment: Mapping[str, str] = os.environ) -> Copy:
    """The small file beside a host's scripts that tells them which `segue` to start: one line, its absolute
    path.
    """
    return Copy(target, text=f"{command_path(environment)}\n")


def check_command_file(host: str, path: Path) -> Finding:
    """Whether the file that `command_file` made leads to a program."""
    again = f"segue install {host}"
    try:
        named = path.read_text("utf-8").strip()
    except OSError as error:
        return Finding(host, f"{path} cannot be read ({error.strerror})", BAD, again)
    except ValueError:
        return Finding(host, f"{path} is damaged", BAD, again)
    if not (os.path.isabs(named) and os.path.isfile(named) and os.access(named, os.X_OK)):
        return Finding(host, f"{path} names {named or 'nothing'}, which is no program", BAD, again)
    return Finding(host, f"starts {named}")
