"""``segue generate``: music from a description, or from nothing at all."""

from __future__ import annotations

from typing import Any


def run(args: Any) -> int:
    """Have music made without a recording before it."""
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.request import submit_from

    submit = submit_from(args, None)
    name = "-".join((args.text or "music").split()[:4]).lower()
    return make(args, Making("generate", name, submit, args.subtype or "pcm24"))
