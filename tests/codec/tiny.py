"""Tiny codecs with random weights, and the ways tests cut their tokens into pieces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genmodel.codec import CodecStream, CompressionModel, EncodecConfig, EncodecModel, SEANetConfig

#: Shapes that differ in everything a stream's arithmetic depends on.
SHAPES: dict[str, dict[str, Any]] = {
    "musicgen": {"ratios": (8, 5, 4, 4), "pad_mode": "reflect"},
    "musicgen-zeros": {"ratios": (8, 5, 4, 4), "pad_mode": "constant"},
    "audiogen": {"ratios": (8, 5, 4, 2)},
    "causal": {"ratios": (4, 3), "causal": True, "pad_mode": "constant"},
    "causal-reflect": {"ratios": (4, 3), "causal": True, "pad_mode": "reflect", "true_skip": False},
    "causal-trim": {"ratios": (5, 2), "causal": True, "trim_right_ratio": 0.4},
    "dilated": {"ratios": (5, 3), "n_residual_layers": 3, "dilation_base": 3, "pad_mode": "reflect"},
    "kernels": {"ratios": (3, 2, 2), "kernel_size": 6, "last_kernel_size": 4, "residual_kernel_size": 5},
    "no-lstm": {"ratios": (2,), "lstm": 0, "true_skip": False, "compress": 1},
    "one-lstm": {"ratios": (7, 1, 3), "lstm": 1, "n_residual_layers": 2, "pad_mode": "reflect"},
    "no-residual": {"ratios": (4, 2), "n_residual_layers": 0, "pad_mode": "replicate", "norm": "none"},
    "tanh": {
        "ratios": (4, 2),
        "final_activation": "Tanh",
        "activation": "LeakyReLU",
        "activation_params": {},
    },
}


def codec(
    shape: str, channels: int = 1, seed: int = 0, forget_bias: float = 4.0, **changes: Any
) -> EncodecModel:
    """A random codec. ``forget_bias`` > 0 gives its LSTMs a memory of hundreds of frames."""
    torch.manual_seed(seed)
    values = {"channels": channels, "dimension": 8, "n_filters": 4, **SHAPES[shape], **changes}
    halves = dict(values)
    for name in ("trim_right_ratio", "final_activation"):
        halves.pop(name, None)
    model = EncodecModel(
        EncodecConfig(
            sample_rate=16000,
            channels=channels,
            n_q=4,
            bins=32,
            encoder=SEANetConfig(**halves),
            decoder=SEANetConfig(**values),
        )
    )
    with torch.no_grad():
        for embed in model.quantizer.codebooks:
            embed.normal_().mul_(0.3)
        for name, parameter in model.named_parameters():
            if "bias_ih" in name:
                width = parameter.numel() // 4
                parameter[width : 2 * width] += forget_bias
    return model.requires_grad_(False)


def random_codes(model: CompressionModel, rows: int, frames: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.cardinality, (rows, model.num_codebooks, frames), generator=generator)


def chunked(codes: Tensor, chunk: int | str, seed: int = 0) -> Iterator[Tensor]:
    """Pieces of ``chunk`` frames, or for "random" of 0 to 6 frames."""
    if isinstance(chunk, int):
        yield from codes.split(chunk, dim=2)
        return
    draw, at = random.Random(seed), 0
    while at < codes.shape[2]:
        n = draw.randint(0, 6)
        yield codes[:, :, at : at + n]
        at += n


def streamed(stream: CodecStream, codes: Tensor, chunk: int | str) -> Tensor:
    pieces = [stream.push(piece) for piece in chunked(codes, chunk)]
    return torch.cat([*pieces, stream.finish()], dim=3)


def slow_decode(model: CompressionModel, codes: Tensor) -> Tensor:
    """``decode_stems`` by the slow twin: whole-signal convolutions, no state."""
    core = model.core
    before, core.kernels = core.kernels, "reference"
    try:
        return model.decode_stems(codes)
    finally:
        core.kernels = before


def error(ours: Tensor, truth: Tensor) -> float:
    """Largest difference relative to the truth's peak; infinite when the shapes differ."""
    if ours.shape != truth.shape:
        return float("inf")
    return float((ours - truth).abs().max() / truth.abs().max())
