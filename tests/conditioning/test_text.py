"""Text: T5 as AudioCraft computes it, look-up tables, words of a closed vocabulary."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from genmodel.checkpoints import audiocraft
from genmodel.checkpoints.encoders import LocalEncoders, find_text_encoder, load_tokenizer
from genmodel.errors import CheckpointError, GenModelError, ModelNotFound
from genmodel.lm.conditioners.lut import LUTConditioner, hash_bin
from genmodel.lm.conditioners.t5 import T5_DIMS, T5Conditioner
from genmodel.lm.conditioners.words import WordsConditioner
from genmodel.lm.conditioning import ConditioningAttributes
from tests.golden_files import GOLDEN, MODELS, facts, folder, tensors


@pytest.mark.parametrize("name", MODELS)
def test_text_embeddings_are_audiocrafts(name: str) -> None:
    lm = audiocraft.load_lm(folder(name) / "state_dict.bin")
    expected = tensors(name)
    rows = [ConditioningAttributes(text={"description": text}) for text in facts(name)["texts"]]
    values, mask = lm.condition_provider.embed(rows)["description"]
    error = (values - expected["text.embedding"]).abs().max() / expected["text.embedding"].abs().max()
    assert error < 1e-4
    assert torch.equal(mask, expected["text.mask"])
    assert not values[2].any()
    assert not any(".t5." in key for key in lm.state_dict())


@pytest.fixture(scope="module")
def t5() -> T5Conditioner:
    torch.manual_seed(1)
    return T5Conditioner(LocalEncoders(folder(MODELS[0]))("t5-tiny-11"), 8)


def test_a_row_is_the_same_alone_and_beside_a_longer_one(t5: T5Conditioner) -> None:
    texts = ["piano", "slow lofi groove with warm piano and a long list of further words"]
    together, mask = t5(t5.tokenize(texts))
    alone, _ = t5(t5.tokenize(texts[:1]))
    length = alone.shape[1]
    assert torch.allclose(together[0, :length], alone[0], atol=1e-6)
    assert not together[0, length:].any() and mask[0].sum() == length


def test_null_texts_are_zero_and_need_no_encoder(t5: T5Conditioner) -> None:
    values, mask = t5(t5.tokenize([None, ""]))
    assert values.shape == (2, 1, 8) and not values.any() and not mask.any()


def test_a_megabyte_of_text_is_refused(t5: T5Conditioner) -> None:
    with pytest.raises(GenModelError) as caught:
        t5.tokenize(["a" * 2**20])
    assert caught.value.code == "E_TOO_LONG" and caught.value.field == "text"
    with pytest.raises(GenModelError):
        t5.tokenize([b"bytes"])  # type: ignore[list-item]


def test_another_encoders_width_is_refused(t5: T5Conditioner) -> None:
    with pytest.raises(CheckpointError, match="48 wide.*takes 768"):
        t5.check_projection(torch.zeros(8, 768))


def test_all_published_encoders_have_a_width() -> None:
    assert T5_DIMS["google/flan-t5-xl"] == 2048 and T5_DIMS["google/flan-t5-xxl"] == 4096


def test_encoders_are_found_beside_inside_and_in_the_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, home = tmp_path / "models", tmp_path / "somewhere" / "model"
    monkeypatch.setenv("SEGUE_MODELS", str(models))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    home.mkdir(parents=True)
    encoder = GOLDEN / "t5-tiny-11"
    with pytest.raises(ModelNotFound, match="segue pull google-t5/t5-base"):
        find_text_encoder("t5-base", home)
    snapshot = tmp_path / "hub" / "models--google-t5--t5-base" / "snapshots" / "abc"
    for place in (
        snapshot,
        models / "google-t5--t5-base",
        models / "t5-base",
        home / "t5-base",
        home.parent / "t5-base",
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(encoder)
        assert find_text_encoder("t5-base", home) == place
    assert find_text_encoder(str(encoder), home) == encoder


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("transformers", "sentencepiece"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GenModelError, match="segue-daw\\[musicgen\\]") as caught:
        audiocraft.load_lm(folder(MODELS[0]) / "state_dict.bin")
    assert caught.value.code == "E_MODEL"


def test_lut_hashes_words_and_pads_with_zeros() -> None:
    torch.manual_seed(0)
    lut = LUTConditioner(n_bins=64, dim=4, output_dim=6)
    ids, mask = lut.tokenize(["Warm piano, warm", None])
    assert ids.tolist() == [[hash_bin("warm", 64), hash_bin("piano", 64), hash_bin("warm", 64)], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0]]
    values, _ = lut((ids, mask))
    assert values.shape == (2, 3, 6) and not values[1].any()
    noop = LUTConditioner(n_bins=64, dim=4, output_dim=6, tokenizer="noop")
    assert noop.tokenize(["Warm piano"])[0].tolist() == [[hash_bin("Warm piano", 64)]]
    with pytest.raises(CheckpointError, match="tokenizer"):
        LUTConditioner(8, 4, 4, tokenizer="bpe")


@pytest.fixture
def words() -> WordsConditioner:
    torch.manual_seed(0)
    vocabulary = ["house", "hip hop", "minor", "a#", "d&b", *(f"bpm{tempo}" for tempo in range(60, 185, 5))]
    return WordsConditioner(vocabulary, {"deep house": "house", "dnb": "d&b", "sad": "minor"}, 8, 6)


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [
        ("House at 122 BPM", ["bpm120", "house"], []),
        ("123bpm", ["bpm125"], []),
        ("122.5 bpm", ["bpm125"], []),
        ("deep house, deep house with a hip-hop swing", ["house", "hip hop"], ["swing"]),
        ("DnB in A# minor", ["d&b", "a#", "minor"], []),
        ("200 bpm zither", [], ["200 bpm", "zither"]),
        ("", [], []),
    ],
)
def test_words_are_known_or_reported(
    words: WordsConditioner, text: str, known: list[str], unknown: list[str]
) -> None:
    assert words.known_words(text) == known
    assert words.unknown_words(text) == unknown


def test_words_embed_to_masked_rows(words: WordsConditioner) -> None:
    values, mask = words(words.tokenize(["house 120 bpm", None, "zither"]))
    assert values.shape == (3, 2, 6) and mask.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert not values[1:].any()
    assert words.embed.weight.shape == (len(words.vocabulary) + 1, 8)
    with pytest.raises(GenModelError):
        words.tokenize(["x" * 20_000])


def test_a_vocabulary_is_consistent() -> None:
    with pytest.raises(CheckpointError, match="twice"):
        WordsConditioner(["a", "A"], None, 4, 4)
    with pytest.raises(CheckpointError, match="not in the vocabulary"):
        WordsConditioner(["a"], {"b": "c"}, 4, 4)


def test_tokenizers_come_in_two_forms(tmp_path: Path) -> None:
    """The fast form, built here from the slow one's vocabulary as published folders carry it."""
    import sentencepiece
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    slow = load_tokenizer(GOLDEN / "t5-tiny-11")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(GOLDEN / "t5-tiny-11" / "spiece.model"))
    vocabulary = [(pieces.id_to_piece(n), pieces.get_score(n)) for n in range(pieces.get_piece_size())]
    fast = Tokenizer(models.Unigram(vocabulary, unk_id=pieces.unk_id()))
    fast.normalizer = normalizers.NFKC()
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    end = pieces.piece_to_id("</s>")
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    fast.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    for text in ["slow lofi groove with warm piano", ""]:
        assert loaded(text).input_ids == slow(text).input_ids
    assert loaded(["a b c", "a"], padding=True).attention_mask[1][-1] == 0
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_tokenizer(tmp_path)
