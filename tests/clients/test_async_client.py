"""The asyncio client: the same core, so the tests ask what is its own (cancelled tasks, order, threads)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from bridge_clients import AsyncClient, new_key
from protocol import messages as m
from protocol.errors import SegueError
from tests.clients.fake import CHUNK_FRAMES, FakeDaemon, Jobs, take_bytes
from tests.clients.test_client import positions, submit, whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir(mode=0o700)
    return place


def run(what: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(what, 20))


def test_a_job_and_every_other_op(folder: Path) -> None:
    async def story() -> None:
        async with AsyncClient(autostart=False, folder=folder) as client:
            job = await client.submit(submit())
            events = [event async for event in job.events()]
            assert positions(events) == whole() and job.state == "done"
            assert (await client.job(job.id).wait()).manifest == {"seed": 7}
            assert (await client.status(job.id)).state == "done"
            assert (await client.fetch(job.id, as_="bytes")).data == take_bytes()
            assert (await client.fetch(job.id)).path is not None
            assert [j.job for j in await client.list(limit=None)] == [job.id]
            again = await client.retake(job.id, seed=9)
            assert again.seed == 9 and (await again.cancel()).state == "cancelled"
            assert (await client.models()).default == "fake"
            assert (await client.load("fake")).state == "loaded"
            assert (await client.unload("fake")).measured
            assert await client.metrics() == "segue_jobs 1\n"
            assert (await client.pause()).paused and not (await client.resume()).paused
            assert (await client.forget(job.id)).freed_bytes == 10
            assert client.skew is None
            with pytest.raises(SegueError):
                await client.status("nobody")

    with FakeDaemon(folder):
        run(story())


def test_the_loop_turns_while_a_question_is_open_and_questions_take_turns(folder: Path) -> None:
    async def story() -> None:
        async with AsyncClient(autostart=False, folder=folder) as client:
            daemon.delay_s["models"] = 0.3
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0.01)

            clock = asyncio.create_task(turn())
            got = await asyncio.gather(client.models(), client.ping(), client.models())
            clock.cancel()
            assert [type(g) for g in got] == [m.ModelsReply, m.PingReply, m.ModelsReply]
            assert turns > 20

    with FakeDaemon(folder) as daemon:
        run(story())


def test_a_cancelled_question_leaves_a_usable_client(folder: Path) -> None:
    async def story() -> None:
        async with AsyncClient(autostart=False, folder=folder) as client:
            daemon.delay_s["ping"] = 0.5
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ping(), 0.1)
            daemon.delay_s.clear()
            assert (await client.models()).default == "fake"

    with FakeDaemon(folder) as daemon:
        run(story())


def test_the_daemon_comes_back_in_the_middle(folder: Path) -> None:
    jobs = Jobs(chunks=12)
    running = [FakeDaemon(folder, jobs)]
    running[0].start()

    async def story() -> None:
        async with AsyncClient(autostart=False, folder=folder) as client:
            job = await client.submit(submit(key=new_key()))
            events = []
            async for event in job.events():
                events.append(event)
                if isinstance(event, m.Audio) and event.position == 4 * CHUNK_FRAMES:
                    running[0].stop()
                    running[0] = FakeDaemon(folder, jobs)
                    running[0].start()
            assert positions(events) == whole(12)

    run(story())
    running[0].stop()


def test_deadlines_and_an_absent_daemon(folder: Path) -> None:
    async def story() -> None:
        begun = time.monotonic()
        with pytest.raises(SegueError) as caught:
            async with AsyncClient(autostart=False, folder=folder):
                pass
        assert caught.value.code == "E_UNREACHABLE" and time.monotonic() - begun < 1.5
        with FakeDaemon(folder) as daemon:
            async with AsyncClient(autostart=False, folder=folder) as client:
                daemon.paused.set()
                begun = time.monotonic()
                with pytest.raises(SegueError) as caught:
                    await client.ping(timeout_s=0.3)
                assert caught.value.code == "E_TIMEOUT" and time.monotonic() - begun < 1.5

    run(story())
