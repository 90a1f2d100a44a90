"""Names: what they mean, what is listed, what is said about what is not here; and the debug models."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from genmodel.checkpoints import debug, registry
from genmodel.checkpoints.info import Fingerprints, sha256_of
from genmodel.checkpoints.paths import is_repo_id
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
from genmodel.lm.conditioning import ConditioningAttributes
from tests.checkpoints.making import copy_golden, musicgen, save
from tests.golden_files import folder


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "models"


def test_names_lead_to_folders(models: Path) -> None:
    assert registry.resolve("facebook/musicgen-small") is None
    pulled = save(musicgen(), models / "facebook--musicgen-small")
    assert registry.resolve("facebook/musicgen-small") == pulled
    with pytest.warns(UserWarning, match="facebook/musicgen-small"):
        assert registry.resolve("small") == pulled
    mine = copy_golden("audiogen-tiny", models)
    assert registry.resolve("audiogen-tiny") == mine == registry.resolve(str(mine))
    assert registry.resolve(str(mine / "state_dict.bin")) == mine / "state_dict.bin"
    _, _, info = registry.load("facebook/musicgen-small", device="cpu")
    assert info.licence == "CC-BY-NC 4.0" and info.path == pulled


def test_the_hub_cache_counts_as_here(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--facebook--musicgen-small" / "snapshots" / "abc"
    save(musicgen(), snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    assert registry.resolve("facebook/musicgen-small") == snapshot
    _, _, info = registry.load("facebook/musicgen-small", device="cpu")
    assert info.licence == "CC-BY-NC 4.0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("facebook/musicgen-medium", "segue pull facebook/musicgen-medium"),
        ("poket", "nearest name is pocket"),
        ("/nowhere/at/all", "no model named"),
        ("../../nowhere/at/all", "no model named"),
        ("x" * 9000, "no model named"),
        ("", "named by text"),
        ("a\0b", "named by text"),
    ],
)
def test_what_is_not_here_says_how_to_get_it(name: str, words: str) -> None:
    with pytest.raises(GenModelError, match=words) as caught:
        registry.load(name)
    assert caught.value.code == "E_MODEL"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model in a form"):
        registry.load(str(tmp_path))


def test_devices_that_do_not_exist() -> None:
    with pytest.raises(GenModelError, match="no such device"):
        registry.load("debug", device="abacus")


def test_the_list_says_what_is_here_and_what_could_be(models: Path) -> None:
    save(musicgen(2), models / "me--stereo")
    copy_golden("audiogen-tiny", models)
    (models / "facebook--musicgen-large.part").mkdir()
    (models / "broken").mkdir()
    (models / "broken" / "state_dict.bin").write_bytes(b"?")
    entries = {entry.name: entry for entry in registry.list_models()}
    stereo, mono, broken = entries["me/stereo"], entries["audiogen-tiny"], entries["broken"]
    assert (stereo.present, stereo.rate, stereo.channels, stereo.format) == (True, 32000, 2, "huggingface")
    assert (mono.family, mono.rate, mono.channels, mono.conditions) == (
        "audiogen",
        16000,
        1,
        ("description",),
    )
    assert stereo.size_bytes and stereo.size_bytes > 1_000_000
    assert broken.note and "not a PyTorch file" in broken.note
    large = entries["facebook/musicgen-large"]
    assert not large.present and large.licence == "CC-BY-NC 4.0" and "segue pull" in (large.note or "")
    assert entries["debug"].present and "facebook--musicgen-large.part" not in entries
    assert {entry.name for entry in registry.list_models(published=False)} >= {"me/stereo", "debug"}
    assert all(entry.present for entry in registry.list_models(published=False))


def test_fingerprints_follow_the_content(models: Path, tmp_path: Path) -> None:
    models.mkdir()
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    first = Fingerprints().of(file)
    assert first == sha256_of(file) == Fingerprints().of(file)
    file.write_bytes(b"other")
    assert Fingerprints().of(file) == sha256_of(file) != first
    remembered = models / ".fingerprints.json"
    assert remembered.is_file()
    remembered.write_text("{ broken")
    assert Fingerprints().of(file) == sha256_of(file)


def test_a_models_fingerprint_changes_with_its_weights(tmp_path: Path) -> None:
    mine = copy_golden("audiogen-tiny", tmp_path)
    _, _, before = registry.load(str(mine), device="cpu")
    _, _, same = registry.load(str(folder("audiogen-tiny")), device="cpu")
    assert before.sha256 == same.sha256
    package = torch.load(mine / "state_dict.bin", weights_only=True)
    package["best_state"]["out_norm.bias"] += 1
    torch.save(package, mine / "state_dict.bin")
    assert registry.load(str(mine), device="cpu")[2].sha256 != before.sha256


def test_layers_take_another_precision() -> None:
    _, lm, _ = registry.load("debug", device="cpu", dtype=torch.bfloat16)
    assert lm.transformer.layers[0].linear1.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert lm.emb[0].weight.dtype == torch.float32


@pytest.mark.parametrize(("family", "rate", "seconds"), [("musicgen", 32000, 30), ("audiogen", 16000, 10)])
def test_debug_is_audiocrafts_debug_size(family: str, rate: int, seconds: int) -> None:
    codec, lm, info = registry.load("debug", device="cpu", family=family)
    assert (codec.sample_rate, codec.frame_rate, codec.channels) == (rate, 25, 1)
    assert (codec.num_codebooks, codec.cardinality, lm.num_codebooks, lm.card) == (4, 400, 4, 400)
    assert lm.cfg is not None and lm.cfg.dataset.segment_duration == seconds and info.family == family
    wav = torch.randn(2, 1, rate) * 0.1
    codes, scale = codec.encode(wav)
    assert codes.shape == (2, 4, 25) and scale is None and len(codes.unique()) > 20
    assert codec.decode(codes).shape == (2, 1, rate)
    rows = [ConditioningAttributes(text={"description": text}) for text in ("piano", None)]
    assert lm(codes, rows).shape == (2, 4, 25, 400)


def test_debug_is_the_same_everywhere_and_touches_no_random_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = debug.build_lm().state_dict() | debug.build_codec().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = debug.build_lm().state_dict() | debug.build_codec().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_repository_names() -> None:
    good = ["facebook/musicgen-small", "google/flan-t5-base", "a/b.c_d"]
    bad = ["small", "/a/b", "a/b/c", "a/..", "../b", "a b/c", "a--b/c", ""]
    assert all(is_repo_id(name) for name in good) and not any(is_repo_id(name) for name in bad)


def test_full_names_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.full_name("facebook/musicgen-small") == "facebook/musicgen-small"
    with pytest.warns(UserWarning):
        assert registry.full_name("medium", "audiogen") == "facebook/audiogen-medium"
    with pytest.raises(ModelNotFound):
        registry.load("medium-rare")
