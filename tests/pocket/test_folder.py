"""The shipped folder: what the manifest says is what lies there, and the codec in it codes music."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import genmodel.pocket
from genmodel.codec import StemsCompressionModel, get_wrapped_compression_model
from genmodel.pocket.recipe.configs import DELAYS, lm_config, shipped

FOLDER = Path(genmodel.pocket.__file__).parent
DEMO = Path(__file__).resolve().parents[2] / "bridge_clients" / "cli" / "demo"
MAX_BYTES = 40_000_000


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def loaded():
    from genmodel.checkpoints import registry

    return registry.load("pocket", "cpu")


def test_hashes_and_size(manifest: dict) -> None:
    assert set(manifest["sha256"]) == {"lm.safetensors", "codec.safetensors", "lm.yaml", "codec.yaml"}
    for name, expected in manifest["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected, name
    assert sum((FOLDER / name).stat().st_size for name in manifest["sha256"]) == manifest["bytes"]
    assert manifest["bytes"] <= MAX_BYTES


def test_card_licence_and_evaluation_are_there() -> None:
    assert "Permission is hereby granted" in (FOLDER / "LICENSE-FluidR3.txt").read_text(encoding="utf-8")
    card = (FOLDER / "CARD.md").read_text(encoding="utf-8")
    assert "weak" in card.lower() and "licence" in card.lower()
    judged = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    assert judged["prompts"] >= 12
    assert {"truth", "round_trip", "mismatched", "tempo_kept", "codec_mel_db"} <= set(judged)


def test_what_the_manifest_says_is_what_loads(manifest: dict, loaded) -> None:
    codec, lm, info = loaded
    assert tuple(manifest["stems"]) == info.stems == ("drums", "bass", "other")
    assert tuple(manifest["conditions"]) == info.conditions
    assert lm.n_q == 12 and lm.card == codec.cardinality == 1024
    assert codec.sample_rate == 32_000 and codec.hop_samples == 640
    assert lm.config.pattern_options["delays"] == DELAYS
    assert lm.cfg_coef == manifest["cfg_coef"]
    assert not any(torch.isnan(p).any() for p in lm.parameters())
    wrapped = get_wrapped_compression_model(codec, lm.cfg)
    assert isinstance(wrapped, StemsCompressionModel)
    assert wrapped.channels == manifest["channels"] == 2
    assert wrapped.pan == tuple(manifest["pan"][name] for name in manifest["stems"])
    assert all(abs(value) <= 0.25 for value in wrapped.pan)  # modest: a mono host hears the mean


def test_the_recipe_would_write_this_configuration(loaded) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(loaded[1].cfg, resolve=True)
    expected = shipped(lm_config(seconds=config["dataset"]["segment_duration"]))
    for part in ("transformer_lm", "codebooks_pattern", "fuser", "stems"):
        assert config[part] == expected[part], part


def test_the_codec_tells_the_demo_loop_better_than_another_piece(loaded) -> None:
    from genmodel.audio import convert_audio
    from genmodel.pocket.recipe.metrics import auc  # noqa: F401  (numpy only; checks that it imports)
    from genmodel.pocket.recipe.spectral import SpectralLoss, mel_distance_db, si_sdr_db

    soundfile = pytest.importorskip("soundfile")
    samples, rate = soundfile.read(DEMO / "loop.flac", dtype="float32")
    audio = convert_audio(torch.from_numpy(samples.T), rate, 32_000, 1)[:, : 640 * 150]
    codec = loaded[0]
    with torch.no_grad():
        made = codec.decode(codec.encode(audio[None])[0])[0]
    loss = SpectralLoss()
    wrong = audio.flip(1)
    distance = float(mel_distance_db(loss, made, audio))
    assert distance < 8.0
    assert distance < 0.8 * float(mel_distance_db(loss, wrong, audio))
    assert float(si_sdr_db(made, audio)) > 0.0


def test_the_demo_loop_is_whole_bars() -> None:
    soundfile = pytest.importorskip("soundfile")
    facts = json.loads((DEMO / "loop.json").read_text(encoding="utf-8"))
    info = soundfile.info(DEMO / "loop.flac")
    assert info.channels == 2 and info.samplerate in (44_100, 48_000)
    assert info.frames / info.samplerate == pytest.approx(facts["seconds"], abs=1e-4)
    bar_s = facts["beats"] * 4 / facts["unit"] * 60 / facts["bpm"]
    assert facts["bars"] * bar_s == pytest.approx(facts["seconds"], abs=1e-3)
    assert (DEMO / "loop.flac").stat().st_size < 1_500_000


def test_words_of_the_model(loaded) -> None:
    words = loaded[1].condition_provider.conditioners["description"]
    assert words.known_words("A dark techno track at 130 bpm in F# minor with 909 drums") == [
        "bpm130", "dark", "techno", "fsharp", "minor", "drums",
    ]  # fmt: skip
    assert words.unknown_words("techno with bagpipes") == ["bagpipes"]
