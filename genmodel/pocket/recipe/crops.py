"""Pieces of rendered songs for training and judging the codec: from files, or from the device's own
memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genmodel.pocket.recipe.compose import HELD_OUT_FROM
from genmodel.pocket.recipe.song import STEMS

SOURCES = (*STEMS, "mix")
SHARES = (0.22, 0.16, 0.27, 0.35)
DECODER_SHARES = (0.3, 0.2, 0.5, 0.0)
"""How often each source is heard. What is generated is stems, so the decoder alone learns on stems."""


def song_files(folder: Path, held_out: bool) -> list[Path]:
    files = sorted(path for path in folder.glob("*.npy") if path.stem.isdigit())
    return [path for path in files if (int(path.stem) >= HELD_OUT_FROM) == held_out]


class Crops:
    """Random pieces of songs, each source with its share."""

    def __init__(
        self,
        files: list[Path],
        seed: int,
        shares: tuple[float, ...] = SHARES,
        device: torch.device | None = None,
    ) -> None:
        self.shares, self.device = shares, device
        self.songs = [np.load(path, mmap_mode="r") for path in files]
        self.draw = np.random.default_rng(seed)

    def one(self, samples: int, source: str | None = None) -> np.ndarray:
        piece = np.zeros(samples, dtype=np.float32)
        for _ in range(6):
            song = self.songs[self.draw.integers(len(self.songs))]
            at = self.draw.integers(max(1, song.shape[1] - samples))
            stems = song[:, at : at + samples].astype(np.float32) / 32767
            name = source or SOURCES[self.draw.choice(4, p=self.shares)]
            piece = stems.sum(0) if name == "mix" else stems[SOURCES.index(name)]
            if np.mean(piece**2) > 1e-6 or self.draw.random() < 0.1:
                break
        return np.pad(piece, (0, samples - len(piece)))

    def batch(self, rows: int, samples: int) -> Tensor:
        pieces = [self.one(samples) * 10 ** (self.draw.uniform(-6, 4) / 20) for _ in range(rows)]
        return torch.from_numpy(np.stack(pieces).astype(np.float32)).clamp(-1, 1).to(self.device)


class DeviceCrops:
    """The same kind of pieces from songs that all lie in the device's memory, a batch in a few kernels.

    A GPU trains faster than one process reads files. Needs 192 kB a second of music (int16, three stems): 20
    hours are 14 GB. Of two candidates for a row the second is taken where the first is next to silent.
    """

    def __init__(
        self,
        files: list[Path],
        seed: int,
        shares: tuple[float, ...] = SHARES,
        device: torch.device | None = None,
    ) -> None:
        songs = [np.load(path) for path in files]
        self.device = device or torch.device("cpu")
        self.lengths = torch.tensor([song.shape[1] for song in songs], device=self.device)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.audio = torch.from_numpy(np.concatenate(songs, axis=1)).to(self.device)
        self.shares = torch.tensor(shares, device=self.device)
        self.draw = torch.Generator(self.device).manual_seed(seed)

    def _random(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.draw, device=self.device)

    def batch(self, rows: int, samples: int) -> Tensor:
        """Audio float32 [rows, samples] on the device; songs shorter than a piece end in zeros."""
        count = 2 * rows
        song = (self._random(count) * len(self.lengths)).long().clamp(max=len(self.lengths) - 1)
        room = (self.lengths[song] - samples).clamp(min=1)
        first = (self._random(count) * room).long()
        inside = first[:, None] + torch.arange(samples, device=self.device)
        there = inside < self.lengths[song][:, None]
        index = (self.starts[song][:, None] + inside).clamp(max=self.audio.shape[1] - 1)
        source = torch.multinomial(self.shares, count, replacement=True, generator=self.draw)
        heard = torch.eye(len(STEMS), device=self.device)
        heard = torch.cat([heard, torch.ones(1, len(STEMS), device=self.device)])[source]
        pieces = torch.zeros(count, samples, device=self.device)
        for stem in range(len(STEMS)):
            pieces += self.audio[stem][index].float() / 32767 * heard[:, stem : stem + 1]
        pieces = pieces * there
        one, two = pieces[:rows], pieces[rows:]
        silent = one.square().mean(1, keepdim=True) < 1e-6
        chosen = torch.where(silent, two, one)
        gain_db = self._random(rows, 1) * 10 - 6
        return (chosen * 10 ** (gain_db / 20)).clamp(-1, 1)
