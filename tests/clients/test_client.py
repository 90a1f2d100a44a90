"""The blocking client against a daemon that is slow, forgetful, talks nonsense, dies and comes back."""

from __future__ import annotations

import array
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from bridge_clients import core
from bridge_clients.client import Client
from bridge_clients.core import new_key
from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import encode_reply
from tests.clients.fake import CHUNK_FRAMES, FakeDaemon, Jobs, take_bytes, write_connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def daemon(folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(folder) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(autostart=False, folder=daemon.folder, timeout_s=5) as made:
        yield made


def submit(**more: object) -> m.Submit:
    given: dict[str, object] = {"key": new_key(), "mode": "generate", "length": {"seconds": 1}, **more}
    return m.Submit(**given)  # type: ignore[arg-type]


def positions(events: list[m.Event | m.Tick]) -> list[float]:
    """The samples of the audio events, one after the other."""
    samples = array.array("f")
    for event in events:
        if isinstance(event, m.Audio):
            assert event.block is not None
            samples.frombytes(bytes(event.block.data))
    return list(samples)


def whole(chunks: int = 5) -> list[float]:
    return [float(i) for i in range(chunks * CHUNK_FRAMES)]


def test_a_job_from_submit_to_done(client: Client) -> None:
    job = client.submit(submit())
    events = list(job.events())
    durable = [e for e in events if isinstance(e, m.Event)]
    assert [e.seq for e in durable] == list(range(1, 9))
    assert isinstance(durable[-1], m.Done) and job.state == "done"
    assert positions(events) == whole()
    assert any(isinstance(e, m.Tick) for e in events)
    assert client.status(job.id).state == "done"


def test_events_without_audio_and_from_the_middle(client: Client) -> None:
    job = client.submit(submit())
    assert client.job(job.id).wait(5).manifest == {"seed": 7}
    later = list(client.job(job.id, after=5).events(audio=False, ticks=False))
    assert [e.seq for e in later if isinstance(e, m.Event)] == [6, 7, 8]
    assert all(e.block is None for e in later if isinstance(e, m.Audio))


def test_a_generator_that_is_left_goes_on_where_it_was(client: Client) -> None:
    job = client.submit(submit())
    first: list[m.Event | m.Tick] = []
    for event in job.events():
        first.append(event)
        if isinstance(event, m.Audio):
            break
    rest = list(job.events())
    assert positions(first + rest) == whole()


def test_every_other_op(client: Client, daemon: FakeDaemon, tmp_path: Path) -> None:
    jobs = [client.submit(submit()) for _ in range(5)]
    assert client.ping().boot == daemon.boot
    assert client.models().default == "fake"
    assert client.load("fake").state == "loaded"
    assert client.unload("fake").measured
    assert client.metrics() == "segue_jobs 1\n"
    assert client.pause().paused and not client.resume().paused
    assert {j.job for j in client.list(limit=None)} == {j.id for j in jobs}
    assert [j.job for j in client.list(limit=3)] == ["j0005", "j0004", "j0003"]
    assert client.fetch(jobs[0].id).path == daemon.folder / "take.wav"
    assert client.fetch(jobs[0].id, as_="bytes").data == take_bytes()
    client.save(jobs[0].id, tmp_path / "out.wav")
    assert (tmp_path / "out.wav").read_bytes() == take_bytes()
    again = client.retake(jobs[0].id, seed=5)
    assert again.id not in {j.id for j in jobs} and again.seed == 5
    assert jobs[1].cancel().state == "cancelled"
    with pytest.raises(SegueError) as caught:
        jobs[1].wait()
    assert caught.value.code == "E_CANCELLED"
    assert client.forget(jobs[1].id).freed_bytes == 10
    with pytest.raises(SegueError) as caught:
        client.status("nobody")
    assert caught.value.code == "E_JOB" and caught.value.field == "job"


def test_a_lost_answer_is_asked_for_again_and_makes_one_job(
    client: Client, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(core.PATIENCE_S, "submit", 0.4)
    daemon.swallow["submit"] = 1
    begun = time.monotonic()
    job = client.submit(submit(), timeout_s=10)
    assert job.again and daemon.jobs.submits == 2 and len(daemon.jobs.events) == 1
    assert 0.4 <= time.monotonic() - begun < 2


def test_the_same_key_is_the_same_job_and_with_another_body_an_error(client: Client) -> None:
    first = submit(text="a")
    assert client.submit(first).id == client.submit(first).id
    with pytest.raises(SegueError) as caught:
        client.submit(submit(key=first.key, text="b"))
    assert caught.value.code == "E_KEY_REUSE" and caught.value.retry == "new_key"


def test_a_slow_daemon_costs_no_more_than_the_time_allowed(client: Client, daemon: FakeDaemon) -> None:
    daemon.paused.set()
    begun = time.monotonic()
    with pytest.raises(SegueError) as caught:
        client.ping(timeout_s=0.4)
    assert caught.value.code == "E_TIMEOUT"
    assert time.monotonic() - begun < 1.5
    daemon.paused.clear()
    assert client.ping().ready


def test_an_answer_that_comes_too_late_is_not_taken_for_another(client: Client, daemon: FakeDaemon) -> None:
    daemon.delay_s["ping"] = 0.6
    with pytest.raises(SegueError):
        client.ping(timeout_s=0.3)
    daemon.delay_s.clear()
    assert isinstance(client.models(), m.ModelsReply)


@pytest.mark.parametrize(
    "garbage",
    [
        lambda frames: [b"nonsense"],
        lambda frames: [frames[0]],
        lambda frames: [frames[0], b"\xc1"],
        lambda frames: [b"XYZ" + frames[0][3:], frames[1]],
        lambda frames: [frames[0], frames[1], b"unasked"],
        lambda frames: [frames[0][:3] + b"\x07" + frames[0][4:], b"\xff"],
        lambda frames: encode_reply(m.ResumeReply(), 1),
        lambda frames: encode_reply(m.PingReply(boot="x"), 9999),
        lambda frames: [b""] * 3,
    ],
)
def test_garbage_is_an_error_and_the_next_question_is_answered(
    client: Client, daemon: FakeDaemon, garbage: Callable[[list[bytes]], list[bytes]]
) -> None:
    daemon.instead["ping"] = garbage
    try:
        client.ping(timeout_s=1)
    except SegueError as error:
        assert error.code in ("E_HEADER", "E_VERSION", "E_TIMEOUT"), error.code
    assert client.ping(timeout_s=2).ready


def test_audio_damaged_on_the_way_is_asked_for_again(client: Client, daemon: FakeDaemon) -> None:
    def flip(frames: list[bytes]) -> list[bytes]:
        return [*frames[:2], *(bytes([f[0] ^ 1]) + f[1:] for f in frames[2:])]

    job = client.submit(submit())
    events = []
    for event in job.events():
        if isinstance(event, m.Started):
            daemon.instead["next"] = flip
        events.append(event)
    assert positions(events) == whole()


def test_errors_come_through_with_all_they_say(client: Client, daemon: FakeDaemon) -> None:
    daemon.errors["submit"] = [
        SegueError(
            "E_QUEUE_FULL", "64 jobs are waiting.", retry_ms=1500, field="queue", value=64, allowed="63"
        )
    ]
    with pytest.raises(SegueError) as caught:
        client.submit(submit())
    assert (caught.value.code, caught.value.retry, caught.value.retry_ms) == ("E_QUEUE_FULL", "after", 1500)
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("queue", 64, "63")


def test_not_ready_is_waited_for(client: Client, daemon: FakeDaemon) -> None:
    daemon.errors["submit"] = [SegueError("E_NOT_READY", "One moment.", retry_ms=50)] * 3
    assert client.submit(submit()).id


def test_wrong_audio_is_refused_before_it_is_sent(client: Client, daemon: FakeDaemon) -> None:
    bad = array.array("f", [0.0, float("nan"), 0.0]).tobytes()
    form = m.AudioFormat(rate=8000, channels=1, frames=3, role="prompt")
    with pytest.raises(SegueError) as caught:
        client.submit(submit(mode="continue"), [(form, bad)])
    assert caught.value.code == "E_AUDIO" and "frame 1" in caught.value.message
    with pytest.raises(SegueError) as caught:
        client.submit(submit(mode="continue"))
    assert caught.value.code == "E_AUDIO"
    assert "submit" not in daemon.seen


def test_the_daemon_dies_in_the_middle_and_comes_back_with_another_token(folder: Path) -> None:
    jobs = Jobs(chunks=20)
    running = FakeDaemon(folder, jobs)
    running.start()
    with Client(autostart=False, folder=folder, timeout_s=10) as client:
        job = client.submit(submit())
        events: list[m.Event | m.Tick] = []
        begun = 0.0
        for event in job.events():
            events.append(event)
            if isinstance(event, m.Audio) and event.position == 4 * CHUNK_FRAMES:
                running.stop()
                begun = time.monotonic()
                running = FakeDaemon(folder, jobs)
                running.start()
        took_s = time.monotonic() - begun
        assert client.hello.boot == running.boot
    running.stop()
    assert positions(events) == whole(20)
    assert [e.seq for e in events if isinstance(e, m.Event)] == list(range(1, 24))
    assert took_s < 4


def test_without_a_daemon_the_client_says_so_at_once(folder: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(SegueError) as caught:
        Client(autostart=False, folder=folder)
    assert caught.value.code == "E_UNREACHABLE" and "segue serve" in caught.value.message
    assert time.monotonic() - begun < 1.0


def test_a_dead_daemons_files_do_not_hold_anybody_up(folder: Path) -> None:
    """kill -9 leaves the connection file and the socket behind; the pid may have a new owner (here: the
    test).
    """
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(f"ipc://{folder / 'segue.sock'}")
    socket.close(0)
    context.term()
    write_connection(folder)
    begun = time.monotonic()
    with pytest.raises(SegueError) as caught:
        Client(autostart=False, folder=folder)
    assert caught.value.code == "E_UNREACHABLE"
    assert time.monotonic() - begun < 1.5


def test_a_gap_in_the_events_is_never_papered_over(client: Client, daemon: FakeDaemon) -> None:
    job = client.submit(submit())
    del daemon.jobs.events[job.id][3]
    with pytest.raises(SegueError) as caught:
        list(job.events())
    assert "missing" in caught.value.message


def test_deadlines_of_events(client: Client, daemon: FakeDaemon) -> None:
    daemon.jobs.chunks = 2_000
    job = client.submit(submit())
    with pytest.raises(SegueError) as caught:
        list(job.events(timeout_s=0.2))
    assert caught.value.code == "E_TIMEOUT" and caught.value.job == job.id


def test_an_interrupted_question_leaves_a_usable_client(client: Client, daemon: FakeDaemon) -> None:
    import _thread
    import threading

    daemon.delay_s["ping"] = 1.0
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        client.ping()
    daemon.delay_s.clear()
    assert client.models().default == "fake"


def test_stop_waits_until_the_daemon_is_gone(client: Client, daemon: FakeDaemon) -> None:
    assert client.stop(timeout_s=3).stopping


def test_another_build_is_explained(client: Client) -> None:
    assert client.skew is None
    client.hello = m.HelloReply(daemon="old", build="0.0.9+00000000", protocol=(1, 0), boot="b", pid=77)
    assert client.skew is not None and "77" in client.skew and "segue stop" in client.skew


def test_the_interpreter_ends_although_a_question_is_open(folder: Path) -> None:
    """libzmq's default linger hangs an interpreter that exits with an unsent message."""
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from bridge_clients.client import Client\n"
        f"c = Client(autostart=False, folder={str(folder)!r})\n"
        "try: c.ping(timeout_s=0.2)\n"
        "except Exception as e: print(type(e).__name__)\n"
    )
    with FakeDaemon(folder) as daemon:
        daemon.delay_s["ping"] = 0.5
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=10)
    assert done.stdout == "SegueError\n", done.stderr


def test_a_daemon_of_another_major_is_explained(folder: Path) -> None:
    with FakeDaemon(folder) as daemon:

        def tomorrow(frames: list[bytes]) -> list[bytes]:
            reply = m.HelloReply(daemon="segued 9", protocol=(2, 0), boot="b", pid=77)
            made = encode_reply(reply, 1)
            return [b"SGU\x02" + bytes(32), *made[1:]]

        daemon.instead["hello"] = tomorrow
        with pytest.raises(SegueError) as caught:
            Client(autostart=False, folder=folder)
    assert caught.value.code == "E_VERSION"
    assert "kill 77" in caught.value.message
