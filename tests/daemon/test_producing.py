"""What producers ask for, through a real daemon with a model whose samples say where they are: the take lies
where it was asked for, is as long as it was asked for, and nothing that was given changes it unasked.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol import messages as m
from protocol.audio import AudioBlock, AudioFormat
from tests.daemon import engine
from tests.daemon.house import House, Wire, joined, submit, tone

RATE = 32_000
HANDLE = 2560  # four frames of the model
TEMPO = m.TempoMap(changes=(m.TempoChange(at=0, bpm=150, beats=3),), start="1/4")
LEAD = round((3 - 0.25) * 60 / 150 * RATE)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with_model = House().start()
    yield with_model
    with_model.close()


@pytest.fixture
def wire(house: House) -> Iterator[Wire]:
    with house.client() as made:
        yield made


def block(role: str, seconds: float, rate: int = RATE, **more: Any) -> AudioBlock:
    count = round(seconds * rate)
    wave = 0.25 * np.sin(2 * np.pi * 330 * np.arange(count) / rate)
    form = AudioFormat(rate=rate, channels=1, frames=count, role=role, **more)
    return AudioBlock(form, wave.astype("<f4").tobytes())


def made(wire: Wire, request: m.Submit) -> tuple[m.SubmitReply, list[Any], dict[str, Any]]:
    reply = wire.ask(request)
    events = wire.events(reply.job)
    assert events[-1].event == "done", events[-1]
    return reply, events, events[-1].manifest


def files(manifest: dict[str, Any], part: str) -> list[dict[str, Any]]:
    return [entry for take in manifest["takes"] for entry in take["files"] if entry["part"] == part]


def test_a_take_begins_on_the_next_bar(wire: Wire) -> None:
    request = submit(None, rate=RATE, channels=1, start="bar", length=m.Length(bars="3/2"), tempo_map=TEMPO)
    reply, events, manifest = made(wire, request)
    frames = round(1.5 * 3 * 60 / 150 * RATE)
    assert (reply.lead_frames, reply.frames, reply.rate) == (LEAD, frames, RATE)
    assert (manifest["lead_frames"], manifest["handle_frames"]) == (LEAD, LEAD + HANDLE)
    start, audio = joined(events)
    assert (start, audio.shape[1]) == (-LEAD - HANDLE, LEAD + HANDLE + frames)
    assert np.array_equal(audio, engine.samples(7, 0, "mix", -HANDLE, audio.shape[1]))
    assert [entry["position"] for entry in files(manifest, "handle")] == [start]
    assert wire.ask(m.Status(job=reply.job)).info.lead_frames == LEAD
    path = wire.ask(m.Fetch(job=reply.job)).path
    flat = np.frombuffer(Path(path).read_bytes()[-frames * 4 :], "<f4")
    assert np.array_equal(flat, audio[0, -frames:])
    again = wire.events(reply.job)  # from the files now
    assert np.array_equal(joined(again)[1], audio)


def test_a_tail_follows_the_end(wire: Wire) -> None:
    reply, events, manifest = made(wire, submit(0.5, rate=RATE, channels=1, tail_ms=100, handle_ms=40))
    start, audio = joined(events)
    assert (start, audio.shape[1]) == (-1280, 1280 + 16_000 + 3200)
    assert np.array_equal(audio, engine.samples(7, 0, "mix", -1280, audio.shape[1]))
    (tail,) = files(manifest, "tail")
    assert (tail["position"], tail["frames"], manifest["tail_frames"]) == (16_000, 3200, 3200)
    fetched = wire.ask(m.Fetch(job=reply.job, part="tail"))
    assert (fetched.position, fetched.frames) == (16_000, 3200)
    assert np.array_equal(joined(wire.events(reply.job))[1], audio)


def test_a_handle_shorter_than_was_asked_for_is_read_back_from_its_file(wire: Wire) -> None:
    reply, events, _ = made(wire, submit(0.3, rate=RATE, channels=1, handle_ms=500))
    start, audio = joined(events)
    assert start == -HANDLE and np.array_equal(joined(wire.events(reply.job))[1], audio)


@pytest.mark.parametrize("given", ["prompt", "nothing"])
def test_the_end_of_a_loop_leads_to_its_beginning(wire: Wire, given: str) -> None:
    mode = {"mode": "continue"} if given == "prompt" else {"mode": "generate", "audio": ()}
    reply, events, manifest = made(wire, submit(4, rate=RATE, channels=1, loop=True, **mode))
    start, audio = joined(events)
    handle = HANDLE if given == "prompt" else 0
    assert (start, audio.shape[1], reply.lead_frames) == (-handle, handle + 4 * RATE, 0)
    begin = 0 if given == "prompt" else RATE // 2
    raw = engine.samples(7, 0, "mix", begin, 4 * RATE)
    take = audio[:, handle:]
    assert np.array_equal(take[:, : 2 * RATE], raw[:, : 2 * RATE])  # what is not near the end is as it came
    fade = np.arange(1, HANDLE + 1) / HANDLE * np.pi / 2
    before = engine.samples(7, 0, "mix", begin - HANDLE, HANDLE)
    mixed = raw[:, -HANDLE:] * np.cos(fade) + before * np.sin(fade)
    assert np.abs(take[:, -HANDLE:] - mixed).max() < 1e-6
    assert np.abs(take[:, -1] - before[:, -1]).max() < 1e-6  # the very sample before the first
    assert manifest["takes"][0]["ending"]["applied_db"] == 0.0  # the level was not to be matched


def test_a_loop_has_the_level_of_its_beginning_at_its_end(wire: Wire) -> None:
    """The prompt is quiet, so the take begins quiet and glides up: its end is brought back down."""
    quiet = tone()
    quiet = AudioBlock(quiet.format, (np.frombuffer(quiet.data, "<f4") * 0.6).astype("<f4").tobytes())
    request = submit(8, rate=RATE, channels=1, loop=True, level="match", audio=(quiet,))
    _, events, manifest = made(wire, request)
    start, audio = joined(events)
    take = audio[:, -start:]
    first, last = take[:, : 2 * RATE], take[:, -2 * RATE :]
    assert manifest["takes"][0]["ending"]["measured_db"] < -1
    assert abs(20 * np.log10(np.std(last) / np.std(first))) < 0.3


def test_a_gap_is_filled_exactly_and_meets_what_follows(wire: Wire) -> None:
    after = block("following", 3.0, 48_000)
    request = submit(
        None, mode="fill", length=m.Length(frames=4 * RATE), audio=(tone(), after), level="match",
        rate=RATE, channels=1,
    )  # fmt: skip
    reply, events, manifest = made(wire, request)
    start, audio = joined(events)
    assert (start, audio.shape[1], manifest["tail_frames"]) == (-HANDLE, HANDLE + 4 * RATE + HANDLE, HANDLE)
    assert manifest["ignored"] == ["following"]  # this model listens to a prompt only
    take = audio[:, HANDLE : HANDLE + 4 * RATE]
    end = 20 * np.log10(np.std(take[:, -2 * RATE :]) / np.std(np.frombuffer(after.data, "<f4")))
    assert abs(end) < 0.1
    raw = engine.samples(7, 0, "mix", 4 * RATE, HANDLE)
    tail = audio[:, -HANDLE:]
    assert np.corrcoef(tail[0], raw[0])[0, 1] > 0.999  # how it goes on, at the end's level
    assert reply.lead_frames == 0


def test_a_variation_is_as_long_as_its_source_at_its_rate(wire: Wire) -> None:
    request = submit(None, mode="vary", audio=(block("source", 0.4),), strength=0.3)
    reply, events, manifest = made(wire, request)
    start, audio = joined(events)
    assert (start, audio.shape, manifest["rate"]) == (0, (1, round(0.4 * RATE)), RATE)
    assert (reply.frames, manifest["settings"]["strength"]) == (round(0.4 * RATE), 0.3)


@pytest.mark.parametrize("given", ["alone", "after a prompt"])
def test_a_variation_keeps_the_level_of_its_source(wire: Wire, given: str) -> None:
    source = block("source", 6.0)
    audio = (source,) if given == "alone" else (tone(), source)
    _, events, manifest = made(wire, submit(None, mode="vary", audio=audio, level="match"))
    start, audio_out = joined(events)
    take = audio_out[:, -start:] if start else audio_out
    wanted = np.std(np.frombuffer(source.data, "<f4"))
    for second in range(1, 6):
        part = take[:, second * RATE : (second + 1) * RATE]
        assert abs(20 * np.log10(np.std(part) / wanted)) < 0.5
    assert manifest["takes"][0]["level"]["glide_s"] is None


def test_only_the_missing_stems_accompany(new_house: Callable[..., House]) -> None:
    drums = block("context", 1.0, track=0, stem="drums")
    with new_house(model="stems").client() as wire:
        _, events, manifest = made(wire, submit(0.4, mode="accompany", audio=(drums,), rate=RATE, channels=1))
        assert manifest["stems"] == ["bass", "other", "mix"]
        stems = [engine.samples(7, 0, stem, 0, round(0.4 * RATE)) for stem in ("bass", "other")]
        assert np.array_equal(joined(events)[1], stems[0] + stems[1])
        _, events, manifest = made(
            wire, submit(0.4, mode="accompany", audio=(drums,), stems=["bass"], rate=RATE, channels=1)
        )
        assert {e.stem for e in events if e.event == "audio"} == set(manifest["stems"]) == {"bass"}

        every = tuple(block("context", 0.5, track=i, stem=name) for i, name in enumerate(engine.STEMS))
        failed = wire.events(wire.ask(submit(0.4, mode="accompany", audio=every)).job)[-1]
        assert (failed.error.code, failed.error.field) == ("E_ARGUMENT", "stems")
        silent = AudioBlock(drums.format, bytes(len(drums.data)))
        assert wire.refused(submit(0.4, mode="accompany", audio=(silent,))).code == "E_AUDIO"


def test_a_model_without_ears_for_tracks_says_so(wire: Wire) -> None:
    failed = wire.events(wire.ask(submit(0.4, mode="accompany", audio=(block("context", 1.0),))).job)[-1]
    assert (failed.event, failed.error.code, failed.error.field) == ("failed", "E_MODEL", "model")
    assert "pocket" in failed.error.message and "context" in str(failed.error.allowed)


def test_a_retake_keeps_what_it_does_not_say(wire: Wire) -> None:
    first, _, manifest = made(
        wire, submit(0.4, start="bar", tempo_map=TEMPO, text="a", sampling={"top_k": 9}, rate=RATE,
               channels=1)
    )  # fmt: skip
    key = secrets.token_bytes(16)
    change = {"text": "b", "tail_ms": 50, "length": {"seconds": 0.6}, "sampling": {"temperature": 0.5}}
    retake = m.Retake(job=first.job, key=key, seed=11, change=change)
    second = wire.ask(retake)
    events = wire.events(second.job)
    settings = events[-1].manifest["settings"]
    assert (settings["text"], settings["sampling"]) == ("b", {"top_k": 9, "temperature": 0.5})
    assert (settings["start"], settings["seed"]) == ("bar", 11)
    assert (second.lead_frames, second.frames) == (LEAD, round(0.6 * RATE))
    start, audio = joined(events)
    assert (start, audio.shape[1]) == (-LEAD - HANDLE, LEAD + HANDLE + round(0.6 * RATE) + 1600)
    assert np.array_equal(audio, engine.samples(11, 0, "mix", -HANDLE, audio.shape[1]))
    assert wire.ask(retake).again
    assert wire.refused(dataclasses.replace(retake, change={"text": "c"})).code == "E_KEY_REUSE"
    wrong = m.Retake(job=first.job, key=secrets.token_bytes(16), change={"strength": 2})
    assert wire.refused(wrong).field == "strength"

    again = submit(0.4, audio=(tone(),), key=secrets.token_bytes(16), **_as_asked(manifest["settings"]))
    _, events, _ = made(wire, again)
    assert np.array_equal(joined(events)[1], joined(wire.events(first.job))[1])  # the settings are enough


def _as_asked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a manifest as fields of a new request."""
    return {k: v for k, v in settings.items() if k in m.Submit.WIRE}


def test_long_settings_do_not_break_the_header(wire: Wire) -> None:
    changes = tuple(m.TempoChange(at=i, bpm=120 + i % 7) for i in range(900))
    request = submit(
        0.2, text="x" * 9000, negative_text="y" * 9000, tempo_map=m.TempoMap(changes=changes), variations=4
    )
    reply, _, manifest = made(wire, request)
    assert manifest["settings_left_out"][0] == "tempo_map" and manifest["settings"]["seed"] == 7
    assert wire.ask(m.Status(job=reply.job)).info.manifest == manifest


def test_a_job_resumed_in_the_middle_is_the_same_take(
    new_house: Callable[..., House], tmp_path: Path
) -> None:
    """Loop, lead and tail through a crash of the worker: what was told comes again as it was."""
    del tmp_path
    house = new_house()
    with house.client() as wire:
        request = submit(
            3, text="resumable crash=120 crashes=1", start="bar", tempo_map=TEMPO, loop=True, tail_ms=60,
            rate=RATE, channels=1, level="match",
        )  # fmt: skip
        _, events, _ = made(wire, request)
        assert any(e.event == "requeued" and e.discard_from is None for e in events)
        calm = dataclasses.replace(request, key=secrets.token_bytes(16), text="resumable")
        _, undisturbed, _ = made(wire, calm)
        assert np.array_equal(joined(events)[1], joined(undisturbed)[1])


@pytest.mark.parametrize("frames", [1, 2, 700, 2561])
@pytest.mark.parametrize("mode", ["continue", "generate", "fill"])
def test_the_shortest_takes_have_their_length(wire: Wire, mode: str, frames: int) -> None:
    audio = () if mode == "generate" else (tone(), *((block("following", 0.1),) if mode == "fill" else ()))
    request = submit(
        None, mode=mode, audio=audio, length=m.Length(frames=frames), loop=mode != "fill", tail_ms=30,
        level="match", rate=44_100, channels=2,
    )  # fmt: skip
    _, events, manifest = made(wire, request)
    start, heard = joined(events)
    handle = 0 if mode == "generate" else 3528
    assert (start, heard.shape) == (-handle, (2, handle + frames + 1323))
    assert np.isfinite(heard).all() and manifest["tail_frames"] == 1323
