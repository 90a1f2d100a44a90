"""The one place where the command meets the client, so that a sub-command asks for a connection in one
line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge_clients.cli.progress import Reporter


def connect(*, autostart: bool = True, reporter: Reporter | None = None, **options: Any) -> Any:
    """A connected :class:`bridge_clients.Client`; with ``autostart`` it starts the daemon if none answers.

    Raises ``E_UNREACHABLE`` when there is no daemon and none may or can be started.
    """
    from bridge_clients.client import Client

    if reporter is not None:
        options["on_wait"] = reporter.note
    return Client(autostart=autostart, name="segue", **options)
