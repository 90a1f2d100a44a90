"""AudioCraft's own results, through the face that its users know."""

from __future__ import annotations

import pytest
import torch

from genmodel import AudioGen, MusicGen
from tests import golden_files
from tests.model.models import golden

MODELS = golden_files.MODELS


def prompt(name: str) -> torch.Tensor:
    model, seconds = golden(name), golden_files.facts(name)["continuation"]["prompt_seconds"]
    return golden_files.tensors(name)["codec.wav"][..., : int(seconds * model.sample_rate)]


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_what_was_stored(name: str) -> None:
    model, facts = golden(name), golden_files.facts(name)
    assert isinstance(model, MusicGen if facts["class_"] == "MusicGen" else AudioGen)
    assert (model.frame_rate, model.sample_rate) == (facts["frame_rate"], facts["sample_rate"])
    assert (model.audio_channels, model.max_duration) == (facts["channels"], facts["max_duration"])
    assert not model.lm.training and not model.compression_model.training


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_from_text_and_from_nothing(name: str) -> None:
    model, facts, expected = golden(name), golden_files.facts(name), golden_files.tensors(name)
    model.set_generation_params(use_sampling=False, duration=facts["duration"])
    _, tokens = model.generate(facts["texts"][:2], return_tokens=True)
    assert torch.equal(tokens, expected["greedy.text"])
    _, tokens = model.generate_unconditional(2, return_tokens=True)
    assert torch.equal(tokens, expected["greedy.unconditional"])
    model.set_generation_params(cfg_coef=1.7)
    _, tokens = model.generate(facts["texts"][:2], return_tokens=True)
    assert torch.equal(tokens, expected["greedy.text_cfg1.7"])


@pytest.mark.parametrize("name", MODELS)
def test_greedy_continuation_and_its_audio(name: str) -> None:
    model, facts, expected = golden(name), golden_files.facts(name), golden_files.tensors(name)
    model.set_generation_params(use_sampling=False, duration=facts["continuation"]["duration"])
    audio, tokens = model.generate_continuation(
        prompt(name), model.sample_rate, facts["texts"][:2], return_tokens=True
    )
    assert torch.equal(tokens, expected["greedy.continuation"])
    assert audio.shape == (2, model.audio_channels, tokens.shape[-1] * model.compression_model.hop_samples)
    if "greedy.continuation.audio" in expected:  # carried by one model, one row
        truth = expected["greedy.continuation.audio"]
        assert (audio[: len(truth)] - truth).abs().max() <= 1e-4 * truth.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_extension_past_the_window_with_true_progress(name: str) -> None:
    model, facts, expected = golden(name), golden_files.facts(name), golden_files.tensors(name)
    extended = facts["extended"]
    model.max_duration = extended["max_duration_set_to"]
    model.set_generation_params(
        use_sampling=False, duration=extended["duration"], extend_stride=extended["extend_stride"]
    )
    ticks: list[tuple[int, int]] = []
    model.set_custom_progress_callback(lambda done, total: ticks.append((done, total)))
    _, tokens = model.generate_continuation(
        prompt(name), model.sample_rate, facts["texts"][:2], progress=True, return_tokens=True
    )
    assert torch.equal(tokens, expected["greedy.extended"])
    # AudioCraft counts each window's own total; the number of steps is the same and here adds up
    total = len(expected["greedy.extended.ticks"])
    assert ticks == [(step, total) for step in range(1, total + 1)]


@pytest.mark.parametrize("name", MODELS)
def test_a_row_is_the_same_alone(name: str) -> None:
    model, facts, expected = golden(name), golden_files.facts(name), golden_files.tensors(name)
    model.set_generation_params(use_sampling=False, duration=facts["duration"])
    _, tokens = model.generate(facts["texts"][1:2], return_tokens=True)
    assert torch.equal(tokens[0], expected["greedy.text"][1])
