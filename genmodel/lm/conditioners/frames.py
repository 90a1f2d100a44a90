"""Per-frame conditions: the bar, the harmony and the neighbouring tracks, one vector for each codec frame.

They are added to the transformer's input at the step that predicts the frame's first codebook (``fuser.py``).
Given once for the whole take in absolute frames; a row without one gets exact zeros, as does each absent
frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genmodel.errors import GenModelError
from genmodel.lm.conditioners.base import FrameConditioner
from genmodel.lm.fuser import hold_frames

TRANSPORT_DIM = 11
HARMONY_DIM = 13
LOOK_AHEAD_FRAMES = 25
# turns per unit: 4-bar phase once, bar phase once, beat phase at 1, 2 and 4 times its speed
_TURNS = ((2, 1.0), (0, 1.0), (1, 1.0), (1, 2.0), (1, 4.0))


def transport_features(bar_phase: Tensor, beat_phase: Tensor, four_bar_phase: Tensor) -> Tensor:
    """Phases in [0, 1) -> float32 [F, 11]: flag 1, then (cos, sin) of 2π times 4-bar, bar, beat, 2·beat,
    4·beat.

    Computed in float64, so that a phase far into a take is as exact as at its start.
    """
    phases = [torch.as_tensor(p, dtype=torch.float64) for p in (bar_phase, beat_phase, four_bar_phase)]
    columns = [torch.ones_like(phases[0])]
    for which, speed in _TURNS:
        angle = 2 * math.pi * speed * phases[which]
        columns += [angle.cos(), angle.sin()]
    return torch.stack(columns, dim=-1).float()


def harmony_features(chroma: Tensor) -> Tensor:
    """Chroma [F, 12] (C = 0, non-negative, each frame's maximum 1) -> float32 [F, 13] with the flag 1
    last.
    """
    chroma = torch.as_tensor(chroma, dtype=torch.float32)
    if chroma.ndim != 2 or chroma.shape[1] != 12:
        raise GenModelError(
            "harmony is one chroma per frame",
            field="harmony",
            value=tuple(chroma.shape),
            allowed="shape [F, 12]",
        )
    return torch.cat([chroma, torch.ones(len(chroma), 1)], dim=1)


class FeatureConditioner(FrameConditioner):
    """Features [F, dim] with a presence flag in one column -> Linear(dim -> D), zero where the flag is 0."""

    def __init__(self, dim: int, output_dim: int, flag: int, name: str) -> None:
        super().__init__(dim, output_dim)
        self.flag = flag
        self.name = name

    def _features(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=torch.float32)
        if value.ndim != 2 or value.shape[1] != self.dim or not len(value):
            raise GenModelError(
                f"{self.name} is one row of features per frame",
                field=self.name,
                value=tuple(value.shape),
                allowed=f"shape [F, {self.dim}], at least one frame",
            )
        if not torch.isfinite(value).all():
            raise GenModelError(f"{self.name} holds NaN or infinity", code="E_NOT_FINITE", field=self.name)
        return value

    def tokenize(self, inputs: Sequence[Tensor | None]) -> Tensor:
        """float32 [B, F, dim]; shorter rows hold their last frame, absent rows are zero (flag 0)."""
        rows = [None if value is None else self._features(value) for value in inputs]
        frames = max((len(row) for row in rows if row is not None), default=1)
        empty = torch.zeros(frames, self.dim)
        return torch.stack([empty if row is None else hold_frames(row[None], frames)[0] for row in rows])

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        weight: Tensor = self.output_proj.weight  # type: ignore[assignment]
        features = inputs.to(weight.device, weight.dtype)
        mask = (features[..., self.flag] != 0).long()
        return self.output_proj(features) * mask.unsqueeze(-1).to(weight.dtype), mask


class TransportConditioner(FeatureConditioner):
    """The bar as an input; features by :func:`transport_features`, flag in column 0."""

    def __init__(self, output_dim: int) -> None:
        super().__init__(TRANSPORT_DIM, output_dim, flag=0, name="transport")


class HarmonyConditioner(FeatureConditioner):
    """Chroma per frame; features by :func:`harmony_features`, flag in the last column. [F, 12] is taken
    too.
    """

    def __init__(self, output_dim: int) -> None:
        super().__init__(HARMONY_DIM, output_dim, flag=HARMONY_DIM - 1, name="harmony")

    def _features(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=torch.float32)
        return super()._features(harmony_features(value) if value.shape[-1:] == (12,) else value)


class ContextConditioner(FrameConditioner):
    """Codes of the tracks that are given, [K, F] by the inner codec, and what they will be a little later.

    value(t) = Σk emb_k[code(t)] + ahead(Σk emb_k[code(t + look_ahead_frames)]). The special token ``card``
    means "nothing" and embeds to zero, as does everything past the end, so a frame with nothing now and ahead
    is zero.
    """

    def __init__(
        self, output_dim: int, n_q: int, card: int, look_ahead_frames: int = LOOK_AHEAD_FRAMES
    ) -> None:
        super().__init__(output_dim, output_dim)
        self.output_proj = nn.Identity()
        self.emb = nn.ModuleList(nn.Embedding(card + 1, output_dim, padding_idx=card) for _ in range(n_q))
        self.ahead = nn.Linear(output_dim, output_dim, bias=False)
        self.n_q = n_q
        self.card = card
        self.look_ahead_frames = look_ahead_frames

    def _codes(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value)
        if value.ndim != 2 or value.shape[0] != self.n_q or not value.shape[1] or value.is_floating_point():
            raise GenModelError(
                "context is codes of the mix, one column per frame",
                field="context",
                value=f"{value.dtype} {tuple(value.shape)}",
                allowed=f"integers of shape [{self.n_q}, F]",
            )
        if int(value.min()) < 0 or int(value.max()) > self.card:
            raise GenModelError(
                "context holds a code out of range", field="context", allowed=f"0…{self.card}"
            )
        return value.long()

    def tokenize(self, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [None if value is None else self._codes(value) for value in inputs]

    def _embed(self, codes: Tensor) -> Tensor:
        """[B, K, F] -> [B, F, D]."""
        codes = codes.to(self.ahead.weight.device)
        now = torch.zeros((), device=codes.device, dtype=self.ahead.weight.dtype)
        for k, table in enumerate(self.emb):
            present = (codes[:, k] != self.card).unsqueeze(-1)
            now = now + table(codes[:, k]) * present.to(self.ahead.weight.dtype)
        shift = min(self.look_ahead_frames, now.shape[1])
        later = torch.cat([now[:, shift:], now.new_zeros(now.shape[0], shift, now.shape[2])], dim=1)
        return now + self.ahead(later)

    def forward(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        weight = self.ahead.weight
        given = [codes for codes in inputs if codes is not None]
        frames = max((codes.shape[1] for codes in given), default=1)
        values = torch.zeros(len(inputs), frames, self.output_dim, device=weight.device, dtype=weight.dtype)
        mask = torch.zeros(len(inputs), frames, dtype=torch.int64, device=weight.device)
        if len(given) == len(inputs) and all(codes.shape[1] == frames for codes in given):
            values = self._embed(torch.stack(given))  # one call in training
            mask = torch.stack([(codes != self.card).any(0) for codes in given]).long().to(weight.device)
            return values, mask
        rows = []
        for row, codes in enumerate(inputs):
            if codes is None:
                rows.append(values[row])
                continue
            rows.append(hold_frames(self._embed(codes[None]), frames)[0])
            mask[row, : codes.shape[1]] = (codes != self.card).any(0).long().to(weight.device)
        return torch.stack(rows), mask
