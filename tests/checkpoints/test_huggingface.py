"""Hugging Face folders against ``transformers`` itself: mono, stereo, melody, whole, sharded, pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmodel.checkpoints import files, hf, registry
from genmodel.errors import CheckpointError
from genmodel.lm.conditioning import ConditioningAttributes
from tests.checkpoints.making import TEXTS, edit_json, musicgen, save

ROWS = [ConditioningAttributes(text={"description": text}) for text in TEXTS]


@pytest.fixture(autouse=True)
def _own_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "models"))


@torch.no_grad()
def is_equal(folder: Path, model: Any) -> None:
    """Logits, tokens and audio as ``transformers`` computes them from the same folder."""
    from transformers import T5Tokenizer

    codec, lm, info = registry.load(str(folder), device="cpu")
    assert info.format == "huggingface" and info.family == "musicgen"
    torch.manual_seed(0)
    sequence = torch.randint(0, 65, (2, lm.num_codebooks, 12))
    tokens = T5Tokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    expected = model(**tokens, decoder_input_ids=sequence.flatten(0, 1)).logits.view(
        2, lm.num_codebooks, 12, -1
    )
    assert torch.allclose(lm(sequence, ROWS), expected, atol=1e-5)
    wav = torch.randn(2, 1, 12_345) * 0.1
    codes = model.audio_encoder.encode(wav).audio_codes
    assert torch.equal(codec.encode(wav)[0], codes[0])
    decoded = model.audio_encoder.decode(codes, [None])[0]
    assert torch.allclose(codec.decode(codes[0]), decoded, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"max_shard_size": "500KB"}, {"safe_serialization": False}],
    ids=["whole", "shards", "pickle"],
)
def test_musicgen_is_transformers(tmp_path: Path, channels: int, options: dict[str, Any]) -> None:
    model = musicgen(channels)
    folder = save(model, tmp_path / "model", **options)
    assert (folder / "model.safetensors.index.json").exists() == ("max_shard_size" in options)
    is_equal(folder, model)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_codec_with_more_codebooks_than_the_model_speaks(tmp_path: Path, channels: int) -> None:
    """Its first codebooks are the model's: continuation encodes with those and no others."""
    model = musicgen(channels, bandwidths=(1.2, 3.0))
    codec, lm, _ = registry.load(str(save(model, tmp_path / "m")), device="cpu")
    wav = torch.randn(1, 1, 6_400) * 0.1
    assert codec.total_codebooks == 10
    assert codec.num_codebooks == lm.num_codebooks // channels == 4
    assert torch.equal(codec.encode(wav)[0], model.audio_encoder.encode(wav, bandwidth=1.2).audio_codes[0])


def test_sharded_pickles(tmp_path: Path) -> None:
    is_equal(save(musicgen(), tmp_path / "m", safe_serialization=False, max_shard_size="500KB"), musicgen())


def test_an_encoder_as_wide_as_the_decoder_has_no_projection(tmp_path: Path) -> None:
    model = musicgen(hidden=48)
    folder = save(model, tmp_path / "model")
    assert not any(key.startswith("enc_to_dec") for key in load_file(folder / "model.safetensors"))
    is_equal(folder, model)


def test_what_older_releases_wrote(tmp_path: Path) -> None:
    """weight_g/weight_v, a stored position table, embed_tokens beside shared."""
    model = musicgen()
    folder = save(model, tmp_path / "model")
    old = {}
    for key, value in load_file(folder / "model.safetensors").items():
        key = key.replace("parametrizations.weight.original0", "weight_g")
        old[key.replace("parametrizations.weight.original1", "weight_v")] = value
    old["decoder.model.decoder.embed_positions.weights"] = torch.zeros(8, 64)
    old["text_encoder.encoder.embed_tokens.weight"] = old["text_encoder.shared.weight"].clone()
    save_file(old, folder / "model.safetensors")
    is_equal(folder, model)
    del old["text_encoder.shared.weight"]
    save_file(old, folder / "model.safetensors")
    is_equal(folder, model)


@torch.no_grad()
def test_melody_models_without_a_melody(tmp_path: Path) -> None:
    from transformers import T5Tokenizer

    model = musicgen(melody=True)
    folder = save(model, tmp_path / "model")
    codec, lm, info = registry.load(str(folder), device="cpu")
    assert info.conditions == ("description", "self_wav") and lm.fuser.has_prepend and not lm.fuser.has_cross
    torch.manual_seed(0)
    sequence = torch.randint(0, 65, (1, 4, 12))
    tokens = T5Tokenizer.from_pretrained(folder)(TEXTS[:1], return_tensors="pt")
    null = torch.zeros(1, 20, 12)
    null[..., 0] = 1
    expected = model(**tokens, input_features=null, decoder_input_ids=sequence.flatten(0, 1)).logits[:, -12:]
    assert torch.allclose(lm(sequence, ROWS[:1]), expected.view(1, 4, 12, -1), atol=1e-5)


def test_the_configuration_reads_as_audiocrafts(tmp_path: Path) -> None:
    folder = save(musicgen(2), tmp_path / "model")
    cfg = hf.load_lm(folder).cfg
    assert cfg is not None
    assert cfg.dataset.segment_duration == 30.0 and cfg.sample_rate == 32000 and cfg.channels == 2
    assert cfg.interleave_stereo_codebooks.use and cfg.codebooks_pattern.delay.delays == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert cfg.classifier_free_guidance.inference_coef == 3.0 and cfg.conditioners.description.model == "t5"
    edit_json(folder / "generation_config.json", guidance_scale=1.5, max_length=500)
    lm = hf.load_lm(folder)
    assert lm.cfg_coef == 1.5 and lm.cfg.dataset.segment_duration == 10.0  # type: ignore[union-attr]
    (folder / "generation_config.json").unlink()
    assert hf.load_lm(folder).cfg_coef == 3.0


@pytest.mark.parametrize(
    ("dim", "heads", "found"), [(1536, 16, 24), (2048, 16, 32), (1024, 16, 16), (64, 4, 4)]
)
def test_heads_of_early_conversions_are_set_right(dim: int, heads: int, found: int) -> None:
    assert hf._heads({"num_attention_heads": heads}, dim) == found


def test_a_codec_alone(tmp_path: Path) -> None:
    musicgen().audio_encoder.save_pretrained(tmp_path / "codec")
    codec = hf.load_codec(tmp_path / "codec")
    assert codec.num_codebooks == 4 and codec.frame_rate == 50 and codec.sample_rate == 32000
    assert hf.has_codec(tmp_path / "codec") and not hf.is_model(tmp_path / "codec")
    with pytest.raises(CheckpointError, match="another kind"):
        hf.load_lm(tmp_path / "codec")


def test_safetensors_are_preferred_and_pickles_then_unread(tmp_path: Path) -> None:
    folder = save(musicgen(), tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    is_equal(folder, musicgen())
    assert files.has_weights(folder)


def test_a_folder_with_both_formats_is_read_as_hugging_faces(tmp_path: Path) -> None:
    folder = save(musicgen(), tmp_path / "model")
    (folder / "state_dict.bin").write_bytes(b"never looked at")
    is_equal(folder, musicgen())
