"""The asyncio client: the same questions, the same core, a REQ socket of `zmq.asyncio`.

    async with AsyncClient() as client:
        job = await client.submit(Submit(key=new_key(), mode="generate", length=Length(seconds=8)))
        async for event in job.events():
            ...

One question at a time per client (others wait their turn); make a second client to cancel while a long
question is open. Finding and starting the daemon runs in a thread, so the loop never stands still.
Threading: one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import zmq
import zmq.asyncio

from bridge_clients import core
from bridge_clients.connection import Connection
from bridge_clients.link import GRACE_MS, open_socket
from bridge_clients.starting import Starter
from protocol import messages as m
from protocol.audio import Buffer
from protocol.errors import SegueError
from protocol.limits import MAX_WAIT_MS

T = TypeVar("T")
_SLICE_MS = 250
_CONNECT_S = 1.0


class AsyncJob:
    """One job: its id, the key it was submitted with, and how far its events have been read (`after`)."""

    def __init__(
        self, client: AsyncClient, reply: m.SubmitReply | None, job: str, key: bytes, after: int
    ) -> None:
        self._client, self.id, self.key, self.after = client, job, key, after
        self.state = reply.state if reply else "queued"
        self.position = reply.position if reply else 0
        self.seed = reply.seed if reply else None
        self.again = reply.again if reply else False

    async def events(
        self, *, audio: bool = True, ticks: bool = True, wait_ms: int = 1000, timeout_s: float | None = None
    ) -> AsyncIterator[m.Event | m.Tick]:
        """As `JobHandle.events`: each event once and in order, across restarts of the daemon."""
        async for event in self._client.events(
            self.id, self.after, audio=audio, ticks=ticks, wait_ms=wait_ms, timeout_s=timeout_s
        ):
            if isinstance(event, m.Event):
                self.after = event.seq
                self.state = event.event if event.final else "running"
            yield event

    async def wait(self, timeout_s: float | None = None) -> m.Done:
        """Read on to the end without audio. Raises the job's error, or E_CANCELLED."""
        async for event in self.events(audio=False, ticks=False, wait_ms=2000, timeout_s=timeout_s):
            found = core.outcome(event, self.id)
            if found is not None:
                return found
        raise core.ended_before(self.id)

    async def cancel(self) -> m.CancelReply:
        """Ask the daemon to stop; the audio made so far stays."""
        return await self._client.cancel(self.id)

    async def status(self) -> m.JobInfo:
        """All about it, now."""
        return await self._client.status(self.id)


class AsyncClient:
    """As `Client`, for asyncio. Connects in `async with`, or with the first question."""

    def __init__(
        self,
        *,
        autostart: bool = True,
        timeout_s: float = 10.0,
        start_timeout_s: float = 60.0,
        on_wait: Callable[[str], None] | None = None,
        folder: Path | str | None = None,
        connection: Path | str | None = None,
        name: str = "segue-asyncio",
        command: Sequence[str] | None = None,
        curve_keys: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._autostart, self._curve_keys = autostart, curve_keys
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
        self._context: Any = zmq.asyncio.Context()
        self._context.linger = 0
        self._socket: Any = None
        self._connection: Connection | None = None
        self._refused = False
        self._turn = asyncio.Lock()
        self.hello: m.HelloReply | None = None

    async def __aenter__(self) -> Self:
        await self.request(m.Ping())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back; jobs go on."""
        self._drop()
        self._connection = None
        self._context.destroy(linger=0)

    @property
    def remote(self) -> bool:
        """Whether the daemon is reached over the network."""
        return self._connection is not None and self._connection.remote

    @property
    def skew(self) -> str | None:
        """A sentence when this machine's daemon is of another build than the files here, else None."""
        return core.skew(self.hello) if self.hello is not None and not self.remote else None

    # one question

    async def request(self, request: m.Request, timeout_s: float | None = None) -> Any:
        """Ask and return the reply (the class that belongs to the op). Raises SegueError as
        `Client.request`.
        """
        async with self._turn:
            return await self._request(request, timeout_s)

    async def _request(self, request: m.Request, timeout_s: float | None) -> Any:
        allowed_s = core.allowed_s(request, self.timeout_s) if timeout_s is None else timeout_s
        deadline = time.monotonic() + allowed_s
        damaged = lost = 0
        while True:
            connection = self._connection
            if connection is None or self._gone():
                lost += 1
                core.check_lost(lost)
                connection = await self._reach(None if timeout_s is None else deadline)
                if timeout_s is None:
                    deadline = time.monotonic() + allowed_s
            number, frames = self._numbering.frames(request, connection.token)
            answer_by = min(deadline, time.monotonic() + core.attempt_s(request))
            answer = await self._exchange(connection, frames, answer_by)
            deadline += self._away_s
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
                await asyncio.sleep(pause_s)

    async def _reach(self, deadline: float | None) -> Connection:
        self._drop()
        if deadline is not None:
            allowed_s = max(0.05, deadline - time.monotonic())
        else:
            allowed_s = self._start_timeout_s if self._autostart else self.timeout_s
        patient = self._connection is not None  # it was there before, so it may come back
        link, self.hello = await asyncio.to_thread(self._starter.reach, allowed_s, patient=patient)
        self._connection, self._refused = link.connection, False
        link.close()
        return self._connection

    async def _exchange(
        self, connection: Connection, frames: list[Buffer], deadline: float
    ) -> list[bytes] | None:
        done, self._away_s = False, 0.0
        try:
            if self._socket is None:
                self._socket = open_socket(self._context, connection, self._curve_keys)
            connect_by = min(deadline, time.monotonic() + _CONNECT_S)
            while not await self._socket.poll(min(100, _left_ms(connect_by)), zmq.POLLOUT):
                self._refused = self._refused or not connection.listening()
                if time.monotonic() >= connect_by or self._gone():
                    return None
            await self._socket.send_multipart(frames, flags=zmq.NOBLOCK, copy=True)
            while True:
                wait_ms, begun = _left_ms(deadline), time.monotonic()
                ready = await self._socket.poll(wait_ms, zmq.POLLIN)
                self._away_s = core.away_s(wait_ms / 1000, time.monotonic() - begun)
                if self._away_s and not ready and not await self._socket.poll(GRACE_MS, zmq.POLLIN):
                    return None
                if ready or self._away_s:
                    answer = await asyncio.wait_for(self._socket.recv_multipart(copy=True), _SLICE_MS / 1000)
                    done = True
                    return list(answer)
                if time.monotonic() >= deadline or self._gone():
                    return None
        except (zmq.Again, TimeoutError):
            return None
        except zmq.ZMQError as error:
            raise SegueError("E_UNREACHABLE", f"The connection to the daemon broke ({error}).") from None
        finally:
            if not done:  # also when the task is cancelled: the next question has a fresh socket
                self._drop()

    def _gone(self) -> bool:
        connection = self._connection
        return connection is None or self._refused or not connection.alive() or connection.replaced()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    async def _run(self, steps: core.Steps[T], timeout_s: float | None) -> T:
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
            answer = await self.request(question, left_s)

    # jobs

    async def submit(
        self, submit: m.Submit, audio: Iterable[core.AudioIn] = (), *, timeout_s: float | None = None
    ) -> AsyncJob:
        """Hand in one job, with its audio if it is not aboard yet. The same key and body: the same job
        again.
        """
        submit = core.complete(submit, audio)
        reply = await self.request(submit, timeout_s)
        return AsyncJob(self, reply, reply.job, submit.key, 0)

    async def retake(
        self,
        job: str,
        *,
        seed: int | None = None,
        variations: int | None = None,
        key: bytes | None = None,
        change: dict[str, Any] | None = None,
    ) -> AsyncJob:
        """The same job with another seed, as a new job; ``change``: fields of `submit` that shall be
        otherwise.
        """
        request = m.Retake(
            job=job, key=key or core.new_key(), seed=seed, variations=variations, change=change
        )
        reply = await self.request(request)
        return AsyncJob(self, reply, reply.job, request.key, 0)

    def job(self, job: str, after: int = 0) -> AsyncJob:
        """A handle on a job known by its id, its events read up to `after`. Asks nothing yet."""
        return AsyncJob(self, None, job, b"", after)

    async def events(
        self,
        job: str,
        after: int = 0,
        *,
        audio: bool = True,
        ticks: bool = True,
        wait_ms: int = 1000,
        timeout_s: float | None = None,
    ) -> AsyncIterator[m.Event | m.Tick]:
        """A job's events after number `after`; see `AsyncJob.events`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        follower = core.Follower(job, after, audio=audio, wait_ms=min(wait_ms, MAX_WAIT_MS))
        while not follower.finished:
            left_s = None if deadline is None else deadline - time.monotonic()
            question = follower.question(left_s)
            try:
                reply = await self.request(question, left_s)
            except SegueError as error:
                error.job = error.job or job
                raise
            for event in follower.take(reply):
                if ticks or isinstance(event, m.Event):
                    yield event

    async def cancel(self, job: str) -> m.CancelReply:
        """Stop a job; the audio made so far stays."""
        return await self.request(m.Cancel(job=job))

    async def status(self, job: str) -> m.JobInfo:
        """All about one job."""
        return (await self.request(m.Status(job=job))).info

    async def list(
        self,
        *,
        session: bytes | None = None,
        project: str | None = None,
        states: Sequence[str] | None = None,
        limit: int | None = 50,
    ) -> list[m.JobInfo]:
        """Jobs, newest first; `limit` None for all."""
        return await self._run(core.list_steps(session, project, states, limit), None)

    async def forget(self, job: str) -> m.ForgetReply:
        """The takes are saved elsewhere: the daemon may delete them."""
        return await self.request(m.Forget(job=job))

    async def fetch(
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
        """A finished WAV file: its path, or (`as_="bytes"`) its bytes; both held against the checksum."""
        if as_ == "bytes" or (as_ is None and self.remote):
            return await self._run(core.fetch_bytes_steps(job, variation, stem, part), timeout_s)
        return await self._run(core.fetch_path_steps(job, variation, stem, part, check), timeout_s)

    # models and the daemon itself

    async def models(self) -> m.ModelsReply:
        """What can be used."""
        return await self.request(m.Models())

    async def load(
        self, model: str, *, keep_alive_s: float | None = None, timeout_s: float = 600.0
    ) -> m.LoadReply:
        """Make a model ready; returns when it is (or says why it cannot be)."""
        return await self._run(core.load_steps(model, keep_alive_s), timeout_s)

    async def unload(self, model: str, *, timeout_s: float = 60.0) -> m.UnloadReply:
        """End a model's worker; returns when its memory is measured free."""
        return await self._run(core.unload_steps(model), timeout_s)

    async def ping(self, timeout_s: float | None = None) -> m.PingReply:
        """Alive, ready, load."""
        return await self.request(m.Ping(), timeout_s)

    async def metrics(self) -> str:
        """Prometheus text."""
        return (await self.request(m.Metrics())).text

    async def pause(self, release: bool = False) -> m.PauseReply:
        """Hold all work; with `release` the GPU's memory is given back."""
        return await self.request(m.Pause(release=release))

    async def resume(self) -> m.ResumeReply:
        """Go on after `pause`."""
        return await self.request(m.Resume())

    async def drain(self, *, stop: bool = True, finish: str = "running") -> m.DrainReply:
        """Take no new jobs, finish what `finish` says ("none", "running", "all"), then exit if `stop`."""
        return await self.request(m.Drain(stop=stop, finish=finish))


def _left_ms(deadline: float) -> int:
    return max(0, min(_SLICE_MS, int((deadline - time.monotonic()) * 1000) + 1))
