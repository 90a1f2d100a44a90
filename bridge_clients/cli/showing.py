"""Tables and JSON lines for the commands that answer a question and are done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any


def json_line(what: dict[str, Any]) -> None:
    """One object on one line of stdout; bytes as hex, what is unknown left out."""
    known = {key: value for key, value in what.items() if value is not None}
    sys.stdout.write(json.dumps(known, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return value.to_map() if hasattr(value, "to_map") else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns with a head; plain text, so that `grep` and `awk` work on it and nothing has to be imported."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    for line in (head, *rows):
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
        sys.stdout.write("\n")


def say(sentence: str) -> None:
    """A line on stdout."""
    sys.stdout.write(sentence + "\n")


def size(count: int | None) -> str:
    """1.5 GB, 38 MB; a dash when unknown."""
    if count is None:
        return "-"
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def when(time_ms: int | None) -> str:
    """Local date and time; a dash when unknown."""
    return "-" if time_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ms / 1000))


def age(time_ms: int | None) -> str:
    """How long ago: 40 s, 5 min, 3 h, 12 d; a dash when unknown or in the future."""
    if time_ms is None:
        return "-"
    seconds = time.time() - time_ms / 1000
    if seconds < -1:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
