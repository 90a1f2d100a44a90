"""``segue watch FOLDER``: for hosts that can write files and start nothing."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from bridge_clients.cli.children import python_command
from bridge_clients.cli.exits import DONE


def run(args: Any) -> int:
    """Watch until Ctrl-C or SIGTERM; jobs that are under way go on by themselves."""
    import sys

    from bridge_clients.jobdir.watch import Watch

    def say(sentence: str) -> None:
        sys.stdout.write(f"{sentence}\n")
        sys.stdout.flush()

    command, environment = python_command(["-m", "bridge_clients.cli.main"])
    watch = Watch(
        Path(args.folder).expanduser(),
        command=command,
        environment=environment,
        at_most=args.at_most,
        say=say,
    )
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    say(f"Watching {watch.folder}; Ctrl-C ends it.")
    watch.run(stop)
    return DONE
