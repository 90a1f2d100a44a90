"""Everything that talks to the daemon: the clients, the `segue` command, the bridges into hosts.

Lives here: `Client` (blocking) and `AsyncClient` over one core, `cli/` (the command), and one folder per
host. May import: `protocol` and zmq; numpy, soundfile, rich and matplotlib only inside functions that need
them; never torch, the daemon or the models. Interface: the names below, imported when first used, so that a
quick question stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge_clients.async_client import AsyncClient, AsyncJob
    from bridge_clients.client import Client
    from bridge_clients.core import Fetched, new_key
    from bridge_clients.jobs import JobHandle
    from protocol.errors import SegueError

__all__ = ["AsyncClient", "AsyncJob", "Client", "Fetched", "JobHandle", "SegueError", "new_key"]

_HOMES = {
    "AsyncClient": "bridge_clients.async_client",
    "AsyncJob": "bridge_clients.async_client",
    "Client": "bridge_clients.client",
    "Fetched": "bridge_clients.core",
    "JobHandle": "bridge_clients.jobs",
    "SegueError": "protocol.errors",
    "new_key": "bridge_clients.core",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
