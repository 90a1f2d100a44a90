"""Many requests at once on one model: tokens per second against one alone, and that each is the same bits.

MusicGen-small's shape with random weights, guidance 3, 16 text tokens. Also the step late in a take against
the step at its beginning, and the prefill of a prompt. Rounds of all counts are interleaved; figures are
medians of all steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

import torch
from torch import Tensor

from genmodel.engine.stepper import Stepper
from tests.bench import lm as shapes
from tests.bench.aims import Aim
from tests.bench.codec import machine
from tests.bench.steps import take, timed_steps

AIMS = (
    Aim("8 requests at once over 1, tokens per second", "throughput_8_over_1", least=3.5, unit="×"),
    Aim("16 requests at once over 1, tokens per second", "throughput_16_over_1", least=4.5, unit="×"),
    Aim("each of them the bits that it has alone", "bit_identical", holds=True),
)
COUNTS = (1, 2, 4, 8, 16)
SECONDS = 0.5
NEAR_FRAMES, FAR_FRAMES, PREFILL_FRAMES = 50, 1450, 500


def run(args: argparse.Namespace) -> dict[str, Any]:
    precision = shapes.precisions(args.precision)[-1]
    frames = round((args.seconds or SECONDS) * shapes.FRAME_RATE)
    lm = shapes.our_model()
    stepper = Stepper(lm, max(COUNTS), precision)
    load_before = os.getloadavg()[0]
    steps: dict[int, list[float]] = {count: [] for count in COUNTS}
    near: list[float] = []
    far: list[float] = []
    prefills: list[float] = []
    alone: dict[int, Tensor] = {}
    identical = True
    for number in range(args.rounds + 1):
        for count in COUNTS:
            sessions = [take(lm, frames, seed) for seed in range(count)]
            _, times = timed_steps(stepper, sessions)
            if number:
                steps[count] += times
            else:
                # each of the largest company is made once by itself, the rest must equal that
                for seed in range(len(alone), count):
                    single = take(lm, frames, seed)
                    timed_steps(stepper, [single])
                    alone[seed] = single.tokens
                identical &= all(torch.equal(s.tokens, alone[seed]) for seed, s in enumerate(sessions))
        for known, into in ((NEAR_FRAMES, near), (FAR_FRAMES, far)):
            _, times = timed_steps(stepper, [take(lm, 12, 1, known)])
            into += times if number else []
        prefill_s, _ = timed_steps(stepper, [take(lm, 2, 1, PREFILL_FRAMES)])
        prefills += [prefill_s] if number else []
    per_step = {count: statistics.median(times) for count, times in steps.items()}
    return {
        **{f"throughput_{n}_over_1": n * per_step[1] / per_step[n] for n in COUNTS if n > 1},
        "bit_identical": identical,
        "ms_per_step": {str(count): 1e3 * value for count, value in per_step.items()},
        "frames_per_s": {str(count): count / value for count, value in per_step.items()},
        "step_ms_near": 1e3 * statistics.median(near),
        "step_ms_far": 1e3 * statistics.median(far),
        "step_ratio_far": statistics.median(far) / statistics.median(near),
        "near_frames": NEAR_FRAMES,
        "far_frames": FAR_FRAMES,
        "prefill_s": statistics.median(prefills),
        "prefill_frames": PREFILL_FRAMES,
        "precision": precision,
        "frames": frames,
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "load": [load_before, os.getloadavg()[0]],
        "machine": machine(),
    }
