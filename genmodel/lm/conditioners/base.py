"""What every conditioner is: something that tokenizes a column of inputs and embeds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from genmodel.errors import GenModelError

ConditionType = Literal["text", "wav", "frames"]
CONDITION_TYPES: tuple[ConditionType, ...] = get_args(ConditionType)

# Far beyond any description a person writes; protects memory from a megabyte of text.
MAX_TEXT_CHARACTERS = 10_000


class Conditioner(nn.Module):
    """A module with two steps.

    ``tokenize(inputs)`` takes one entry per row (None = not conditioned) and returns anything; ``forward``
    takes that and returns ``(values [B, L, D], mask [B, L])`` with masked positions exactly zero. ``dim`` is
    the width before and ``output_dim`` after the projection.
    """

    condition_type: ClassVar[ConditionType]

    def __init__(self, dim: int, output_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.output_dim = output_dim
        self.output_proj: nn.Module = nn.Linear(dim, output_dim)

    def tokenize(self, inputs: Sequence[Any]) -> Any:
        raise TypeError(f"{type(self).__name__} does not define tokenize")

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{type(self).__name__} does not define forward")


class TextConditioner(Conditioner):
    """Takes ``str | None`` per row."""

    condition_type = "text"


class WaveformConditioner(Conditioner):
    """Takes ``WavCondition | None`` per row."""

    condition_type = "wav"


class FrameConditioner(Conditioner):
    """Takes one tensor with a value per codec frame, or None, per row."""

    condition_type = "frames"


def checked_text(text: str | None) -> str:
    """The text, "" for None; GenModelError E_TOO_LONG where no person wrote it."""
    if text is None:
        return ""
    if not isinstance(text, str):
        raise GenModelError("a description is text or None", field="text", value=type(text).__name__)
    if len(text) > MAX_TEXT_CHARACTERS:
        raise GenModelError(
            "this description is too long",
            code="E_TOO_LONG",
            field="text",
            value=len(text),
            allowed=f"up to {MAX_TEXT_CHARACTERS} characters",
        )
    return text
