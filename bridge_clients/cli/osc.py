"""``segue osc``: Segue for SuperCollider, Pure Data, TouchDesigner and whatever else speaks OSC."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from bridge_clients.cli.exits import DONE
from bridge_clients.cli.incident import write_incident


def run(args: Any) -> int:
    """Listen until Ctrl-C or SIGTERM. What is under way then is cancelled."""
    from bridge_clients.osc.server import OscServer

    def say(sentence: str) -> None:
        sys.stdout.write(f"{sentence}\n")
        sys.stdout.flush()

    takes = Path(args.takes or "segue-takes").expanduser().absolute()
    with tempfile.TemporaryDirectory(prefix="segue-osc-") as root:
        server = OscServer(
            root=Path(root),
            takes=takes,
            say=say,
            report=write_incident,
            host=args.bind,
            port=args.port,
            at_most=args.at_most,
            any_user=args.any_user,
        )
        stop = threading.Event()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
        host, port = server.address
        say(f"Listening for OSC at {host}, UDP port {port}; takes go to {takes}. Ctrl-C ends it.")
        server.run(stop)
    return DONE
