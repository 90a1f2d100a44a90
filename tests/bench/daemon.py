"""How long the daemon takes to do what it is told, and what it takes of the engine's speed.

To hear a cancel, start a job beside a full queue, and recover, the model is the coded one of the tests (a
step takes as long as the job says), so that the figures are the daemon's own. The others are of pocket, and
of a checkpoint at MusicGen-small's shape with random weights in int8. Times are of a client on the same
machine.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from genmodel.engine.kernels import native_absent
from protocol import messages as m
from tests.bench import through
from tests.bench.aims import Aim
from tests.bench.checkpoint import small_checkpoint
from tests.daemon.house import House, Wire, submit

AIMS = (
    Aim("int8 at small shape, xrt through the daemon over the engine alone", "small_int8.share", least=0.98),
    Aim("pocket, the same", "pocket.share", least=0.98),
    Aim("round trip while generating, 99th percentile", "round_trip_ms.p99", most=5, unit="ms"),
    Aim("pocket through the daemon, codec and stems included", "pocket.xrt.daemon", least=4, unit="xrt"),
    Aim("pocket, first audio of a 0.2 s chunk, warm", "first_audio_ms.pocket.p50", most=150, unit="ms"),
    Aim("int8 at small shape, first audio", "first_audio_ms.small_int8.p50", most=280, unit="ms"),
)
FIRST = 12
CANCELS, INTERACTIVE, KILLS, BATCH_JOBS = 60, 20, 8, 60
STEP_MS = 20


def run(args: Any) -> dict[str, Any]:
    """`args.rounds` scales how often each is done."""
    scale = args.rounds / 3
    shares = {"pocket": through.share("pocket", "auto", max(1, 2 * args.rounds - 1), (32_000, 48_000))}
    count, seconds = max(2, round(FIRST * scale)), through.CLIP_S if args.rounds else 1.0
    first = {"pocket": _spread(through.first_audio("pocket", "auto", count))}
    if native_absent() is None:
        with tempfile.TemporaryDirectory(prefix="segue-bench-") as folder:
            small = str(small_checkpoint(Path(folder) / "small"))
            shares["small_int8"] = through.share(small, "int8", max(1, args.rounds), seconds=seconds)
            first["small_int8"] = _spread(through.first_audio(small, "int8", count))
    trips = {name: _spread(found.pop("round_trip_s")) for name, found in shares.items()}
    return {
        "round_trip_ms": trips["pocket"],
        "round_trip_ms_of": trips,
        **shares,
        "first_audio_ms": first,
        "first_chunk_s": through.FIRST_CHUNK_S,
        "step_ms": STEP_MS,
        "cancel_ms": _spread(_cancels(max(3, round(CANCELS * scale)))),
        f"start_beside_{BATCH_JOBS}_batch_jobs_ms": _spread(_starts(max(3, round(INTERACTIVE * scale)))),
        "recovery_after_worker_kill_ms": _spread(_recoveries(max(2, round(KILLS * scale)))),
        "threads": torch.get_num_threads(),
    }


def _spread(times_s: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * found for found in times_s)
    last = len(ordered) - 1
    return {
        "count": float(len(ordered)),
        "p50": statistics.median(ordered),
        "p99": ordered[round(0.99 * last)],
        "max": ordered[-1],
    }


def _until(wire: Wire, job: str, after: int, kind: str) -> int:
    """Waits for an event of a kind; its number."""
    by = time.monotonic() + 60
    while time.monotonic() < by:
        reply = wire.ask(m.Next(job=job, after=after, wait_ms=2000, max_bytes=0))
        for event in reply.events:
            if event.event == kind:
                return event.seq
        after = reply.events[-1].seq if reply.events else after
    raise TimeoutError(f"job {job} has no {kind} event")


def _cancels(count: int) -> list[float]:
    """From the cancel to the free slot, with a neighbour that works on."""
    house = House("queue.max_per_session=64").start()
    try:
        with house.client() as wire:
            found = []
            neighbour = wire.ask(submit(600, text=f"slow={STEP_MS / 2}", session=b"n" * 16)).job
            for _ in range(count):
                job = wire.ask(submit(60, text=f"slow={STEP_MS / 2}", session=b"c" * 16)).job
                _until(wire, job, 1, "audio")
                begun = time.monotonic()
                wire.ask(m.Cancel(job=job))
                while wire.ask(m.Status(job=job)).info.worker is not None:
                    time.sleep(0.001)
                found.append(time.monotonic() - begun)
            wire.ask(m.Cancel(job=neighbour))
            return found
    finally:
        house.close()


def _starts(count: int) -> list[float]:
    """From the submit of one host's interactive job to its start, while another host's batch jobs wait."""
    house = House("queue.max_per_session=200", "queue.max_jobs=200").start()
    try:
        with house.client() as wire:
            for _ in range(BATCH_JOBS):
                wire.ask(submit(60, text=f"slow={STEP_MS / 4}", session=b"b" * 16, priority="batch"))
            _until(wire, "1", 1, "audio")
            found = []
            for _ in range(count):
                begun = time.monotonic()
                job = wire.ask(submit(0.2, session=b"i" * 16)).job
                _until(wire, job, 1, "started")
                found.append(time.monotonic() - begun)
                _until(wire, job, 1, "done")
            return found
    finally:
        house.close()


def _recoveries(count: int) -> list[float]:
    """From SIGKILL of the worker to new audio of the job that it had, the wait after a crash left out."""
    house = House("worker.backoff_s=0", "worker.deaths=1000", "worker.attempts=100").start()
    try:
        with house.client() as wire:
            found = []
            job = wire.ask(submit(600, text=f"resumable slow={STEP_MS}")).job
            last = _until(wire, job, 1, "audio")
            for _ in range(count):
                begun = time.monotonic()
                for pid in house.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                last = _until(wire, job, _until(wire, job, last, "requeued"), "audio")
                found.append(time.monotonic() - begun)
            wire.ask(m.Cancel(job=job))
            return found
    finally:
        house.close()
