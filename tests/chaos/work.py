"""What the chaos suite asks for and what it must get: small jobs of the coded player, sample by sample."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np

from protocol import messages as m
from tests.daemon import engine
from tests.daemon.house import submit, tone

RATE = engine.RATE
HANDLE = engine.HANDLE_FRAMES * engine.HOP


@dataclasses.dataclass(frozen=True)
class Task:
    """One job as its host remembers it. `of`: the job whose retake it is."""

    key: str
    frames: int
    seed: int
    text: str = ""
    mode: str = "continue"
    variations: int = 1
    stems: tuple[str, ...] = ("mix",)
    priority: str = "interactive"
    model: str = "coded"
    of: str | None = None

    @property
    def first(self) -> int:
        """Position of the first sample of every voice."""
        return -HANDLE if self.mode == "continue" else 0

    @property
    def voices(self) -> list[tuple[int, str]]:
        return [(variation, stem) for variation in range(self.variations) for stem in self.stems]

    def request(self, session: bytes | None = None, project: str | None = None) -> m.Submit | m.Retake:
        if self.of is not None:
            return m.Retake(
                key=bytes.fromhex(self.key), job=self.of, seed=self.seed, variations=self.variations
            )
        audio = (tone(0.2),) if self.mode == "continue" else ()
        return submit(
            None,
            length=m.Length(frames=self.frames),
            key=bytes.fromhex(self.key), mode=self.mode, seed=self.seed, text=self.text or None,
            model=self.model, rate=RATE, channels=1, variations=self.variations, stems=self.stems,
            priority=self.priority, session=session, project=project, audio=audio,
        )  # fmt: skip


def draw(rng: random.Random, model: str = "coded", *, slow_ms: float = 3.0) -> Task:
    """A job of 0.1 to 1 s of audio, of some of the stems that the model has."""
    stems = (*engine.STEMS, "mix") if model == "stems" else ("mix",)
    words = [f"slow={rng.uniform(0, slow_ms):.2f}"] + (["resumable"] if rng.random() < 0.7 else [])
    return Task(
        key=rng.randbytes(16).hex(),
        frames=rng.randrange(RATE // 10, RATE),
        seed=rng.randrange(2**31),
        text=" ".join(words),
        mode=rng.choice(("continue", "continue", "generate")),
        variations=rng.choice((1, 1, 2, 3)),
        stems=tuple(sorted(rng.sample(stems, rng.randint(1, len(stems))))),
        priority=rng.choice(("live", "interactive", "interactive", "batch")),
        model=model,
    )


def reference(task: Task, variation: int, stem: str, position: int, frames: int) -> bytes:
    """What the samples of this place must be, as they travel. "mix" of a model with stems is their sum."""
    if stem == "mix" and task.model == "stems":
        parts = [engine.samples(task.seed, variation, name, position, frames, 1) for name in engine.STEMS]
        return np.stack(parts).sum(axis=0, dtype=np.float32).T.astype("<f4").tobytes()
    return engine.samples(task.seed, variation, stem, position, frames, 1).T.astype("<f4").tobytes()


def to_map(task: Task) -> dict[str, Any]:
    return dataclasses.asdict(task)


def from_map(found: dict[str, Any]) -> Task:
    return Task(**{**found, "stems": tuple(found["stems"])})
