"""Everything at once: models that do not fit together, classes, cancels, pauses, killed and stopped workers.

Whatever happens, every job ends, every sample that counts is right, and the front-end meets no fault.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import House, Wire, submit

NewHouse = Callable[..., House]
MODELS = ("coded", "other", "fat", "fatter")
FAULTS = ("a turn met a fault", "a request met a fault", "nobody understands", "incident")


def _judge(wire: Wire, job: str, seed: int) -> str:
    """The job's end, after its story and its samples were looked at."""
    events = wire.events(job, wait_s=120)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    void = max((e.seq for e in events if e.event == "requeued" and e.discard_from is not None), default=0)
    at: int | None = None
    for event in events:
        if event.event == "audio" and event.seq > void:
            assert at is None or event.position == at, f"job {job}: a gap or overlap at {at}"
            at = event.position + event.frames
            made = np.frombuffer(event.block.data, "<f4")
            assert np.array_equal(made, engine.samples(seed, 0, "mix", event.position, event.frames)[0])
    if events[-1].event == "done":
        assert at == 16_000
    return events[-1].event


@pytest.mark.parametrize("seed", [20_261_122])
def test_everything_at_once(new_house: NewHouse, seed: int) -> None:
    draw = random.Random(seed)
    house = new_house(
        "worker.memory_gib=0.55", "worker.stay_s=0.3", "worker.slots=3", "worker.stall_s=1.5",
        "worker.backoff_s=0.05", "worker.deaths=1000", "worker.attempts=100", "queue.max_per_session=64",
    )  # fmt: skip
    jobs: dict[str, int] = {}
    cancelled: set[str] = set()
    with house.client() as wire:
        for number in range(24):
            text = draw.choice(["slow=3", "resumable slow=3", "resumable", "oom=20 ooms=1 slow=2"])
            priority = draw.choice(["live", "interactive", "interactive", "batch"])
            session = bytes([draw.randrange(4)]) * 16
            request = submit(
                0.5, rate=32_000, text=text, seed=number, priority=priority, session=session,
                model=draw.choice(MODELS),
            )  # fmt: skip
            jobs[wire.ask(request).job] = number
            happens = draw.random()
            if happens < 0.15 and (pids := house.worker_pids()):
                os.kill(draw.choice(pids), draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP]))
            elif happens < 0.25:
                job = draw.choice(list(jobs))
                wire.ask(m.Cancel(job=job))
                cancelled.add(job)
            elif happens < 0.32:
                wire.ask(m.Pause(release=draw.random() < 0.5))
                time.sleep(draw.uniform(0, 0.2))
                wire.ask(m.Resume())
            time.sleep(draw.uniform(0, 0.2))
        ends = {job: _judge(wire, job, number) for job, number in jobs.items()}
        assert {job for job, end in ends.items() if end == "cancelled"} <= cancelled
        assert "failed" not in ends.values(), ends
        assert wire.ask(m.Ping()).running == wire.ask(m.Ping()).queued == 0
        assert house.process is not None and house.process.poll() is None
    said = (house.folder / "stderr").read_text()
    assert not [line for line in said.splitlines() if any(words in line for words in FAULTS)]
