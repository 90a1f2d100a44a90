"""A checkpoint on disk at MusicGen-small's shape with random weights, as published: text encoder, codec, all.

420 million parameters, a T5-base and the codec: 2.4 GB in float32, made in some twenty seconds; whoever makes
it takes it away again. The tokenizer is the tests' small one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.bench import codec, lm

T5_BASE: dict[str, Any] = {
    "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "vocab_size": 32128,
}  # fmt: skip


def small_checkpoint(folder: Path) -> Path:
    """Write it into ``folder``, which need not exist; returns the folder."""
    import transformers
    from transformers.models.musicgen import MusicgenDecoderConfig

    from tests.checkpoints.making import save

    decoder = MusicgenDecoderConfig(
        vocab_size=lm.CARD, hidden_size=lm.DIM, num_hidden_layers=lm.LAYERS, num_attention_heads=lm.HEADS,
        ffn_dim=4 * lm.DIM, num_codebooks=lm.CODEBOOKS, pad_token_id=lm.CARD, bos_token_id=lm.CARD,
    )  # fmt: skip
    audio = transformers.EncodecConfig(**{**codec.SHAPE, "codebook_size": lm.CARD})
    config = transformers.MusicgenConfig.from_sub_models_config(
        transformers.T5Config(**T5_BASE), audio, decoder
    )
    with torch.device("meta"):
        model = transformers.MusicgenForConditionalGeneration(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.uniform_(-0.03, 0.03, generator=generator)
    return save(model.eval(), folder)
