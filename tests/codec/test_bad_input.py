"""Audio and tokens that cannot be coded are refused by name, before anything is computed."""

import pickle

import pytest
import torch

from genmodel.codec import InterleaveStereoCompressionModel, StemsCompressionModel
from genmodel.errors import CODES, CheckpointError, GenModelError, ModelNotFound
from tests.codec.tiny import codec, random_codes


@pytest.fixture(scope="module")
def models():
    inner = codec("causal")
    return {
        "mono": inner,
        "stereo": InterleaveStereoCompressionModel(inner),
        "stems": StemsCompressionModel(inner, ("drums", "bass", "other")),
    }


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("bad", "at"), [(NAN, 0), (INF, 57), (-INF, 99)])
@pytest.mark.parametrize("name", ["mono", "stereo", "stems"])
def test_not_finite_audio_says_where(models, name, bad, at):
    parts = {"mono": 1, "stereo": 2, "stems": 3}[name]
    audio = torch.zeros(2, parts, 100)
    audio[1, parts - 1, at] = bad
    audio[1, parts - 1, 99] = bad
    with pytest.raises(GenModelError) as caught:
        models[name].encode(audio)
    error = caught.value
    assert error.code == "E_AUDIO"
    assert error.field == "audio"
    count = 1 if at == 99 else 2
    assert error.value == {"count": count, "position": at, "row": 1, "channel": parts - 1}
    assert f"{count} samples" in str(error) and f"sample {at} " in str(error)


@pytest.mark.parametrize(
    ("audio", "field"),
    [
        (torch.zeros(1, 1, 0), "audio.samples"),
        (torch.zeros(0, 1, 10), "audio.batch"),
        (torch.zeros(1, 2, 10), "audio.channels"),
        (torch.zeros(1, 7, 10), "audio.channels"),
        (torch.zeros(1, 10), "audio"),
        (torch.zeros(10), "audio"),
        (torch.zeros(1, 1, 1, 10), "audio"),
        (torch.zeros(1, 1, 10, dtype=torch.int16), "audio.dtype"),
        ([0.0, 1.0], "audio"),
        (None, "audio"),
    ],
)
def test_wrong_audio(models, audio, field):
    with pytest.raises(GenModelError) as caught:
        models["mono"].encode(audio)
    assert caught.value.code == "E_AUDIO"
    assert caught.value.field == field
    assert caught.value.allowed


def test_a_mix_is_not_stems(models):
    with pytest.raises(GenModelError, match="stems") as caught:
        models["stems"].encode(torch.zeros(1, 1, 10))
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("audio.stems", 1, "3")


@pytest.mark.parametrize("audio", [torch.zeros(1, 1, 50), 1e4 * torch.ones(1, 1, 50), torch.zeros(1, 1, 1)])
def test_silence_and_loud_audio_are_coded(models, audio):
    codes, _ = models["mono"].encode(audio)
    assert torch.isfinite(models["mono"].decode(codes)).all()


@pytest.mark.parametrize(
    ("codes", "field", "value"),
    [
        (torch.full((1, 4, 3), 32), "codes", 32),
        (torch.full((1, 4, 3), -1), "codes", -1),
        (torch.zeros(1, 5, 3, dtype=torch.long), "codes.codebooks", 5),
        (torch.zeros(1, 0, 3, dtype=torch.long), "codes.codebooks", 0),
        (torch.zeros(1, 4, 0, dtype=torch.long), "codes.frames", 0),
        (torch.zeros(0, 4, 3, dtype=torch.long), "codes.batch", 0),
        (torch.zeros(1, 4, 3), "codes.dtype", "torch.float32"),
        (torch.zeros(4, 3, dtype=torch.long), "codes", (4, 3)),
        (None, "codes", "NoneType"),
    ],
)
def test_wrong_codes(models, codes, field, value):
    for call in (models["mono"].decode, models["mono"].decode_stems, models["mono"].decode_latent):
        with pytest.raises(GenModelError) as caught:
            call(codes)
        assert (caught.value.field, caught.value.value) == (field, value)
        assert caught.value.allowed


def test_one_bad_code_says_where(models):
    codes = random_codes(models["mono"], 2, 6)
    codes[1, 2, 4] = 99
    with pytest.raises(GenModelError, match="row 1, codebook 2, frame 4"):
        models["mono"].decode(codes)


@pytest.mark.parametrize(("name", "count"), [("stereo", 3), ("stereo", 9), ("stems", 4), ("stems", 15)])
def test_codebooks_come_in_sets(models, name, count):
    with pytest.raises(GenModelError, match="codebooks"):
        models[name].decode(torch.zeros(1, count, 3, dtype=torch.long))


def test_no_scale(models):
    codes = random_codes(models["mono"], 1, 3)
    with pytest.raises(GenModelError, match="loudness"):
        models["mono"].decode(codes, torch.ones(1))


@pytest.mark.parametrize("n", [0, -1, 5, 1.5, True, None, "4"])
def test_number_of_codebooks(models, n):
    for model in models.values():
        with pytest.raises(GenModelError) as caught:
            model.set_num_codebooks(n)
        assert caught.value.field == "num_codebooks"
        assert model.num_codebooks == model.total_codebooks


def test_errors_cross_processes():
    for error in (
        GenModelError("Too loud.", code="E_AUDIO", field="audio", value=3, allowed="1"),
        ModelNotFound("No model.", value="x"),
        CheckpointError("Broken", field="a.b"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert (again.code, again.field, again.value, again.allowed) == (
            error.code,
            error.field,
            error.value,
            error.allowed,
        )
        assert error.code in CODES
    assert str(GenModelError("Too loud.", field="audio", value=3, allowed="1")) == (
        "Too loud (field audio; got 3; allowed: 1)."
    )
    assert len(str(GenModelError("Long", value="x" * 10**6))) < 200
