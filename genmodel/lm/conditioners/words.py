"""Text conditioning by a closed vocabulary of musical words: what ``pocket`` understands.

No text encoder is needed: each known word, phrase or tempo is one row of an embedding table. What the
vocabulary does not have is reported by :meth:`WordsConditioner.unknown_words`, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from genmodel.errors import CheckpointError
from genmodel.lm.conditioners.base import TextConditioner, checked_text

BPM_STEP = 5
# Words that carry grammar, not music; they are neither used nor reported as unknown.
FILLERS = frozenset(
    "a an the and or with of in at on to for from by is it its this that some very bit little please "
    "music song track piece loop style sound sounds make play at around about".split()
)
_TEMPO = re.compile(r"\b(\d+(?:\.\d+)?)\s*-?\s*bpm\b")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*[#♯♭]?(?:[&+/][^\W_]+)*")


def bpm_word(bpm: float, vocabulary: Mapping[str, int]) -> str | None:
    """The vocabulary's tempo word nearest to ``bpm`` ("bpm120", steps of 5), or None more than half a step
    outside.
    """
    if not math.isfinite(bpm):
        return None
    word = f"bpm{BPM_STEP * math.floor(bpm / BPM_STEP + 0.5)}"
    return word if word in vocabulary else None


class WordsConditioner(TextConditioner):
    """Known words of a description -> their embeddings, projected to the model's width.

    ``vocabulary`` lists the words; word i has embedding row i + 1 and row 0 is padding. ``synonyms`` maps
    further words or phrases to words of the vocabulary (several, separated by spaces). Values [B, L, D] and
    mask int64 [B, L] in order of appearance, each word once; null, empty and wholly unknown texts give zero
    vectors with mask 0.
    """

    def __init__(
        self, vocabulary: Sequence[str], synonyms: Mapping[str, str] | None, dim: int, output_dim: int
    ) -> None:
        super().__init__(dim, output_dim)
        self.vocabulary = tuple(str(word).lower() for word in vocabulary)
        self.index = {word: number + 1 for number, word in enumerate(self.vocabulary)}
        if len(self.index) != len(self.vocabulary):
            raise CheckpointError("the vocabulary has the same word twice", field="words.vocabulary")
        self.synonyms = {
            str(key).lower(): str(value).lower().split() for key, value in (synonyms or {}).items()
        }
        for key, targets in self.synonyms.items():
            if stray := [word for word in targets if word not in self.index]:
                raise CheckpointError(
                    f"the synonym {key!r} leads to {stray[0]!r}, which is not in the vocabulary",
                    field="words.synonyms",
                )
        phrases = [*self.vocabulary, *self.synonyms]
        self._longest = max((len(_WORD.findall(phrase)) for phrase in phrases), default=1)
        self._phrases = {" ".join(_WORD.findall(phrase)): phrase for phrase in phrases}
        self.embed = nn.Embedding(len(self.vocabulary) + 1, dim, padding_idx=0)

    def _read(self, text: str) -> tuple[list[str], list[str]]:
        """(vocabulary words found, in order, without repeats; what was not understood)."""
        found: list[str] = []
        unknown: list[str] = []
        rest = checked_text(text).lower()
        for match in _TEMPO.finditer(rest):
            word = bpm_word(float(match[1]), self.index)
            if word is None:
                unknown.append(match[0])
            else:
                found.append(word)
        words = _WORD.findall(_TEMPO.sub(" ", rest))
        at = 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                phrase = self._phrases.get(" ".join(words[at : at + length]))
                if phrase is not None:
                    found.extend([phrase] if phrase in self.index else self.synonyms[phrase])
                    at += length
                    break
            else:
                if words[at] not in FILLERS:
                    unknown.append(words[at])
                at += 1
        return list(dict.fromkeys(found)), list(dict.fromkeys(unknown))

    def known_words(self, text: str) -> list[str]:
        """The vocabulary words that a description comes down to."""
        return self._read(text)[0]

    def unknown_words(self, text: str) -> list[str]:
        """The words of a description that this model does not know (fillers such as "with" are not
        reported).
        """
        return self._read(text)[1]

    def tokenize(self, inputs: Sequence[str | None]) -> Tensor:
        """Ids int64 [B, L], 0 where there is nothing; L at least 1."""
        rows = [[self.index[word] for word in self._read(text or "")[0]] for text in inputs]
        ids = torch.zeros(len(rows), max(1, *(len(row) for row in rows)), dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return ids

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        ids = inputs.to(self.embed.weight.device)
        mask = (ids > 0).long()
        values = self.output_proj(self.embed(ids))
        return values * mask.unsqueeze(-1).to(values.dtype), mask
