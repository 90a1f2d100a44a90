"""Text conditioning by a frozen T5 encoder, as MusicGen and AudioGen use it.

The encoder is not part of a checkpoint's parameters: it is found on this machine by name (``encoders.py``),
or comes with a Hugging Face folder, runs in float32 outside autocast, and stays out of the state dict. Only
when a checkpoint was trained with ``finetune: true`` are its weights the checkpoint's own, under
``….description.t5.*``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmodel.errors import CheckpointError
from genmodel.lm.conditioners.base import TextConditioner, checked_text

# d_model of the published encoders. (AudioCraft's own table names flan's two largest sizes wrongly and fails
# on them.)
T5_DIMS: dict[str, int] = {
    "t5-small": 512,
    "t5-base": 768,
    "t5-large": 1024,
    "t5-3b": 1024,
    "t5-11b": 1024,
    "google/flan-t5-small": 512,
    "google/flan-t5-base": 768,
    "google/flan-t5-large": 1024,
    "google/flan-t5-xl": 2048,
    "google/flan-t5-xxl": 4096,
}


@dataclass
class TextEncoder:
    """A T5 encoder with its tokenizer: ``module`` in eval mode and float32, ``dim`` its hidden size."""

    module: nn.Module
    tokenizer: Any
    dim: int
    name: str


class T5Conditioner(TextConditioner):
    """Description -> encoder states, projected to the model's width; "" and None are null (mask 0, exact
    zeros).

    ``tokenize`` pads to the longest row on the right and never truncates. ``forward``: values float [B, L,
    D], mask int64 [B, L].
    """

    def __init__(self, encoder: TextEncoder, output_dim: int, finetune: bool = False) -> None:
        super().__init__(encoder.dim, output_dim)
        self.name = encoder.name
        self.finetune = finetune
        self.t5_tokenizer = encoder.tokenizer
        if finetune:
            self.t5 = encoder.module
        else:
            # A plain attribute: nn.Module would otherwise register it and put it into the LM's state dict.
            self.__dict__["t5"] = encoder.module
            encoder.module.requires_grad_(False)
        encoder.module.eval()

    def check_projection(self, weight: Tensor) -> None:
        """CheckpointError unless a stored ``output_proj.weight`` [D, dim] takes this encoder's states."""
        if weight.ndim != 2 or weight.shape[1] != self.dim:
            raise CheckpointError(
                f"the text encoder {self.name} is {self.dim} wide, but this model's description projection "
                f"takes {weight.shape[-1]}: another encoder belongs to it",
                field="description.output_proj.weight",
                value=tuple(weight.shape),
            )

    def tokenize(self, inputs: Sequence[str | None]) -> dict[str, Tensor]:
        texts = [checked_text(text) for text in inputs]
        tokens = self.t5_tokenizer(texts, return_tensors="pt", padding=True, truncation=False, verbose=False)
        mask = tokens["attention_mask"]
        for row, text in enumerate(texts):
            if text == "":
                mask[row] = 0
        return {"input_ids": tokens["input_ids"], "attention_mask": mask}

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        weight: Tensor = self.output_proj.weight  # type: ignore[assignment]
        device = weight.device
        ids, mask = inputs["input_ids"].to(device), inputs["attention_mask"].to(device)
        if not mask.any():  # every row is null: the product below would be zeros whatever the encoder says
            return torch.zeros(*ids.shape, self.output_dim, device=device, dtype=weight.dtype), mask
        encoder: nn.Module = self.t5
        if next(encoder.parameters()).device != device:
            encoder.to(device)
        with (
            torch.set_grad_enabled(self.finetune and self.training),
            torch.autocast(device.type, enabled=False),
        ):
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        values = self.output_proj(states.to(weight.dtype))
        return values * mask.unsqueeze(-1).to(values.dtype), mask
