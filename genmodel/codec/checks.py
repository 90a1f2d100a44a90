"""Refusals of audio and tokens that cannot be coded, before any arithmetic touches them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genmodel.errors import GenModelError


def _need_tensor(value: Any, field: str, dims: str, rank: int, code: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise GenModelError(
            f"{field} must be a torch tensor",
            code=code,  # type: ignore[arg-type]
            field=field,
            value=type(value).__name__,
            allowed=f"a tensor {dims}",
        )
    if value.ndim != rank:
        raise GenModelError(
            f"{field} must have {rank} dimensions",
            code=code,  # type: ignore[arg-type]
            field=field,
            value=tuple(value.shape),
            allowed=dims,
        )
    return value


def check_audio(audio: Any, channels: int, what: str = "channels", field: str = "audio") -> Tensor:
    """``[B, channels, T]`` floating point, T >= 1, finite. Returns it; raises ``GenModelError`` E_AUDIO."""
    dims = f"[batch, {what}, samples]"
    audio = _need_tensor(audio, field, dims, 3, "E_AUDIO")
    if not audio.is_floating_point():
        raise GenModelError(
            "Audio must be floating point, full scale at 1.0",
            code="E_AUDIO",
            field=f"{field}.dtype",
            value=str(audio.dtype),
            allowed="float32",
        )
    if audio.shape[1] != channels:
        raise GenModelError(
            f"The audio has {audio.shape[1]} {what} where the codec takes {channels}",
            code="E_AUDIO",
            field=f"{field}.{what}",
            value=audio.shape[1],
            allowed=str(channels),
        )
    for axis, name in ((0, "batch"), (2, "samples")):
        if audio.shape[axis] == 0:
            raise GenModelError(
                "The audio is empty", code="E_AUDIO", field=f"{field}.{name}", value=0, allowed="at least 1"
            )
    finite = torch.isfinite(audio)
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        row, channel, position = bad[0].tolist()
        raise GenModelError(
            f"The audio holds {len(bad)} samples that are NaN or infinite, the first at sample {position} "
            f"(row {row}, {what} {channel})",
            code="E_AUDIO",
            field=field,
            value={"count": len(bad), "position": position, "row": row, "channel": channel},
            allowed="finite samples",
        )
    return audio


def check_codes(
    codes: Any, num_codebooks: int, cardinality: int, multiple: int = 1, empty: bool = False
) -> Tensor:
    """``[B, K, F]`` integers in 0..cardinality-1, K in 1..num_codebooks and a multiple of ``multiple``.

    Returns int64; raises ``GenModelError`` E_ARGUMENT. ``empty`` lets F be 0.
    """
    codes = _need_tensor(codes, "codes", "[batch, codebooks, frames]", 3, "E_ARGUMENT")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise GenModelError(
            "Codes must be whole numbers", field="codes.dtype", value=str(codes.dtype), allowed="int64"
        )
    count = codes.shape[1]
    if not 1 <= count <= num_codebooks or count % multiple:
        allowed = (
            f"1 to {num_codebooks}" if multiple == 1 else f"multiples of {multiple} up to {num_codebooks}"
        )
        raise GenModelError(
            "The codes have a number of codebooks that the codec does not have",
            field="codes.codebooks",
            value=count,
            allowed=allowed,
        )
    for axis, name in ((0, "batch"), (2, "frames")):
        if codes.shape[axis] == 0 and not (name == "frames" and empty):
            raise GenModelError("The codes are empty", field=f"codes.{name}", value=0, allowed="at least 1")
    if codes.numel():
        low, high = (int(v) for v in torch.aminmax(codes))
        if low < 0 or high >= cardinality:
            bad = ((codes < 0) | (codes >= cardinality)).nonzero()
            row, k, frame = bad[0].tolist()
            raise GenModelError(
                f"{len(bad)} codes are out of range, the first in row {row}, codebook {k}, frame {frame}",
                field="codes",
                value=int(codes[row, k, frame]),
                allowed=f"0 to {cardinality - 1}",
            )
    return codes.long()
