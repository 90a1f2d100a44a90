"""``segue bench``: how fast a model is on this machine in each precision, and how far from float32.

Measuring needs torch, so it runs in a process of its own, beside the daemon and not in it.
"""

from __future__ import annotations

import sys
from typing import Any

from protocol.errors import SegueError

# As the daemon's workers: threads that wait for each other spin briefly, or two programs at work on the same
# cores would slow each other down tenfold.
_VARIABLES = {"GOMP_SPINCOUNT": "3000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192", "MALLOC_ARENA_MAX": "2"}


def run(args: Any) -> int:
    """Start the measuring process; its exit status is ours."""
    from bridge_clients.cli.children import run_python

    words = ["-m", "genmodel.bench", f"--model={args.model}", f"--device={args.device}"]
    words += [f"--precision={args.precision}", f"--threads={args.threads}"]
    words += [f"--picture={args.picture}"] if args.picture else []
    words += [
        f"--{flag.replace('_', '-')}"
        for flag in ("quick", "json", "no_save", "forget")
        if getattr(args, flag)
    ]
    _say_if_busy()
    return run_python(words, _VARIABLES)


def _say_if_busy() -> None:
    """A job that runs meanwhile takes its share of the machine."""
    from bridge_clients.cli.connect import connect

    try:
        with connect(autostart=False, timeout_s=1.0) as client:
            running = client.ping(1.0).running
    except SegueError:
        return
    if running:
        sys.stderr.write(
            "segue: a job is running on this machine: the figures will be worse than they are.\n"
        )
