"""Whether a listener would name the genre that a text asked for: a plain classifier, taught on true music.

Softmax regression on figures of timbre, rhythm and density, taught on songs of the training seeds as the
codec tells them (so that it does not learn to hear the codec), judged on held-out songs first: what it
scores on the truth is the most that pocket can score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from genmodel.base import BaseGenModel
from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.compose import SONG_SECONDS, compose
from genmodel.pocket.recipe.crops import song_files
from genmodel.pocket.recipe.prompts import HOP, Prompt, generate
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.spectral import mel_filters
from genmodel.pocket.recipe.styles import STYLES
from genmodel.request import GenerationRequest, Sampling

CLIP_S = 6.0
GENRES = tuple(sorted(STYLES))


def features(stems: np.ndarray) -> np.ndarray:
    """What the classifier hears of stems [3, n]: bands of each stem, rhythm and density of drums and mix."""
    values: list[np.ndarray] = []
    window = 1024
    taper = torch.hann_window(window)
    bank = mel_filters(RATE_HZ, window, 20, 40.0)
    for stem in stems:
        audio = torch.from_numpy(np.asarray(stem, dtype=np.float32))
        spectrum = torch.stft(audio, window, 512, window=taper, return_complex=True).abs().square().T
        bands = 10 * ((spectrum @ bank) + 1e-6).log10().numpy()
        values += [bands.mean(0), bands.std(0), np.quantile(bands, (0.1, 0.9), axis=0).ravel()]
    for sound in (stems[0], stems.sum(0)):
        envelope = metrics.onset_envelope(sound)
        lags = metrics.autocorrelation(envelope)
        values.append(
            np.interp(np.geomspace(0.08, 2.4, 36) * metrics.ONSET_RATE_HZ, np.arange(len(lags)), lags)
        )
        values.append(np.quantile(envelope, (0.5, 0.8, 0.95)))
    values.append(np.array([metrics.percussive_share(stem) for stem in stems]))
    return np.concatenate(values).astype(np.float32)


class GenreEar:
    """The classifier."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> None:
        self.mean, self.spread = rows.mean(0), rows.std(0) + 1e-3
        torch.manual_seed(seed)
        x, y = self._scaled(rows), torch.from_numpy(np.asarray(labels, dtype=np.int64))
        self.layer = torch.nn.Linear(x.shape[1], classes)
        torch.nn.init.zeros_(self.layer.weight)
        optimiser = torch.optim.AdamW(self.layer.parameters(), 0.02, weight_decay=0.3)
        for _ in range(300):
            loss = torch.nn.functional.cross_entropy(self.layer(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def _scaled(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((rows - self.mean) / self.spread).astype(np.float32)).clamp(-5, 5)

    @torch.no_grad()
    def name(self, rows: np.ndarray) -> np.ndarray:
        """The likeliest class of each row."""
        return self.layer(self._scaled(rows)).argmax(1).numpy()

    def accuracy(self, rows: np.ndarray, labels: np.ndarray) -> float:
        return float((self.name(rows) == np.asarray(labels)).mean())


@torch.no_grad()
def _through(model: BaseGenModel, stems: np.ndarray) -> np.ndarray:
    """Stems [3, n] as the codec tells them."""
    codes = model.compression_model.encode(torch.from_numpy(stems)[None])[0]
    return model.compression_model.decode_stems(codes)[0].mean(1).numpy()


def _taught(model: BaseGenModel, files: list[Path], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = [], []
    size = int(CLIP_S * RATE_HZ) // HOP * HOP
    for path in files:
        song = np.load(path, mmap_mode="r")
        middle = max(0, (song.shape[1] - size) // 2) // HOP * HOP
        stems = np.asarray(song[:, middle : middle + size], dtype=np.float32) / 32767
        rows.append(features(_through(model, stems)))
        labels.append(GENRES.index(compose(int(path.stem), seconds).genre))
    return np.stack(rows), np.array(labels)


def judge_genres(
    model: BaseGenModel,
    songs: Path,
    prompts: list[Prompt],
    sampling: Sampling,
    slots: int = 8,
    teach: int = 500,
    seconds: float = SONG_SECONDS,
) -> dict[str, Any]:
    """Text alone (the song's own words, its tempo map), and what the classifier says of it and of the
    truth."""
    files = song_files(songs, held_out=False)[:teach]
    ear = GenreEar(*_taught(model, files, seconds), len(GENRES))
    labels = np.array([GENRES.index(prompt.song.genre) for prompt in prompts])
    size = int(CLIP_S * RATE_HZ) // HOP
    requests = [
        GenerationRequest(
            "generate",
            size,
            text=" ".join(prompt.song.words),
            seed=index,
            sampling=sampling,
            tempo_map=prompt.tempo_map(),
        )
        for index, prompt in enumerate(prompts)
    ]
    made = generate(model, requests, slots)
    truth = np.stack([features(_through(model, prompt.truth)) for prompt in prompts])
    with_drums = [
        (clip, prompt)
        for clip, prompt in zip(made, prompts, strict=True)
        if any(part.drums and part.notes for part in prompt.song.parts)
    ]
    kept = [metrics.same_tempo(metrics.tempo(clip.sum(0)), prompt.song.bpm) for clip, prompt in with_drums]
    return {
        "genre_accuracy": round(ear.accuracy(np.stack([features(clip) for clip in made]), labels), 3),
        "genre_truth": round(ear.accuracy(truth, labels), 3),
        "genre_chance": round(1 / len(GENRES), 3),
        "text_tempo_kept": round(float(np.mean(kept)), 3) if kept else None,
    }
