"""Whether the daemon itself keeps dying over a job.

A kill and a crash look the same from inside: the last life did not say good-bye. Two of them within a minute
with the same job under way make that job the suspect, and the daemon starts paused and names it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from daemon.journal import Journal

_ALIVE, _CRASHES = "alive", "crashes"
_KEPT = 8


def note_start(journal: Journal, running: Sequence[int], within_s: float) -> str | None:
    """Call once at start, before anything is requeued. `running`: jobs that were under way when the last life
    ended. Returns the sentence when the daemon must wait (journaled as the notice, and as paused).
    """
    now_ns = time.time_ns()
    crashes: list[list[Any]] = _crashes(journal)
    if journal.fact(_ALIVE):
        crashes = [*crashes, [now_ns, list(running)]][-_KEPT:]
        journal.set_fact(_CRASHES, json.dumps(crashes))
    journal.set_fact(_ALIVE, str(now_ns))
    if len(crashes) < 2 or crashes[-1][0] != now_ns or not within_s:
        return None
    (before_ns, before), (_, last) = crashes[-2:]
    suspects = sorted(set(before) & set(last))
    if not suspects or not 0 <= now_ns - before_ns <= within_s * 1e9:
        return None
    names = ", ".join(str(job) for job in suspects)
    said = (
        f"Segue ended twice within {within_s:g} s while job {names} was under way. It waits: cancel that job,"
        " or resume to try it again."
    )
    journal.set_facts({"notice": said, "paused": "1"})
    return said


def note_stop(journal: Journal) -> None:
    """The good-bye: this life ended as it should."""
    journal.set_fact(_ALIVE, "")


def _crashes(journal: Journal) -> list[list[Any]]:
    try:
        found = json.loads(journal.fact(_CRASHES, "[]"))
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, list) and len(entry) == 2]
