"""The audio of a request, as the model is to hear it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from daemon import takes
from daemon.workers.interface import ModelFacts, PlayerError, Samples
from daemon.workers.render import with_channels
from protocol.audio import SAMPLE_BYTES, AudioFormat


def decoded(data: bytes | memoryview, audio: AudioFormat) -> Samples:
    """Interleaved bytes of the wire as float32 [channels, n]; full scale is 1.0."""
    if audio.format == "f32le":
        flat = np.frombuffer(data, "<f4")
    elif audio.format == "s16le":
        flat = np.frombuffer(data, "<i2").astype(np.float32) / 2**15
    else:
        triples = np.frombuffer(data, np.uint8).reshape(-1, SAMPLE_BYTES["s24le"])
        wide = np.zeros((triples.shape[0], 4), np.uint8)
        wide[:, 1:] = triples
        flat = (wide.view("<i4")[:, 0] >> 8).astype(np.float32) / 2**23
    return np.ascontiguousarray(flat.reshape(-1, audio.channels).T, dtype=np.float32)


class Sounds:
    """The request's audio, decoded and joined by role and track."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        """Raises E_TAKE_DAMAGED when the stored bytes are not those that came."""
        self._parts: dict[tuple[str, int | None], list[tuple[AudioFormat, Samples]]] = {}
        data = memoryview((folder / takes.INPUT_NAME).read_bytes())
        formats = [AudioFormat.from_map(entry) for entry in spec["audio"]]
        if zlib.crc32(data) != spec["crc"] or data.nbytes != sum(found.total_bytes for found in formats):
            raise PlayerError("E_TAKE_DAMAGED", "The selection was damaged on the disk; submit it again.")
        at = 0
        for audio in formats:
            part = decoded(data[at : at + audio.total_bytes], audio)
            self._parts.setdefault((audio.role or "prompt", audio.track), []).append((audio, part))
            at += audio.total_bytes

    def of(self, role: str) -> list[tuple[AudioFormat, Samples]]:
        """(description of the first part, all samples) per track of a role."""
        return [
            (parts[0][0], np.concatenate([samples for _, samples in parts], axis=1))
            for (found, _), parts in self._parts.items()
            if found == role
        ]


def from_start(samples: Samples, rate: int, facts: ModelFacts) -> Samples:
    """Host audio [C, n] at the model's rate and channels, its BEGINNING kept in place: [channels, m]."""
    inner = with_channels(samples, facts.channels)
    if rate != facts.rate:
        inner = soxr.resample(np.ascontiguousarray(inner.T), rate, facts.rate, quality="HQ").T
    return np.ascontiguousarray(inner, dtype=np.float32)


def context(sounds: Sounds, facts: ModelFacts, before: int, whole_prompt: int) -> Samples | None:
    """Other tracks, mixed to the model's channels, at its rate; `before` samples lie before the seam. A track
    without a place begins with the prompt, which had `whole_prompt` samples.
    """
    placed: list[tuple[int, Samples]] = []
    for audio, samples in sounds.of("context"):
        start = -whole_prompt if audio.position is None else round(audio.position * facts.rate / audio.rate)
        placed.append((start + before, from_start(samples, audio.rate, facts)))
    length = max((start + samples.shape[1] for start, samples in placed), default=0)
    if length <= 0:
        return None
    mixed = np.zeros((facts.channels, length), np.float32)
    for start, samples in placed:
        skipped = max(0, -start)
        kept = samples[:, skipped:]
        mixed[:, start + skipped : start + skipped + kept.shape[1]] += kept
    return mixed
