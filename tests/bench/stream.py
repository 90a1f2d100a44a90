"""The exact streaming decode at the published 32 kHz shape: error and cost by chunk size.

Cost is relative to decoding everything at once with the same kernels, in the same interleaved rounds; the
full decode of ``transformers`` runs beside it. Errors are against the slow twin (whole-signal convolutions)
with LSTM weights whose memory is long (forget bias raised by 4), where windowed decoding fails.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from genmodel.codec import EncodecModel, push_together
from tests.bench.aims import Aim
from tests.bench.codec import SHAPE, interleaved, machine, pair, relative_error

AIMS = (
    Aim("streamed decode, error of peak", "max_error", most=1e-5),
    Aim("cost of 50 frames a chunk over the whole at once", "cost_50", most=1.05, unit="×"),
    Aim("cost of 25 frames a chunk", "cost_25", most=1.15, unit="×"),
    Aim("cost of 5 frames a chunk", "cost_5", most=1.6, unit="×"),
)
CHUNKS = (1, 5, 10, 25, 50)


def streamed(codec: EncodecModel, codes: Tensor, chunk_frames: int) -> Tensor:
    """The decode of ``codes`` in pieces, ``[B, C, F * hop]``."""
    stream = codec.stream(codes.shape[0])
    pieces = [stream.push(piece) for piece in codes.split(chunk_frames, dim=2)]
    pieces.append(stream.finish())
    return torch.cat(pieces, dim=3).sum(1)


def streamed_together(codec: EncodecModel, codes: Tensor, count: int, chunk_frames: int) -> None:
    """``count`` independent streams, advanced side by side."""
    streams = [codec.stream(codes.shape[0]) for _ in range(count)]
    for piece in codes.split(chunk_frames, dim=2):
        push_together(streams, [piece] * count)
    for stream in streams:
        stream.finish()


@torch.no_grad()
def run(args: argparse.Namespace) -> dict[str, Any]:
    rounds = getattr(args, "rounds", None) or 5
    threads = getattr(args, "threads", None)
    seconds = getattr(args, "seconds", None) or 5.0
    if threads:
        torch.set_num_threads(threads)
    theirs, ours = pair(forget_bias=4.0)
    frames = round(seconds * ours.frame_rate)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, ours.cardinality, (1, 4, frames), generator=generator)
    ours.kernels = "reference"
    whole = ours.decode(codes)
    ours.kernels = "auto"
    results = {n: streamed(ours, codes, n) for n in CHUNKS}
    errors = {n: relative_error(y, whole) for n, y in results.items()}
    medians = interleaved(
        {
            "transformers": lambda: theirs.decode(codes[None], [None]),
            "full": lambda: ours.decode(codes),
            **{str(n): (lambda n=n: streamed(ours, codes, n)) for n in CHUNKS},
            "4 together, 5": lambda: streamed_together(ours, codes, 4, 5),
        },
        rounds,
    )
    return {
        "bench": "stream",
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "batch": 1,
        "seconds": frames / ours.frame_rate,
        "shape": SHAPE,
        "lookahead_frames": ours.lookahead_frames,
        "state_bytes": ours.stream(1).snapshot().nbytes,
        "max_error": max(errors.values()),
        "equal_length": all(y.shape == whole.shape for y in results.values()),
        "errors": {str(n): e for n, e in errors.items()},
        "per_audio_s": {name: value * ours.frame_rate / frames for name, value in medians.items()},
        "full_ratio": medians["transformers"] / medians["full"],
        "together_4_gain": 4 * medians["5"] / medians["4 together, 5"],
        **{f"cost_{n}": medians[str(n)] / medians["full"] for n in CHUNKS},
        **{f"ratio_{n}": medians["transformers"] / medians[str(n)] for n in CHUNKS},
    }


def table(result: dict[str, Any]) -> str:
    """The result for reading."""
    per_s = result["per_audio_s"]
    lines = [
        f"Streaming decode 32 kHz, {result['machine']['cpu']}, {result['threads']} threads,",
        f"{result['seconds']:.1f} s, median of {result['rounds']} interleaved rounds; "
        f"look-ahead {result['lookahead_frames']} frames",
        f"{'':>14}{'s per s':>9}{'x full':>8}{'error':>10}{'transformers / this':>22}",
        f"{'transformers':>14}{per_s['transformers']:9.4f}{per_s['transformers'] / per_s['full']:8.2f}",
        f"{'full':>14}{per_s['full']:9.4f}{1.0:8.2f}{'':>10}{result['full_ratio']:22.2f}",
    ]
    for n in CHUNKS:
        lines.append(
            f"{f'{n} frames':>14}{per_s[str(n)]:9.4f}{result[f'cost_{n}']:8.2f}"
            f"{result['errors'][str(n)]:10.1e}{result[f'ratio_{n}']:22.2f}"
        )
    lines.append(
        f"4 streams pushed together, 5 frames: {result['together_4_gain']:.2f}x the speed of one by one"
    )
    return "\n".join(lines)
