"""How events reach clients: the long poll (`next`) and the push (`attach`, `credit`), over one journal.

A held request costs a few hundred bytes and no audio: samples are read from the disk when they are sent. A
client that does not read, or is gone, holds nothing up and loses nothing; its events stay in the journal.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from daemon import journal as rows
from daemon.config import Settings
from daemon.jobs import JobBook
from daemon.journal import EventRow, JobRow, Journal, pack
from daemon.metrics import Metrics
from daemon.takes import TakeStore
from protocol.errors import SegueError
from protocol.events import EVENTS, Audio, Event, Tick
from protocol.framing import encode_push
from protocol.limits import MAX_PAYLOADS, MAX_TICKS_PER_S
from protocol.replies import NextReply, Reply
from protocol.requests import Next

HEADER_ROOM_BYTES = 40 * 1024  # of the 64 KiB a header may have; the rest is for tick and descriptions
PER_AUDIO_BYTES = 160  # an audio description beside its event
TICK_EVERY_S = 1.0  # a client hears of every job at least so often
TICK_GAP_S = 1.0 / MAX_TICKS_PER_S
ANSWER_BYTES = 1 << 20  # of audio in one answer (12 ms of reading and checking), however much was asked for
MAX_ATTACHED = 1024
PUSH_TURN_S = 0.01  # what pushing may take of a turn of the loop
# A socket that took no more is tried again after so long, then twice that. A client that reads makes room
# within a millisecond and need not say a word for it: events without audio ask for no credit.
FULL_S, FULL_SOON_S, FULL_MOST_S = 0.005, 0.04, 1.0
ABANDONED_S = 60.0  # the job has ended, and for so long the client took nothing of it


@dataclasses.dataclass
class Held:
    """A request that is answered later. `answer(over)` gives the reply, or None while there is nothing to say
    and its time is not over; it may raise `SegueError`.
    """

    envelope: list[bytes]
    op: str
    request_id: int
    until_s: float
    answer: Callable[[bool], Reply | None]
    job: str | None = None
    eager: bool = False  # it does a little work each time it is asked, and the loop comes round at once


@dataclasses.dataclass
class Attachment:
    """One DEALER client that follows one job."""

    envelope: list[bytes]
    job: int
    after: int
    credit: int
    pushed_s: float = 0.0
    full_until_s: float = 0.0  # its socket took no more; tried again then (monotonic), or when credit comes
    full_s: float = 0.0  # how long that pause is
    moved_s: float = dataclasses.field(default_factory=time.monotonic)  # last push or credit
    starved: int | None = None  # how far the job was when credit did not suffice; -1: it had ended


class Flow:
    """Owned by the front-end's one thread. `send(envelope, frames)` says "sent", "full" or "gone"."""

    def __init__(
        self,
        book: JobBook,
        journal: Journal,
        takes: TakeStore,
        settings: Settings,
        metrics: Metrics,
        send: Callable[[list[bytes], Sequence[Any]], str],
    ) -> None:
        self._book, self._journal, self._takes = book, journal, takes
        self._settings, self._metrics, self._send = settings, metrics, send
        self.attached: dict[tuple[bytes, int], Attachment] = {}

    # ---- reading ----

    def state_of(self, row: JobRow) -> str:
        """The job's state as clients see it."""
        active = self._book.active.get(row.id)
        return row.state if active is None else active.shown_state

    def events(
        self, row: JobRow, after: int, audio_bytes: int, limit: int = MAX_PAYLOADS
    ) -> tuple[list[Event], bool]:
        """Events after `after` within the sizes of one message, and whether audio bytes held the next one
        back.

        Audio of an attempt that was given up is void and travels without samples.
        """
        found: list[Event] = []
        header_bytes = 0
        for stored in self._journal.events(row.id, after, limit):
            size = len(pack(stored.data)) + PER_AUDIO_BYTES
            if found and header_bytes + size > HEADER_ROOM_BYTES:
                break
            event = self._event(stored)
            if isinstance(event, Audio) and audio_bytes > 0 and event.seq > row.void_seq:
                payload = event.format.total_bytes
                if payload > audio_bytes and any(isinstance(f, Audio) and f.block for f in found):
                    return found, True
                event = event.with_data(self._samples(row, stored))
                audio_bytes = max(1, audio_bytes - payload)
            header_bytes += size
            found.append(event)
        return found, False

    def _event(self, stored: EventRow) -> Event:
        return EVENTS[stored.type].from_map(
            {**stored.data, "seq": stored.seq, "time_ms": stored.at_ns // 1_000_000}
        )

    def _samples(self, row: JobRow, stored: EventRow) -> bytes:
        return self._takes.read_chunk(
            row.id, stored.data, stored.place or 0, stored.bytes or 0,
            done=row.state == rows.DONE, take_frames=int(row.spec["frames"]),
        )  # fmt: skip

    # ---- long poll ----

    def next_reply(self, request: Next, *, over: bool, since_s: float) -> NextReply | None:
        """The answer, or None while there is no event and no newer tick.

        Asked again in every turn for every client that waits, so the journal is only read when there is
        something to say (measured: a crowd of 1,100 took 30 ms of each turn otherwise).
        """
        active = self._book.active.get(int(request.job)) if request.job.isdigit() else None
        if active is not None and active.last_seq <= request.after and not over:
            waited_s = time.monotonic() - since_s
            ticked = active.progress.stamp_s > since_s and waited_s >= TICK_GAP_S
            if not ticked and waited_s < TICK_EVERY_S:
                return None
        row = self._book.row(request.job)
        events, _ = self.events(row, request.after, min(request.max_bytes, ANSWER_BYTES))
        reached = events[-1].seq if events else request.after
        return NextReply(
            job=request.job,
            state=self.state_of(row),
            events=tuple(events),
            tick=None if active is None else self._book.tick(active),
            last=row.last_seq,
            more=reached < row.last_seq,
        )

    # ---- push ----

    def attach(self, envelope: list[bytes], row: JobRow, after: int, credit: int) -> Attachment:
        key = envelope[0], row.id
        if key not in self.attached and len(self.attached) >= MAX_ATTACHED:
            raise SegueError(
                "E_QUEUE_FULL", "Too many jobs are pushed to clients already; ask with next instead.",
                value=len(self.attached), allowed=f"at most {MAX_ATTACHED}", retry_ms=5_000,
            )  # fmt: skip
        attachment = Attachment(envelope, row.id, after, min(credit, self._settings.limits.credit_bytes))
        self.attached[key] = attachment
        return attachment

    def detach(self, envelope: list[bytes], job: int) -> None:
        self.attached.pop((envelope[0], job), None)

    def grant(self, envelope: list[bytes], row: JobRow, credit: int, after: int | None) -> int:
        """More credit; returns what there is now. Raises E_JOB when this client is not
        attached to the job.
        """
        attachment = self.attached.get((envelope[0], row.id))
        if attachment is None:
            raise SegueError(
                "E_JOB",
                "Attach to the job before giving credit.",
                field="job",
                value=str(row.id),
                retry="reconnect",
            )
        attachment.credit = min(self._settings.limits.credit_bytes, attachment.credit + credit)
        attachment.full_until_s, attachment.full_s = 0.0, 0.0
        attachment.starved, attachment.moved_s = None, time.monotonic()
        if after is not None:
            attachment.after = max(attachment.after, min(after, row.last_seq))
        return attachment.credit

    def push(self) -> bool:
        """Send what is new to everyone attached, as far as credit and sockets allow; True when the next turn
        should come soon: there was no time for all of them (those left come first then), or a socket was full
        a moment ago.
        """
        until, soon = time.monotonic() + PUSH_TURN_S, False
        for looked, (key, attachment) in enumerate(list(self.attached.items())):
            now = time.monotonic()
            if looked and now > until:
                return True
            try:
                outcome = self._push_one(attachment, now, until)
            except SegueError:  # forgotten, or its audio cannot be read: a `next` will say so
                outcome = "gone"
            if self.attached.get(key) is not attachment:
                continue
            if outcome == "gone" or self._abandoned(attachment, now):
                del self.attached[key]
                self._metrics.count("peers_lost", why="gone" if outcome == "gone" else "full")
            else:
                soon |= outcome == "full" and attachment.full_s <= FULL_SOON_S
                self.attached[key] = self.attached.pop(key)
        return soon or time.monotonic() > until

    def _abandoned(self, attachment: Attachment, now: float) -> bool:
        """Its job has ended and its client neither reads nor gives credit: whether it is there at all cannot
        be told.
        """
        return attachment.job not in self._book.active and now - attachment.moved_s > ABANDONED_S

    def _push_one(self, attachment: Attachment, now: float, until: float) -> str:
        if now < attachment.full_until_s:
            return "full"
        active = self._book.active.get(attachment.job)
        reached = -1 if active is None else active.last_seq
        if reached not in (attachment.after, attachment.starved):
            outcome = self._push_events(attachment, now, until, reached)
            if outcome != "sent":
                return outcome
        if active is None or now - attachment.pushed_s < TICK_GAP_S:
            return "sent"
        if active.progress.stamp_s <= attachment.pushed_s and now - attachment.pushed_s < TICK_EVERY_S:
            return "sent"
        attachment.pushed_s = now
        return self._push_message(attachment, self._book.tick(active), now)

    def _push_events(self, attachment: Attachment, now: float, until: float, reached: int) -> str:
        """One event at least, however late it is; the rest when the turn still has time."""
        row = self._book.row(str(attachment.job))
        while row.last_seq > attachment.after:
            stored = self._journal.events(row.id, attachment.after, 1)[0]
            event = self._event(stored)
            if isinstance(event, Audio) and event.seq > row.void_seq:
                if event.format.total_bytes > attachment.credit:
                    attachment.starved = reached
                    break
                event = event.with_data(self._samples(row, stored))
            outcome = self._push_message(attachment, event, now)
            if outcome != "sent":
                return outcome
            attachment.after, attachment.moved_s = event.seq, now
            if isinstance(event, Audio) and event.block is not None:
                attachment.credit -= event.format.total_bytes
            if time.monotonic() > until:
                break
        if reached < 0 and attachment.after >= row.last_seq:  # the job has said its last word
            self.attached.pop((attachment.envelope[0], attachment.job), None)
        return "sent"

    def _push_message(self, attachment: Attachment, what: Event | Tick, now: float) -> str:
        outcome = self._send(attachment.envelope, encode_push(str(attachment.job), what))
        if outcome == "sent":
            self._metrics.count("pushes")
            attachment.full_s = 0.0
        elif outcome == "full":
            attachment.full_s = min(FULL_MOST_S, 2 * attachment.full_s or FULL_S)
            attachment.full_until_s = now + attachment.full_s
        return outcome
