"""The engine: several jobs on one model, tokens in, final audio out.

``step`` is the whole loop: admit what waits, one slice of at most one prefill, one step for everything
aboard, then the codec work that is due. Between two steps anything may be added, dropped or looked at; that
is how a cancel frees a slot at once. Threading model: one thread owns an engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from genmodel.codec import CodecStream, CodecStreamState
from genmodel.codec.windows import CodecWindows
from genmodel.engine.beginning import Beginning
from genmodel.engine.captured.stepper import stepper_for
from genmodel.engine.prepare import HANDLE_FRAMES, Prepared, empty_tokens, prepare
from genmodel.engine.session import UNKNOWN, Session, SessionState
from genmodel.engine.stepper import MAX_SLOTS
from genmodel.errors import GenModelError
from genmodel.request import AudioChunk, GenerationRequest

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

State = Literal["waiting", "prefill", "generating", "done", "failed", "dropped"]
# the first chunk of a take comes early: the handle and a little more than the codec's look-ahead
_FIRST_CHUNK_FRAMES = 13


class TokensDiffer(GenModelError):
    """Tokens that were made before are not those that this model would make of the request."""


class StepResult(NamedTuple):
    """Audio of one job that became final. ``chunk`` is None where the job failed (``job.error`` says why)."""

    job: GenerationJob
    chunk: AudioChunk | None


@dataclass(frozen=True)
class TakeState:
    """A moment of a take: its tokens and its decoder."""

    session: SessionState
    codec: CodecStreamState
    pushed: int
    silent: int
    position: int


class Take:
    """One variation: its session and the stream that turns its tokens into audio."""

    def __init__(
        self, model: BaseGenModel, prepared: Prepared, request: GenerationRequest, variation: int
    ) -> None:
        self.session = Session(
            empty_tokens(prepared, model),
            prepared.windows,
            model.lm.pattern,
            prepared.streams,
            prepared.sampling,
            request.seed,
            variation,
            prepared.lean,
        )
        self.last_token = model.lm.card - 1
        self.codec: CodecStream = model.compression_model.stream(1)
        self.pushed = prepared.known.shape[1]  # frames of the take that the decoder has had
        self.silent = 0  # samples still to come out of it that belong to frames before these
        if prepared.warm is not None:
            self.codec.restore(prepared.warm)
            self.silent = self.pushed * model.compression_model.hop_samples - self.codec.samples_out
        self.position = (self.pushed - prepared.seam) * model.compression_model.hop_samples
        self.first = self.pushed
        self.known = self.pushed  # frames that were there from the beginning, or came back by `resume`
        self.admitted = False
        self.begun = False

    @property
    def final(self) -> int:
        """Frames of the take that are complete."""
        return max(self.known, self.session.final_frames)

    def decode(self, windows: CodecWindows, upto: int, last: bool) -> Tensor:
        """Push the frames before ``upto`` and give the samples that are now final, [S, C, m]."""
        # a stem that is known to be nothing has the special token, and nobody hears what is put in its place
        fresh = self.session.tokens[None, :, self.pushed : upto].clamp_max(self.last_token)
        self.pushed = upto
        audio = windows.push(self.codec, fresh)
        if last:
            audio = torch.cat([audio, self.codec.finish()], dim=-1)
        skipped = min(self.silent, audio.shape[-1])
        self.silent -= skipped
        return audio[0, :, :, skipped:]


@dataclass(eq=False)
class GenerationJob:
    """A request aboard (or in line). ``steps_done`` of ``steps_total`` are true totals over all windows."""

    id: int
    request: GenerationRequest
    prepared: Prepared
    takes: list[Take]
    state: State = "waiting"
    error: GenModelError | None = None
    finished: set[int] = field(default_factory=set)

    @property
    def sessions(self) -> list[Session]:
        return [take.session for take in self.takes]

    @property
    def steps_total(self) -> int:
        return self.takes[0].session.steps_total

    @property
    def steps_done(self) -> int:
        """Steps of all variations over their number: one unit is a step of the whole request."""
        return sum(take.session.steps_done for take in self.takes) // len(self.takes)


class Engine:
    """Jobs on one model. ``slots``: how many takes are made at once (MAX_SLOTS at most); more wait."""

    def __init__(self, model: BaseGenModel, slots: int = 8) -> None:
        self.model = model
        self.stepper = stepper_for(model.lm, min(slots, MAX_SLOTS), model.precision, model.capture)
        captured = None if model.capture == "auto" else model.capture == "on" and model.device.type == "cuda"
        self._windows = CodecWindows(model.device, captured, always=model.capture == "on")
        self.jobs: list[GenerationJob] = []
        self._numbers = itertools.count(1)
        self._beginning: Beginning | None = None  # the window whose prefill is under way
        self._caught_up = True  # False: the last step decoded what a resumed take had already

    @property
    def busy(self) -> bool:
        return bool(self.jobs)

    @property
    def precision(self) -> str:
        return self.stepper.network.precision

    @property
    def kernels(self) -> str:
        """Which kernels multiply, where they are not torch's: equal where their bits are."""
        return self.stepper.kernels_version

    @torch.no_grad()
    def add(self, request: GenerationRequest) -> GenerationJob:
        """Take a request aboard, in line behind the others. Raises GenModelError for what cannot be done."""
        prepared = prepare(self.model, request)
        takes = [Take(self.model, prepared, request, variation) for variation in range(request.variations)]
        job = GenerationJob(next(self._numbers), request, prepared, takes)
        self.jobs.append(job)
        return job

    def drop(self, job: GenerationJob) -> None:
        """Let go of a job; its slots are free when this returns. Jobs that are not aboard are left alone."""
        if job not in self.jobs:
            return
        self._remove(job, "dropped")

    def _remove(self, job: GenerationJob, state: State) -> None:
        for take in job.takes:
            if take.admitted:
                self.stepper.release(take.session)
                take.admitted = False
        if self._beginning is not None and not self._beginning.holds:
            self._beginning = None
        self.jobs.remove(job)
        job.state = state

    @torch.no_grad()
    def step(self) -> list[StepResult]:
        """One step for everything aboard; returns the audio that became final, in order for each take."""
        self._admit()
        results = self._begin_one()
        if not self._caught_up:
            self._caught_up = True  # unless a piece of a resumed take is decoded again below
        else:
            results += self._replay_one()
        self.stepper.step()
        for job in list(self.jobs):
            try:
                results += self._collect(job)
            except GenModelError as error:
                results.append(self._fail(job, error))
        return results

    def run(self) -> Iterator[AudioChunk]:
        """Step until nothing is left; raises what a job failed with. Leaving the iterator drops the jobs."""
        try:
            while self.busy:
                for job, chunk in self.step():
                    if chunk is not None:
                        yield chunk
                    elif job.error is not None:
                        raise job.error
        finally:
            for job in list(self.jobs):
                self.drop(job)

    def _admit(self) -> None:
        for job in self.jobs:
            for take in job.takes:
                if not self.stepper.free:
                    return
                if not take.admitted and not take.session.done:
                    self.stepper.admit(take.session)
                    take.admitted = True
                    if job.state == "waiting":
                        job.state = "prefill"

    def _begin_one(self) -> list[StepResult]:
        """Run one slice of the prefill of one window. Variations that have not begun are equal so far and
        share it.
        """
        if self._beginning is None or not self._beginning.holds:
            self._beginning = self._next_window()
        beginning = self._beginning
        if beginning is None:
            return []
        takes = [take for job in self.jobs for take in job.takes if take.session in beginning.sessions]
        job = next(job for job in self.jobs if takes[0] in job.takes)
        try:
            if not beginning.advance():
                return []
        except (GenModelError, MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            # the pass of one job alone: whatever it met, the others go on
            self._beginning = None
            return [self._fail(job, _as_refusal(error))]
        self._beginning = None
        for take in takes:
            take.begun = True
        job.state = "generating"
        return []

    def _next_window(self) -> Beginning | None:
        waiting = self.stepper.waiting()
        if not waiting:
            return None
        job, take = next((job, take) for job in self.jobs for take in job.takes if take.session in waiting)
        same = [take]
        if not take.begun:
            same = [other for other in job.takes if other.session in waiting and not other.begun]
        return self.stepper.begin([other.session for other in same])

    def _replay_one(self) -> list[StepResult]:
        """Replay some known steps of one take that was resumed."""
        for job in self.jobs:
            for take in job.takes:
                if take.admitted and take.session.replaying and take.session not in self.stepper.waiting():
                    if self.stepper.replay(take.session):
                        return []
                    return [self._fail(job, TokensDiffer("the model does not choose the same tokens again"))]
        return []

    def _fail(self, job: GenerationJob, error: GenModelError) -> StepResult:
        job.error = error
        self._remove(job, "failed")
        return StepResult(job, None)

    def _collect(self, job: GenerationJob) -> list[StepResult]:
        """Decode what is due in one job; end its takes and itself when they are complete.

        The pieces that the decoder gets follow from the request alone, because its last bits depend on them.
        A step completes one frame at most; only a take that was resumed has more than one piece to decode,
        and they are decoded one a step, so that no step takes long.
        """
        results: list[StepResult] = []
        for number, take in enumerate(job.takes):
            if number in job.finished:
                continue
            due = job.request.chunk_frames
            if take.pushed < job.prepared.seam + HANDLE_FRAMES:
                due = min(due, _FIRST_CHUNK_FRAMES)
            last = take.session.done and take.final - take.pushed <= due
            if not last and take.final - take.pushed < due:
                continue
            upto = take.final if last else take.pushed + due
            if upto <= take.known:
                if not self._caught_up:
                    continue
                self._caught_up = False
            elif take.admitted:
                self.stepper.check_finite(take.session)
                self.stepper.sync(take.session)
            audio = take.decode(self._windows, upto, last)
            results += self._chunks(job, number, take, audio, last)
            if last:
                if take.admitted:
                    self.stepper.release(take.session)
                    take.admitted = False
                job.finished.add(number)
        if len(job.finished) == len(job.takes):
            self._remove(job, "done")
        return results

    def _chunks(
        self, job: GenerationJob, number: int, take: Take, audio: Tensor, last: bool
    ) -> list[StepResult]:
        samples = audio.shape[-1]
        if not samples:
            return []
        position = take.position
        take.position += samples
        stems = self.model.stems
        level = (audio.float() / job.prepared.gain).cpu()
        return [
            StepResult(job, AudioChunk(number, name, position, level[stems.index(name)].contiguous(), last))
            for name in job.prepared.stems
        ]

    def resume(self, job: GenerationJob, tokens: Sequence[Tensor]) -> None:
        """Let a job that was just added go on after ``tokens``, int64 [K, n] of each variation: the frames
        that another engine made of the same request after the prompt.

        Its audio comes again from the first chunk on, decoded from these tokens in the pieces of the first
        time. The steps of the window in the making are replayed through the kernels that made them, and the
        model must choose the same tokens; where it does not, the job fails with `TokensDiffer`.
        """
        for take, made in zip(job.takes, tokens, strict=True):
            into = take.session.tokens[:, take.first : take.first + made.shape[1]]
            # what is known already (a stem that is nothing) must be the same, the rest the model's own tokens
            made = made.to(into)
            own = (made >= 0) & (made < self.model.lm.card)
            if into.shape != made.shape or not bool(torch.where(into == UNKNOWN, own, made == into).all()):
                raise TokensDiffer("the tokens do not fit this request")
            into.copy_(made)
            take.known = take.first + made.shape[1]
            take.session.resume(take.known)
            take.begun = made.shape[1] > 0

    def snapshot(self, job: GenerationJob) -> list[TakeState]:
        """The present moment of each take of a job."""
        states = []
        for take in job.takes:
            if take.admitted:
                self.stepper.sync(take.session)
            states.append(
                TakeState(
                    take.session.snapshot(), take.codec.snapshot(), take.pushed, take.silent, take.position
                )
            )
        return states

    def restore(self, job: GenerationJob, states: list[TakeState]) -> None:
        """Bring a job back to a moment (of itself, or of the same request elsewhere); it then goes on from
        there.
        """
        for take, state in zip(job.takes, states, strict=True):
            if take.admitted:
                self.stepper.release(take.session)
                take.admitted = False
            take.session.restore(state.session)
            take.codec.restore(state.codec)
            take.pushed, take.silent, take.position = state.pushed, state.silent, state.position
            take.begun = bool(state.session.step or state.session.window)
        job.finished.clear()
        job.error = None
        job.state = "waiting"
        if job not in self.jobs:
            self.jobs.append(job)


def _as_refusal(error: Exception) -> GenModelError:
    """A pass that did not come to its end, in words; what is no shortage of memory is raised as it is."""
    if isinstance(error, GenModelError):
        return error
    short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error)
    if not short:
        raise error
    return GenModelError("there is not enough memory for this request beside the others", code="E_MEMORY")
