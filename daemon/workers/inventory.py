"""``python -m daemon.workers.inventory``: which models this machine has, as one line of JSON on stdout.

A process of its own, because what knows the models may import torch, and the front-end must not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any


def listing() -> list[dict[str, Any]]:
    """One map per model; what the registry does not say is left out."""
    from genmodel.checkpoints.registry import list_models

    return [_plain(entry) for entry in list_models()]


def _plain(entry: Any) -> dict[str, Any]:
    found = dataclasses.asdict(entry) if dataclasses.is_dataclass(entry) else dict(vars(entry))  # type: ignore[arg-type]
    return {name: _json(value) for name, value in found.items() if value is not None}


def _json(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def main() -> int:
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints goes to the log
    with os.fdopen(out, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(listing()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
