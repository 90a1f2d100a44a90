"""In which order the codebooks of each frame are written: patterns over (frame, codebook).

A pattern turns codes [B, K, T] into a sequence [B, K, S] for the transformer and back. It is a list of steps,
each a list of coordinates (t, q); step 0 is empty, so that the first prediction has something to look at. A
cell of the sequence that no coordinate covers, or whose t lies beyond T, holds the special token. Along one
codebook t never falls, and a step holds a codebook at most once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodel.errors import GenModelError


class Coord(NamedTuple):
    """One token's place: frame ``t`` of codebook ``q``."""

    t: int
    q: int


@dataclass(frozen=True)
class Pattern:
    """``layout``: the steps; ``timesteps`` frames of ``n_q`` codebooks are what it covers."""

    layout: tuple[tuple[Coord, ...], ...]
    timesteps: int
    n_q: int

    def __post_init__(self) -> None:
        last = [-1] * self.n_q
        for number, step in enumerate(self.layout):
            if len({coord.q for coord in step}) != len(step):
                raise GenModelError(
                    f"step {number} of a codebook pattern writes one codebook twice", code="E_MODEL"
                )
            for t, q in step:
                if t < last[q]:
                    raise GenModelError(
                        f"codebook {q} of a codebook pattern goes back in time at step {number}",
                        code="E_MODEL",
                    )
                last[q] = t

    @property
    def steps(self) -> int:
        """S, the length of the sequence."""
        return len(self.layout)

    @cached_property
    def max_delay(self) -> int:
        """By how many frames the last coordinate lies beyond the last frame."""
        return max((coord.t for step in self.layout for coord in step), default=-1) + 1 - self.timesteps

    @cached_property
    def frame_at(self) -> Tensor:
        """int64 [K, S]: the frame that each cell holds, -1 for special cells."""
        table = torch.full((self.n_q, self.steps), -1, dtype=torch.int64)
        for s, step in enumerate(self.layout):
            for t, q in step:
                if t < self.timesteps:
                    table[q, s] = t
        return table

    @cached_property
    def step_of(self) -> Tensor:
        """int64 [K, T]: the step that holds each frame, -1 where the pattern leaves it out."""
        table = torch.full((self.n_q, self.timesteps), -1, dtype=torch.int64)
        for s in range(self.steps - 1, -1, -1):
            for t, q in self.layout[s]:
                if t < self.timesteps:
                    table[q, t] = s
        return table

    @property
    def starts_with_special_token(self) -> bool:
        return not self.layout[0]

    @property
    def valid_steps(self) -> int:
        """Steps without the last ``max_delay``, which reach beyond the last frame."""
        return self.steps - self.max_delay

    def first_step_of_frame(self, t: int) -> int | None:
        """The first step that holds any codebook of frame t."""
        return next((s for s, step in enumerate(self.layout) if any(c.t == t for c in step)), None)

    def build_pattern_sequence(
        self, codes: Tensor, special_token: int, keep_only_valid_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [B, K, T] -> (sequence [B, K, S], index of each cell in the flattened codes [K, S], mask [K,
        S]).

        The index of special cells is K*T; the mask is true where a coordinate covers the cell.
        """
        self._check(codes, self.timesteps)
        steps = self.valid_steps if keep_only_valid_steps else self.steps
        frames = self.frame_at[:, :steps].to(codes.device)
        mask = frames >= 0
        rows = torch.arange(self.n_q, device=codes.device)[:, None] * self.timesteps
        index = torch.where(mask, frames + rows, self.n_q * self.timesteps)
        values = codes.gather(2, frames.clamp_min(0).expand(codes.shape[0], -1, -1))
        return values.masked_fill(~mask, special_token), index, mask

    def revert_pattern_sequence(
        self, sequence: Tensor, special_token: int, keep_only_valid_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sequence [B, K, S] -> (codes [B, K, T], index of each frame in the flattened sequence [K, T], mask
        [K, T]).

        Frames that the given steps do not hold become ``special_token`` and are off in the mask.
        """
        self._check(sequence, self.valid_steps if keep_only_valid_steps else self.steps, at_most=True)
        codes, index, mask = self._revert(sequence[..., None], special_token, 0, keep_only_valid_steps)
        return codes[..., 0], index, mask

    def revert_pattern_logits(
        self, logits: Tensor, special_token: float, keep_only_valid_steps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, card, K, S] -> (logits [B, card, K, T], index [K, T], mask [K, T]).

        Logits at step s predict step s+1, so the leading special step is skipped.
        """
        moved = logits.permute(0, 2, 3, 1)
        shift = int(self.starts_with_special_token)
        values, index, mask = self._revert(moved, special_token, shift, keep_only_valid_steps)
        return values.permute(0, 3, 1, 2), index, mask

    def _revert(
        self, cells: Tensor, special: float, shift: int, only_valid: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """cells [B, K, S, N] -> [B, K, T, N]; ``shift``: how many steps the cells run ahead of the layout."""
        at = self.step_of.to(cells.device) - shift
        end = (self.valid_steps if only_valid else self.steps) - shift
        mask = (at >= 0) & (at < min(end, cells.shape[2]))
        rows = torch.arange(self.n_q, device=cells.device)[:, None] * cells.shape[2]
        index = torch.where(mask, at + rows, self.n_q * cells.shape[2])
        where = at.clamp(0, cells.shape[2] - 1)[None, :, :, None].expand(
            cells.shape[0], -1, -1, cells.shape[3]
        )
        return cells.gather(2, where).masked_fill(~mask[None, :, :, None], special), index, mask

    def _check(self, values: Tensor, length: int, at_most: bool = False) -> None:
        fits = values.dim() == 3 and values.shape[1] == self.n_q
        if not fits or not (values.shape[2] == length or (at_most and values.shape[2] < length)):
            raise GenModelError(
                "codes do not fit the codebook pattern",
                field="codes",
                value=tuple(values.shape),
                allowed=f"[batch, {self.n_q}, {'at most ' if at_most else ''}{length}]",
            )


class PatternProvider:
    """Makes the pattern of one kind for any number of frames; the last hundred are kept."""

    def __init__(self, n_q: int) -> None:
        self.n_q = n_q
        self.get_pattern = lru_cache(maxsize=100)(self._make)

    def _make(self, timesteps: int) -> Pattern:
        if timesteps < 0:
            raise GenModelError("a pattern has no negative length", field="timesteps", value=timesteps)
        return Pattern(tuple(tuple(step) for step in self.layout(timesteps)), timesteps, self.n_q)

    def layout(self, timesteps: int) -> list[list[Coord]]:
        raise TypeError(f"{type(self).__name__} does not define a layout")


class DelayedPatternProvider(PatternProvider):
    """Codebook q lags by ``delays[q]`` steps.

    ``flatten_first`` frames at the start are written one token a step; ``empty_initial`` adds that many empty
    steps in front (negative: not even the usual one).
    """

    def __init__(
        self, n_q: int, delays: Sequence[int] | None = None, flatten_first: int = 0, empty_initial: int = 0
    ) -> None:
        super().__init__(n_q)
        self.delays = list(delays) if delays is not None else list(range(n_q))
        self.flatten_first = flatten_first
        self.empty_initial = empty_initial
        if len(self.delays) != n_q or sorted(self.delays) != self.delays or self.delays[0] < 0:
            raise GenModelError(
                "delays must be one per codebook and never fall",
                code="E_MODEL",
                field="codebooks_pattern.delay.delays",
                value=self.delays,
                allowed=f"{n_q} non-decreasing numbers",
            )

    def layout(self, timesteps: int) -> list[list[Coord]]:
        steps: list[list[Coord]] = [[] for _ in range(1 + self.empty_initial)]
        flat = min(timesteps, self.flatten_first)
        steps += [[Coord(t, q)] for t in range(flat) for q in range(self.n_q)]
        for t in range(self.flatten_first, timesteps + max(self.delays)):
            step = [Coord(t - lag, q) for q, lag in enumerate(self.delays) if t - lag >= self.flatten_first]
            steps.append(step)
        return steps


class ParallelPatternProvider(DelayedPatternProvider):
    """All codebooks of a frame at once."""

    def __init__(self, n_q: int, empty_initial: int = 0) -> None:
        super().__init__(n_q, [0] * n_q, empty_initial=empty_initial)


class UnrolledPatternProvider(PatternProvider):
    """Each frame takes ``max(flattening) + 1`` inner steps; codebook q is written at inner step
    ``flattening[q]``, ``delays[q]`` frames late. Codebooks that share an inner step share their delay.
    """

    def __init__(
        self, n_q: int, flattening: Sequence[int] | None = None, delays: Sequence[int] | None = None
    ) -> None:
        super().__init__(n_q)
        self.flattening = list(flattening) if flattening is not None else list(range(n_q))
        self.delays = list(delays) if delays is not None else [0] * n_q
        if len(self.flattening) != n_q or len(self.delays) != n_q:
            raise GenModelError(
                "an unroll pattern needs one inner step and one delay per codebook",
                code="E_MODEL",
                field="codebooks_pattern.unroll",
                value=(self.flattening, self.delays),
            )
        self._inner: dict[int, tuple[list[int], int]] = {}
        for q, (inner, delay) in enumerate(zip(self.flattening, self.delays, strict=True)):
            books, lag = self._inner.setdefault(inner, ([], delay))
            if lag != delay:
                raise GenModelError(
                    f"codebooks of inner step {inner} have different delays",
                    code="E_MODEL",
                    field="codebooks_pattern.unroll.delays",
                    value=self.delays,
                )
            books.append(q)

    def layout(self, timesteps: int) -> list[list[Coord]]:
        end = timesteps + max(self.delays)
        keyed: list[tuple[int, list[Coord]]] = [(-1, [])]
        for t in range(end):
            for inner in range(max(self.flattening) + 1):
                if inner not in self._inner:
                    keyed.append((t, []))
                    continue
                books, delay = self._inner[inner]
                if t + delay < end:
                    keyed.append((t + delay, [Coord(t, q) for q in books]))
        return [step for _, step in sorted(keyed)]


class CoarseFirstPattern(PatternProvider):
    """Codebook 0 of every frame first, then the others in parallel, each with its delay."""

    def __init__(self, n_q: int, delays: Sequence[int] | None = None) -> None:
        super().__init__(n_q)
        self.delays = list(delays) if delays is not None else [0] * (n_q - 1)
        if len(self.delays) != n_q - 1:
            raise GenModelError(
                "a coarse_first pattern needs one delay per codebook but the first",
                code="E_MODEL",
                field="codebooks_pattern.coarse_first.delays",
                value=self.delays,
            )

    def layout(self, timesteps: int) -> list[list[Coord]]:
        steps: list[list[Coord]] = [[]]
        steps += [[Coord(t, 0)] for t in range(timesteps)]
        for t in range(timesteps + max(self.delays, default=0)):
            steps.append([Coord(t - lag, q + 1) for q, lag in enumerate(self.delays) if t >= lag])
        return steps


class MusicLMPattern(PatternProvider):
    """One token a step: groups of ``group_by`` codebooks, each group for all frames before the next."""

    def __init__(self, n_q: int, group_by: int = 2) -> None:
        super().__init__(n_q)
        if group_by < 1:
            raise GenModelError(
                "group_by must be positive",
                code="E_MODEL",
                field="codebooks_pattern.musiclm.group_by",
                value=group_by,
            )
        self.group_by = group_by

    def layout(self, timesteps: int) -> list[list[Coord]]:
        steps: list[list[Coord]] = [[]]
        for first in range(0, self.n_q, self.group_by):
            books = range(first, min(first + self.group_by, self.n_q))
            steps += [[Coord(t, q)] for t in range(timesteps) for q in books]
        return steps


def get_pattern_provider(name: str, n_q: int, options: Mapping[str, Any] | None = None) -> PatternProvider:
    """The provider that a configuration names, with its options; GenModelError (E_MODEL) where they do not
    fit.
    """
    providers: dict[str, type[PatternProvider]] = {
        "parallel": ParallelPatternProvider,
        "delay": DelayedPatternProvider,
        "unroll": UnrolledPatternProvider,
        "coarse_first": CoarseFirstPattern,
        "musiclm": MusicLMPattern,
    }
    if name not in providers:
        raise GenModelError(
            "unknown codebook pattern",
            code="E_MODEL",
            field="codebooks_pattern.modeling",
            value=name,
            allowed=", ".join(providers),
        )
    try:
        return providers[name](n_q, **dict(options or {}))
    except TypeError as error:
        raise GenModelError(
            f"the options of the {name} pattern are not understood: {error}",
            code="E_MODEL",
            field=f"codebooks_pattern.{name}",
        ) from error
