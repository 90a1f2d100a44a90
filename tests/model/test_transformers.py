"""Whole generations against ``transformers``: greedy tokens equal, mono and stereo, from its own folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genmodel import MusicGen
from tests.checkpoints.making import TEXTS, musicgen, save

FRAMES = 21


@torch.no_grad()
def peer_tokens(model: Any, folder: Path, guidance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [B, K, FRAMES] and audio of ``transformers``' own greedy generation."""
    from transformers import T5Tokenizer

    inputs = T5Tokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    heard: list[torch.Tensor] = []
    decode = model.audio_encoder.decode

    def listening(audio_codes: torch.Tensor, *rest: Any, **more: Any) -> Any:
        heard.append(audio_codes[0])
        return decode(audio_codes, *rest, **more)

    model.audio_encoder.decode = listening
    try:
        # the delay pattern takes three of the new tokens
        audio = model.generate(**inputs, do_sample=False, guidance_scale=guidance, max_new_tokens=FRAMES + 3)
    finally:
        model.audio_encoder.decode = decode
    # stereo is decoded side by side: left first, then right
    tokens = torch.stack(heard, dim=2).flatten(1, 2) if len(heard) == 2 else heard[0]
    return tokens, audio


@pytest.mark.parametrize("guidance", [3.0, 1.5])
@pytest.mark.parametrize("channels", [1, 2], ids=["mono", "stereo"])
def test_greedy_tokens_and_audio_are_transformers(tmp_path: Path, channels: int, guidance: float) -> None:
    peer = musicgen(channels)
    folder = save(peer, tmp_path / "model")
    model = MusicGen.get_pretrained(str(folder), device="cpu")
    model.set_generation_params(use_sampling=False, cfg_coef=guidance, duration=FRAMES / model.frame_rate)
    audio, tokens = model.generate(TEXTS, return_tokens=True)
    expected, expected_audio = peer_tokens(peer, folder, guidance)
    assert len({tuple(column) for column in tokens[0].T.tolist()}) > 3, "too dull to tell anything"
    assert torch.equal(tokens, expected)
    assert (audio - expected_audio).abs().max() <= 1e-4 * expected_audio.abs().max()
