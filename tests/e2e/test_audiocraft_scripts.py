"""What people wrote for AudioCraft goes on working once `audiocraft.models` is replaced by `genmodel`."""

from __future__ import annotations

import pytest
import torch

from genmodel import AudioGen, MusicGen


@pytest.fixture(params=[(MusicGen, 32_000), (AudioGen, 16_000)], ids=["musicgen", "audiogen"])
def debug_model(request):
    family, sample_rate_hz = request.param
    model = family.get_pretrained("debug", device="cpu")
    model.set_generation_params(duration=2.0, extend_stride=2.0)
    return model, sample_rate_hz


def test_the_debug_model_has_the_published_rates(debug_model) -> None:
    model, sample_rate_hz = debug_model
    assert (model.frame_rate, model.sample_rate, model.audio_channels) == (25, sample_rate_hz, 1)
    assert not model.compression_model.training
    assert not model.lm.training


def test_unconditional_text_and_continuation_have_the_shapes_scripts_rely_on(debug_model) -> None:
    model, rate_hz = debug_model
    assert model.generate_unconditional(3).shape == (3, 1, 2 * rate_hz)
    assert model.generate(["a drum loop", "rain on a roof"]).shape == (2, 1, 2 * rate_hz)
    prompt = torch.randn(3, 1, rate_hz)
    assert model.generate_continuation(prompt, rate_hz).shape == (3, 1, 2 * rate_hz)
    audio, tokens = model.generate_continuation(prompt[0], rate_hz, ["one row"], return_tokens=True)
    assert audio.shape == (1, 1, 2 * rate_hz)
    assert tokens.shape == (1, 4, 50)
    assert torch.equal(model.generate_audio(tokens), audio)


def test_a_wrong_number_of_descriptions_is_refused_as_scripts_expect(debug_model) -> None:
    model, rate_hz = debug_model
    with pytest.raises(AssertionError, match="descriptions"):
        model.generate_continuation(torch.randn(2, 1, rate_hz), rate_hz, ["one", "two", "three"])


def test_longer_than_the_window(debug_model) -> None:
    model, rate_hz = debug_model
    model.max_duration = 3.0
    model.set_generation_params(duration=4.0, extend_stride=2.0)
    assert model.generate(["a drum loop", "rain on a roof"]).shape == (2, 1, 4 * rate_hz)


def test_the_progress_callback_goes_from_one_to_the_true_total(debug_model) -> None:
    model, _ = debug_model
    model.max_duration = 3.0
    model.set_generation_params(duration=4.0, extend_stride=2.0)
    ticks: list[tuple[int, int]] = []
    model.set_custom_progress_callback(lambda done, total: ticks.append((done, total)))
    model.generate(["a drum loop"], progress=True)
    done, totals = zip(*ticks, strict=True)
    assert list(done) == sorted(done)
    assert len(set(totals)) == 1
    assert done[-1] == totals[-1]


def test_torch_manual_seed_makes_a_script_repeatable(debug_model) -> None:
    model, _ = debug_model
    takes = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        takes.append(model.generate(["a drum loop"], return_tokens=True)[1])
    assert torch.equal(takes[0], takes[1])
    assert not torch.equal(takes[0], takes[2])
