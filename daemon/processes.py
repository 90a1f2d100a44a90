"""What the kernel says about one of our processes: whether it computes, waits for a disk, or was stopped.

Read from /proc, where there is one; elsewhere the answer is None and nobody claims to have looked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Activity:
    """`cpu_s`: processor time used so far. `on_disk`: it waits for a disk right now. `stopped`: by a signal
    or a debugger.
    """

    cpu_s: float
    on_disk: bool
    stopped: bool


def activity(pid: int) -> Activity | None:
    """None when the process is gone or this system has no /proc."""
    try:
        # the name in parentheses may hold anything, parentheses too
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return Activity(ticks / os.sysconf("SC_CLK_TCK"), fields[0] == "D", fields[0] in "Tt")
    except (OSError, ValueError, IndexError):
        return None
