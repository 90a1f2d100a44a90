"""A model for tests: each sample's value follows from (seed, variation, stem, position), so that a dropped,
repeated or foreign chunk is an exact mismatch. What it does besides is said in the job's text:

    slow=MS       a step takes so long           crash=N    the process dies at step N (of the first attempts)
    nan=N         a sample at frame N is NaN     crashes=K  … of the first K attempts only
    hang=N        step N never ends              stems      the model "stems" has drums, bass, other

Selected through the worker's test hook SEGUE_TEST_ENGINE=tests.daemon.engine:make.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daemon.workers.interface import ModelFacts, Order, Piece, PlayerError, Progress

HOP, RATE = 640, 32_000
HANDLE_FRAMES = 4
STEMS = ("drums", "bass", "other")
SPAN = 8191


def samples(seed: int, variation: int, stem: str, start: int, count: int, channels: int = 1) -> np.ndarray:
    """What the model makes at positions start … start + count - 1: float32 [channels, count], exact in
    float32.
    """
    key = seed * 7919 + variation * 104_729 + sum(stem.encode()) * 31
    positions = (np.arange(start, start + count, dtype=np.int64) + key) * 2654435761 % 2**32
    values = (positions >> 11) % SPAN
    return np.repeat(((values - SPAN // 2) / np.float32(16384)).astype(np.float32)[None], channels, axis=0)


class _Run:
    def __init__(self, ticket: int, order: Order) -> None:
        self.ticket, self.order = ticket, order
        self.does = dict(word.partition("=")[::2] for word in (order.text or "").split())
        self.at = -HANDLE_FRAMES if order.prompt is not None else 0
        self.start = self.at
        self.held = 0


class CodedPlayer:
    """The `Player` of the tests."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self._runs: dict[int, _Run] = {}
        self._next = 0

    def add(self, order: Order) -> int:
        if order.text == "impossible":
            raise PlayerError("E_ARGUMENT", "The model cannot do the impossible.", field="text")
        self._next += 1
        self._runs[self._next] = _Run(self._next, order)
        return self._next

    def step(self) -> Sequence[Piece]:
        pieces: list[Piece] = []
        for run in list(self._runs.values()):
            if run.at >= run.order.frames:
                continue
            self._behave(run)
            run.at += 1
            run.held += 1
            last = run.at >= run.order.frames
            if last or run.held >= run.order.chunk_frames or run.at == run.start + 8:
                pieces += self._pieces(run, last)
                run.held = 0
        return pieces

    def _behave(self, run: _Run) -> None:
        step = run.at - run.start
        if "slow" in run.does:
            time.sleep(float(run.does["slow"]) / 1000)
        if run.does.get("hang") == str(step):
            time.sleep(3600)
        if run.does.get("crash") == str(step) and self._may_crash(run):
            os.kill(os.getpid(), 9)

    def _may_crash(self, run: _Run) -> bool:
        """Count crashes in a file, because the process that crashed remembers nothing."""
        limit = int(run.does.get("crashes", "1000"))
        counter = Path(os.environ["SEGUE_TEST_COUNTER"])
        seen = len(counter.read_bytes()) if counter.exists() else 0
        if seen >= limit:
            return False
        counter.write_bytes(b"x" * (seen + 1))
        return True

    def _pieces(self, run: _Run, last: bool) -> list[Piece]:
        start, count = (run.at - run.held) * HOP, run.held * HOP
        found = []
        for variation in range(run.order.variations):
            for stem in self.facts.stems:
                made = samples(run.order.seed, variation, stem, start, count, self.facts.channels)
                if "nan" in run.does and run.at - run.held <= int(run.does["nan"]) < run.at:
                    made[0, (int(run.does["nan"]) * HOP) - start] = np.nan
                found.append(Piece(run.ticket, variation, stem, start, made, last))
        return found

    def drop(self, ticket: object) -> None:
        self._runs.pop(ticket, None)  # type: ignore[call-overload]

    def progress(self, ticket: object) -> Progress:
        run = self._runs[ticket]  # type: ignore[index]
        steps = run.order.frames - run.start
        return Progress("generating", run.at - run.start, steps)

    def remarks(self, order: Order) -> dict[str, object]:
        return {}

    @property
    def busy(self) -> bool:
        return any(run.at < run.order.frames for run in self._runs.values())


def make(model: str, device: str) -> CodedPlayer:
    """Models: "coded" (mono), "wide" (stereo), "stems", "die" (dies while loading),
    anything else is unknown.
    """
    if model == "die":
        os.kill(os.getpid(), 9)
    if model not in ("coded", "wide", "stems", "other", "pocket"):
        raise PlayerError(
            "E_MODEL", f'There is no model "{model}"; see segue models.', field="model", value=model
        )
    print("a library that prints must not break the link")
    return CodedPlayer(
        ModelFacts(
            name=model,
            rate=RATE,
            channels=2 if model == "wide" else 1,
            hop=HOP,
            stems=STEMS if model == "stems" else ("mix",),
            conditions=("description",),
            device="cpu",
            precision="float32",
            sha256="0" * 64,
            licence="test",
        )
    )
