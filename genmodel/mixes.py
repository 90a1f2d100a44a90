"""AudioCraft's ``generate_continuation`` for models that make stems from a mix.

Such a model cannot say a mix again in its own tokens: the prompt goes in as context, and the audio that comes
back is the prompt itself up to the seam, then the sum of the new stems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genmodel.audio import convert_audio
from genmodel.engine.engine import Engine
from genmodel.engine.stepper import MAX_SLOTS
from genmodel.errors import GenModelError
from genmodel.parameters import sampling_of
from genmodel.request import AudioClip, GenerationRequest

if TYPE_CHECKING:
    from genmodel.base import BaseGenModel

_ROW = 0x9E3779B97F4A7C15  # rows are different takes of one seed


def continue_mixes(
    model: BaseGenModel,
    prompts: Tensor,
    rate_hz: int,
    descriptions: Sequence[str | None],
    seed: int,
    callback: Callable[[int, int], None] | None,
) -> tuple[Tensor, Tensor]:
    """Prompts [B, C, n] -> audio in the model's channels [B, C', T] and tokens [B, K, F].

    The tokens are the special one where the prompt was. F is ``round(duration * frame_rate)``; the prompt is
    cut from the left to whole frames.
    """
    hop = model.compression_model.hop_samples
    total = round(model.duration * model.frame_rate)
    wav = convert_audio(prompts, rate_hz, model.sample_rate, model.audio_channels)
    known = wav.shape[-1] // hop
    if known >= total:
        raise GenModelError(
            "the prompt leaves no room for anything new",
            code="E_TOO_LONG",
            field="prompt",
            value=f"{known} frames",
            allowed=f"fewer than {total} frames",
        )
    wav = wav[..., wav.shape[-1] - known * hop :]
    engine = Engine(model, slots=min(MAX_SLOTS, len(wav)))
    jobs = [
        engine.add(
            GenerationRequest(
                mode="continue",
                frames=total - known,
                prompt=AudioClip(row, model.sample_rate),
                text=text,
                negative_text=model.negative_text,
                seed=(seed + number * _ROW) % 2**64,
                sampling=sampling_of(model.generation_params),
            )
        )
        for number, (row, text) in enumerate(zip(wav, descriptions, strict=True))
    ]
    audio = torch.cat([wav.cpu().float(), torch.zeros(*wav.shape[:2], (total - known) * hop)], -1)
    steps, told = jobs[0].steps_total, 0
    try:
        while engine.busy:
            for job, chunk in engine.step():
                if chunk is None:
                    raise job.error or GenModelError("generation failed", code="E_NOT_FINITE")
                begin = known * hop + chunk.position
                new = slice(max(begin, known * hop), begin + chunk.samples.shape[1])
                audio[jobs.index(job), :, new] += chunk.samples[:, new.start - begin :]
            done = sum(job.steps_done for job in jobs) // len(jobs)
            for step in range(told + 1, done + 1) if callback is not None else ():
                callback(step, steps)  # type: ignore[misc]
            told = max(told, done)
    finally:
        for job in jobs:
            engine.drop(job)
    special = model.lm.special_token_id
    tokens = torch.full((len(jobs), model.lm.n_q, total), special, dtype=torch.int64, device=model.device)
    for number, job in enumerate(jobs):
        made = job.sessions[0].tokens[:, job.prepared.seam :]
        tokens[number, :, known:] = made
    return audio.to(model.device), tokens
