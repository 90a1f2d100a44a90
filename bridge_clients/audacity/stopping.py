"""Stopping what runs for Audacity. Apart from the rest, so that `cancel` starts as fast as it can."""

from __future__ import annotations

from typing import Any

from protocol.requests import FINAL_STATES, JOB_STATES

SESSION = b"segue-audacity-1"
"""What the jobs of Audacity have in common, so that `cancel`, `retake` and `land` find them."""


def cancel(client: Any) -> list[str]:
    """Stop every job of Audacity that waits or runs; their ids."""
    states = [state for state in JOB_STATES if state not in FINAL_STATES]
    found = [info.job for info in client.list(session=SESSION, states=states, limit=None)]
    for job in found:
        client.cancel(job)
    return found
