"""What a generation is conditioned on, and the provider that turns it into tensors.

``ConditioningAttributes`` is one row of a batch: texts, waveforms and per-frame conditions by name. The
provider asks each conditioner to tokenize its column and then to embed it:

    tokenized = provider.tokenize(rows)          # dict: name -> whatever that conditioner wants
    tensors = provider(tokenized)                # dict: name -> (values [B, L, D], mask [B, L])

Names, attributes and order (texts, waveforms, frames) are AudioCraft's, so that parameters appear under
``condition_provider.conditioners.<name>.…`` in a state dict; per-frame conditions are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genmodel.errors import GenModelError
from genmodel.lm.conditioners.base import CONDITION_TYPES, Conditioner, ConditionType


class WavCondition(NamedTuple):
    """A batch of waveforms (``wav`` [B, C, T], ``length`` samples of each row) as AudioCraft passes them
    about.
    """

    wav: Tensor
    length: Tensor
    sample_rate: list[int]
    path: list[str | None] = []
    seek_time: list[float | None] = []


@dataclass
class ConditioningAttributes:
    """The conditions of one row. An absent name, ``None`` or an empty text all mean "not conditioned on
    this".

    ``frames`` holds conditions with one value per codec frame, in absolute frames of the take: ``transport``
    [F, 11], ``harmony`` [F, 12] or [F, 13], ``context`` integer codes [K, F] (see
    ``conditioners/frames.py``).
    """

    text: dict[str, str | None] = field(default_factory=dict)
    wav: dict[str, WavCondition] = field(default_factory=dict)
    joint_embed: dict[str, Any] = field(default_factory=dict)
    frames: dict[str, Tensor | None] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> dict[str, Any]:
        if kind not in ("text", "wav", "joint_embed", "frames"):
            raise KeyError(kind)
        return getattr(self, kind)

    @property
    def text_attributes(self) -> Iterable[str]:
        return self.text.keys()

    @property
    def wav_attributes(self) -> Iterable[str]:
        return self.wav.keys()


def null_wav(wav: WavCondition) -> WavCondition:
    """The "no melody" condition: one silent sample of length 0 per row, as AudioCraft writes it."""
    rows = wav.wav.shape[0]
    return WavCondition(
        wav=wav.wav.new_zeros(rows, wav.wav.shape[1], 1),
        length=wav.length.new_zeros(rows),
        sample_rate=list(wav.sample_rate),
        path=[None] * rows,
        seek_time=[None] * rows,
    )


def null_conditions(
    rows: Sequence[ConditioningAttributes], *, keep_wav: bool = False
) -> list[ConditioningAttributes]:
    """The guidance counterpart of each row: text None, waveforms null (kept for double guidance).

    Per-frame conditions stay: both halves of guidance hear the same bar, harmony and neighbours.
    """
    return [
        ConditioningAttributes(
            text=dict.fromkeys(row.text),
            wav=dict(row.wav) if keep_wav else {name: null_wav(wav) for name, wav in row.wav.items()},
            joint_embed=dict(row.joint_embed),
            frames=dict(row.frames),
        )
        for row in rows
    ]


class ConditioningProvider(nn.Module):
    """Owns the conditioners by name. ``device`` is where embedding happens; it follows ``Module.to``."""

    def __init__(self, conditioners: Mapping[str, Conditioner], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.conditioners = nn.ModuleDict(dict(conditioners))

    def _apply(self, fn: Any, recurse: bool = True) -> ConditioningProvider:
        super()._apply(fn, recurse)
        parameter = next(self.parameters(), None)
        if parameter is not None:
            self.device = parameter.device
        return self

    def _names(self, kind: ConditionType) -> list[str]:
        return [name for name, module in self.conditioners.items() if module.condition_type == kind]

    @property
    def text_conditions(self) -> list[str]:
        return self._names("text")

    @property
    def wav_conditions(self) -> list[str]:
        return self._names("wav")

    @property
    def frame_conditions(self) -> list[str]:
        return self._names("frames")

    @property
    def has_wav_condition(self) -> bool:
        return bool(self.wav_conditions)

    def tokenize(self, inputs: Sequence[ConditioningAttributes]) -> dict[str, Any]:
        """Each conditioner's own input for these rows, in the order texts, waveforms, frames.

        Raises GenModelError (E_ARGUMENT) for a name that this model does not take, because a condition that
        is silently dropped is worse than a refusal.
        """
        rows = list(inputs)
        if not rows:
            raise GenModelError("conditions are given as a list with one entry per row", field="conditions")
        known = {kind: set(self._names(kind)) for kind in CONDITION_TYPES}
        for row in rows:
            for kind, names in known.items():
                given = {name for name, value in row[kind].items() if value is not None}
                if unknown := sorted(given - names):
                    raise GenModelError(
                        f"this model takes no condition named {', '.join(unknown)}",
                        field="conditions",
                        value=unknown,
                        allowed=", ".join(self.conditioners) or "none",
                    )
        output: dict[str, Any] = {}
        for kind in CONDITION_TYPES:
            for name in self._names(kind):
                conditioner: Any = self.conditioners[name]
                output[name] = conditioner.tokenize([row[kind].get(name) for row in rows])
        return output

    def forward(self, tokenized: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        """Embed what ``tokenize`` made: name -> (values [B, L, D], mask [B, L] of 0 and 1)."""
        if missing := sorted(set(self.conditioners) - set(tokenized)):
            raise GenModelError(f"conditions are missing: {', '.join(missing)}", field="conditions")
        return {name: self.conditioners[name](tokens) for name, tokens in tokenized.items()}

    def embed(self, rows: Sequence[ConditioningAttributes]) -> dict[str, tuple[Tensor, Tensor]]:
        """``forward(tokenize(rows))``."""
        return self(self.tokenize(rows))
