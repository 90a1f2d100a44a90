"""A session: everything that decides its next token, as a value. Caches are the stepper's and can be made
again.

Time is counted in frames of the take (prompt first) and in steps of the codebook pattern of one window. A
take longer than the model's window is made in windows whose starts are a stride apart; each begins with what
the last one left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from genmodel.engine.conditions import Stream
from genmodel.engine.leaning import NOTHING, Lean
from genmodel.engine.noise import position_keys
from genmodel.errors import GenModelError
from genmodel.lm.patterns import Pattern
from genmodel.request import Sampling

UNKNOWN = -1


@dataclass(frozen=True)
class Window:
    """``frames`` frames from ``start`` on, of which the first ``known`` are there already."""

    start: int
    frames: int
    known: int


def plan_windows(prompt: int, total: int, window: int, stride: int | None) -> tuple[Window, ...]:
    """AudioCraft's schedule in whole frames: one window if it all fits, else windows a stride apart.

    Raises GenModelError when the prompt leaves nothing to make or does not fit into one window.
    """
    if total < 1:
        raise GenModelError("nothing is to be generated", field="duration", value=total, allowed="positive")
    if prompt >= min(total, window):
        raise GenModelError(
            "the prompt leaves no room for anything new",
            code="E_TOO_LONG",
            field="prompt",
            value=f"{prompt} frames",
            allowed=f"fewer than {min(total, window)} frames",
        )
    if total <= window:
        return (Window(0, total, prompt),)
    if stride is None or not 0 < stride < window:
        raise GenModelError(
            "a take longer than one window needs a stride shorter than it",
            field="extend_stride",
            value=stride,
            allowed=f"1…{window - 1} frames",
        )
    windows, start, have = [], 0, prompt
    while have < total:
        frames = min(window, total - start)
        # a last window that holds nothing new cannot come up: have < total reaches beyond the one before
        windows.append(Window(start, frames, have - start))
        have = start + frames
        start += stride
    return tuple(windows)


@lru_cache(maxsize=64)
def _final_frames(pattern: Pattern) -> tuple[int, ...]:
    """For each step, how many frames of the window are complete once it is written."""
    complete = pattern.step_of.max(0).values.cummax(0).values
    steps = torch.arange(pattern.steps)
    return tuple(torch.searchsorted(complete, steps, right=True).tolist())


@dataclass(frozen=True)
class SessionState:
    """A moment of a session, apart from it."""

    tokens: Tensor
    window: int
    step: int


class Session:
    """One take in the making.

    ``tokens`` int64 [K, F]: known tokens of all frames, UNKNOWN where there is none yet (the stepper brings
    it up to date in ``sync``); the special token means "known to be nothing". ``streams`` is what guidance
    mixes, or a function of the window where conditions differ by window. ``lean``: a source to stay near.
    ``window`` and ``step`` say what is
    made next: step 0 means that the window has not begun.
    """

    def __init__(
        self,
        tokens: Tensor,
        windows: Sequence[Window],
        pattern_of: Callable[[int], Pattern],
        streams: tuple[Stream, ...] | Callable[[Window], tuple[Stream, ...]],
        sampling: Sampling,
        seed: int = 0,
        variation: int = 0,
        lean: Lean | None = None,
    ) -> None:
        self.tokens = tokens
        self.lean = lean
        self.windows = tuple(windows)
        self.sampling = sampling
        self.seed = seed
        self.variation = variation
        self.window = 0
        self.step = 0
        self.known_steps = 0  # of the window: those before it are replayed, not made (see `Stepper.replay`)
        self._pattern_of = pattern_of
        self._streams = streams
        self._streams_of: tuple[int, tuple[Stream, ...]] | None = None
        self.keys = position_keys(seed, variation, tokens.shape[1], tokens.shape[0]).to(tokens.device)

    @property
    def done(self) -> bool:
        return self.window >= len(self.windows)

    @property
    def at(self) -> Window:
        """The window in the making (the last one when all is done)."""
        return self.windows[min(self.window, len(self.windows) - 1)]

    def pattern(self, window: Window | None = None) -> Pattern:
        return self._pattern_of((window or self.at).frames)

    def first_step(self, window: Window | None = None) -> int:
        """The step at which a window's first new frame begins."""
        window = window or self.at
        step = self.pattern(window).first_step_of_frame(window.known)
        if not step:
            raise GenModelError(
                "this codebook pattern has no step before the first new frame",
                code="E_MODEL",
                field="codebooks_pattern",
            )
        return step

    def streams(self) -> tuple[Stream, ...]:
        """The streams of the window in the making."""
        if not callable(self._streams):
            return self._streams
        if self._streams_of is None or self._streams_of[0] != self.window:
            self._streams_of = (self.window, self._streams(self.at))
        return self._streams_of[1]

    @property
    def steps_total(self) -> int:
        """Steps of all windows: the true total that progress counts to."""
        return sum(self.pattern(window).steps - self.first_step(window) for window in self.windows)

    @property
    def steps_done(self) -> int:
        done = sum(self.pattern(w).steps - self.first_step(w) for w in self.windows[: self.window])
        if not self.done and self.step:
            done += self.step - self.first_step()
        return done

    @property
    def final_frames(self) -> int:
        """How many frames of the take are complete and will not change."""
        if self.done:
            return self.windows[-1].start + self.windows[-1].frames
        if not self.step:
            return self.at.start + self.at.known
        return self.at.start + max(self.at.known, _final_frames(self.pattern())[self.step - 1])

    def sequence(self, special_token: int) -> Tensor:
        """The window's steps int64 [K, S]: known tokens, special cells, UNKNOWN elsewhere."""
        window = self.at
        codes = self.tokens[None, :, window.start : window.start + window.frames]
        return self.pattern().build_pattern_sequence(codes, special_token)[0][0]

    def resume(self, frames: int) -> None:
        """Go on after the first ``frames`` frames, whose tokens are in place: from the beginning of the
        window that makes the next one. The session must not be aboard a stepper.
        """
        ends = [window.start + window.frames for window in self.windows]
        self.window = next((i for i, end in enumerate(ends) if end > frames), len(self.windows))
        self.step = self.known_steps = 0
        if self.done:
            return
        # the special token stands for whatever is known; only what is unknown matters here
        unknown = (self.sequence(0) == UNKNOWN).any(0)
        self.known_steps = int(unknown.int().argmax())

    @property
    def replaying(self) -> bool:
        return self.step < self.known_steps

    def store(self, sequence: Tensor) -> None:
        """Take over the tokens of a window's steps [K, S]."""
        window = self.at
        codes, _, _ = self.pattern().revert_pattern_sequence(sequence[None], UNKNOWN)
        self.tokens[:, window.start : window.start + window.frames] = codes[0]

    def step_keys(self) -> Tensor:
        """Noise keys int64 [K, S] of the window's steps; special cells get any."""
        at = self.pattern().frame_at.clamp_min(0).to(self.keys.device) + self.at.start
        return self.keys.gather(1, at)

    def near(self) -> Tensor | None:
        """The source's tokens for the window's steps int64 [K, S], negative where there are none."""
        if self.lean is None:
            return None
        window = self.at
        part = self.lean.tokens[None, :, window.start : window.start + window.frames]
        return self.pattern().build_pattern_sequence(part, NOTHING)[0][0]

    def snapshot(self) -> SessionState:
        """The present moment; ``tokens`` must be up to date (``Stepper.sync``)."""
        return SessionState(self.tokens.clone(), self.window, self.step)

    def restore(self, state: SessionState) -> None:
        """Return to a moment. The session must not be aboard a stepper."""
        self.tokens = state.tokens.clone()
        self.window, self.step = state.window, state.step
