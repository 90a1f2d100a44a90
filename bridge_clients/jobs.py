"""A job as the blocking client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bridge_clients.core import ended_before, outcome
from protocol.events import Done, Event, Tick
from protocol.replies import CancelReply, JobInfo

if TYPE_CHECKING:
    from bridge_clients.client import Client


class JobHandle:
    """One job: its id, the key it was submitted with, and how far its events have been read.

    after: number of the last event handed out by `events`; a program that keeps it (with the id) can go on
    reading after its own restart with `client.job(id, after)`.
    """

    def __init__(
        self,
        client: Client,
        job: str,
        *,
        key: bytes = b"",
        state: str = "queued",
        position: int = 0,
        seed: int | None = None,
        again: bool = False,
        after: int = 0,
    ) -> None:
        self._client = client
        self.id, self.key, self.state, self.position = job, key, state, position
        self.seed, self.again, self.after = seed, again, after

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r}, {self.state!r})"

    def events(
        self, *, audio: bool = True, ticks: bool = True, wait_ms: int = 1000, timeout_s: float | None = None
    ) -> Iterator[Event | Tick]:
        """Events from the last one read on, each once and in order, with ticks between; ends after the final
        one.

        audio: whether samples travel (`Audio.block`); wait_ms: how long the daemon may hold one question;
        timeout_s: give up after so long (E_TIMEOUT), the job goes on. Survives a restart of the daemon. A
        `Requeued` event says which audio is void.
        """
        for event in self._client.events(
            self.id, self.after, audio=audio, ticks=ticks, wait_ms=wait_ms, timeout_s=timeout_s
        ):
            if isinstance(event, Tick):
                self.position = event.position
            else:
                self.after = event.seq
                self.state = _state_after(event, self.state)
            yield event

    def wait(self, timeout_s: float | None = None) -> Done:
        """Read on to the end without audio. Raises the job's error, or E_CANCELLED."""
        for event in self.events(audio=False, ticks=False, wait_ms=2000, timeout_s=timeout_s):
            found = outcome(event, self.id)
            if found is not None:
                return found
        raise ended_before(self.id)

    def cancel(self) -> CancelReply:
        """Ask the daemon to stop; the audio made so far stays."""
        reply = self._client.cancel(self.id)
        self.state = reply.state
        return reply

    def status(self) -> JobInfo:
        """All about it, now."""
        return self._client.status(self.id)


def _state_after(event: Event, state: str) -> str:
    known = {"accepted": "queued", "started": "running", "requeued": "queued"}
    return event.event if event.final else known.get(event.event, state)
