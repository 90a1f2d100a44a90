"""A whole clip at MusicGen-small's shape with random weights, codec included: how long each second takes.

What a listener hears: the engine's chunks of half a second, as a worker makes them. A second that takes
longer than a second is one in which the music would stop.
"""

from __future__ import annotations

import time
from typing import Any

from genmodel import MusicGen
from genmodel.engine.engine import Engine
from genmodel.lm.lm import LMModel
from genmodel.request import GenerationRequest
from tests.bench import codec

CLIP_S, CHUNK_S = 30.0, 0.5


def clip(lm: LMModel, precision: str, seconds: float) -> dict[str, Any]:
    """``xrt`` of the clip and of its slowest second, the first one with its first audio included."""
    _, decoder = codec.pair()
    model = MusicGen("random", decoder, lm, max_duration=seconds)
    model.precision = precision
    engine = Engine(model, 1)
    frames, chunk = round(seconds * model.frame_rate), round(CHUNK_S * model.frame_rate)
    for length in (2 * chunk, frames):  # the first one warms up
        request = GenerationRequest("generate", length, text="a text", seed=1, chunk_frames=chunk)
        begun = time.perf_counter()
        engine.add(request)
        reached = [(0.0, 0.0)]  # seconds of audio, seconds of time
        while engine.busy:
            for job, made in engine.step():
                if made is None:
                    raise job.error or RuntimeError("the clip failed")
                end = (made.position + made.samples.shape[1]) / model.sample_rate
                reached.append((end, time.perf_counter() - begun))
    return {
        "seconds": seconds,
        "precision": precision,
        "xrt": reached[-1][0] / reached[-1][1],
        "slowest_second_xrt": 1 / max(_seconds(reached)),
        "first_audio_s": reached[1][1],
    }


def _seconds(reached: list[tuple[float, float]]) -> list[float]:
    """How long each stretch of at least a second took, scaled to one second."""
    found = []
    for number, (audio_s, time_s) in enumerate(reached):
        before = [(a, t) for a, t in reached[:number] if a <= audio_s - 1 + 1e-6]
        after = [(a, t) for a, t in reached[number:] if a >= audio_s + 1 - 1e-6]
        found += [(time_s - t) / (audio_s - a) for a, t in before[-1:]]
        found += [(t - time_s) / (a - audio_s) for a, t in after[:1]]
    return found or [reached[-1][1] / reached[-1][0]]
