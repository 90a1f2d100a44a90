"""The jobs: one state machine over the journal, and what is known about the ones that are under way.

    queued -> running -> done | failed | cancelled
      ^          |
      +- requeued+   (a worker died, a stop, a pause that gives memory back)

Everything here is durable before it returns. Whoever wants to hear of news registers one listener; it is
called with the job's id after the commit.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from daemon import admission, tokens
from daemon import journal as rows
from daemon.config import Settings
from daemon.journal import EventRow, JobRow, Journal, NewEvent
from daemon.takes import SAMPLE_BYTES, TakeStore
from protocol.audio import AudioFormat
from protocol.errors import SegueError
from protocol.events import Tick
from protocol.submit import Retake, Submit

_MAX_SEED = 2**31
_LOG = logging.getLogger("segue.jobs")


@dataclasses.dataclass
class Progress:
    """What a worker last said about a job; absolute values."""

    state: str = "queued"
    step: int = 0
    steps: int = 0
    samples: int = 0
    note: str | None = None
    begun_s: float = 0.0  # monotonic; when the attempt began
    stamp_s: float = 0.0  # monotonic; when any of this last changed
    first_step: tuple[float, int] | None = None  # when steps were first seen, and how many

    def eta_s(self, now_s: float) -> float | None:
        """Time left at the pace of the steps so far; the prefill before them does not count."""
        if self.first_step is None or self.step <= self.first_step[1]:
            return None
        pace = (now_s - self.first_step[0]) / (self.step - self.first_step[1])
        return pace * (self.steps - self.step)

    def kept(self, state: str) -> Progress:
        """A new beginning that counts on from what there is."""
        return Progress(state, self.step, self.steps, self.samples, stamp_s=time.monotonic())


@dataclasses.dataclass
class Job:
    """A job that has not ended."""

    id: int
    session: bytes
    priority: str
    model: str
    spec: dict[str, Any]
    state: str
    attempt: int
    strikes: int
    last_seq: int
    need_bytes: int
    since_s: float
    deadline_s: float | None
    progress: Progress = dataclasses.field(default_factory=Progress)
    position: int = 0
    charged_s: float = 0.0
    memory_retries: int = 0
    void_attempts: int = 0  # given up for good; chunks and tokens of later ones are kept

    @property
    def variations(self) -> int:
        return int(self.spec["request"].get("variations", 1))

    @property
    def audio_s(self) -> float:
        return float(self.spec["frames"]) / float(self.spec["rate"])

    @property
    def handle_frames(self) -> int:
        return handle_frames(self.spec)


def handle_frames(spec: dict[str, Any]) -> int:
    """Host samples of handle that the request asked for at most."""
    return round(int(spec["request"].get("handle_ms", 0)) * int(spec["rate"]) / 1000)


def fairness_key(submit: Submit) -> bytes:
    """Whose turn a job takes: the session if the host named one, else its project."""
    return submit.session or (submit.project or "").encode()


class JobBook:
    """All jobs. Owned by the front-end's one thread."""

    def __init__(self, journal: Journal, takes: TakeStore, settings: Settings) -> None:
        self._journal, self._takes, self._settings = journal, takes, settings
        self.active: dict[int, Job] = {}
        self.listener: Callable[[int], None] = lambda job: None
        self.ended: Callable[[Job, str], None] = lambda job, state: None
        now = time.monotonic()
        for row in journal.active():
            self._remember(row, now)

    def recover(self) -> list[int]:
        """At start: what ran when the last daemon ended goes back into the queue. Returns those jobs."""
        found = [job for job in self.active.values() if job.state == rows.RUNNING]
        for job in found:
            self.requeue(job, "the daemon was restarted", forgiven=False)
        return [job.id for job in found]

    def _remember(self, row: JobRow, now_s: float) -> Job:
        deadline_ms = row.spec["request"].get("deadline_ms")
        session = row.spec.get("turn", row.session)
        job = Job(
            row.id, session, row.priority, row.model, row.spec, row.state, row.attempt, row.strikes,
            row.last_seq, row.need_bytes, now_s, None if deadline_ms is None else now_s + deadline_ms / 1000,
        )  # fmt: skip
        job.progress.stamp_s = now_s
        job.void_attempts = self._journal.void_attempts(row)
        job.progress.step, job.progress.steps, job.progress.samples = self._journal.reached(row)
        self.active[row.id] = job
        return job

    # ---- coming in ----

    def submit(self, submit: Submit, *, refuse: Callable[[Submit], None]) -> tuple[JobRow, bool]:
        """The job's row and whether it was known. `refuse` raises when no new job may come in now."""
        digest = submit.digest()
        known = self._known(submit.key, digest)
        if known is not None:
            return known, True
        refuse(submit)
        admission.check(submit, self._settings.limits)
        blocks = admission.stored_blocks(submit, self._settings.limits)
        audio = {
            "audio": [block.format.to_map() for block in blocks],
            "prompt_frames": sum(b.format.frames for b in submit.audio if b.format.role == "prompt"),
            "rate": submit.host_rate_hz,
            "channels": submit.host_channels,
            "frames": submit.length_frames,
        }

        def store(job: int) -> dict[str, int]:
            return {"crc": self._takes.put_inputs(job, [block.data for block in blocks])}

        return self._create(submit, digest, audio, store), False

    def retake(self, retake: Retake, *, refuse: Callable[[Submit], None]) -> tuple[JobRow, bool]:
        """The same request with another seed, its audio linked from the first job."""
        asked = int(retake.job) if retake.job.isdigit() else retake.job
        digest = rows.pack([asked, retake.seed, retake.variations])
        known = self._known(retake.key, digest)  # first: the job may have been forgotten since
        if known is not None:
            return known, True
        source = self.row(retake.job)
        request = {name: value for name, value in source.spec["request"].items() if name != "seed"}
        request["key"] = retake.key
        if retake.seed is not None:
            request["seed"] = retake.seed
        if retake.variations is not None:
            request["variations"] = retake.variations
        submit = Submit.from_map(request)
        refuse(submit)
        names = ("audio", "prompt_frames", "rate", "channels", "frames")

        def store(job: int) -> dict[str, int]:
            self._takes.link_inputs(source.id, job)
            return {"crc": source.spec["crc"]}

        return self._create(submit, digest, {name: source.spec[name] for name in names}, store), False

    def _known(self, key: bytes, digest: bytes) -> JobRow | None:
        known = self._journal.by_key(key)
        if known is None:
            return None
        if known.state == rows.FORGOTTEN:
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

    def _create(
        self,
        submit: Submit,
        digest: bytes,
        audio: dict[str, Any],
        store: Callable[[int], dict[str, int]],
    ) -> JobRow:
        """`audio`: what is known of the request's sound; `store` puts it on the disk for the new job."""
        model = submit.model or self._settings.worker.default_model
        seed = secrets.randbelow(_MAX_SEED) if submit.seed is None else submit.seed
        spec = {
            "request": submit.to_map(),
            "seed": seed,
            "model": model,
            "turn": fairness_key(submit),
            **audio,
        }
        per_voice = (spec["frames"] + handle_frames(spec)) * spec["channels"] * SAMPLE_BYTES
        inputs = sum(AudioFormat.from_map(entry).total_bytes for entry in spec["audio"])
        # spool and finished file exist side by side for a moment
        need = 2 * per_voice * submit.variations * admission.voices(submit) + inputs
        self._takes.check_space(need, sum(job.need_bytes for job in self.active.values()))
        job = self._journal.next_id()
        try:
            spec |= store(job)
            row = self._journal.create(
                key=submit.key, digest=digest, session=submit.session or b"", project=submit.project or "",
                priority=submit.priority, model=model, spec=spec, need_bytes=need,
                accepted={"position": sum(found.state == rows.QUEUED for found in self.active.values())},
            )  # fmt: skip
        except BaseException:
            self._takes.drop_spool(job)
            raise
        self._remember(row, time.monotonic())
        about = {"job": row.id, "model": model, "frames": spec["frames"], "variations": submit.variations}
        _LOG.info("job accepted", extra=about | ({"text": submit.text} if self._settings.log.texts else {}))
        self.listener(row.id)
        return row

    # ---- under way ----

    def start(self, job: Job, data: dict[str, Any]) -> int:
        """Count the attempt and announce it; the worker hears of it after this."""
        self._takes.drop_attempts(job.id, until=job.void_attempts)
        self._takes.drop_take(job.id)
        job.attempt, row = self._journal.start(job.id, data)
        job.strikes += 1
        job.state, job.last_seq = rows.RUNNING, row.seq
        job.progress = job.progress.kept("prefill")
        job.progress.begun_s = job.progress.stamp_s
        self.listener(job.id)
        return job.attempt

    def audio(
        self, job: Job, attempt: int, chunks: Sequence[dict[str, Any]], reached: Sequence[int] = (0, 0, 0)
    ) -> None:
        """Chunks that the worker has put on the disk become events, all in one transaction. `reached`: step,
        steps and samples then, so that a bar does not go back when the daemon is started again.
        """
        events = [
            NewEvent(
                "audio",
                {"attempt": attempt, **{name: chunk[name] for name in _AUDIO_FIELDS}, "reached": [*reached]},
                place=chunk["place"],
                bytes=chunk["bytes"],
            )
            for chunk in chunks
        ]
        job.last_seq = self._journal.append(job.id, events)[-1].seq
        self.listener(job.id)

    def to_go_on_from(self, job: Job) -> list[rows.Announced]:
        """The attempts whose audio counts, for the next one to continue; none before the first audio."""
        return self._journal.announced(job.id)

    def _can_go_on(self, job: Job) -> bool:
        folder = self._takes.spool_folder(job.id)
        attempts = self.to_go_on_from(job)
        return all(tokens.can_be_continued(folder / f"{found.attempt}.pcm") for found in attempts)

    def requeue(self, job: Job, why: str, *, forgiven: bool, discard: bool = False) -> None:
        """Back into the queue. With `discard`, and where an attempt left no tokens to go on from, all audio
        so far is void (nothing is ever spliced in silence). Else the audio stays, with whatever else its
        attempts left in the spool, and the next attempt goes on exactly where this one stopped.
        """
        discard = discard or not self._can_go_on(job)
        data: dict[str, Any] = {"why": why}
        if discard:
            data["discard_from"] = -job.handle_frames
        row = self._journal.requeue(job.id, data, forgiven=forgiven, discard=discard)
        job.state, job.last_seq = rows.QUEUED, row.seq
        job.strikes -= int(forgiven and job.strikes > 0)
        job.progress = Progress(stamp_s=time.monotonic()) if discard else job.progress.kept("queued")
        if discard:
            job.void_attempts = job.attempt
            self._takes.drop_attempts(job.id, until=job.attempt)
        self.listener(job.id)

    def done(self, job: Job, manifest: dict[str, Any]) -> None:
        row = self._journal.finish(job.id, rows.DONE, NewEvent("done", {"manifest": manifest}))
        self._takes.drop_attempts(job.id, until=job.attempt)
        self._end(job, rows.DONE, row)

    def disown(self, job: int) -> None:
        """A worker finished what was cancelled meanwhile: its files belong to no take."""
        if self._journal.job(job).state != rows.DONE:
            self._takes.drop_take(job)
            self._takes.recount(job)

    def fail(self, job: Job, error: SegueError) -> None:
        error.job = str(job.id)
        row = self._journal.finish(job.id, rows.FAILED, NewEvent("failed", {"error": error.to_map()}))
        self._end(job, rows.FAILED, row)

    def cancel(self, job: Job, why: str = "") -> None:
        """Durable at once; a worker that still has it aboard is told separately and its audio no longer
        counts.
        """
        row = self._journal.finish(job.id, rows.CANCELLED, NewEvent("cancelled", {"why": why}))
        self._end(job, rows.CANCELLED, row)

    def free_reserve(self) -> None:
        """Give back the space that is kept for saying that there is none."""
        self._takes.free_reserve()

    def _end(self, job: Job, state: str, row: EventRow) -> None:
        was_running = job.state == rows.RUNNING
        job.state, job.last_seq = state, row.seq
        del self.active[job.id]
        if state != rows.DONE:
            self._takes.drop_take(job.id)
        self._takes.recount(job.id)
        self._takes.keep_reserve()
        if was_running or state != rows.CANCELLED:
            self.ended(job, state)
        self.listener(job.id)

    def forget(self, row: JobRow) -> int:
        """Delete what is kept of a job that has ended; returns the bytes that were given back."""
        if row.id in self.active:
            raise SegueError(
                "E_JOB",
                "This job has not ended; cancel it before it is forgotten.",
                field="job",
                value=str(row.id),
            )
        before = self._takes.used_bytes
        self._journal.forget(row.id)
        self._takes.drop_take(row.id)
        self._takes.drop_spool(row.id)
        self.listener(row.id)
        return max(0, before - self._takes.used_bytes)

    # ---- asking ----

    def spool_folder(self, job: int) -> Path:
        return self._takes.spool_folder(job)

    def take_folder(self, job: int) -> Path:
        return self._takes.take_folder(job)

    def row(self, job: str) -> JobRow:
        """Raises E_JOB for what is not, or is no longer, a job here."""
        row = None
        if job.isdigit() and len(job) < 16:
            try:
                row = self._journal.job(int(job))
            except KeyError:
                row = None
        if row is None or row.state == rows.FORGOTTEN or str(row.id) != job:
            said = "was forgotten" if row is not None and row.state == rows.FORGOTTEN else "is not known here"
            raise SegueError("E_JOB", f"Job {job} {said}.", field="job", value=job)
        return row

    def queued(self) -> list[Job]:
        return [job for job in self.active.values() if job.state == rows.QUEUED]

    def running(self) -> list[Job]:
        return [job for job in self.active.values() if job.state == rows.RUNNING]

    def tick(self, job: Job) -> Tick:
        """Where a job stands now."""
        progress, now = job.progress, time.monotonic()
        running = job.state == rows.RUNNING
        spent = now - progress.begun_s if running else 0.0
        made_s = progress.samples / job.spec["rate"]
        eta = progress.eta_s(now) if running else None
        return Tick(
            state=progress.state,
            attempt=job.attempt if running else 0,
            position=0 if running else job.position,
            step=progress.step,
            steps=progress.steps,
            samples=progress.samples,
            seconds=round(spent, 3),
            xrt=round(made_s / spent, 3) if made_s and spent > 0 else None,
            eta_ms=None if eta is None else round(1000 * eta),
            note=progress.note,
        )


_AUDIO_FIELDS = ("variation", "stem", "position", "frames", "crc", "rate", "channels")
