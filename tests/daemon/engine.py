"""A model for tests: each sample's value follows from (seed, variation, stem, position), so that a dropped,
repeated or foreign chunk is an exact mismatch. What it does besides is said in the job's text:

    slow=MS       a step takes so long           crash=N    the process dies at step N (of the first attempts)
    nan=N         a sample at frame N is NaN     crashes=K  … of the first K attempts only
    hang=N        step N never ends              stems      the model "stems" has drums, bass, other
    oom=N         no memory at step N            ooms=K     … of the first K attempts only
    resumable     it can be continued from its tokens
    prints        it prints in every way there is, while it works
    lives         the values depend on the life (a count of the processes) that made the tokens, too

A token frame says its position and the life that made it: a frame that is lost, doubled or moved on the way
through a crash is refused, and audio that was not made from the journaled tokens has another life's values.

Selected through the worker's test hook SEGUE_TEST_ENGINE=tests.daemon.engine:make.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daemon.tokens import TokenFrames
from daemon.workers.interface import ModelFacts, Order, Piece, PlayerError, Progress
from daemon.workers.past import ResumeRefused

HOP, RATE = 640, 32_000
HANDLE_FRAMES = 4
STEMS = ("drums", "bass", "other")
SPAN = 8191
FAT_BYTES = 300 << 20
TOKEN = struct.Struct("<iHH")  # position of the frame, variation, life
REPLAYED_AT_ONCE = 64


def samples(
    seed: int, variation: int, stem: str, start: int, count: int, channels: int = 1, life: int = 0
) -> np.ndarray:
    """What the model makes at positions start … start + count - 1: float32 [channels, count], exact in
    float32. `life` is 0 unless the job says "lives".
    """
    key = seed * 7919 + variation * 104_729 + sum(stem.encode()) * 31 + life * 15_485_863
    positions = (np.arange(start, start + count, dtype=np.int64) + key) * 2654435761 % 2**32
    values = (positions >> 11) % SPAN
    return np.repeat(((values - SPAN // 2) / np.float32(16384)).astype(np.float32)[None], channels, axis=0)


class _Run:
    def __init__(self, ticket: int, order: Order, life: int, made: Sequence[TokenFrames]) -> None:
        self.ticket, self.order = ticket, order
        self.does = dict(word.partition("=")[::2] for word in (order.text or "").split())
        self.life = life if "lives" in self.does else 0
        self.at = -HANDLE_FRAMES if order.prompt is not None else 0
        self.start = self.at
        self.held = 0
        self.told = self.at
        self.lives: list[int] = []  # of each frame made, from `start` on
        self.known = self._read(made)

    def _read(self, made: Sequence[TokenFrames]) -> list[int]:
        """The lives of the frames that were made before; every frame must be where it says that it is."""
        lives: list[list[int]] = []
        for variation, part in enumerate(sorted(made, key=lambda found: found.variation)):
            frames = list(TOKEN.iter_unpack(part.data))
            right = [(self.start + index, variation) for index in range(part.count)]
            if part.start != self.start or [frame[:2] for frame in frames] != right:
                raise ResumeRefused("the token frames are not where they belong")
            lives.append([frame[2] for frame in frames])
        if made and (len(lives) != self.order.variations or any(found != lives[0] for found in lives)):
            raise ResumeRefused("the variations have different tokens")
        return lives[0] if lives else []


class CodedPlayer:
    """The `Player` of the tests."""

    def __init__(self, facts: ModelFacts, life: int = 0) -> None:
        self.facts = facts
        self.ballast: np.ndarray | None = None
        self._life = life
        self._runs: dict[int, _Run] = {}
        self._next = 0

    def identity(self, order: Order) -> dict[str, Any] | None:
        if "resumable" not in (order.text or "").split():
            return None
        return {"engine": "coded", "model": self.facts.name, "precision": self.facts.precision}

    def add(self, order: Order, made: Sequence[TokenFrames] = ()) -> int:
        if order.text == "impossible":
            raise PlayerError("E_ARGUMENT", "The model cannot do the impossible.", field="text")
        self._next += 1
        self._runs[self._next] = _Run(self._next, order, self._life, made)
        return self._next

    def made(self, ticket: object) -> Sequence[TokenFrames]:
        run = self._runs[ticket]  # type: ignore[index]
        first, run.told = run.told, run.at
        if first == run.at:
            return ()
        found = []
        for variation in range(run.order.variations):
            frames = [TOKEN.pack(at, variation, run.lives[at - run.start]) for at in range(first, run.at)]
            found.append(TokenFrames(variation, first, len(frames), b"".join(frames)))
        return found

    def step(self) -> Sequence[Piece]:
        pieces: list[Piece] = []
        for run in list(self._runs.values()):
            for _ in range(max(1, min(REPLAYED_AT_ONCE, len(run.known) - (run.at - run.start)))):
                if run.at < run.order.frames:
                    pieces += self._frame(run)
        return pieces

    def _frame(self, run: _Run) -> list[Piece]:
        done = run.at - run.start
        if done < len(run.known):
            run.lives.append(run.known[done])
        else:
            self._behave(run)
            run.lives.append(run.life)
        run.at += 1
        run.held += 1
        last = run.at >= run.order.frames
        if not (last or run.held >= run.order.chunk_frames or run.at == run.start + 8):
            return []
        pieces = self._pieces(run, last)
        run.held = 0
        return pieces

    def _behave(self, run: _Run) -> None:
        step = run.at - run.start
        if "prints" in run.does:
            print("a print", flush=True)
            os.write(1, b"\xff\xff\xff\x7fbytes to descriptor 1")
            os.system("echo a child's words")
        if "slow" in run.does:
            time.sleep(float(run.does["slow"]) / 1000)
        if run.does.get("hang") == str(step):
            time.sleep(3600)
        if run.does.get("crash") == str(step) and self._may(run, "crashes"):
            os.kill(os.getpid(), 9)
        if run.does.get("oom") == str(step) and self._may(run, "ooms"):
            raise MemoryError

    def _may(self, run: _Run, times: str) -> bool:
        """Count crashes in a file, because the process that crashed remembers nothing."""
        limit = int(run.does.get(times, "1000"))
        counter = Path(os.environ["SEGUE_TEST_COUNTER"])
        seen = len(counter.read_bytes()) if counter.exists() else 0
        if seen >= limit:
            return False
        counter.write_bytes(b"x" * (seen + 1))
        return True

    def _pieces(self, run: _Run, last: bool) -> list[Piece]:
        start = (run.at - run.held) * HOP
        found = []
        for variation in range(run.order.variations):
            for stem in run.order.stems or self.facts.stems:
                made = np.concatenate(
                    [
                        samples(
                            run.order.seed, variation, stem, at * HOP, HOP, self.facts.channels,
                            run.lives[at - run.start],
                        )
                        for at in range(run.at - run.held, run.at)
                    ],
                    axis=1,
                )  # fmt: skip
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


def _life() -> int:
    """How many processes have had a model, this one included: counted in a file (0 where there is none)."""
    if "SEGUE_TEST_COUNTER" not in os.environ:
        return 0
    counter = Path(os.environ["SEGUE_TEST_COUNTER"] + ".lives")
    with counter.open("ab") as file:
        file.write(b"x")
    return counter.stat().st_size


def make(model: str, device: str) -> CodedPlayer:
    """Models: "coded" (mono), "wide" (stereo), "stems", "die" (dies while loading), "fat" and "fatter" (hold
    FAT_BYTES), "greedy" (finds no memory at its first load), "glutton" (never does); the rest is unknown.
    """
    if model == "die":
        os.kill(os.getpid(), 9)
    if model == "glutton" or (model == "greedy" and _first_load()):
        raise MemoryError
    if model not in ("coded", "wide", "stems", "other", "pocket", "fat", "fatter", "greedy"):
        raise PlayerError(
            "E_MODEL", f'There is no model "{model}"; see segue models.', field="model", value=model
        )
    print("a library that prints must not break the link")
    made = CodedPlayer(
        life=_life(),
        facts=ModelFacts(
            name=model,
            rate=RATE,
            channels=2 if model == "wide" else 1,
            hop=HOP,
            stems=STEMS if model == "stems" else ("mix",),
            conditions=("description", "context") if model == "stems" else ("description",),
            device="cpu",
            precision="float32",
            sha256="0" * 64,
            licence="test",
        ),
    )
    if model.startswith("fat"):
        made.ballast = np.ones(FAT_BYTES // 8)
    return made


def _first_load() -> bool:
    counter = Path(os.environ["SEGUE_TEST_COUNTER"] + ".loads")
    seen = counter.exists()
    counter.touch()
    return not seen
