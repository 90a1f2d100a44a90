"""A job that has not ended, as the front-end holds it in memory."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

# What has happened to the job is not journaled yet, because the disk refused: it is tried again every turn,
# and nothing else happens to the job before.
UNSETTLED = "unsettled"


@dataclasses.dataclass
class Progress:
    """What a worker last said about a job; absolute values."""

    state: str = "queued"
    step: int = 0
    steps: int = 0
    samples: int = 0
    note: str | None = None
    begun_s: float = 0.0  # monotonic; when the attempt began
    stamp_s: float = 0.0  # monotonic; when any of this last changed
    first_step: tuple[float, int] | None = None  # when steps were first seen, and how many

    def eta_s(self, now_s: float) -> float | None:
        """Time left at the pace of the steps so far; the prefill before them does not count."""
        if self.first_step is None or self.step <= self.first_step[1]:
            return None
        pace = (now_s - self.first_step[0]) / (self.step - self.first_step[1])
        return pace * (self.steps - self.step)

    def kept(self, state: str) -> Progress:
        """A new beginning that counts on from what there is."""
        return Progress(state, self.step, self.steps, self.samples, stamp_s=time.monotonic())


@dataclasses.dataclass
class Job:
    """A job that has not ended."""

    id: int
    session: bytes
    priority: str
    model: str
    spec: dict[str, Any]
    state: str
    attempt: int
    strikes: int
    last_seq: int
    need_bytes: int
    since_s: float
    deadline_s: float | None
    progress: Progress = dataclasses.field(default_factory=Progress)
    position: int = 0
    charged_s: float = 0.0
    memory_retries: int = 0
    void_attempts: int = 0  # given up for good; chunks and tokens of later ones are kept
    cancelling: bool = False
    heard: bool = False  # it has made audio since it was handed in, or since the daemon's start

    @property
    def variations(self) -> int:
        return int(self.spec["request"].get("variations", 1))

    @property
    def audio_s(self) -> float:
        """What is made after the seam."""
        made = self.spec.get("lead", 0) + self.spec["frames"] + self.spec.get("tail", 0)
        return float(made) / float(self.spec["rate"])

    @property
    def handle_frames(self) -> int:
        return handle_frames(self.spec)

    @property
    def shown_state(self) -> str:
        """The state as clients know it."""
        if self.state == UNSETTLED:
            return "cancelling" if self.cancelling else "running"
        return "loading" if self.state == "queued" and self.progress.state == "loading" else self.state


def handle_frames(spec: dict[str, Any]) -> int:
    """Host samples before the first delivered one, at most: what lies between the seam and the bar line, and
    the handle that the request asked for.
    """
    asked = round(int(spec["request"].get("handle_ms", 0)) * int(spec["rate"]) / 1000)
    return asked + int(spec.get("lead", 0))


def all_frames(spec: dict[str, Any]) -> int:
    """Host samples of a take with its handles, at most."""
    return handle_frames(spec) + int(spec["frames"]) + int(spec.get("tail", 0))
