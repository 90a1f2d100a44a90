"""Lengths, wrappers, and the fast paths against the slow twin."""

import pytest
import torch
from omegaconf import OmegaConf

from genmodel.codec import (
    InterleaveStereoCompressionModel,
    StemsCompressionModel,
    get_wrapped_compression_model,
)
from genmodel.codec import encodec as encodec_module
from genmodel.errors import CheckpointError, GenModelError
from tests.codec.tiny import SHAPES, codec, error, slow_decode


def wave(model, rows: int, samples: int, parts: int | None = None):
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(rows, parts or model.channels, samples, generator=generator)


@pytest.mark.parametrize("kernels", ["fast", "plain", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_small_length(shape, kernels):
    """frames = ceil(n / hop), decode gives frames * hop, and all kernels find the same codes."""
    model = codec(shape, forget_bias=0.0)
    hop = model.hop_samples
    for samples in sorted({*range(1, 12), hop - 1 or 1, hop, hop + 1, 2 * hop - 1, 2 * hop, 5 * hop + 3}):
        model.kernels = kernels
        codes, _ = model.encode(wave(model, 1, samples))
        assert codes.shape == (1, 4, -(-samples // hop)), samples
        audio = model.decode(codes)
        assert audio.shape == (1, 1, codes.shape[2] * hop)
        model.kernels = "reference"
        assert torch.equal(codes, model.encode(wave(model, 1, samples))[0]), samples
        assert error(audio, model.decode(codes)) < 1e-5


@pytest.mark.parametrize("shape", ["musicgen", "causal-reflect", "dilated", "no-residual"])
@pytest.mark.parametrize("block_frames", [1, 2, 7])
def test_blocks_do_not_show(shape, block_frames, monkeypatch):
    model = codec(shape)
    x = wave(model, 2, 23 * model.hop_samples + 1)
    codes = model.encode(x)[0]
    monkeypatch.setattr(encodec_module, "_BLOCK_FRAMES", block_frames)
    model.kernels = "fast"
    assert torch.equal(model.encode(x)[0], codes)
    assert error(model.decode_stems(codes), slow_decode(model, codes)) < 1e-5


@pytest.mark.parametrize("n_filters", [16, 64])
def test_wide_layers_take_the_packed_paths(n_filters):
    model = codec("musicgen", n_filters=n_filters, ratios=(3, 2))
    x = wave(model, 2, 401)
    codes = model.encode(x)[0]
    model.kernels = "reference"
    assert torch.equal(codes, model.encode(x)[0])
    model.kernels = "auto"
    assert error(model.decode_stems(codes), slow_decode(model, codes)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_do_not_disturb_each_other(shape):
    model = codec(shape)
    x = wave(model, 3, 7 * model.hop_samples + 1)
    codes = model.encode(x)[0]
    audio = model.decode(codes)
    for row in range(3):
        assert torch.equal(model.encode(x[row : row + 1])[0], codes[row : row + 1])
        assert error(model.decode(codes[row : row + 1]), audio[row : row + 1]) < 1e-5


def test_fewer_codebooks():
    model = codec("causal")
    x = wave(model, 1, 100)
    every = model.encode(x)[0]
    model.set_num_codebooks(2)
    assert (model.num_codebooks, model.total_codebooks) == (2, 4)
    assert torch.equal(model.encode(x)[0], every[:, :2])
    assert model.decode(every).shape == model.decode(every[:, :2]).shape


def test_gradients_reach_the_reference_modules():
    model = codec("causal").requires_grad_(True)
    x = wave(model, 1, 48)
    model.decoder(model.encoder(x)).pow(2).mean().backward()
    assert model.encoder.model[0].weights.weight.grad is not None
    assert not model.decode(model.encode(x)[0]).requires_grad


@pytest.mark.parametrize("per_timestep", [False, True])
def test_stereo(per_timestep):
    inner = codec("musicgen")
    model = InterleaveStereoCompressionModel(inner, per_timestep=per_timestep)
    x = wave(model, 2, 5 * inner.hop_samples + 7)
    codes, _ = model.encode(x)
    left, right = (inner.encode(x[:, c : c + 1])[0] for c in (0, 1))
    if per_timestep:
        assert model.frame_rate == 2 * inner.frame_rate
        assert torch.equal(codes[:, :, 0::2], left) and torch.equal(codes[:, :, 1::2], right)
    else:
        assert model.frame_rate == inner.frame_rate
        assert torch.equal(codes[:, 0::2], left) and torch.equal(codes[:, 1::2], right)
    audio = model.decode(codes)
    assert model.channels == 2 and audio.shape[1:] == (2, codes.shape[2] * model.hop_samples)
    assert codes.shape[1] == model.num_codebooks
    both = torch.cat([inner.decode(left), inner.decode(right)], 1)
    assert error(audio, both) < 1e-6
    assert torch.equal(model.decode_stems(codes)[:, 0], audio)
    if per_timestep:
        with pytest.raises(GenModelError, match="pairs"):
            model.decode(codes[:, :, :3])


def test_stems():
    inner = codec("audiogen")
    names = ("drums", "bass", "other")
    model = StemsCompressionModel(inner, names)
    x = wave(model, 2, 4 * inner.hop_samples, parts=3)
    codes, _ = model.encode(x)
    assert model.stems == names and model.channels == 1
    assert codes.shape == (2, 12, 4)
    stems = model.decode_stems(codes)
    assert stems.shape == (2, 3, 1, 4 * inner.hop_samples)
    for s in range(3):
        own = inner.encode(x[:, s : s + 1])[0]
        assert torch.equal(codes[:, s::3], own)
        assert error(stems[:, s], inner.decode(own)) < 1e-6
    assert error(model.decode(codes), stems.sum(1)) < 1e-6
    assert model.inner is inner


def test_panned_stems_are_stereo_and_their_mean_is_the_mono_stem():
    inner = codec("audiogen")
    mono = StemsCompressionModel(inner, ("drums", "bass", "other"))
    panned = StemsCompressionModel(inner, ("drums", "bass", "other"), (-0.125, 0.0, 1.0))
    x = wave(mono, 2, 4 * inner.hop_samples, parts=3)
    codes, _ = panned.encode(x)
    assert panned.channels == 2 and torch.equal(codes, mono.encode(x)[0])
    plain, stems = mono.decode_stems(codes), panned.decode_stems(codes)
    assert stems.shape == (2, 3, 2, 4 * inner.hop_samples)
    assert error(stems.mean(2, keepdim=True), plain) < 1e-6
    assert error(stems[:, 0, 0], 1.125 * plain[:, 0, 0]) < 1e-6  # drums: a little left
    assert torch.equal(stems[:, 1, 0], stems[:, 1, 1])  # bass: in the middle
    assert float(stems[:, 2, 0].abs().max()) == 0.0  # other: hard right
    assert error(panned.decode(codes), stems.sum(1)) < 1e-6
    stream = panned.stream(2)
    pieces = [stream.push(codes[:, :, :3]), stream.push(codes[:, :, 3:]), stream.finish()]
    assert error(torch.cat(pieces, -1), stems) < 1e-6


def test_wrapping_by_configuration():
    def wrap(**cfg):
        return get_wrapped_compression_model(codec("causal"), OmegaConf.create(cfg))

    assert type(get_wrapped_compression_model(codec("causal"), None)).__name__ == "EncodecModel"
    assert wrap(interleave_stereo_codebooks={"use": False, "per_timestep": False}).stems == ("mix",)
    stereo = wrap(interleave_stereo_codebooks={"use": True, "per_timestep": False}, compression_model_n_q=2)
    assert (stereo.num_codebooks, stereo.channels) == (4, 2)
    assert wrap(interleave_stereo_codebooks={"use": True, "per_timestep": True}).per_timestep
    stems = wrap(stems={"use": True, "names": ["drums", "bass"]}, compression_model_n_q=None)
    assert (stems.stems, stems.num_codebooks, stems.channels) == (("drums", "bass"), 8, 1)
    panned = wrap(stems={"use": True, "names": ["drums", "bass"], "pan": [-0.5, 0.5]})
    assert (panned.pan, panned.channels) == ((-0.5, 0.5), 2)


@pytest.mark.parametrize(
    "cfg",
    [
        {"stems": {"use": True}},
        {"stems": {"use": True, "names": ["a", "a"]}},
        {"stems": {"use": True, "names": ["a", ""]}},
        {"stems": {"use": True, "names": ["a", "b"], "pan": [0.5]}},
        {"stems": {"use": True, "names": ["a", "b"], "pan": [0.5, 1.5]}},
        {"stems": {"use": True, "names": ["a", "b"], "pan": [0.5, "left"]}},
        {"stems": {"use": True, "names": ["a"]}, "interleave_stereo_codebooks": {"use": True}},
        {"compression_model_n_q": 9},
    ],
)
def test_wrapping_that_is_refused(cfg):
    with pytest.raises(GenModelError):
        get_wrapped_compression_model(codec("causal"), OmegaConf.create(cfg))


def test_wrappers_need_a_mono_codec():
    two = codec("causal", channels=2)
    for wrap in (InterleaveStereoCompressionModel, lambda c: StemsCompressionModel(c, ("a", "b"))):
        with pytest.raises(CheckpointError, match="mono"):
            wrap(two)
    with pytest.raises(CheckpointError, match="even"):
        InterleaveStereoCompressionModel(codec("one-lstm"), per_timestep=True)
