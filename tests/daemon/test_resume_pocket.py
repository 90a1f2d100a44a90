"""The real engine killed at random moments: the take is that of an undisturbed run, bit for bit."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from genmodel.engine.kernels import native_absent, native_floats, packing_available
from protocol import messages as m
from tests.daemon.house import House, Wire, joined, submit, tone
from tests.daemon.test_resume import checked, kill_worker, wav

# the native kernels are so many times as fast, and a kill must not come too late
LONGER = {"float32": 2.5 if native_floats() else 1, "int8": 4}


@pytest.fixture(scope="module", params=list(LONGER))
def precision(request: pytest.FixtureRequest) -> str:
    if request.param == "int8" and (absent := native_absent()):
        pytest.skip(absent)
    return str(request.param)


@pytest.fixture(scope="module")
def pocket_house(precision: str) -> Iterator[House]:
    house = House(
        "worker.threads=1", "worker.attempts=50", "worker.backoff_s=0", "worker.deaths=100000",
        "life.crash_pause_s=0", "takes.chunk_s=0.25", f"worker.precision={precision}",
        model="pocket", real=True,
    )  # fmt: skip
    yield house.start()
    house.close()


def _same(wire: Wire, job: str, events: list[Any], twin: list[Any], variations: int) -> None:
    for variation in range(variations):
        for stem in sorted({e.stem for e in twin if e.event == "audio"}):
            start, audio = joined(events, variation, stem)
            first, whole = joined(twin, variation, stem)
            assert start == first and np.array_equal(audio, whole), (variation, stem)
            made = wav(wire, job, variation, stem).reshape(-1, audio.shape[0]).T
            assert np.array_equal(made, whole[:, -first or None :])


def _killed(wire: Wire, house: House, job: str, kills: int, rng: random.Random, most_s: float) -> None:
    """Kill the worker at random moments, each at least one chunk further than the last and ``most_s`` after
    one.
    """
    after = 0
    for _ in range(kills):
        for _ in range(rng.randint(1, 6)):
            while True:
                reply = wire.ask(m.Next(job=job, after=after, wait_ms=2000, max_bytes=0))
                after = reply.events[-1].seq if reply.events else after
                if reply.events and reply.events[-1].final:
                    return
                if any(e.event == "audio" for e in reply.events):
                    break
        time.sleep(rng.uniform(0.0, most_s))
        kill_worker(house)


MODES: dict[str, dict[str, Any]] = {
    "continue, stems, 48 kHz": {"seconds": 1.6, "rate": 48_000, "audio": (tone(2.0, 48_000, 2),)},
    "generate, 44.1 kHz, two variations": {
        "seconds": 1.6, "rate": 44_100, "mode": "generate", "variations": 2, "stems": ["mix"],
    },
    "continue, matched level, 32 kHz": {
        "seconds": 1.6, "rate": 32_000, "level": "match", "handle_ms": 50, "stems": ["drums", "mix"],
        "audio": (tone(3.0, 32_000),),
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", list(MODES))
def test_a_killed_take_is_its_undisturbed_twin(pocket_house: House, precision: str, mode: str) -> None:
    asked = dict(MODES[mode])
    seconds, variations = LONGER[precision] * asked.pop("seconds"), asked.get("variations", 1)
    with pocket_house.client() as wire:
        twin = checked(wire.events(wire.ask(submit(seconds, text="slow piano", **asked)).job, wait_s=120))
        job = wire.ask(submit(seconds, text="slow piano", **asked)).job
        _killed(wire, pocket_house, job, 3, random.Random(mode), 0.1 / LONGER[precision])
        events = checked(wire.events(job, wait_s=120))
        requeued = [e for e in events if e.event == "requeued"]
        assert requeued and all(e.discard_from is None for e in requeued), requeued
        _same(wire, job, events, twin, variations)


def test_another_precision_is_said_and_never_spliced() -> None:
    house = House("worker.threads=1", "life.drain_s=0.1", "takes.chunk_s=0.25", model="pocket", real=True)
    house.settings.append("worker.precision=float32")
    try:
        with house.start().client() as wire:
            job = wire.ask(submit(1.5, mode="generate", rate=32_000)).job
            while not any(
                e.event == "audio" for e in wire.ask(m.Next(job=job, wait_ms=2000, max_bytes=0)).events
            ):
                pass
            house.stop()
        other = "worker.precision=bfloat16" if packing_available(torch.bfloat16) else "worker.threads=2"
        house.settings.append(other)
        with house.start().client() as wire:
            events = wire.events(job, wait_s=120)
            assert events[-1].event == "done"
            words = [(e.discard_from, e.why) for e in events if e.event == "requeued"]
            assert words[0] == (None, "the daemon was stopped")
            assert words[1][0] is not None
            said = "was float32, and is bfloat16" in words[1][1]
            assert said == ("precision" in other)
            assert joined(events)[1].shape == (2, 48_000)
            assert {e.attempt for e in events if e.event == "audio"} == {1, 3}
    finally:
        house.close()
