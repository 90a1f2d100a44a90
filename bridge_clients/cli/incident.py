"""Defects: the traceback goes to a file that can be sent along with a report, the musician reads one
sentence.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path


def write_incident(error: BaseException) -> str:
    """Write the traceback to a new owner-only file and return the sentence to show. Never raises."""
    kind = type(error).__name__
    try:
        path = _folder() / f"cli-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        words = [
            f"segue {' '.join(sys.argv[1:])}",
            f"python {sys.version}",
            f"platform {sys.platform}",
            "",
            "".join(traceback.format_exception(error)),
        ]
        with open(
            path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)
        ) as handle:
            handle.write("\n".join(words))
    except Exception:
        return f"Something inside Segue went wrong ({kind}), and no incident file could be written."
    return f"Something inside Segue went wrong ({kind}); please send {path} with a report."


def _folder() -> Path:
    given = os.environ.get("SEGUE_STATE")
    if given:
        folder = Path(given)
    else:
        try:
            from platformdirs import user_state_dir

            folder = Path(user_state_dir("segue"))
        except ImportError:
            folder = Path(tempfile.gettempdir())
    folder = folder / "incidents"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
