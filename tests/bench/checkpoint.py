"""A checkpoint on disk at MusicGen-small's shape with random weights, as published: text encoder, codec, all.

2.3 GB in float32, made in some twenty seconds; whoever makes it takes it away again. The tokenizer is the
tests' small one, so the text encoder's vocabulary is smaller than T5's; everything else has the real shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench import codec, lm
from tests.checkpoints.making import T5, save

T5_BASE: dict[str, Any] = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}


def small_checkpoint(folder: Path) -> Path:
    """Write it into ``folder``, which need not exist; returns the folder."""
    import json

    import torch
    import transformers
    from transformers.models.musicgen import MusicgenDecoderConfig

    vocabulary = json.loads((T5 / "config.json").read_text())["vocab_size"]
    text = transformers.T5Config(**T5_BASE, vocab_size=vocabulary)
    audio = transformers.EncodecConfig(**{**codec.SHAPE, "codebook_size": lm.CARD})
    decoder = MusicgenDecoderConfig(
        vocab_size=lm.CARD, hidden_size=lm.DIM, num_hidden_layers=lm.LAYERS, num_attention_heads=lm.HEADS,
        ffn_dim=4 * lm.DIM, num_codebooks=lm.CODEBOOKS, pad_token_id=lm.CARD, bos_token_id=lm.CARD,
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.MusicgenConfig.from_sub_models_config(text, audio, decoder)
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    with torch.no_grad():
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()
    return save(model, folder)
