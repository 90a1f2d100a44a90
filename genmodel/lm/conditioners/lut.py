"""Text conditioning by a hashed look-up table: what AudioCraft's debug models use."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genmodel.errors import CheckpointError
from genmodel.lm.conditioners.base import TextConditioner, checked_text

TOKENIZERS = ("noop", "whitespace")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def hash_bin(text: str, bins: int) -> int:
    """SHA-256 of the UTF-8 text, as an integer, modulo ``bins``."""
    return int(hashlib.sha256(text.encode("utf-8")).hexdigest(), 16) % bins


class LUTConditioner(TextConditioner):
    """Words hashed into an embedding table, then projected; padding and null rows are exact zeros.

    Tokenizer ``noop`` hashes the whole text as one word. ``whitespace`` lower-cases, drops punctuation and
    splits at spaces; unlike AudioCraft's it neither spells numbers nor removes stop words nor takes lemmas
    (that needs spaCy), so words of such a checkpoint may fall into other bins than in its training.
    """

    def __init__(
        self, n_bins: int, dim: int, output_dim: int, tokenizer: str = "whitespace", pad_idx: int = 0
    ) -> None:
        super().__init__(dim, output_dim)
        if tokenizer not in TOKENIZERS:
            raise CheckpointError(
                "unknown tokenizer of a look-up-table conditioner",
                field="conditioners.lut.tokenizer",
                value=tokenizer,
                allowed=", ".join(TOKENIZERS),
            )
        self.embed = nn.Embedding(n_bins, dim)
        self.tokenizer = tokenizer
        self.pad_idx = pad_idx
        self.n_bins = n_bins

    def _words(self, text: str) -> list[str]:
        if self.tokenizer == "noop":
            return [text] if text else []
        return text.lower().translate(_PUNCTUATION).split()

    def tokenize(self, inputs: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """(ids int64 [B, L], mask int64 [B, L]), L at least 1."""
        rows = [[hash_bin(word, self.n_bins) for word in self._words(checked_text(text))] for text in inputs]
        length = max(1, *(len(row) for row in rows))
        ids = torch.full((len(rows), length), self.pad_idx, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[index, : len(row)] = 1
        return ids, mask

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        device = self.embed.weight.device
        ids, mask = inputs[0].to(device), inputs[1].to(device)
        values = self.output_proj(self.embed(ids))
        return values * mask.unsqueeze(-1).to(values.dtype), mask
