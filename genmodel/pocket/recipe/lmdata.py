"""What the language model is taught: crops of tokenised songs, made into tasks.

One graph serves every task; a task only changes what is put in and where the loss counts:

* continue a mix (40 %): before frame P all target tokens are unknown and the mix's codes stand in the
  context; the loss counts from P on;
* continue stems (22 %): the stems' own tokens all the way, no context;
* accompany (15 %): the mix of some stems stands in the context all the way, their own tokens are unknown and
  out of the loss;
* fill (10 %): as "continue a mix", and from frame Q on the mix's codes stand in the context again; the loss
  counts between P and Q;
* from text alone (13 %): as "continue stems" from the song's beginning, and the harmony from its chords.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from genmodel.lm.conditioners.frames import HARMONY_DIM, TRANSPORT_DIM, transport_features
from genmodel.pocket.chroma import repeat_chroma
from genmodel.pocket.recipe.compose import HELD_OUT_FROM, SONG_SECONDS, compose
from genmodel.pocket.recipe.song import STEMS, Song

FRAME_RATE = 50.0
CODEBOOKS = 4
TASKS = ("mix", "stems", "accompany", "text", "fill")
TASK_SHARES = (0.40, 0.22, 0.15, 0.13, 0.10)
TEXT_DROP, WORD_DROP = 0.15, 0.2
TRANSPORT_DROP, FOUR_BAR_DROP, HARMONY_DROP = 0.2, 0.3, 0.25
CHORDS_SHARE = 0.3
FOUR_BAR_COLUMNS = (1, 2)
SUBSETS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class TokenSong:
    """A tokenised song: codes int16 and chroma uint8 by source name."""

    song: Song
    codes: dict[str, Tensor]
    chroma: dict[str, Tensor]

    @property
    def frames(self) -> int:
        return self.codes["mix"].shape[1]

    def stems(self) -> Tensor:
        """Target codes int64 [12, F]; codebook k of stem s is row 3·k + s."""
        return torch.stack([self.codes[name] for name in STEMS], 1).flatten(0, 1).long()

    def pitch(self, name: str) -> Tensor:
        return self.chroma[name].float() / 255


def load_songs(folder: Path, held_out: bool, seconds: float = SONG_SECONDS) -> list[TokenSong]:
    songs = []
    for path in sorted(p for p in folder.glob("*.npz") if p.stem.isdigit()):
        if (int(path.stem) >= HELD_OUT_FROM) != held_out:
            continue
        with np.load(path) as arrays:
            names = [str(name) for name in arrays["sources"]]
            codes = dict(zip(names, torch.from_numpy(arrays["codes"]), strict=True))
            pitch = dict(zip(names, torch.from_numpy(arrays["chroma"]), strict=True))
        songs.append(TokenSong(compose(int(path.stem), seconds), codes, pitch))
    return songs


def transport(song: Song, start_frame: int, frames: int) -> Tensor:
    """Transport features [frames, 11] of a song; a frame's time is that of its first sample."""
    times = (start_frame + np.arange(frames)) / FRAME_RATE
    bar, beat, four_bars = (torch.from_numpy(phase) for phase in song.timeline.phases(times))
    return transport_features(bar, beat, four_bars)


def prompt_period_frames(song: Song, start_frame: int, prompt_frames: int) -> float | None:
    """Length of the largest of 4, 2, 1 whole bars before the prompt's end that fits into it, in frames."""
    end_s = (start_frame + prompt_frames) / FRAME_RATE
    end_quarters = float(song.timeline.quarters(end_s))
    for bars in (4, 2, 1):
        begin = float(song.timeline.seconds(end_quarters - bars * song.meter.quarters))
        length = (end_s - begin) * FRAME_RATE
        if length <= prompt_frames:
            return length
    return None


@dataclass(frozen=True)
class Example:
    """One crop as the model sees it. All in frames of the crop.

    codes: int64 [12, F], the truth. given: bool [12, F], which of them the model may read. counted: bool
    [12, F], which
    are in the loss. context: int64 [4, F] (the card where there is nothing). transport [F, 11] and harmony
    [F, 13], zero
    rows when absent. words: what the text says.
    """

    task: str
    codes: Tensor
    given: Tensor
    counted: Tensor
    context: Tensor
    transport: Tensor
    harmony: Tensor
    words: tuple[str, ...]


class TaskMaker:
    """Draws examples from songs."""

    def __init__(self, songs: list[TokenSong], frames: int, card: int, seed: int | Sequence[int]) -> None:
        self.songs, self.frames, self.card = songs, frames, card
        self.draw = np.random.default_rng(seed)
        self.with_pairs = [song for song in songs if len(song.codes) > len(STEMS) + 1]

    def _chance(self, share: float) -> bool:
        return bool(self.draw.random() < share)

    def example(self, task: str | None = None, drop: bool = True) -> Example:
        """A random example; `drop` False keeps every condition (for judging)."""
        name = task or str(self.draw.choice(TASKS, p=TASK_SHARES))
        source = self.songs[self.draw.integers(len(self.songs))]
        subset: tuple[int, ...] = ()
        if name == "accompany":
            subset = SUBSETS[self.draw.integers(6)]
            if len(subset) == 2:
                if not self.with_pairs:
                    subset = subset[:1]
                else:
                    source = self.with_pairs[self.draw.integers(len(self.with_pairs))]
        latest = max(0, source.frames - self.frames)
        start = 0 if name == "text" and self._chance(0.5) else int(self.draw.integers(latest + 1))
        return self.make(source, name, start, subset, drop)

    def make(
        self, source: TokenSong, task: str, start: int, subset: tuple[int, ...], drop: bool = True
    ) -> Example:
        stop = min(source.frames, start + self.frames)
        frames = stop - start
        codes = source.stems()[:, start:stop]
        given = torch.ones_like(codes, dtype=torch.bool)
        counted = torch.ones_like(given)
        context = torch.full((CODEBOOKS, frames), self.card)
        heard = "mix"
        prompt = 0
        if task == "mix":
            prompt = int(self.draw.integers(min(100, frames // 4), max(2, frames * 3 // 4)))
            given[:, :prompt] = False
            counted[:, :prompt] = False
            context[:, :prompt] = source.codes["mix"][:, start : start + prompt].long()
        elif task == "fill":
            prompt = int(self.draw.integers(min(100, frames // 4), max(2, frames // 2)))
            end = int(self.draw.integers(prompt + frames // 6, frames - frames // 8))
            given[:, :prompt], given[:, end:] = False, False
            counted = given.clone()
            for piece in (slice(0, prompt), slice(end, frames)):
                context[:, piece] = source.codes["mix"][:, start:stop][:, piece].long()
        elif task == "accompany":
            heard = "+".join(STEMS[stem] for stem in subset)
            context = source.codes[heard][:, start:stop].long()
            for stem in subset:
                given[stem::3] = False
                counted[stem::3] = False
        return Example(
            task,
            codes,
            given,
            counted,
            context,
            self._transport(source, start, frames, drop),
            self._harmony(source, task, heard, start, frames, prompt, drop),
            self._words(source.song, drop),
        )

    def _transport(self, source: TokenSong, start: int, frames: int, drop: bool) -> Tensor:
        if drop and self._chance(TRANSPORT_DROP):
            return torch.zeros(frames, TRANSPORT_DIM)
        features = transport(source.song, start, frames)
        if drop and self._chance(FOUR_BAR_DROP):
            features[:, list(FOUR_BAR_COLUMNS)] = 0
        return features

    def _harmony(
        self, source: TokenSong, task: str, heard: str, start: int, frames: int, prompt: int, drop: bool
    ) -> Tensor:
        features = torch.zeros(frames, HARMONY_DIM)
        if drop and self._chance(HARMONY_DROP):
            return features
        if self._chance(CHORDS_SHARE * (2 if task == "text" else 1)):
            times = (start + np.arange(frames)) / FRAME_RATE
            pitch = torch.from_numpy(source.song.chord_chroma(times))
        else:
            pitch = source.pitch(heard)[start : start + frames].clone()
        if task in ("mix", "fill") and self._chance(0.5):
            pitch[:prompt] = source.pitch("mix")[start : start + prompt]
            period = prompt_period_frames(source.song, start, prompt)
            pitch[prompt:] = repeat_chroma(pitch[:prompt], frames - prompt, period)
        features[:, :12] = pitch
        features[:, 12] = 1
        return features

    def _words(self, song: Song, drop: bool) -> tuple[str, ...]:
        if not drop:
            return song.words
        if self._chance(TEXT_DROP):
            return ()
        kept = [word for word in song.words if not self._chance(WORD_DROP)]
        self.draw.shuffle(kept)
        return tuple(kept)


@dataclass(frozen=True)
class Batch:
    """Examples side by side; rows shorter than the longest are padded and out of the loss."""

    codes: Tensor
    given: Tensor
    counted: Tensor
    context: Tensor
    transport: Tensor
    harmony: Tensor
    words: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def collate(examples: list[Example], index: dict[str, int], card: int) -> Batch:
    """`index` maps a word to its embedding row (0 is padding)."""
    frames = max(example.codes.shape[1] for example in examples)

    def stack(name: str, fill: float, along_last: bool) -> Tensor:
        rows = []
        for example in examples:
            value: Tensor = getattr(example, name)
            missing = frames - example.codes.shape[1]
            widths = (0, missing) if along_last else (0, 0, 0, missing)
            rows.append(torch.nn.functional.pad(value, widths, value=fill))
        return torch.stack(rows)

    longest = max(1, *(len(example.words) for example in examples))
    words = torch.zeros(len(examples), longest, dtype=torch.int64)
    for row, example in enumerate(examples):
        ids = [index[word] for word in example.words if word in index]
        words[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return Batch(
        stack("codes", card, True),
        stack("given", False, True),
        stack("counted", False, True),
        stack("context", card, True),
        stack("transport", 0.0, False),
        stack("harmony", 0.0, False),
        words,
    )


class Drawn(IterableDataset[Batch]):
    """Endless batches of `rows` examples; each loading process draws its own."""

    def __init__(
        self, songs: list[TokenSong], frames: int, card: int, seed: int, rows: int, index: dict[str, int]
    ) -> None:
        self.songs, self.frames, self.card, self.seed = songs, frames, card, seed
        self.rows, self.index = rows, index

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        seed = self.seed if worker is None else [self.seed, worker.id]
        maker = TaskMaker(self.songs, self.frames, self.card, seed)
        while True:
            yield collate([maker.example() for _ in range(self.rows)], self.index, self.card)


def batches(drawn: Drawn, loaders: int = 0) -> Iterator[Batch]:
    """Batches made in this process, or ahead of need in `loaders` others: an example takes about 5 ms, so
    that a GPU would wait."""
    if not loaders:
        return iter(drawn)
    return iter(DataLoader(drawn, batch_size=None, num_workers=loaders, prefetch_factor=4))
