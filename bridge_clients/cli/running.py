"""One job from submit to the last event: progress for the watcher, audio for the collector, Ctrl-C for the
daemon.

Threading: everything runs on the main thread but for the request that cancels, which has a client of its
own, so that Ctrl-C never cuts a conversation with the daemon in half.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from bridge_clients.cli.landing import Collector
from bridge_clients.cli.progress import Reporter
from protocol.errors import SegueError
from protocol.messages import (
    Accepted,
    Audio,
    Cancelled,
    Done,
    Failed,
    Requeued,
    Retake,
    Started,
    Submit,
    Tick,
)


@dataclasses.dataclass
class Outcome:
    """How a job ended, and what was learnt on the way. Times in seconds since the job was sent."""

    job: str
    seed: int | None = None
    started: Started | None = None
    started_s: float | None = None
    manifest: dict[str, Any] = dataclasses.field(default_factory=dict)
    first_audio_s: float | None = None
    total_s: float = 0.0
    cancelled: bool = False


class CancelOnInterrupt:
    """While active, the first Ctrl-C (or SIGTERM) runs ``cancel`` in a thread, the second one leaves at
    once.
    """

    def __init__(self, cancel: Callable[[], None], reporter: Reporter) -> None:
        self._cancel, self._reporter = cancel, reporter
        self._before: dict[int, Any] = {}
        self.asked = False

    def __enter__(self) -> CancelOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue  # started in the background or by nohup: that is how its owner wants it
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        threading.Thread(target=self._run, name="segue-cancel", daemon=True).start()

    def _run(self) -> None:
        self._reporter.note("Cancelling; press Ctrl-C again to leave without waiting.")
        try:
            self._cancel()
        except SegueError as error:
            self._reporter.note(f"The daemon could not be told: {error.message}")


def run_job(
    client: Any,
    submit: Submit,
    collector: Collector,
    reporter: Reporter,
    cancel: Callable[[str], None],
    again: Retake | None = None,
) -> Outcome:
    """Send a job (or another take of one) and follow it to its end. ``cancel(job)`` is called from another
    thread after Ctrl-C.

    Raises the daemon's refusal, the job's own failure, or ``E_CANCELLED`` when somebody else cancelled it.
    """
    begun = time.monotonic()
    job_id: list[str] = []  # known to the thread that cancels as soon as the daemon has answered

    def cancel_it() -> None:
        while not job_id:
            time.sleep(0.02)
        cancel(job_id[0])

    with CancelOnInterrupt(cancel_it, reporter) as interrupt:
        job = client.submit(submit) if again is None else client.retaken(again)
        job_id.append(job.id)
        outcome = Outcome(job=job.id, seed=getattr(job, "seed", None) or submit.seed)
        reporter.event(
            "submitted",
            job=job.id,
            state=job.state,
            position=job.position,
            seed=outcome.seed,
            frames=submit.length_frames,
            rate=submit.host_rate_hz,
            channels=submit.host_channels,
            variations=submit.variations,
        )
        for event in job.events():
            outcome.total_s = time.monotonic() - begun
            _take_in(event, outcome, collector, reporter)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Cancelled):
                outcome.cancelled = True
                if not interrupt.asked:
                    raise SegueError("E_CANCELLED", f"Job {job.id} was cancelled from elsewhere.", job=job.id)
            if isinstance(event, (Cancelled, Done)):
                return outcome
    raise SegueError("E_INTERNAL", f"The events of job {job.id} ended without a result.", job=job.id)


def _take_in(event: Any, outcome: Outcome, collector: Collector, reporter: Reporter) -> None:
    """What one event means to the collector, the watcher and the outcome."""
    if isinstance(event, Tick):
        reporter.tick({key: value for key, value in event.to_map().items() if value is not None})
    elif isinstance(event, Accepted):
        reporter.event("accepted", position=event.position)
    elif isinstance(event, Started):
        outcome.started, outcome.started_s = event, outcome.started_s or outcome.total_s
        reporter.event(
            "started",
            attempt=event.attempt,
            model=event.model,
            device=event.device,
            precision=event.precision,
        )
    elif isinstance(event, Audio) and event.block is not None:
        if outcome.first_audio_s is None:
            outcome.first_audio_s = outcome.total_s
        collector.add(event.variation, event.stem, event.position, event.block.data)
        reporter.event(
            "audio",
            variation=event.variation + 1,
            stem=event.stem,
            position=event.position,
            frames=event.frames,
            seconds=round(collector.seconds, 3),
        )
    elif isinstance(event, Requeued):
        why = event.why or "its worker ended"
        if event.discard_from is None:
            reporter.note(f"The daemon goes on where it stopped: {why}.")
        else:
            collector.discard_from(event.discard_from)
            reporter.note(f"The daemon had to start again: {why}.")
        reporter.event("requeued", why=event.why, discard_from=event.discard_from)
    elif isinstance(event, Done):
        outcome.manifest = dict(event.manifest)
        outcome.seed = event.manifest.get("seed", outcome.seed)
