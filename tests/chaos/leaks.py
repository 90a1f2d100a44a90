"""Ten thousand jobs and as many reconnects: nothing is left of them but what was asked for.

Each job is handed in over one connection, followed over another, checked sample by sample and forgotten; some
clients attach and vanish, some vanish while their question is held, some never say a word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from protocol import messages as m
from tests.chaos.report import Report, Scale
from tests.chaos.watch import Pulse, Taken, incidents, settled, slope, taken
from tests.daemon import engine
from tests.daemon.house import House, joined, submit, tone

BATCH = 16
BYTES_A_JOB = 1024.0
FIRST_SHARE = 0.25  # of the run, in which caches fill and the allocator finds its size
CI_NOISE_BYTES = 1 << 20  # what a short run may be off by: pages come in pieces
FILES_LEFT = 4
MOST_JOURNAL_BYTES_A_JOB = 2048.0  # a tombstone: key, digest, when


@dataclasses.dataclass
class _Course:
    """What was seen on the way: (jobs so far, what the processes take)."""

    front: list[tuple[int, Taken]] = dataclasses.field(default_factory=list)
    worker: list[tuple[int, Taken]] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    samples: int = 0
    reconnects: int = 0


def run(scale: Scale, seed: int, folder: Path) -> Report:
    report, dice = Report("leaks", seed), random.Random(seed)
    count = scale.pick(500, 10_000)
    house = House("queue.max_jobs=64", "queue.max_per_session=64", "log.max_mib=0.5", "log.keep=1").start()
    try:
        course = _Course()
        _batch(house, course, dice, BATCH)  # the worker is there
        front = house.process.pid if house.process is not None else 0
        (worker,) = house.worker_pids()
        before = settled(front, taken(front), wait_s=1), taken(worker)
        size_before, begun = _journal_bytes(house), time.monotonic()
        with Pulse(house, every_s=0.05) as pulse:
            done = 0
            while done < count:
                _batch(house, course, dice, min(BATCH, count - done))
                done += min(BATCH, count - done)
                if done % max(BATCH, count // 100 // BATCH * BATCH) == 0:
                    course.front.append((done, taken(front)))
                    course.worker.append((done, taken(worker)))
        took = time.monotonic() - begun
        after = settled(front, before[0], memory_bytes=2 << 20), taken(worker)
        report.figures |= {
            "jobs, each sample as it should be": f"{count}, {course.samples} samples",
            "reconnects": course.reconnects,
            "jobs a second": round(count / took, 1),
            "ping meanwhile": pulse.answers.words,
        }
        report.broken += course.wrong[:10]
        _judge(report, scale, "front-end", course.front, before[0], after[0])
        _judge(report, scale, "worker", course.worker, before[1], after[1])
        report.expect(house.worker_pids() == [worker], "it is not the same worker any more")
        grown = (_journal_bytes(house) - size_before) / count
        report.figures["journal a forgotten job"] = f"{grown:.0f} bytes"
        report.expect(
            scale.ci or grown <= MOST_JOURNAL_BYTES_A_JOB, f"{grown:.0f} bytes of journal a forgotten job"
        )
        left = [path for name in ("spool", "takes") for path in (house.state / name).iterdir()]
        report.figures["folders of forgotten jobs"] = len(left)
        report.expect(len(left) <= FILES_LEFT, f"folders are left: {[path.name for path in left[:5]]}")
        report.broken += [f"incident: {line}" for line in incidents(house)[:5]]
    finally:
        house.close()
    return report


def _batch(house: House, course: _Course, dice: random.Random, count: int) -> None:
    """Some jobs at once, from the first word to the last."""
    jobs: list[tuple[str, int]] = []
    with house.client() as wire:
        for _ in range(count):
            seed = dice.randrange(1, 1 << 20)
            request = submit(
                None, length=m.Length(frames=dice.randrange(640, 6400)), rate=32_000, seed=seed,
                key=dice.randbytes(16), session=dice.choice((b"a", b"b", b"c", b"d")) * 16,
                audio=(tone(0.2),), priority=dice.choice(("live", "interactive", "batch")),
            )  # fmt: skip
            jobs.append((wire.ask(request).job, seed))
    for job, seed in jobs:
        _vanish(house, job, dice)
        with house.client() as wire:
            events = wire.events(job)
            course.reconnects += 2
            _check(house, course, job, seed, events)
            if dice.random() < 0.1:
                _check_file(course, wire.ask(m.Fetch(job=job)), seed, job)
            wire.ask(m.Forget(job=job))


def _vanish(house: House, job: str, dice: random.Random) -> None:
    """A client that comes, perhaps asks, and is gone without a word."""
    kind = dice.choice((zmq.REQ, zmq.DEALER))
    with house.client(kind) as wire:
        what = dice.randrange(4)
        if what == 1:
            wire.ask(m.Ping())
        elif what == 2:
            wire.send(m.Next(job=job, after=1 << 40, wait_ms=20_000))
        elif what == 3 and kind == zmq.DEALER:
            wire.send(m.Attach(job=job, credit=dice.choice((0, 1 << 20))))


def _check(house: House, course: _Course, job: str, seed: int, events: list[Any]) -> None:
    with contextlib.suppress(AssertionError, IndexError):
        start, audio = joined(events)
        course.samples += audio.size
        if np.array_equal(audio, engine.samples(seed, 0, "mix", start, audio.shape[1])):
            return
    course.wrong.append(f"job {job} came out wrong (seed {seed}): {[event.event for event in events]}")


def _check_file(course: _Course, reply: m.FetchReply, seed: int, job: str) -> None:
    data = np.frombuffer(Path(reply.path or "").read_bytes()[-4 * reply.frames :], "<f4")
    if not np.array_equal(data, engine.samples(seed, 0, "mix", 0, reply.frames)[0]):
        course.wrong.append(f"the file of job {job} is wrong (seed {seed})")


def _journal_bytes(house: House) -> int:
    return sum(
        path.stat().st_size for path in house.state.glob("journal.db*") if not path.name.endswith("-wal")
    )


def _judge(
    report: Report, scale: Scale, name: str, course: list[tuple[int, Taken]], before: Taken, after: Taken
) -> None:
    """Slope of the memory after the first quarter, descriptors and threads as they were."""
    late = course[int(FIRST_SHARE * len(course)) :]
    rate = slope([(float(jobs), float(found.memory_bytes)) for jobs, found in late])
    span = max(1, late[-1][0] - late[0][0]) if late else 1
    report.figures[name] = (
        f"{rate:.0f} bytes a job over {span} jobs; before {before.words}; afterwards {after.words}; at most"
        f" {max(found.descriptors for _, found in course)} descriptors"
    )
    bound = BYTES_A_JOB + (CI_NOISE_BYTES / span if scale.ci else 0)
    report.expect(rate <= bound, f"the {name}'s memory grows by {rate:.0f} bytes a job")
    report.expect(after.descriptors <= before.descriptors + 1, f"the {name} keeps descriptors: {after.words}")
    report.expect(after.threads <= before.threads, f"the {name} keeps threads: {after.words}")
