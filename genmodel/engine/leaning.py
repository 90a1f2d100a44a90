"""Leaning towards a source: the tokens of audio that is to be varied get a bonus when tokens are drawn.

The bonus depends on the take's own request alone, so that company changes nothing and a take can be resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodel.audio import convert_audio
from genmodel.engine.separate import separated
from genmodel.errors import GenModelError

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel
    from genmodel.request import AudioClip

NOTHING = -1
SAME = 1e4  # a bonus that no logit and no noise (at most 22) outweighs
_SCALE = 6.0
"""Logits' bonus at strength 1/e. At 0.5 it is 4.2: a token that is drawn once in fifty times becomes even
odds, so about half of the source's tokens stay."""


@dataclass(frozen=True, eq=False)
class Lean:
    """``tokens`` int64 [K, F] by frame of the take, NOTHING without a source; ``bonus`` in logits."""

    tokens: Tensor
    bonus: float


def bonus_of(strength: float) -> float:
    """The bonus in logits for how far from the source a take shall be: 0 is the source itself, 1 is free."""
    if strength <= 0.0:
        return SAME
    return -_SCALE * math.log(min(1.0, strength))


def lean_of(
    model: BaseGenModel, source: AudioClip, strength: float, gain: float, seam: int, frames: int
) -> Lean | None:
    """The source's tokens from frame ``seam`` on; None where its strength leaves nothing of them.

    A model that makes stems gets the source taken apart, each part coded by itself.
    """
    bonus = bonus_of(strength)
    if bonus <= 0.0:
        return None
    codec = model.compression_model
    room = (frames - seam) * codec.hop_samples
    tokens = torch.full((model.lm.n_q, frames), NOTHING, dtype=torch.int64)
    if model.stems == ("mix",):
        wav = convert_audio(source.samples, source.rate_hz, model.sample_rate, model.audio_channels)
        wav = wav[:, :room] * gain
    else:
        mono = convert_audio(source.samples, source.rate_hz, model.sample_rate, 1)[0, :room] * gain
        wav = separated(mono, model.sample_rate, model.stems)
    step = codec.frames_per_step * codec.hop_samples
    short = -wav.shape[-1] % step
    wav = torch.nn.functional.pad(wav, (0, short))
    with torch.no_grad():
        made = codec.encode(wav[None].to(model.device))[0][0].cpu()
    made = made[:, : frames - seam]
    tokens[: made.shape[0], seam : seam + made.shape[1]] = made
    return Lean(tokens, bonus)


def leaned(logits: Tensor, tokens: Tensor, bonus: float | Tensor) -> Tensor:
    """Logits [..., card] as float32, those of ``tokens`` [...] raised by ``bonus`` (a number, or float32 that
    fits [..., 1]) where there is one.
    """
    there = (tokens >= 0) & (tokens < logits.shape[-1])
    where = tokens.masked_fill(~there, 0)[..., None]
    raised = logits.float().gather(-1, where) + there[..., None].float() * bonus
    return logits.float().scatter(-1, where, raised)


def check_strength(strength: object) -> None:
    """GenModelError unless ``strength`` is a number from 0 to 1."""
    good = isinstance(strength, int | float) and not isinstance(strength, bool) and 0 <= strength <= 1
    if not good:
        raise GenModelError(
            "the strength is out of range",
            field="strength",
            value=strength,
            allowed="0 (the source) to 1 (free)",
        )
