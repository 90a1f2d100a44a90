"""``segue ping``: does the daemon answer. Kept free of every import that costs time."""

from __future__ import annotations

import time
from typing import Any


def run(args: Any) -> int:
    """Ask once; ``E_UNREACHABLE`` (status 5) if nobody answers. Never starts a daemon."""
    from bridge_clients.cli.connect import connect
    from bridge_clients.cli.exits import DONE
    from bridge_clients.cli.showing import json_line, say

    with connect(autostart=False, timeout_s=args.timeout) as client:
        begun = time.perf_counter()
        reply = client.ping()
        took_ms = 1000 * (time.perf_counter() - begun)
    if args.json:
        json_line({"event": "ping", "round_trip_ms": round(took_ms, 3), **reply.to_map()})
        return DONE
    state = (
        "paused" if reply.paused else "stopping" if reply.draining else "ready" if reply.ready else "starting"
    )
    say(f"The daemon is {state}: {reply.running} running, {reply.queued} waiting ({took_ms:.1f} ms).")
    if reply.notice:
        say(reply.notice)
    return DONE
