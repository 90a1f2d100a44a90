"""Settings of the daemons of the chaos suite."""

from __future__ import annotations

import dataclasses

from daemon.config import Settings


def known(*words: str) -> tuple[str, ...]:
    """Those of `words` ("life.drain_s=1") whose key this version of the daemon has."""
    rooms = {room.name: {f.name for f in dataclasses.fields(getattr(Settings(), room.name))}
             for room in dataclasses.fields(Settings)}  # fmt: skip
    found = []
    for word in words:
        room, _, name = word.partition("=")[0].partition(".")
        if name in rooms.get(room, ()):
            found.append(word)
    return tuple(found)
