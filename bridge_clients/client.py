"""The blocking client: one REQ socket, one question at a time, nothing that can hang.

    with Client() as client:
        job = client.submit(Submit(key=new_key(), mode="generate", length=Length(seconds=8)))
        for event in job.events():
            ...

Every call has a deadline. A question without an answer is asked again on a fresh socket (the daemon takes
the same key as the same job, and every other op can be repeated). Threading: one client belongs to one
thread at a time; make one client per thread. No thread is started.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from bridge_clients import core
from bridge_clients.jobs import JobHandle
from bridge_clients.link import Link
from bridge_clients.starting import Starter
from protocol import messages as m
from protocol.errors import SegueError
from protocol.limits import MAX_WAIT_MS

T = TypeVar("T")


class Client:
    """A connection to the daemon of this user, started if there is none, or to one on another machine.

    autostart: whether a daemon may be started; timeout_s: of each call unless it says otherwise;
    start_timeout_s: how long a start may take; on_wait: called with a sentence whenever something is waited
    for; folder: the runtime folder if not the usual one; connection: the key file of a daemon elsewhere
    (default: what SEGUE_CONNECTION names), which is never started from here; curve_keys: (public, secret) for
    a key file without them; name: who asks, for the daemon's log.
    Raises E_UNREACHABLE, E_TIMEOUT or E_VERSION when no daemon can be reached.
    """

    def __init__(
        self,
        *,
        autostart: bool = True,
        timeout_s: float = 10.0,
        start_timeout_s: float = 60.0,
        on_wait: Callable[[str], None] | None = None,
        folder: Path | str | None = None,
        connection: Path | str | None = None,
        name: str = "segue-python",
        command: Sequence[str] | None = None,
        curve_keys: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._autostart = autostart
        self._starter = Starter(
            folder=Path(folder) if folder is not None else None,
            key_file=Path(connection) if connection is not None else None,
            start=autostart,
            command=command,
            name=name,
            on_wait=on_wait,
            curve_keys=curve_keys,
        )
        self._numbering = core.Numbering()
        self._link: Link | None = None
        self._remote = False
        self.hello: m.HelloReply
        self._connect(start_timeout_s if autostart else timeout_s, patient=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back. Jobs go on; closing never cancels."""
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def remote(self) -> bool:
        """Whether the daemon is reached over the network: its paths and processes mean nothing here."""
        return self._remote

    @property
    def skew(self) -> str | None:
        """A sentence when this machine's daemon is of another build than the files here, else None."""
        return None if self.remote else core.skew(self.hello)

    # one question

    def request(self, request: m.Request, timeout_s: float | None = None) -> Any:
        """Ask and return the reply (the class that belongs to the op). Raises the daemon's SegueError.

        E_TIMEOUT when there was no answer within the time, E_UNREACHABLE when there is no daemon.
        """
        allowed_s = core.allowed_s(request, self.timeout_s) if timeout_s is None else timeout_s
        deadline = time.monotonic() + allowed_s
        damaged = lost = 0
        while True:
            link = self._link
            if link is None or not link.usable:
                lost += 1
                link = self._reconnect(lost, None if timeout_s is None else deadline)
                if timeout_s is None:
                    deadline = time.monotonic() + allowed_s
            number, frames = self._numbering.frames(request, link.connection.token)
            left_s = max(0.0, deadline - time.monotonic())
            answer = link.exchange(frames, min(left_s, core.attempt_s(request)))
            deadline += link.away_s
            if answer is None:
                if time.monotonic() >= deadline:
                    raise core.unanswered(request, allowed_s)
                continue
            try:
                return self._numbering.answer(request, number, answer)
            except SegueError as error:
                damaged += error.retry == "same"
                pause_s = core.pause_before_retry(error, damaged, self._autostart)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    raise
                time.sleep(pause_s)

    def _reconnect(self, times: int, deadline: float | None) -> Link:
        """Find the daemon again, or start it; without a deadline a start may take its own time."""
        self.close()
        core.check_lost(times)
        if deadline is not None:
            return self._connect(max(0.05, deadline - time.monotonic()), patient=True)
        return self._connect(self._start_timeout_s if self._autostart else self.timeout_s, patient=True)

    def _connect(self, timeout_s: float, *, patient: bool) -> Link:
        self._link, self.hello = self._starter.reach(timeout_s, patient=patient)
        self._remote = self._link.connection.remote
        return self._link

    def _run(self, steps: core.Steps[T], timeout_s: float | None) -> T:
        """Drive a procedure of several questions within one deadline."""
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        answer: Any = None
        while True:
            try:
                question = steps.send(answer)
            except StopIteration as end:
                return end.value
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise SegueError("E_TIMEOUT", f"{question.op} was not done within {timeout_s:g} s.")
            answer = self.request(question, left_s)

    # jobs

    def submit(
        self, submit: m.Submit, audio: Iterable[core.AudioIn] = (), *, timeout_s: float | None = None
    ) -> JobHandle:
        """Hand in one job, with its audio if it is not aboard yet. The same key and body: the same job
        again.
        """
        submit = core.complete(submit, audio)
        reply = self.request(submit, timeout_s)
        return self._handle(reply, submit.key)

    def retake(
        self,
        job: str,
        *,
        seed: int | None = None,
        variations: int | None = None,
        key: bytes | None = None,
        change: dict[str, Any] | None = None,
    ) -> JobHandle:
        """The same job with another seed, as a new job; ``change``: fields of `submit` that shall be
        otherwise.
        """
        request = m.Retake(
            job=job, key=key or core.new_key(), seed=seed, variations=variations, change=change
        )
        return self.retaken(request)

    def retaken(self, request: m.Retake) -> JobHandle:
        """The same, from a request that is there already: safe to send again."""
        return self._handle(self.request(request), request.key)

    def _handle(self, reply: m.SubmitReply, key: bytes) -> JobHandle:
        return JobHandle(
            self,
            reply.job,
            key=key,
            state=reply.state,
            position=reply.position,
            seed=reply.seed,
            again=reply.again,
        )

    def job(self, job: str, after: int = 0) -> JobHandle:
        """A handle on a job known by its id, its events read up to `after`. Asks nothing yet."""
        return JobHandle(self, job, after=after)

    def events(
        self,
        job: str,
        after: int = 0,
        *,
        audio: bool = True,
        ticks: bool = True,
        wait_ms: int = 1000,
        timeout_s: float | None = None,
    ) -> Iterator[m.Event | m.Tick]:
        """A job's events after number `after`; see `JobHandle.events`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        follower = core.Follower(job, after, audio=audio, wait_ms=min(wait_ms, MAX_WAIT_MS))
        while not follower.finished:
            left_s = None if deadline is None else deadline - time.monotonic()
            question = follower.question(left_s)
            try:
                reply = self.request(question, left_s)
            except SegueError as error:
                error.job = error.job or job
                raise
            for event in follower.take(reply):
                if ticks or isinstance(event, m.Event):
                    yield event

    def cancel(self, job: str) -> m.CancelReply:
        """Stop a job; the audio made so far stays."""
        return self.request(m.Cancel(job=job))

    def status(self, job: str) -> m.JobInfo:
        """All about one job."""
        return self.request(m.Status(job=job)).info

    def list(
        self,
        *,
        session: bytes | None = None,
        project: str | None = None,
        states: Sequence[str] | None = None,
        limit: int | None = 50,
    ) -> list[m.JobInfo]:
        """Jobs, newest first; `limit` None for all."""
        return self._run(core.list_steps(session, project, states, limit), None)

    def forget(self, job: str) -> m.ForgetReply:
        """The takes are saved elsewhere: the daemon may delete them."""
        return self.request(m.Forget(job=job))

    # takes

    def fetch(
        self,
        job: str,
        variation: int = 0,
        stem: str = "mix",
        part: str = "take",
        *,
        as_: str | None = None,
        check: bool = True,
        timeout_s: float | None = None,
    ) -> core.Fetched:
        """A finished WAV file: its path in the daemon's folder, or (`as_="bytes"`) its bytes over the socket.

        Unless `as_` says which: the path on the daemon's own machine, the bytes elsewhere. Both are held
        against the checksum (for a path, `check` False leaves that out).
        """
        if as_ == "bytes" or (as_ is None and self.remote):
            return self._run(core.fetch_bytes_steps(job, variation, stem, part), timeout_s)
        return self._run(core.fetch_path_steps(job, variation, stem, part, check), timeout_s)

    def save(
        self, job: str, to: Path | str, variation: int = 0, stem: str = "mix", part: str = "take"
    ) -> core.Fetched:
        """Write a finished WAV file to `to`, whole or not at all."""
        got = self.fetch(job, variation, stem, part, as_="bytes")
        core.write_whole(Path(to), got.data or b"")
        return got

    # models and the daemon itself

    def models(self) -> m.ModelsReply:
        """What can be used."""
        return self.request(m.Models())

    def load(self, model: str, *, keep_alive_s: float | None = None, timeout_s: float = 600.0) -> m.LoadReply:
        """Make a model ready; returns when it is (or says why it cannot be)."""
        return self._run(core.load_steps(model, keep_alive_s), timeout_s)

    def unload(self, model: str, *, timeout_s: float = 60.0) -> m.UnloadReply:
        """End a model's worker; returns when its memory is measured free."""
        return self._run(core.unload_steps(model), timeout_s)

    def ping(self, timeout_s: float | None = None) -> m.PingReply:
        """Alive, ready, load."""
        return self.request(m.Ping(), timeout_s)

    def metrics(self) -> str:
        """Prometheus text."""
        return self.request(m.Metrics()).text

    def pause(self, release: bool = False) -> m.PauseReply:
        """Hold all work, for instance while recording; with `release` the GPU's memory is given back."""
        return self.request(m.Pause(release=release))

    def resume(self) -> m.ResumeReply:
        """Go on after `pause`."""
        return self.request(m.Resume())

    def drain(self, *, stop: bool = True, finish: str = "running") -> m.DrainReply:
        """Take no new jobs, finish what `finish` says ("none", "running", "all"), then exit if `stop`."""
        return self.request(m.Drain(stop=stop, finish=finish))

    def stop(self, *, finish: str = "running", timeout_s: float = 60.0) -> m.DrainReply:
        """Drain and wait until the daemon's process has ended; elsewhere than here that cannot be seen."""
        reply = self.drain(stop=True, finish=finish)
        connection = self._link.connection if self._link is not None and not self.remote else None
        self.close()
        deadline = time.monotonic() + timeout_s
        while connection is not None and connection.alive():
            if connection.replaced() and not connection.listening():
                deadline = min(deadline, time.monotonic() + 1.0)  # it is as good as gone
                connection = dataclasses.replace(connection, path=None)
            if time.monotonic() >= deadline:
                if connection.path is None:
                    break
                raise SegueError("E_TIMEOUT", f"The daemon has not ended within {timeout_s:g} s.")
            time.sleep(0.02)
        return reply
