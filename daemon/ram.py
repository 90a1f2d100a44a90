"""Memory of the machine as the kernel sees it: what programs may still take, whoever holds the rest.

In a container the limit of its group counts where it is narrower. Where the kernel cannot be asked the answer
is None and nobody claims to have measured.
"""

from __future__ import annotations

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def free_and_total() -> tuple[int, int] | None:
    """(available bytes, all bytes), or None where that cannot be asked."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith("kB")}
        machine = found["MemAvailable"], found["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    group = _group()
    return machine if group is None or group[1] >= machine[1] else (min(machine[0], group[0]), group[1])


def _group() -> tuple[int, int] | None:
    """The same for the control group that we run in, where it has a limit."""
    try:
        total = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        # files that were read are counted as used and given back when somebody needs the room
        return max(0, total - used + int(counts.get("inactive_file", 0))), total
    except (OSError, ValueError):
        return None
