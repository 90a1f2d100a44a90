"""What a model must offer to be driven by a worker process, in plain numpy.

The worker knows hosts, rates, spools and jobs; the player behind this interface knows one model. A new family
of engines is one file that implements `Player`, beside `genmodel_player`.

Threading model: everything here is called from the worker's one thread.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daemon.tokens import TokenFrames
from daemon.workers.past import ResumeRefused
from protocol.harmony import Chord
from protocol.tempo import TempoMap

Samples = NDArray[np.float32]  # [channels, n]


class PlayerError(Exception):
    """A job that this model cannot do, or a model that cannot be had; `error` is a map as `SegueError` has
    it.
    """

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.error: dict[str, Any] = {"code": code, "message": message, **more}


@dataclass(frozen=True)
class ModelFacts:
    """What a loaded model is. Rates in Hz, `hop` in samples of the model's rate per token frame."""

    name: str
    rate: int
    channels: int
    hop: int
    stems: tuple[str, ...]
    conditions: tuple[str, ...]
    device: str
    precision: str
    precision_why: str = "asked for"
    sha256: str = ""
    licence: str = ""
    max_prompt_s: float = 30.0
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """One request in the model's own terms: `frames` token frames after the seam,
    audio at the model's rate. The seam is where the new frames begin.
    """

    mode: str
    frames: int
    prompt: Samples | None
    context: Samples | None  # aligned so that its sample 0 is the prompt's sample 0
    text: str | None
    negative_text: str | None
    seed: int
    variations: int
    sampling: dict[str, Any]
    guidance: dict[str, Any]
    tempo_map: TempoMap | None
    harmony: tuple[Chord, ...] | None
    stems: tuple[str, ...] | None
    chunk_frames: int
    given: tuple[str, ...] = ()  # stems that the context has already
    source: Samples | None = None  # what is varied; its sample 0 is the seam
    strength: float = 0.5
    following: Samples | None = None  # what comes after a gap
    following_at: int = 0  # its first sample, counted from the seam
    heard_from: int = 0  # token frames after the seam from which it is heard
    ahead_s: Fraction = Fraction(0)  # how long before the seam of the request the order begins


@dataclass(frozen=True)
class Piece:
    """Final samples of one variation and stem. `position` counts model samples from the seam (handle:
    negative).
    """

    ticket: Hashable
    variation: int
    stem: str
    position: int
    samples: Samples
    last: bool


@dataclass(frozen=True)
class Failure:
    """An order that ended in the middle; it is no longer aboard."""

    ticket: Hashable
    error: PlayerError | ResumeRefused


@dataclass(frozen=True)
class Progress:
    """`state` is "waiting", "prefill", "generating" or "decoding"; steps are true
    totals of the whole order.
    """

    state: str
    step: int
    steps: int


class Player(Protocol):
    """One loaded model that serves several orders at once."""

    facts: ModelFacts

    def identity(self, order: Order) -> dict[str, Any] | None:
        """What the bits of an order's audio depend on besides the order, as a plain map: where it is the same
        an order can be continued from its tokens. None: this order cannot.
        """

    def add(self, order: Order, made: Sequence[TokenFrames] = ()) -> Hashable:
        """Take an order aboard; raises `PlayerError`. The ticket names it from now on.

        `made`: tokens of the same order that an earlier attempt reported. All pieces come again from the
        first on, those of these tokens as they were. Raises `ResumeRefused` (here, or as a `Failure` of a
        step) when that cannot be.
        """

    def made(self, ticket: Hashable) -> Sequence[TokenFrames]:
        """Token frames that were made since the last call, those it began from included; they cover every
        piece given so far.
        """

    def step(self) -> Sequence[Piece | Failure]:
        """One step for everything aboard; the audio that became final, and what failed."""

    def drop(self, ticket: Hashable) -> None:
        """Let go of an order between steps; its slots are free when this returns. Unknown tickets are
        ignored.
        """

    def progress(self, ticket: Hashable) -> Progress: ...

    def remarks(self, order: Order) -> dict[str, Any]:
        """What a user should be told about an order besides its audio, for the manifest."""

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
