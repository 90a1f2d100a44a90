"""The stream: exact counts, audio equal to the decode of the whole, jobs together, stems and what they listen
to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from genmodel import AudioChunk, AudioClip, BaseGenModel, GenerationRequest, GenModelError, Sampling
from genmodel.engine.engine import Engine, GenerationJob
from genmodel.engine.prepare import prepare
from genmodel.engine.session import UNKNOWN
from genmodel.request import TempoChange, TempoMap
from tests import golden_files
from tests.model.models import STEMS, golden, stems_model, tiny


def noise_clip(seconds: float, rate: int = 32000, channels: int = 1, seed: int = 0) -> AudioClip:
    generator = torch.Generator().manual_seed(seed)
    return AudioClip(torch.randn(channels, int(seconds * rate), generator=generator) * 0.1, rate)


def joined(chunks: Iterable[AudioChunk]) -> dict[tuple[int, str], tuple[int, torch.Tensor]]:
    """(variation, stem) -> (first position, all samples); chunks must follow each other and end once."""
    parts: dict[tuple[int, str], list[AudioChunk]] = {}
    for chunk in chunks:
        key = (chunk.variation, chunk.stem)
        before = parts.setdefault(key, [])
        if before:
            assert chunk.position == before[-1].position + before[-1].samples.shape[1] and not before[-1].last
        assert chunk.samples.dtype == torch.float32 and chunk.samples.shape[1]
        before.append(chunk)
    assert all(found[-1].last for found in parts.values())
    return {
        key: (found[0].position, torch.cat([c.samples for c in found], 1)) for key, found in parts.items()
    }


def run(engine: Engine) -> dict[GenerationJob, list[AudioChunk]]:
    made: dict[GenerationJob, list[AudioChunk]] = {}
    while engine.busy:
        for job, chunk in engine.step():
            assert chunk is not None, job.error
            made.setdefault(job, []).append(chunk)
    return made


def request(seconds: float = 1.0, **changes: Any) -> GenerationRequest:
    base: dict[str, Any] = {"mode": "continue", "frames": 40, "prompt": noise_clip(seconds), "seed": 3}
    if changes.get("mode") == "generate":
        base["prompt"] = None
    return GenerationRequest(**{**base, **changes})


@pytest.mark.parametrize("name", golden_files.MODELS)
@pytest.mark.parametrize("chunk_frames", [1, 7, 25, 400])
def test_streamed_audio_is_the_decode_of_the_whole(name: str, chunk_frames: int) -> None:
    model = golden(name)
    model.max_duration, model.extend_stride = 1.6, 0.8
    asked = request(
        prompt=noise_clip(0.9, model.sample_rate),
        frames=90,
        chunk_frames=chunk_frames,
        text="slow",
        variations=2,
    )
    engine = Engine(model)
    job = engine.add(asked)
    made = joined(chunk for chunks in run(engine).values() for chunk in chunks)
    hop = model.compression_model.hop_samples
    assert set(made) == {(0, "mix"), (1, "mix")}
    for (variation, _), (first, audio) in made.items():
        tokens = job.sessions[variation].tokens
        whole = model.generate_audio(tokens[None])[0]
        assert first == -4 * hop and audio.shape[1] == (4 + 90) * hop
        error = (audio - whole[:, -audio.shape[1] :]).abs().max()
        assert error <= 1e-5 * whole.abs().max()
    assert not torch.equal(job.sessions[0].tokens, job.sessions[1].tokens)
    assert job.state == "done" and job.steps_done == job.steps_total


@pytest.mark.parametrize("frames", [1, 2, 5, 13, 60])
def test_exactly_as_many_samples_as_asked_for(frames: int) -> None:
    model = tiny()
    hop = model.compression_model.hop_samples
    made = joined(model.stream(request(frames=frames)))
    assert made[0, "mix"][0] == -4 * hop and made[0, "mix"][1].shape == (1, (4 + frames) * hop)
    made = joined(model.stream(request(mode="generate", frames=frames)))
    assert made[0, "mix"][0] == 0 and made[0, "mix"][1].shape == (1, frames * hop)


def test_audio_arrives_while_it_is_made() -> None:
    engine = Engine(tiny())
    job = engine.add(request(frames=200))
    first_at = None
    while engine.busy:
        if engine.step() and first_at is None:
            first_at = job.steps_done
    assert first_at is not None and first_at <= 20 < job.steps_total == 207


def test_the_prompt_is_cut_from_the_left_and_its_end_made_again() -> None:
    model = tiny()
    hop = model.compression_model.hop_samples
    long = noise_clip(20.0)
    prepared = prepare(model, request(prompt=long, frames=1000))
    # what a later window would carry over: 30 s - 18 s; whole frames, from the end
    assert prepared.known.shape == (4, 300) and prepared.seam == 304
    end = long.samples[None, :, -304 * hop :]
    assert torch.equal(prepared.known, model.compression_model.encode(end)[0][0, :, :-4])
    # a short take lets the model hear more of it
    assert prepare(model, request(prompt=long, frames=100)).seam == 20 * 25
    odd = AudioClip(long.samples[:, : 10 * hop + 333], 32000)
    part = prepare(model, request(prompt=odd))
    assert torch.equal(part.known, model.compression_model.encode(odd.samples[None, :, 333:])[0][0, :, :-4])


def test_a_long_prompt_costs_no_more_than_the_window() -> None:
    model = tiny()
    long = AudioClip(torch.zeros(1, 600 * 44_100), 44_100)
    assert prepare(model, request(prompt=long, frames=2000)).seam == 304


def test_jobs_do_not_hear_each_other_whatever_comes_and_goes() -> None:
    model = tiny()
    wanted = request(frames=70, text="a", variations=2)
    alone = joined(model.stream(wanted))
    engine = Engine(model, slots=4)
    early = engine.add(request(frames=300, seed=9, text="b c d"))
    for _ in range(11):
        engine.step()
    job = engine.add(wanted)
    engine.add(request(mode="generate", frames=31, variations=3, sampling=Sampling(use_sampling=False)))
    chunks = []
    while engine.busy:
        chunks += [chunk for owner, chunk in engine.step() if owner is job]
        if len(chunks) >= 3:
            engine.drop(early)
    together = joined(chunks)
    for key, (first, audio) in alone.items():
        assert together[key][0] == first and torch.equal(together[key][1], audio)
    assert early.state == "dropped" and engine.stepper.free == 4


def test_more_takes_than_slots_wait_and_come_out_the_same() -> None:
    model = tiny()
    asked = request(frames=20, variations=5)
    wide, narrow = joined(model.stream(asked)), Engine(model, slots=2)
    narrow.add(asked)
    made = joined(chunk for chunks in run(narrow).values() for chunk in chunks)
    assert set(made) == set(wide) == {(v, "mix") for v in range(5)}
    for key, (_, audio) in wide.items():
        assert torch.equal(made[key][1], audio)


def test_a_cancel_frees_the_slot_between_steps() -> None:
    engine = Engine(tiny(), slots=1)
    first, second = engine.add(request(frames=500)), engine.add(request(frames=10))
    for _ in range(20):
        engine.step()
    assert (first.state, second.state) == ("generating", "waiting")
    engine.drop(first)
    assert engine.stepper.free == 1
    engine.step()
    assert second.state == "generating"
    engine.drop(first)  # once more does no harm


@pytest.mark.parametrize("stop", [3, 30, 61])
def test_a_job_goes_on_from_a_snapshot_sample_for_sample(stop: int) -> None:
    model = golden("musicgen-tiny-mono")
    model.max_duration, model.extend_stride = 1.2, 0.6
    asked = request(frames=70, prompt=noise_clip(0.4), variations=2)
    engine = Engine(model)
    job = engine.add(asked)
    before: list[AudioChunk] = []
    for _ in range(stop):
        before += [chunk for _, chunk in engine.step() if chunk is not None]
    moment = engine.snapshot(job)
    after = [chunk for chunks in run(engine).values() for chunk in chunks]
    whole = joined(before + after)
    other = Engine(model)
    again = other.add(asked)
    other.restore(again, moment)
    resumed = joined(before + run(other)[again])
    for key, (first, audio) in whole.items():
        assert resumed[key][0] == first
        assert (resumed[key][1] - audio).abs().max() <= 1e-6 * audio.abs().max()


def test_numbers_that_are_not_finite_fail_one_job_and_leave_the_others() -> None:
    model = tiny()
    engine = Engine(model)
    good, bad = engine.add(request(frames=20, text="a")), engine.add(request(frames=20, text="b"))
    alone = joined(model.stream(request(frames=20, text="a")))
    bad.sessions[0].streams()[0].cross.fill_(float("nan"))  # type: ignore[union-attr]
    chunks = []
    while engine.busy:
        for job, chunk in engine.step():
            if chunk is not None:
                assert job is good
                chunks.append(chunk)
            else:
                assert job is bad
    assert bad.state == "failed" and bad.error is not None and bad.error.code == "E_NOT_FINITE"
    assert torch.equal(joined(chunks)[0, "mix"][1], alone[0, "mix"][1])


def test_a_stream_that_is_left_lets_go() -> None:
    model = tiny()
    stream = model.stream(request(frames=100))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(list(model.stream(request(frames=5)))) >= 1


def test_refusals_come_before_anything_is_made() -> None:
    model = tiny()
    for asked, field in (
        (request(stems=("drums",)), "stems"),
        (request(stems=()), "stems"),
        (request(harmony=torch.rand(40, 12)), "harmony"),
        (request(context=noise_clip(1)), "context"),
        (request(prompt=noise_clip(0.1)), "prompt"),
        (request(prompt=AudioClip(torch.zeros(1, 1), 44100)), "prompt"),
    ):
        with pytest.raises(GenModelError) as caught:
            model.stream(asked)
        assert caught.value.field == field, field


def test_silence_is_a_prompt() -> None:
    for model in (tiny(), stems_model()):
        made = joined(model.stream(request(prompt=AudioClip(torch.zeros(2, 48000), 48000), frames=10)))
        assert all(bool(audio.isfinite().all()) for _, audio in made.values())


# stems ------------------------------------------------------------------------------------------------------
# -------


def test_stems_are_delivered_apart_and_the_level_is_given_back() -> None:
    model, unlevelled = stems_model(), stems_model(level_db=None)
    hop = model.compression_model.hop_samples
    prompt = noise_clip(2.0, 44100, 2)
    made = joined(model.stream(request(prompt=prompt, frames=30, variations=2)))
    assert set(made) == {(v, stem) for v in range(2) for stem in STEMS}
    assert all(first == -4 * hop and audio.shape == (1, 34 * hop) for first, audio in made.values())
    drums = joined(model.stream(request(prompt=prompt, frames=30, variations=2, stems=("drums",))))
    assert set(drums) == {(0, "drums"), (1, "drums")}
    assert torch.equal(drums[1, "drums"][1], made[1, "drums"][1])
    # a prompt that is 20 dB softer is the same prompt, and its takes are 20 dB softer
    soft = AudioClip(prompt.samples * 0.1, 44100)
    for (key, (_, audio)), (_, quiet) in zip(
        made.items(),
        joined(model.stream(request(prompt=soft, frames=30, variations=2))).values(),
        strict=True,
    ):
        assert torch.allclose(quiet * 10, audio, atol=1e-4 * float(audio.abs().max())), key
    plain = noise_clip(2.0)
    level = float(plain.samples.square().mean().log10() * 10)
    gain = 20 * torch.tensor(prepare(model, request(prompt=plain)).gain).log10()
    assert float(gain) == pytest.approx(-17.0 - level, abs=1e-3)
    assert prepare(unlevelled, request(prompt=soft)).gain == 1.0


def captured(model: BaseGenModel, asked: GenerationRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The conditions that a request becomes."""
    from genmodel.engine import prepare as module

    seen: list[Any] = []
    honest = module.encode_streams

    def listening(lm: Any, attributes: Any, *rest: Any) -> Any:
        seen.append(attributes)
        return honest(lm, attributes, *rest)

    monkeypatch.setattr(module, "encode_streams", listening)
    prepare(model, asked)
    return seen[-1].frames


def test_a_mix_goes_in_as_context_up_to_the_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stems_model(level_db=None)
    codec = model.compression_model
    prompt = noise_clip(2.0)
    asked = request(prompt=prompt, frames=30)
    prepared = prepare(model, asked)
    assert prepared.seam == 50 and prepared.known.shape == (12, 46) and bool((prepared.known == 400).all())
    context = captured(model, asked, monkeypatch)["context"]
    mix = codec.core.encode(prompt.samples[None])[0][0]
    assert torch.equal(context[:, :46], mix[:, :46]) and bool((context[:, 46:] == 400).all())
    assert context.shape == (4, 85)  # five frames of look-ahead
    job = Engine(model).add(asked)
    assert bool((job.sessions[0].tokens[:, 46:] == UNKNOWN).all())


def test_other_tracks_follow_the_prompt_on_the_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stems_model(level_db=None)
    prompt, tracks = noise_clip(2.0), noise_clip(3.0, seed=1)
    context = captured(model, request(prompt=prompt, frames=40, context=tracks), monkeypatch)["context"]
    heard = torch.cat([prompt.samples, tracks.samples[:, 64000:]], 1)
    codes = model.compression_model.core.encode(heard[None])[0][0]
    assert torch.equal(context[:, :75], codes) and bool((context[:, 75:] == 400).all())
    alone = captured(model, request(mode="generate", frames=40, context=tracks), monkeypatch)["context"]
    codes = model.compression_model.core.encode(tracks.samples[None])[0][0]
    assert torch.equal(alone, codes[:, :45])  # as far beyond the take as it looks ahead
    assert "context" not in captured(model, request(mode="generate"), monkeypatch)


def test_the_bar_lies_where_the_tempo_map_says(monkeypatch: pytest.MonkeyPatch) -> None:
    tempo = TempoMap((TempoChange(0, 120.0),), start_beats=8)  # the seam is a downbeat; a bar is 50 frames
    model = stems_model()
    transport = captured(model, request(seconds=2.0, frames=60, tempo_map=tempo), monkeypatch)["transport"]
    assert transport.shape == (110, 11) and bool((transport[:, 0] == 1).all())
    # columns 3 and 4: cosine and sine of the bar phase; 1 and 2 of the four bar phase
    for frame, cosine, sine in ((50, 1, 0), (75, -1, 0), (100, 1, 0), (0, 1, 0), (25, -1, 0)):
        assert torch.allclose(transport[frame, 3:5], torch.tensor([cosine, sine]).float(), atol=1e-6), frame
    assert torch.allclose(transport[50, 1:3], torch.tensor([-1.0, 0.0]), atol=1e-6)  # bar 3 of 4
    assert "transport" not in captured(model, request(), monkeypatch)


def test_harmony_comes_round_again_by_whole_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stems_model()
    tempo = TempoMap((TempoChange(0, 240.0),), start_beats=16)  # a bar is 25 frames
    heard = captured(model, request(seconds=2.0, frames=120, tempo_map=tempo), monkeypatch)["harmony"]
    assert heard.shape == (170, 12)
    assert torch.equal(heard[50:100], heard[:50]) and torch.equal(heard[100:150], heard[:50])
    free = captured(model, request(seconds=2.0, frames=20), monkeypatch)["harmony"]
    assert torch.equal(free[50], free[69]) and float(free[50].max()) == pytest.approx(1.0)
    own = torch.rand(10, 12) + 0.1
    asked = captured(model, request(seconds=2.0, frames=20, harmony=own * 5), monkeypatch)["harmony"]
    assert torch.allclose(asked[50:60], own / own.amax(1, keepdim=True))
    assert torch.equal(asked[60:], asked[59:60].expand(10, -1))
    assert torch.equal(asked[:50], free[:50])


def test_what_follows_a_gap_is_heard_and_the_gap_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stems_model(level_db=None)
    prompt, following = noise_clip(2.0), noise_clip(1.0, seed=3)
    silence = torch.zeros(1, 2 * 32_000 + 40 * model.compression_model.hop_samples)
    asked = request(
        prompt=prompt, frames=40, context=AudioClip(torch.cat([silence, following.samples], 1), 32_000)
    )
    context = captured(model, asked, monkeypatch)["context"]
    alone = captured(model, request(prompt=prompt, frames=40), monkeypatch)["context"]
    assert context.shape == alone.shape == (4, 95)  # 50 + 40 frames and five of look-ahead
    assert torch.equal(context[:, :86], alone[:, :86]) and bool((context[:, 46:86] == 400).all())
    assert bool((context[:, 90:] < 400).all())  # what follows, as far as the model looks ahead


def test_without_chords_the_other_tracks_say_the_harmony(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stems_model(level_db=None)
    time = torch.arange(3 * 32_000) / 32_000
    tracks = AudioClip(0.2 * torch.sin(2 * math.pi * 440.0 * time)[None], 32_000)  # an A
    late = tracks.samples.clone()
    late[:, : 2 * 32_000 + 12_800] = 0  # nothing is heard for the first 20 new frames
    prompt = noise_clip(2.0)
    alone = captured(model, request(prompt=prompt, frames=40), monkeypatch)["harmony"]
    asked = request(prompt=prompt, frames=40, context=AudioClip(late, 32_000))
    heard = captured(model, asked, monkeypatch)["harmony"]
    assert torch.equal(heard[:60], alone[:60])  # the prompt's own, then round again where it is silent
    assert bool((heard[75:90].argmax(1) == 9).all()) and float(heard[80, 3]) < 0.1
    played = captured(model, request(mode="generate", frames=40, context=tracks), monkeypatch)["harmony"]
    assert played.shape == (40, 12) and bool((played.argmax(1) == 9).all())
    chords = request(mode="generate", frames=40, context=tracks, harmony=torch.eye(12)[:1].expand(40, 12))
    assert bool((captured(model, chords, monkeypatch)["harmony"].argmax(1) == 0).all())
    silent = request(mode="generate", frames=40, context=AudioClip(0 * late, 32_000))
    assert "harmony" not in captured(model, silent, monkeypatch)


def test_tracks_alone_are_brought_to_the_models_level() -> None:
    model = stems_model(level_db=-17.0)
    made = {}
    for gain in (0.05, 0.5):
        clip = AudioClip(noise_clip(1.0).samples * gain, 32_000)
        made[gain] = prepare(model, request(mode="generate", frames=20, context=clip)).gain
    assert made[0.05] == pytest.approx(10 * made[0.5], rel=1e-4)
    loud = noise_clip(1.0).samples
    db = 10 * math.log10(float(loud.square().mean())) + 20 * math.log10(0.5 * made[0.5])
    assert db == pytest.approx(-19.0, abs=0.1)


def test_what_it_listens_to_changes_what_it_makes() -> None:
    model = stems_model()
    tempo = TempoMap((TempoChange(0, 100.0),))
    variants = {
        "plain": request(frames=20),
        "text": request(frames=20, text="fast house"),
        "tempo": request(frames=20, tempo_map=tempo),
        "harmony": request(frames=20, harmony=torch.eye(12)[:5]),
        "context": request(frames=20, context=noise_clip(3.0, seed=2)),
        "prompt": request(frames=20, prompt=noise_clip(1.0, seed=5)),
    }
    made = {}
    for name, asked in variants.items():
        engine = Engine(model)
        job = engine.add(asked)
        run(engine)
        made[name] = job.sessions[0].tokens[:, -20:]
    for name, tokens in made.items():
        assert name == "plain" or not torch.equal(tokens, made["plain"]), name


def test_audiocrafts_continuation_of_a_mix_keeps_the_mix_and_adds_the_stems() -> None:
    model = stems_model(level_db=None)
    model.set_generation_params(duration=3.0, seed=4)
    ticks: list[tuple[int, int]] = []
    model.set_custom_progress_callback(lambda done, total: ticks.append((done, total)))
    prompts = torch.stack([noise_clip(1.0, seed=seed).samples for seed in range(2)])
    audio, tokens = model.generate_continuation(
        prompts, 32000, ["fast", None], progress=True, return_tokens=True
    )
    assert audio.shape == (2, 1, 96000) and tokens.shape == (2, 12, 75)
    assert torch.equal(audio[..., :32000], prompts)
    assert bool((tokens[..., :25] == 400).all()) and int(tokens[..., 25:].max()) < 400
    assert float(audio[..., 32000:].abs().max()) > 0 and ticks[-1][0] == ticks[-1][1] == len(ticks)
    as_stems = torch.cat([prompts, prompts * 0.5, prompts * 0.25], 1)
    audio, tokens = model.generate_continuation(as_stems, 32000, return_tokens=True)
    assert audio.shape == (2, 1, 96000) and int(tokens.max()) < 400
    assert model.generate(["jazz"]).shape == (1, 1, 96000)


def test_a_job_that_finds_no_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    alone = joined(model.stream(request(frames=20, text="a")))
    engine = Engine(model)
    good = engine.add(request(frames=20, text="a"))
    chunks = [chunk for _, chunk in engine.step()]
    honest = torch.zeros
    calls = []

    def scarce(*shape: Any, **more: Any) -> torch.Tensor:
        if len(shape) == 1 and len(shape[0]) == 6:  # a cache, of the second layer
            calls.append(shape)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("no")
        return honest(*shape, **more)

    monkeypatch.setattr("genmodel.engine.caches.torch.zeros", scarce)
    large = engine.add(request(frames=400, text="b"))
    small = engine.add(request(frames=5, text="c"))
    while engine.busy:
        for job, chunk in engine.step():
            assert (chunk is None) == (job is large)
            if job is good:
                chunks.append(chunk)
    assert large.error is not None and large.error.code == "E_MEMORY" and small.state == "done"
    assert torch.equal(joined(c for c in chunks if c is not None)[0, "mix"][1], alone[0, "mix"][1])
