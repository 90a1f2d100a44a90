"""A real model through the daemon: its share of the time, round trips meanwhile, and the first audio."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from protocol import messages as m
from tests.bench.alone import TEXT, Alone
from tests.daemon.house import House, Wire

CLIP_S = 12.0  # less than pocket's window
FIRST_CHUNK_S = 0.2
PINGS = 600
Spread = Callable[[list[float]], dict[str, float]]


def request(seconds: float, seed: int, rate: int) -> m.Submit:
    """A take from a text."""
    return m.Submit(
        key=secrets.token_bytes(16), mode="generate", length=m.Length(seconds=seconds), seed=seed, text=TEXT,
        rate=rate, channels=2, level="off",
    )  # fmt: skip


def heard(wire: Wire, asked: m.Submit, only_first: bool = False) -> dict[str, float]:
    """Seconds from the submit to the first audio in the client's hands, to the last, and to the files."""
    begun = time.perf_counter()
    job = wire.ask(asked).job
    found: dict[str, float] = {}
    after = 0
    while "done_s" not in found:
        reply = wire.ask(m.Next(job=job, after=after, wait_ms=2000, max_bytes=1 << 22))
        now = time.perf_counter() - begun
        for event in reply.events:
            after = event.seq
            if event.event == "audio":
                found.setdefault("first_s", now)
                found["total_s"] = now
            elif event.event in ("failed", "cancelled"):
                raise RuntimeError(f"the take ended otherwise: {event}")
            elif event.event == "done":
                found["done_s"] = now
        if only_first and "first_s" in found:
            wire.ask(m.Cancel(job=job))
            while wire.ask(m.Status(job=job)).info.worker is not None:
                time.sleep(0.005)
            break
    return found


def _house(*settings: str, model: str, threads: int) -> House:
    return House(f"worker.threads={threads}", *settings, model=model, real=True).start()


def share(
    model: str, precision: str, rounds: int, rates: tuple[int, ...] = (32_000,), seconds: float = CLIP_S
) -> dict[str, Any]:
    """Whole takes by one model, engine alone and through the daemon in turn, at each of the rates (its own
    is the first).

    The pings go out while a long take is made.
    """
    threads = torch.get_num_threads()
    house = _house(f"worker.precision={precision}", model=model, threads=threads)
    alone = Alone(model, precision, threads)
    times: dict[str, list[float]] = {}
    try:
        with house.client() as wire:
            for number in range(rounds + 1):
                found = {"alone": alone.take(round(50 * seconds), number)["total_s"]}
                for rate in rates:
                    made = heard(wire, request(seconds, number, rate))
                    name = "daemon" if rate == rates[0] else f"daemon_{rate}"
                    found |= {name: made["total_s"], f"{name}_to_files": made["done_s"]}
                for name, took_s in found.items():
                    times.setdefault(name, []).extend([took_s] if number else [])
            trips = _round_trips(wire)
    finally:
        alone.close()
        house.close()
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "xrt": {name: seconds / took_s for name, took_s in medians.items()},
        "share": medians["alone"] / medians["daemon"],
        "seconds": seconds,
        "precision": precision,
        "round_trip_s": trips,
    }


def _round_trips(wire: Wire) -> list[float]:
    """Times of pings while a take is being made."""
    job = wire.ask(request(300.0, 1, 48_000)).job
    while not any(e.event == "audio" for e in wire.ask(m.Next(job=job, wait_ms=2000, max_bytes=0)).events):
        pass
    found = []
    for _ in range(PINGS):
        begun = time.perf_counter()
        wire.ask(m.Ping())
        found.append(time.perf_counter() - begun)
        time.sleep(0.01)
    if wire.ask(m.Status(job=job)).info.state != "running":
        raise RuntimeError("the take was over before the pings were")
    wire.ask(m.Cancel(job=job))
    return found


def first_audio(model: str, precision: str, count: int) -> list[float]:
    """Seconds to the first chunk of 0.2 s of each of ``count`` takes, the model loaded and warm."""
    settings = (f"takes.chunk_s={FIRST_CHUNK_S}", f"worker.precision={precision}", "worker.slots=2")
    house = _house(*settings, model=model, threads=torch.get_num_threads())
    try:
        with house.client() as wire:
            found = [
                heard(wire, request(4.0, n, 32_000), only_first=True)["first_s"] for n in range(count + 2)
            ]
    finally:
        house.close()
    return found[2:]
