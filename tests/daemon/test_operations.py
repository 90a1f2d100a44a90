"""The table of operations against a real daemon, through a bare REQ socket."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit, tone


def test_hello_and_ping_say_who_and_how_busy(wire: Wire, shared_house: House) -> None:
    hello = wire.ask(m.Hello(client="test"))
    assert hello.ready and hello.pid == shared_house.process.pid and hello.limits.frame_bytes == 4 << 20
    assert wire.ask(m.Ping()).boot == hello.boot == shared_house.connection["boot"]


def test_one_job_from_submit_to_forget(wire: Wire) -> None:
    job = wire.ask(submit(1.5, rate=32_000, channels=1, text="slow=1")).job
    events = wire.events(job)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert [e.event for e in events[:3]] == ["accepted", "started", "audio"]
    start, audio = joined(events)
    assert start == -2560 and audio.shape == (1, 2560 + 48_000)
    assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))

    status = wire.ask(m.Status(job=job)).info
    assert (status.state, status.frames, status.seed, status.attempt) == ("done", 48_000, 7, 1)
    assert status.manifest["model"]["name"] == "coded" and status.manifest["precision"] == "float32"

    path = wire.ask(m.Fetch(job=job)).path
    written, rate = sf.read(path, dtype="float32")
    assert rate == 32_000 and np.array_equal(written, audio[0, 2560:])
    handle = wire.ask(m.Fetch(job=job, part="handle"))
    assert handle.position == -2560 and np.array_equal(
        sf.read(handle.path, dtype="float32")[0], audio[0, :2560]
    )
    parts, offset = b"", 0
    while offset < handle.total_bytes:
        got = wire.ask(m.Fetch(job=job, part="handle", as_="bytes", offset=offset, max_bytes=4000))
        parts, offset = parts + bytes(got.data), offset + len(got.data)
    assert parts == Path(handle.path).read_bytes()
    assert (Path(path).parent / "manifest.json").is_file()

    again = wire.events(job)  # the same events, now read from the finished files
    assert np.array_equal(joined(again)[1], audio)
    assert wire.events(job, max_bytes=0)[2].block is None

    assert wire.ask(m.Forget(job=job)).freed_bytes > 0
    assert wire.refused(m.Next(job=job)).code == "E_JOB"
    assert not Path(path).exists()


@pytest.mark.parametrize("rate", [44_100, 48_000, 32_000, 22_050, 44_056])
@pytest.mark.parametrize("channels", [1, 2])
def test_exactly_the_samples_that_were_asked_for(wire: Wire, rate: int, channels: int) -> None:
    seconds = 1.2345
    request = submit(seconds, audio=(tone(0.7, rate, channels),))
    events = wire.events(wire.ask(request).job)
    start, audio = joined(events)
    handle = round(0.08 * rate) if rate != 44_056 else 80 * rate // 1000
    assert start == -handle and audio.shape == (channels, handle + round(seconds * rate))
    if rate != 32_000:  # the resampled take is the model's audio: it has its level
        exact = engine.samples(7, 0, "mix", 0, 32_000)
        assert abs(np.std(audio) / np.std(exact) - 1) < 0.2


def test_lengths_in_bars_land_on_the_sample(wire: Wire) -> None:
    tempo = m.TempoMap(
        changes=[m.TempoChange(at=0, bpm="385/3"), m.TempoChange(at=6, bpm=90, beats=3)], start=2
    )
    request = submit(None, length=m.Length(bars="3/2"), tempo_map=tempo, rate=44_100)
    events = wire.events(wire.ask(request).job)
    assert joined(events)[1].shape[1] - 3528 == request.length_frames


def test_generate_has_no_handle(wire: Wire) -> None:
    request = submit(0.5, mode="generate", text="a tune", rate=32_000, channels=2)
    start, audio = joined(wire.events(wire.ask(request).job))
    assert start == 0 and np.array_equal(audio, engine.samples(7, 0, "mix", 0, 16_000, 2))


def test_the_same_key_is_the_same_job(wire: Wire) -> None:
    request = submit(0.3, seed=None)
    first = wire.ask(request)
    second = wire.ask(request)
    assert second.again and (second.job, second.seed) == (first.job, first.seed)
    other = submit(0.4, key=request.key)
    assert wire.refused(other).code == "E_KEY_REUSE"
    wire.events(first.job)
    assert wire.ask(request).state == "done"


def test_retake_is_the_same_request_with_another_seed(wire: Wire) -> None:
    first = wire.ask(submit(0.3, rate=32_000))
    wire.events(first.job)
    second = wire.ask(m.Retake(job=first.job, key=secrets.token_bytes(16), seed=11))
    assert second.seed == 11 and second.job != first.job
    start, audio = joined(wire.events(second.job))
    assert np.array_equal(audio, engine.samples(11, 0, "mix", start, audio.shape[1]))


def test_cancel_leaves_the_others_exact(wire: Wire) -> None:
    first = wire.ask(submit(20, text="slow=10", session=b"a" * 16)).job
    second = wire.ask(submit(1.0, rate=32_000, seed=5, text="slow=1", session=b"b" * 16)).job
    while wire.ask(m.Next(job=first, after=2, wait_ms=1000)).last < 3:
        pass
    assert wire.ask(m.Cancel(job=first)).state == "cancelled"
    last = wire.ask(m.Status(job=first)).info.last
    audio = joined(wire.events(second))[1]
    assert np.array_equal(audio, engine.samples(5, 0, "mix", -2560, audio.shape[1]))
    events = wire.events(first)
    assert events[-1].event == "cancelled" and events[-1].seq == last  # and nothing came after it
    made = joined(events)
    assert np.array_equal(made[1], engine.samples(7, 0, "mix", made[0], made[1].shape[1]))
    assert wire.ask(m.Cancel(job=second)).state == "done"
    assert wire.refused(m.Fetch(job=first)).code == "E_TAKE_MISSING"


def test_lists_by_session_project_and_state(wire: Wire) -> None:
    session = secrets.token_bytes(16)
    jobs = [wire.ask(submit(0.2, session=session, project="a song")).job for _ in range(3)]
    for job in jobs:
        wire.events(job)
    found = wire.ask(m.List(session=session))
    assert [info.job for info in found.jobs] == jobs[::-1] and found.next is None
    page = wire.ask(m.List(project="a song", states=["done"], limit=2))
    assert [info.job for info in page.jobs] == jobs[:0:-1]
    rest = wire.ask(m.List(project="a song", states=["done"], limit=2, before=page.next))
    assert [info.job for info in rest.jobs] == jobs[:1]
    assert not wire.ask(m.List(session=session, states=["failed"])).jobs


def test_ticks_tell_where_a_job_stands(wire: Wire) -> None:
    wire.events(wire.ask(submit(3, text="slow=4")).job)
    steps = [tick.step for tick in wire.ticks]
    assert steps == sorted(steps) and wire.ticks[-1].steps == 154
    assert {"generating"} <= {tick.state for tick in wire.ticks}
    assert any(tick.xrt and tick.eta_ms is not None for tick in wire.ticks)


def test_the_front_end_answers_while_the_worker_is_busy(wire: Wire, shared_house: House) -> None:
    job = wire.ask(submit(10, text="slow=40", variations=4)).job
    slowest = 0.0
    for _ in range(60):
        begun = time.monotonic()
        wire.ask(m.Ping())
        slowest = max(slowest, time.monotonic() - begun)
        time.sleep(0.01)
    wire.ask(m.Cancel(job=job))
    print(f"slowest ping under load: {1000 * slowest:.1f} ms")
    assert slowest < 2


def test_a_newer_next_takes_the_place_of_the_older(shared_house: House) -> None:
    import zmq

    with shared_house.client(zmq.DEALER) as client, shared_house.client() as other:
        job = other.ask(submit(20, text="slow=200")).job
        other.ask(m.Next(job=job, after=1, wait_ms=5000))
        last = other.ask(m.Status(job=job)).info.last
        client.send(m.Next(job=job, after=last + 50, wait_ms=20_000))
        client.send(m.Next(job=job, after=last + 50, wait_ms=20_000))
        begun = time.monotonic()
        assert client.receive(5).events == ()
        assert time.monotonic() - begun < 4
        other.ask(m.Cancel(job=job))


def test_metrics_are_prometheus_text(wire: Wire) -> None:
    text = wire.ask(m.Metrics()).text
    assert 'segue_requests_total{op="hello",outcome="ok"}' in text
    assert "segue_turn_seconds_bucket" in text and text.endswith("\n")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"audio": (tone(1 / 32_000),)}, "E_AUDIO"),
        ({"model": "no such"}, "E_MODEL"),
        ({"stems": ["drums"]}, "E_ARGUMENT"),
        ({"seconds": 3000}, "E_TOO_LONG"),
        ({"seconds": 600, "variations": 16, "rate": 384_000}, "E_TOO_LONG"),
        ({"text": "nan=6"}, "E_NOT_FINITE"),
        ({"text": "impossible"}, "E_ARGUMENT"),
        ({"deadline_ms": 1, "text": "slow=100"}, "E_DEADLINE"),
    ],
)
def test_what_cannot_be_done_is_said(wire: Wire, shared_house: House, more: dict, code: str) -> None:
    seconds = more.pop("seconds", 1.0)
    request = submit(seconds, **more)
    before = len(wire.ask(m.List(limit=500)).jobs)
    try:
        job = wire.ask(request).job
    except m.SegueError as error:
        assert error.code == code and error.message.endswith(".")
        assert len(wire.ask(m.List(limit=500)).jobs) == before
        return
    last = wire.events(job)[-1]
    assert last.event == "failed" and last.error.code == code and last.error.job == job
    assert not (shared_house.state / "takes" / job).exists()
    wire.ask(m.Forget(job=job))
    assert not (shared_house.state / "spool" / job).exists()


def test_silence_is_refused(wire: Wire) -> None:
    block = tone()
    silent = m.AudioBlock(block.format, bytes(len(block.data)))
    assert wire.refused(submit(1, audio=(silent,))).code == "E_AUDIO"


def test_unknown_jobs_are_no_jobs(wire: Wire) -> None:
    for job in ("999999", "abc", "01"):
        for request in (m.Status, m.Next, m.Cancel, m.Forget, m.Fetch):
            assert wire.refused(request(job=job)).code == "E_JOB"
