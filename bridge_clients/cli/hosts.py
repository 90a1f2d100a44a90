"""``segue install HOST``: the scripts of a host go where it looks for them, and come back out again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from bridge_clients.cli.exits import DONE
from bridge_clients.cli.showing import json_line, say
from bridge_clients.installing import OK, TO_VARIABLE
from protocol.errors import SegueError


def run(args: Any) -> int:
    """Install, or take back; with ``--dry-run`` only say what would be done."""
    from bridge_clients import host_files

    environment = dict(os.environ)
    if args.to is not None:
        environment[TO_VARIABLE] = _folder(args.to)
    memory = host_files.Memory.of(args.host, host_files.memory_folder())
    if args.uninstall:
        if memory.empty:
            say(f"Nothing of {args.host} is installed.")
            return DONE
        steps = host_files.uninstall(memory, dry=args.dry_run)
    else:
        wants = host_files.wanted(args.host, sys.platform, Path.home(), environment)
        if not wants:
            raise _nothing(args.host, environment)
        steps = host_files.install(wants, memory, dry=args.dry_run)
    count = 0
    for step in steps:
        count += step.did not in (host_files.SAME, host_files.KEPT, host_files.GONE)
        if args.json:
            told = {"did": step.did, "path": str(step.path), "remark": step.remark, "dry": args.dry_run}
            json_line({"event": "install", "host": args.host, **told})
        else:
            say(f"{step.did:<13} {step.path}{f'  ({step.remark})' if step.remark else ''}")
    if not args.json:
        say(_last_words(args, count))
    return DONE


def _nothing(host: str, environment: dict[str, str]) -> SegueError:
    """The host's own word on why there is nothing to install."""
    from bridge_clients.host_files import looked_at

    found = looked_at(host, sys.platform, Path.home(), environment)
    why = next((f for f in found if f.level != OK), None)
    return SegueError(
        "E_ARGUMENT",
        f"Nothing can be installed for {host}: {why.found if why else 'it is not on this machine'}.",
        field="host", value=host, allowed=(why.advice if why else None) or None,
    )  # fmt: skip


def _last_words(args: Any, count: int) -> str:
    if args.dry_run:
        return "Nothing was changed: that is what would be done."
    if not count:
        return "There was nothing to do."
    if args.uninstall:
        return f"{args.host} is as it was; takes, settings and models are untouched."
    from bridge_clients.host_files import last_words

    return f"{last_words(args.host)}\nTo undo this: segue install {args.host} --uninstall".strip()


def _folder(given: str) -> str:
    path = Path(given).expanduser().absolute()
    if not path.is_dir():
        raise SegueError(
            "E_ARGUMENT",
            f"--to {given} is no folder.",
            field="to",
            value=given,
            allowed="a folder that is there",
        )
    return str(path)
