"""What pocket is judged on: held-out songs cut at a bar line, and what it makes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genmodel.base import BaseGenModel
from genmodel.engine.engine import Engine
from genmodel.pocket.recipe.compose import SONG_SECONDS, compose
from genmodel.pocket.recipe.crops import song_files
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.song import Song
from genmodel.request import AudioClip, GenerationRequest, Sampling, TempoChange, TempoMap

HOP = 640
FRAME_RATE = RATE_HZ / HOP


@dataclass(frozen=True)
class Prompt:
    """A held-out song cut at a seam: audio float32 [3, n] and the seam's place in samples."""

    song: Song
    stems: np.ndarray
    seam: int
    prompt_samples: int
    new_samples: int

    @property
    def heard(self) -> np.ndarray:
        return self.stems[:, self.seam - self.prompt_samples : self.seam].sum(0)

    @property
    def truth(self) -> np.ndarray:
        """Stems of what really follows, [3, new]."""
        return self.stems[:, self.seam : self.seam + self.new_samples]

    def tempo_map(self) -> TempoMap:
        meter = self.song.meter
        changes = tuple(
            TempoChange(at, bpm, meter.beats, meter.unit) for at, bpm in self.song.timeline.changes
        )
        return TempoMap(changes, float(self.song.timeline.quarters(self.seam / RATE_HZ)))

    def grid_s(self) -> np.ndarray:
        """Times of the song's sixteenths (twelfths of a beat apart where it swings are not counted)."""
        last = self.song.bars * self.song.meter.quarters
        return np.asarray(self.song.timeline.seconds(np.arange(0.0, last, 0.25)))

    def chords(self) -> Tensor:
        """The song's chords after the seam, chroma float32 [new frames, 12]."""
        frames = self.new_samples // HOP
        times = self.seam / RATE_HZ + (np.arange(frames) + 0.5) / FRAME_RATE
        return torch.from_numpy(self.song.chord_chroma(times))


def candidates(songs: Path, prompt_s: float, new_s: float, seconds: float = SONG_SECONDS) -> Iterable[Prompt]:
    """One prompt per held-out song of one tempo: the first bar line after `prompt_s` seconds is the seam,
    rounded to frames."""
    for path in song_files(songs, held_out=True):
        song = compose(int(path.stem), seconds)
        bars = np.asarray(song.timeline.seconds(np.arange(song.bars + 1) * song.meter.quarters))
        later = bars[bars >= prompt_s + 1.0]
        if not len(later) or len(song.timeline.changes) > 1:
            continue
        seam = round(float(later[0]) * RATE_HZ / HOP) * HOP
        stems = np.load(path, mmap_mode="r")
        new = int(new_s * RATE_HZ) // HOP * HOP
        if seam + new > stems.shape[1]:
            continue
        audio = np.asarray(stems[:, : seam + new], dtype=np.float32) / 32767
        yield Prompt(song, audio, seam, int(prompt_s * RATE_HZ) // HOP * HOP, new)


def stratum(prompt: Prompt) -> tuple[bool, str, str]:
    """What a prompt stands for: whether all stems play after the seam, its meter, its genre."""
    return bool(prompt.truth.any(1).all()), prompt.song.meter.name, prompt.song.genre


def stratified(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    """`count` of them, taken in turn from each stratum, so that rare meters and thin arrangements are heard
    too.

    Strata in which every stem plays come first within a turn.
    """
    strata: dict[tuple[bool, str, str], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        strata[stratum(prompt)].append(prompt)
    order = sorted(strata, key=lambda key: (not key[0], key[1:]))
    chosen: list[Prompt] = []
    turn = 0
    while len(chosen) < count and any(len(strata[key]) > turn for key in order):
        chosen += [strata[key][turn] for key in order if len(strata[key]) > turn]
        turn += 1
    return chosen[:count]


def load_prompts(
    songs: Path, count: int, prompt_s: float, new_s: float, seconds: float = SONG_SECONDS
) -> list[Prompt]:
    """A stratified choice of the held-out songs in a folder."""
    return stratified(candidates(songs, prompt_s, new_s, seconds), count)


def generate(model: BaseGenModel, requests: list[GenerationRequest], slots: int) -> list[np.ndarray]:
    """The new samples of each request's stems, mono [stems, new], several requests aboard at once."""
    engine = Engine(model, slots)
    jobs = {id(engine.add(request)): index for index, request in enumerate(requests)}
    names = [request.stems or model.stems for request in requests]
    parts: list[dict[str, list[np.ndarray]]] = [{name: [] for name in asked} for asked in names]
    while engine.busy:
        for job, chunk in engine.step():
            if chunk is None:
                raise job.error or RuntimeError("a job failed")
            samples = chunk.samples.mean(0).numpy()
            skip = min(len(samples), max(0, -chunk.position))
            parts[jobs[id(job)]][chunk.stem].append(samples[skip:])
    return [
        np.stack([np.concatenate(part[name]) for name in asked])
        for part, asked in zip(parts, names, strict=True)
    ]


def request_of(
    prompt: Prompt, sampling: Sampling, seed: int, transport: bool = True, harmony: bool = False
) -> GenerationRequest:
    """Go on from a prompt's mix, with or without the tempo map, with or without the song's chords."""
    return GenerationRequest(
        "continue",
        prompt.new_samples // HOP,
        AudioClip(torch.from_numpy(prompt.heard)[None], RATE_HZ),
        seed=seed,
        sampling=sampling,
        tempo_map=prompt.tempo_map() if transport else None,
        harmony=prompt.chords() if harmony else None,
    )
