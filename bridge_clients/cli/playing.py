"""Which program on this machine plays a WAV file of floats, and playing one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from protocol.errors import SegueError

# In the order of the best manners: the desktop's own mixer first, then what takes the device.
PLAYERS: dict[str, list[str]] = {
    "pw-play": [],
    "paplay": [],
    "afplay": [],
    "aplay": ["-q"],
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error"],
}


def player() -> list[str] | None:
    """The words before a file's name, None when there is no player."""
    for name, flags in PLAYERS.items():
        path = shutil.which(name)
        if path is not None:
            return [path, *flags]
    return None


def play(path: Path) -> None:
    """Play a file to its end. Raises E_ARGUMENT when there is no player, or it says that it cannot."""
    words = player()
    if words is None:
        names = ", ".join(PLAYERS)
        raise SegueError(
            "E_ARGUMENT", f"No player is installed here (looked for {names}); the take is {path}."
        )
    try:
        done = subprocess.run(
            [*words, str(path.absolute())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise SegueError("E_ARGUMENT", f"{words[0]} does not start ({error.strerror}).") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[-200:] or f"status {done.returncode}"
        raise SegueError("E_ARGUMENT", f"{Path(words[0]).name} cannot play {path} ({said}).")
