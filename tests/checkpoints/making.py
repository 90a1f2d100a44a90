"""Small checkpoints in every published layout, made on the spot; and files that are wrong in every way."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tests.golden_files import GOLDEN

T5 = GOLDEN / "t5-tiny-11"
TOKENIZER_FILES = ("spiece.model", "tokenizer_config.json", "special_tokens_map.json")
TEXTS = ["slow lofi groove with warm piano", "fast techno beat"]


def encodec_config() -> dict[str, Any]:
    return {
        "sampling_rate": 32000,
        "audio_channels": 1,
        "num_filters": 4,
        "hidden_size": 16,
        "upsampling_ratios": [8, 5, 4, 4],
        "codebook_size": 64,
        "codebook_dim": 16,
        "target_bandwidths": [1.2],
        "use_causal_conv": False,
        "normalize": False,
        "use_conv_shortcut": False,
        "num_residual_layers": 1,
        "num_lstm_layers": 2,
        "norm_type": "weight_norm",
        "pad_mode": "reflect",
    }


@lru_cache(maxsize=8)
def musicgen(
    channels: int = 1, hidden: int = 64, melody: bool = False, bandwidths: tuple[float, ...] = (1.2,)
) -> Any:
    """A tiny random ``Musicgen(Melody)ForConditionalGeneration`` in eval mode; heads of width 16."""
    import transformers
    from transformers.models.musicgen import MusicgenDecoderConfig
    from transformers.models.musicgen_melody import MusicgenMelodyDecoderConfig

    t5 = json.loads((T5 / "config.json").read_text())
    wanted = ("d_ff", "d_kv", "d_model", "num_layers", "num_heads", "vocab_size", "feed_forward_proj")
    text = transformers.T5Config(**{key: t5[key] for key in wanted})
    audio = transformers.EncodecConfig(**{**encodec_config(), "target_bandwidths": list(bandwidths)})
    decoder_kind = MusicgenMelodyDecoderConfig if melody else MusicgenDecoderConfig
    decoder = decoder_kind(
        vocab_size=64,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=hidden // 16,
        ffn_dim=4 * hidden,
        num_codebooks=4 * channels,
        audio_channels=channels,
        pad_token_id=64,
        bos_token_id=64,
    )
    torch.manual_seed(channels)
    if melody:
        config = transformers.MusicgenMelodyConfig(
            text_encoder=text.to_dict(),
            audio_encoder=audio.to_dict(),
            decoder=decoder.to_dict(),
            chroma_length=20,
        )
        return transformers.MusicgenMelodyForConditionalGeneration(config).eval()
    config = transformers.MusicgenConfig.from_sub_models_config(text, audio, decoder)
    return transformers.MusicgenForConditionalGeneration(config).eval()


def save(model: Any, folder: Path, **options: Any) -> Path:
    """A Hugging Face folder of a model with its tokenizer, as published."""
    model.save_pretrained(folder, **options)
    for name in TOKENIZER_FILES:
        shutil.copy(T5 / name, folder / name)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Set top-level keys of a JSON file; ``None`` removes one."""
    value = json.loads(path.read_text())
    for key, change in changes.items():
        if change is None:
            value.pop(key, None)
        else:
            value[key] = change
    path.write_text(json.dumps(value))


def copy_golden(name: str, target: Path) -> Path:
    """A golden checkpoint of one's own, with its text encoder beside it."""
    folder = target / name
    folder.mkdir(parents=True)
    for file in ("state_dict.bin", "compression_state_dict.bin"):
        shutil.copyfile(GOLDEN / name / file, folder / file)
    for encoder in GOLDEN.glob("t5-tiny-*"):
        if not (target / encoder.name).exists():
            (target / encoder.name).symlink_to(encoder)
    return folder


def edit_package(path: Path, **changes: Any) -> None:
    """Set keys of a stored PyTorch package; ``None`` removes one."""
    package = torch.load(path, weights_only=True)
    for key, change in changes.items():
        key = key.replace("xp_cfg", "xp.cfg")
        if change is None:
            package.pop(key, None)
        else:
            package[key] = change
    torch.save(package, path)
