"""How a request becomes a job: its audio, its space and its record on the disk, then one commit.

A selection may be 64 MiB, and a disk may take a second to sync it: nothing of that happens in the front-end's
thread. Threading model: one thread of the intake's own does what touches audio or syncs files, one thing
after the other, and touches nothing but the new job's folder; everything else, the journal's commit included,
happens in the front-end's thread, which is woken when a step is done. A job is answered for when it is
durable; the same key arriving meanwhile waits for the same answer.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from daemon import admission
from daemon.config import Settings
from daemon.disk import storage_error
from daemon.job import all_frames
from daemon.jobs import JobBook, fairness_key
from daemon.journal import FORGOTTEN, EventRow, JobRow, Journal, pack
from daemon.space import need_bytes
from daemon.takes import SAMPLE_BYTES, TakeStore
from protocol.audio import AudioFormat
from protocol.errors import SegueError
from protocol.submit import Retake, Submit
from protocol.tempo import Length

_MAX_SEED = 2**31
_LOG = logging.getLogger("segue.intake")

# what a retake takes over as it is: the same audio, of the same length at the same rate
_KEPT = ("audio", "prompt_frames", "rate", "channels", "frames", "lead", "tail")

# A step yields what the intake's thread has to do, or None to be asked again; it ends with the row, and
# whether the job was known.
_Steps = Generator[Callable[[], Any] | None, Any, tuple[JobRow, bool]]


@dataclass(frozen=True)
class Coming:
    """A job that is accepted as soon as it is on the disk."""

    session: bytes
    need_bytes: int


class Arrival:
    """One request on its way. Ask `outcome` until it has one."""

    def __init__(self, steps: _Steps, hand_over: Callable[[Arrival, Callable[[], Any]], None]) -> None:
        self._steps, self._hand_over = steps, hand_over
        self._outcome: tuple[JobRow, bool] | Exception | None = None
        self._given: tuple[Any, Exception | None] | None = (None, None)  # for the next step; None: not yet

    def outcome(self) -> tuple[JobRow, bool] | None:
        """The job and whether it was known; None while it is on its way. Raises what it was refused with."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    @property
    def settled(self) -> bool:
        return self._outcome is not None

    def give(self, value: Any, error: Exception | None) -> None:
        """What the intake's thread brought back."""
        self._given = value, error

    def advance(self) -> None:
        """Go as far as possible without waiting."""
        if self._outcome is not None or self._given is None:
            return
        (value, error), self._given = self._given, None
        try:
            work = self._steps.throw(error) if error is not None else self._steps.send(value)
        except StopIteration as end:
            self._outcome = end.value
        except OSError as refused:
            self._outcome = storage_error(refused)
        except Exception as refused:
            self._outcome = refused
        else:
            if work is None:
                self._given = None, None
            else:
                self._hand_over(self, work)


class Intake:
    """Owned by the front-end's one thread; `wake` is called from the intake's, when a step is done."""

    def __init__(
        self, book: JobBook, journal: Journal, takes: TakeStore, settings: Settings, wake: Callable[[], None]
    ) -> None:
        self._book, self._journal, self._takes, self._settings = book, journal, takes, settings
        self._wake = wake
        self.coming: dict[bytes, Coming] = {}  # by key
        self._arrivals: list[Arrival] = []
        self._next_id = max(journal.next_id(), takes.highest_id() + 1)
        self._todo: queue.SimpleQueue[tuple[Arrival, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Arrival, Any, Exception | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="segue-intake", daemon=True)
        self._thread.start()

    # ---- the intake's thread ----

    def _serve(self) -> None:
        while (task := self._todo.get()) is not None:
            arrival, work = task
            try:
                self._done.put((arrival, work(), None))
            except Exception as error:  # is raised again where the request is answered
                self._done.put((arrival, None, error))
            self._wake()

    # ---- the front-end's ----

    def submit(self, submit: Submit, *, refuse: Callable[[Submit], None]) -> Arrival:
        """`refuse` raises when no new job may come in now."""
        return self._begin(self._submit(submit, refuse))

    def retake(self, retake: Retake, *, refuse: Callable[[Submit], None]) -> Arrival:
        """The same request with another seed, its audio linked from the first job."""
        return self._begin(self._retake(retake, refuse))

    def turn(self) -> None:
        """Go on with what the thread has done."""
        with contextlib.suppress(queue.Empty):
            while True:
                arrival, value, error = self._done.get_nowait()
                arrival.give(value, error)
        for arrival in self._arrivals:
            arrival.advance()
        self._arrivals = [arrival for arrival in self._arrivals if not arrival.settled]

    def close(self) -> None:
        """Finish what is on its way, as far as a few seconds allow; what is only on the disk then is found
        there by the next start.
        """
        self._todo.put(None)
        self._thread.join(5.0)
        self.turn()
        self._takes.sweeper.close()

    def _begin(self, steps: _Steps) -> Arrival:
        arrival = Arrival(steps, lambda which, work: self._todo.put((which, work)))
        arrival.advance()
        if not arrival.settled:
            self._arrivals.append(arrival)
        return arrival

    def _submit(self, submit: Submit, refuse: Callable[[Submit], None]) -> _Steps:
        while submit.key in self.coming:
            yield None
        known = self._journal.by_key(submit.key)
        if known is not None:
            return _same(known, (yield submit.digest)), True
        refuse(submit)
        admission.check(submit, self._settings.limits)
        blocks = admission.stored_blocks(submit, self._settings.limits)
        about = {
            "audio": [block.format.to_map() for block in blocks],
            "prompt_frames": sum(b.format.frames for b in submit.audio if b.format.role == "prompt"),
            **_shape(submit),
        }

        def store(job: int) -> tuple[bytes, int]:
            return submit.digest(), self._takes.put_inputs(job, [block.data for block in blocks])

        return (yield from self._create(submit, about, store)), False

    def _retake(self, retake: Retake, refuse: Callable[[Submit], None]) -> _Steps:
        while retake.key in self.coming:
            yield None
        said = [int(retake.job) if retake.job.isdigit() else -1, retake.seed, retake.variations]
        digest = pack(said if not retake.change else [*said, retake.change])
        known = self._journal.by_key(retake.key)
        if known is not None:  # even if the first job was forgotten meanwhile
            return _same(known, digest), True
        source = self._book.row(retake.job)
        request = {name: value for name, value in source.spec["request"].items() if name != "seed"}
        request = retake.changed(request) | {"key": retake.key}
        if retake.seed is not None:
            request["seed"] = retake.seed
        if retake.variations is not None:
            request["variations"] = retake.variations
        about = {name: source.spec[name] for name in _KEPT if name in source.spec}
        submit = Submit.from_map(request)
        if retake.change:
            submit, shape = _changed_shape(submit, source.spec)
            about |= shape
        refuse(submit)

        def store(job: int) -> tuple[bytes, int]:
            self._takes.link_inputs(source.id, job)
            return digest, source.spec["crc"]

        return (yield from self._create(submit, about, store)), False

    def _create(
        self, submit: Submit, about: dict[str, Any], store: Callable[[int], tuple[bytes, int]]
    ) -> Generator[Callable[[], Any] | None, Any, JobRow]:
        """`about`: what is known of the request's sound; `store` puts it into the new job's folder and
        returns the request's digest and the sound's CRC-32.
        """
        model = submit.model or self._settings.worker.default_model
        seed = secrets.randbelow(_MAX_SEED) if submit.seed is None else submit.seed
        turn = fairness_key(submit)
        spec = {"request": submit.to_map(), "seed": seed, "model": model, "turn": turn, **about}
        per_voice = all_frames(spec) * spec["channels"] * SAMPLE_BYTES
        inputs = sum(AudioFormat.from_map(entry).total_bytes for entry in spec["audio"])
        need = need_bytes(per_voice * submit.variations * admission.voices(submit), inputs)
        self.coming[submit.key] = Coming(turn, need)
        try:
            if self._takes.sweeper.busy and not self._fits(need):
                yield self._takes.sweeper.wait  # what was forgotten a moment ago makes room
            row = yield from self._write(submit, spec, need, inputs, store)
        finally:
            del self.coming[submit.key]
        self._book.welcome(row)
        told = {"job": row.id, "model": model, "frames": spec["frames"], "variations": submit.variations}
        _LOG.info("job accepted", extra=told | ({"text": submit.text} if self._settings.log.texts else {}))
        return row

    def _fits(self, need: int) -> bool:
        try:
            self._check_space(need)
        except SegueError:
            return False
        return True

    def _check_space(self, need: int) -> None:
        """`need` is among what is coming already."""
        promised = [*(job.need_bytes for job in self._book.active.values())]
        promised += [other.need_bytes for other in self.coming.values()]
        self._takes.space.check(need, sum(promised) - need)

    def _write(
        self,
        submit: Submit,
        spec: dict[str, Any],
        need: int,
        inputs: int,
        store: Callable[[int], tuple[bytes, int]],
    ) -> Generator[Callable[[], Any], Any, JobRow]:
        """Folder, space, record, commit; when one of them fails there is nothing."""
        self._check_space(need)
        job, self._next_id = self._next_id, self._next_id + 1
        position = len(self._book.queued()) + len(self.coming) - 1

        def write() -> tuple[JobRow, EventRow]:
            digest, crc = store(job)
            self._takes.space.hold(job, need - inputs)
            now_ns = time.time_ns()
            row = JobRow(
                id=job, key=submit.key, digest=digest, session=submit.session or b"",
                project=submit.project or "", priority=submit.priority, model=spec["model"],
                spec=spec | {"crc": crc},
                state="queued", attempt=0, strikes=0, last_seq=1, void_seq=0, need_bytes=need,
                created_ns=now_ns,
            ).sealed()  # fmt: skip
            accepted = EventRow(job, 1, "accepted", now_ns, {"position": position})
            self._journal.records.born(row, accepted)
            self._takes.sync_spool(job)
            return row, accepted

        try:
            row, accepted = yield write
            self._journal.create(row, accepted)
        except BaseException:
            with contextlib.suppress(OSError):  # a folder that stays is nobody's, or found again by its key
                self._journal.records.remove(job)
            self._takes.drop_spool(job)
            raise
        return row


def _same(known: JobRow, digest: bytes) -> JobRow:
    """The job that has the key, if the request is the same."""
    if known.state == FORGOTTEN:
        raise SegueError(
            "E_JOB", "That job was forgotten, as the host asked.", retry="new_key", job=str(known.id)
        )
    if known.digest != digest:
        raise SegueError(
            "E_KEY_REUSE",
            "This key belongs to another job; a new request needs a new key.",
            field="key",
            job=str(known.id),
        )
    return known


def _shape(submit: Submit) -> dict[str, int]:
    """How long the answer is and what lies before and after it, in samples at the host's rate."""
    shape = {
        "rate": submit.host_rate_hz,
        "channels": submit.host_channels,
        "frames": submit.length_frames,
    }
    beside = {"lead": submit.lead_frames, "tail": submit.tail_frames}
    return shape | {name: frames for name, frames in beside.items() if frames}


def _changed_shape(submit: Submit, first: dict[str, Any]) -> tuple[Submit, dict[str, int]]:
    """A retake with other fields, whole again: what came from the first job's audio is written out."""
    named: dict[str, Any] = {
        "rate": submit.rate or first["rate"],
        "channels": submit.channels or first["channels"],
    }
    if submit.length is None:
        source = [entry for entry in first["audio"] if entry.get("role") == "source"]
        mine = sum(entry["frames"] for entry in source if entry.get("track") == source[0].get("track"))
        named["length"] = Length(frames=max(1, round(Fraction(mine * named["rate"], source[0]["rate"]))))
    submit = replace(submit, **named)
    return submit, {"lead": 0, "tail": 0} | _shape(submit)
