"""Who may come in over the network, as the daemon sees it: always the list that lies on the disk now."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from protocol.errors import SegueError
from protocol.keys import AllowedClient, KeyFolder

_LOG = logging.getLogger("segue.keys")


class AllowList:
    """The clients of `<state>/keys/clients.json` by public key.

    Every question looks whether the file has changed (one `stat`, 2 µs), so a client that is revoked is out
    with its next message. A list that is damaged, or that others could write, lets nobody in.
    """

    def __init__(self, folder: KeyFolder) -> None:
        self._folder = folder
        self._signature: tuple[int, int, int] | None = None
        self._clients: Mapping[str, AllowedClient] = {}

    def client(self, public: str) -> AllowedClient | None:
        """The client with this public key, None when it may not come in."""
        return self.clients().get(public)

    def clients(self) -> Mapping[str, AllowedClient]:
        """All of them, by public key."""
        signature = self._folder.signature()
        if signature != self._signature:
            self._signature = signature
            try:
                self._clients = {client.public: client for client in self._folder.clients()}
                _LOG.info("clients allowed over tcp", extra={"count": len(self._clients)})
            except (SegueError, OSError) as error:
                self._clients = {}
                _LOG.error("nobody is let in over tcp: %s", error)
        return self._clients
