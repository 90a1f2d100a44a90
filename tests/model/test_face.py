"""BaseGenModel's behaviour where scripts written for AudioCraft rely on it, and where it is better on
purpose.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from genmodel import AudioGen, BaseGenModel, GenerationRequest, GenModelError, MusicGen, Sampling
from genmodel.checkpoints import debug
from genmodel.engine.prepare import prepare
from tests.model.models import tiny


def test_shapes_of_every_call() -> None:
    model = tiny()
    assert (model.frame_rate, model.sample_rate, model.audio_channels) == (25.0, 32000, 1)
    assert (model.duration, model.max_duration, model.extend_stride) == (15.0, 30.0, 18.0)
    model.set_generation_params(duration=2.0)
    assert model.generate_unconditional(3).shape == (3, 1, 64000)
    audio, tokens = model.generate(["a b", None], return_tokens=True)
    assert audio.shape == (2, 1, 64000) and tokens.shape == (2, 4, 50) and tokens.dtype == torch.int64
    assert torch.equal(model.generate_audio(tokens), audio)
    prompt = torch.randn(3, 1, 32000) * 0.1
    assert model.generate_continuation(prompt, 32000).shape == (3, 1, 64000)
    assert model.generate_continuation(prompt, 32000, ["a", "b", "c"]).shape == (3, 1, 64000)
    with pytest.raises(AssertionError):  # as AudioCraft; and a ValueError, as everything here
        model.generate_continuation(prompt, 32000, ["a", "b"])


def test_prompts_of_any_rate_and_channel_count() -> None:
    model = tiny()
    model.set_generation_params(duration=1.0, seed=1)
    for shape, rate in (((1, 22050), 44100), ((2, 24000), 48000), ((6, 4000), 8000), ((2, 2, 11025), 22050)):
        audio, tokens = model.generate_continuation(torch.randn(shape) * 0.1, rate, return_tokens=True)
        assert audio.shape == (shape[0] if len(shape) == 3 else 1, 1, 32000) and tokens.shape[-1] == 25
    mono = torch.randn(1, 16000) * 0.1
    _, one = model.generate_continuation(mono, 32000, return_tokens=True)
    _, two = model.generate_continuation(mono.expand(2, -1), 32000, return_tokens=True)
    assert torch.equal(one, two)


def test_long_generation_and_every_awkward_duration() -> None:
    model = tiny()
    model.max_duration = 0.8
    model.set_generation_params(extend_stride=0.48, top_k=5)
    for duration in (0.01, 0.02, 0.03, 0.05, 0.58, 0.8, 0.81, 0.83, 1.13, 1.27, 2.03, 3.999, 4):
        model.set_generation_params(duration=duration)
        audio, tokens = model.generate(["x"], return_tokens=True)
        frames = round(duration * 25)
        assert tokens.shape == (1, 4, frames) and audio.shape == (1, 1, frames * 1280)
        assert frames == 0 or 0 <= int(tokens.min()) <= int(tokens.max()) < 400


def test_parameters_stay_until_they_are_named() -> None:
    model = tiny()
    model.set_generation_params(duration=3.0, top_k=7, cfg_coef=2.0, seed=4, negative_text="noise")
    model.set_generation_params(temperature=0.5)
    assert (model.duration, model.seed, model.negative_text) == (3.0, 4, "noise")
    assert model.generation_params == {
        "use_sampling": True,
        "temp": 0.5,
        "top_k": 7,
        "top_p": 0.0,
        "cfg_coef": 2.0,
        "two_step_cfg": False,
        "cfg_coef_beta": None,
    }
    with pytest.raises(GenModelError):
        model.set_generation_params(duration=9.0, top_p=1.5)
    assert model.duration == 3.0 and model.generation_params["top_p"] == 0.0


def test_seeds_make_takes_and_torchs_own_seed_makes_scripts_reproducible() -> None:
    model = tiny()
    model.set_generation_params(duration=1.0, seed=7)

    def made() -> torch.Tensor:
        return model.generate(["x", "x"], return_tokens=True)[1]

    first = made()
    assert torch.equal(first, made()) and not torch.equal(first[0], first[1])
    model.set_generation_params(seed=8)
    assert not torch.equal(first, made())
    model.set_generation_params(seed=None)
    torch.manual_seed(3)
    second = made()
    assert not torch.equal(second, made())
    torch.manual_seed(3)
    assert torch.equal(second, made())


def test_guidance_of_the_caller_is_honoured_in_two_steps_too() -> None:
    model = tiny()
    model.set_generation_params(duration=1.0, use_sampling=False)
    made = {}
    for coef in (1.0, 3.0, 6.0):
        for two_step in (False, True):
            model.set_generation_params(cfg_coef=coef, two_step_cfg=two_step)
            made[coef, two_step] = model.generate(["some words"], return_tokens=True)[1]
        assert torch.equal(made[coef, False], made[coef, True])
    assert not torch.equal(made[1.0, True], made[6.0, True])
    model.set_generation_params(cfg_coef=3.0, cfg_coef_beta=2.0, two_step_cfg=False)
    # without a melody the middle term is the null one: u + c b (x - u)
    assert torch.equal(model.generate(["some words"], return_tokens=True)[1], made[6.0, False])


def test_a_short_fine_tune_can_be_built_and_says_that_its_stride_was_clamped() -> None:
    codec, lm = debug.build_codec(), debug.build_lm()
    lm.cfg = OmegaConf.merge(lm.cfg, {"dataset": {"segment_duration": 10.0}})
    model = MusicGen("short", codec, lm)
    assert model.max_duration == 10.0 and model.stride_was_clamped
    assert model.extend_stride is not None and 0 < model.extend_stride < 10.0
    with pytest.raises(AssertionError):
        model.set_generation_params(extend_stride=18.0)
    model.set_generation_params(extend_stride=5.0)
    assert model.extend_stride == 5.0 and not model.stride_was_clamped
    sounds = AudioGen("short", debug.build_codec("audiogen"), debug.build_lm("audiogen"), max_duration=1.5)
    assert sounds.stride_was_clamped and sounds.duration == 5.0 and sounds.sample_rate == 16000


def test_the_window_comes_from_the_argument_else_the_configuration_else_an_error() -> None:
    codec, lm = debug.build_codec(), debug.build_lm()
    assert BaseGenModel("x", codec, lm, 12.0).max_duration == 12.0
    model = BaseGenModel("x", codec, lm)
    assert model.max_duration == 30.0 == model.duration and model.extend_stride is None
    model.max_duration = 1.0
    with pytest.raises(GenModelError, match="stride"):
        model.generate(["x"])
    lm.cfg = None
    with pytest.raises(ValueError, match="max_duration"):
        BaseGenModel("x", codec, lm)
    assert BaseGenModel("x", codec, lm, 3).cfg is None


def test_guidance_starts_as_the_family_or_the_makers_say() -> None:
    codec, lm = debug.build_codec(), debug.build_lm()
    lm.cfg_coef = 5.0
    assert MusicGen("x", codec, lm).generation_params["cfg_coef"] == 3.0  # as AudioCraft's own defaults
    assert BaseGenModel("x", codec, lm).generation_params["cfg_coef"] == 5.0
    info: Any = SimpleNamespace(manifest={"cfg_coef": 2.0, "sampling": {"top_k": 100}}, sha256="", licence="")
    model = MusicGen("x", codec, lm, info=info)
    assert (model.generation_params["cfg_coef"], model.generation_params["top_k"]) == (2.0, 100)
    sampling = prepare(model, GenerationRequest("generate", 4)).sampling
    assert (sampling.cfg_coef, sampling.top_k) == (2.0, 100)
    sampling = prepare(model, GenerationRequest("generate", 4, sampling=Sampling(top_k=7))).sampling
    assert (sampling.cfg_coef, sampling.top_k) == (2.0, 7)


def test_codec_and_autocast_are_as_the_configuration_says() -> None:
    lm = debug.build_lm()
    lm.cfg = OmegaConf.merge(lm.cfg, {"compression_model_n_q": 2})
    codec = debug.build_codec().train()
    lm.train()
    model = MusicGen("x", codec, lm)
    assert model.compression_model.num_codebooks == 2
    assert not codec.training and not lm.training
    assert isinstance(model.autocast, torch.autocast) and not model.autocast._enabled
    lm.cfg = OmegaConf.merge(
        lm.cfg, {"interleave_stereo_codebooks": {"use": True}, "compression_model_n_q": None}
    )
    assert MusicGen("x", debug.build_codec(), lm).audio_channels == 2


def test_progress_can_cancel_and_leaves_the_model_usable() -> None:
    model = tiny()
    model.set_generation_params(duration=1.0, seed=1)
    whole = model.generate(["x"], return_tokens=True)[1]

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Stop

    model.set_custom_progress_callback(stop)
    with pytest.raises(Stop):
        model.generate(["x"], progress=True)
    assert torch.equal(model.generate(["x"], return_tokens=True)[1], whole)


def test_melodies_need_a_model_that_listens() -> None:
    with pytest.raises(GenModelError, match="takes no melody"):
        tiny().generate_with_chroma(["x"], torch.randn(1, 1, 32000), 32000)  # type: ignore[attr-defined]


BAD_PROMPTS = {
    "empty": (torch.zeros(1, 0), 32000),
    "NaN": (torch.full((1, 32000), float("nan")), 32000),
    "flat": (torch.zeros(32000), 32000),
    "four": (torch.zeros(1, 1, 1, 9), 32000),
    "no rate": (torch.zeros(1, 32000), 0),
    "negative rate": (torch.zeros(1, 32000), -44100),
    "no channels": (torch.zeros(0, 32000), 32000),
    "as long as asked": (torch.zeros(1, 32000), 32000),
    "longer than a window": (torch.zeros(1, 40 * 32000), 32000),
}


@pytest.mark.parametrize("what", BAD_PROMPTS)
def test_bad_prompts_are_refused_with_field_and_reason(what: str) -> None:
    model = tiny()
    model.set_generation_params(duration=1.0 if what == "as long as asked" else 60.0)
    with pytest.raises(GenModelError) as caught:
        model.generate_continuation(*BAD_PROMPTS[what])
    assert caught.value.field and caught.value.code in ("E_AUDIO", "E_TOO_LONG", "E_NOT_FINITE")


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"duration": 0}, "duration"),
        ({"duration": -1.0}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"duration": 1e9}, "duration"),
        ({"duration": "8"}, "duration"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 1.01}, "top_p"),
        ({"temperature": float("inf")}, "temperature"),
        ({"cfg_coef": float("nan")}, "cfg_coef"),
        ({"seed": -1}, "seed"),
        ({"negative_text": "x" * 20_000}, "negative_text"),
        ({"extend_stride": 0}, "extend_stride"),
    ],
)
def test_bad_parameters_are_refused_by_name(parameters: dict, field: str) -> None:
    with pytest.raises(GenModelError) as caught:
        tiny().set_generation_params(**parameters)
    assert caught.value.field == field and str(caught.value)


def test_bad_descriptions_and_tokens_are_refused() -> None:
    model = tiny()
    for descriptions in ("just one text", [], ["x" * 20_000], [7]):
        with pytest.raises(GenModelError):
            model.generate(descriptions)  # type: ignore[arg-type]
    with pytest.raises(GenModelError):
        model.generate_unconditional(0)
    for tokens in (torch.zeros(4, 10), torch.full((1, 4, 3), 400), torch.zeros(1, 5, 3, dtype=torch.int64)):
        with pytest.raises(GenModelError):
            model.generate_audio(tokens)


def test_more_than_all_tokens_means_all() -> None:
    model = tiny()
    made = []
    for top_k in (0, 400, 5000):
        model.set_generation_params(duration=0.6, top_k=top_k, seed=3)
        made.append(model.generate(["x"], return_tokens=True)[1])
    assert torch.equal(made[0], made[1]) and torch.equal(made[1], made[2])


def test_lm_generate_as_audiocraft_calls_it() -> None:
    model = tiny()
    lm = model.lm
    conditions = model._attributes(["x", None])
    tokens = lm.generate(None, conditions, max_gen_len=20, use_sampling=False)
    model.set_generation_params(duration=0.8, use_sampling=False)
    assert torch.equal(tokens, model.generate(["x", None], return_tokens=True)[1])
    ticks: list[tuple[int, int]] = []
    more = lm.generate(
        tokens[..., :8], conditions, max_gen_len=20, use_sampling=False, callback=lambda *t: ticks.append(t)
    )
    assert torch.equal(more, tokens) and ticks == [(i, 15) for i in range(1, 16)]
    assert lm.generate(tokens[..., :8], conditions, max_gen_len=20, remove_prompts=True).shape == (2, 4, 12)
    assert lm.generate(num_samples=3, max_gen_len=5, seed=1).shape == (3, 4, 5)
    with pytest.raises(AssertionError):
        lm.generate(tokens, conditions[:1], max_gen_len=30)
