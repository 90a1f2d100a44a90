"""``python -m genmodel.engine.native``: which native kernels run here, as one line of JSON.

Compiles nothing and needs no torch, so that `segue doctor` can ask.
"""

from __future__ import annotations

import json
import sys

from genmodel.engine.native import build

ADVICE = "a C++ compiler (g++ or clang++) is all they need; nothing has to be installed again"


def standing() -> dict[str, str]:
    """``found``: a sentence; ``level``: "ok", or "note" where ``advice`` says what would bring them."""
    try:
        file = build.present()
        if file is not None:
            _, paths = build.load(file)
            where = "installed" if file.parent == build.PACKAGE else "compiled here"
            return {"found": f"native kernels run on {paths[-1]} ({where})", "level": "ok", "advice": ""}
    except build.NativeAbsentError as error:
        return {"found": str(error), "level": "ok", "advice": ""}
    command = build.compiler()
    if command is not None:
        found = f"native kernels are compiled on first use, by {command}"
        return {"found": found, "level": "ok", "advice": ""}
    return {"found": "native kernels are not here: no C++ compiler", "level": "note", "advice": ADVICE}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(standing()) + "\n")
