"""What producers ask for, with real engines: pocket, which hears tracks and makes stems, and a plain MusicGen
with random weights, which hears a prompt only.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from genmodel.base import BaseGenModel
from protocol import messages as m
from protocol.audio import AudioBlock, AudioFormat
from tests.bench import seam
from tests.daemon.house import House, Wire, joined, submit

RATE = 32_000
TEMPO = m.TempoMap(changes=(m.TempoChange(at=0, bpm=120),))


def house_of(model: str) -> Iterator[Wire]:
    house = House("worker.threads=1", model=model, real=True).start()
    with house.client() as wire:
        yield wire
    house.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Wire]:
    yield from house_of("debug")


@pytest.fixture(scope="module")
def pocket() -> Iterator[Wire]:
    yield from house_of("pocket")


def music(role: str, seconds: float, number: int = 2, **more: Any) -> AudioBlock:
    """The end of a synthesised prompt at 32 kHz."""
    audio = seam.prompt(number).audio[-round(seconds * RATE) :]
    form = AudioFormat(rate=RATE, channels=1, frames=len(audio), role=role, **more)
    return AudioBlock(form, audio.astype("<f4").tobytes())


def made(wire: Wire, request: m.Submit) -> tuple[int, np.ndarray, dict[str, Any]]:
    events = wire.events(wire.ask(request).job, wait_s=300)
    assert events[-1].event == "done", events[-1]
    stems = events[-1].manifest["stems"]
    start, audio = joined(events, stem="mix" if "mix" in stems else stems[0])
    return start, audio[0].astype(np.float64), events[-1].manifest


def likeness(left: np.ndarray, right: np.ndarray) -> float:
    """Correlation of two sounds' levels in steps of 10 ms."""
    size = min(len(left), len(right)) // 320 * 320
    steps = [np.log10(np.square(x[:size]).reshape(-1, 320).mean(1) + 1e-7) for x in (left, right)]
    return float(np.corrcoef(steps)[0, 1])


def of(**more: Any) -> m.Submit:
    return submit(more.pop("seconds", None), rate=RATE, channels=1, tempo_map=TEMPO, **more)


def test_a_plain_model_varies_by_strength_and_the_same_seed_again(plain: Wire) -> None:
    source = music("source", 1.0)
    codec = BaseGenModel.get_pretrained("debug", "cpu").compression_model
    import torch

    codes = codec.encode(torch.from_numpy(np.frombuffer(source.data, "<f4").copy())[None, None])[0]
    copy = codec.decode(codes)[0, 0].numpy()
    takes = {}
    for strength in (0.0, 0.5, 1.0):
        _, takes[strength], manifest = made(plain, of(mode="vary", audio=(source,), strength=strength))
        assert len(takes[strength]) == RATE and manifest["settings"]["strength"] == strength
    near = [float(np.corrcoef(take[:30_000], copy[:30_000])[0, 1]) for take in takes.values()]
    assert near[0] > 0.99 and near[0] > near[1] > near[2] - 0.05
    _, again, _ = made(plain, of(mode="vary", audio=(source,), strength=0.5))
    assert np.array_equal(again, takes[0.5])


def test_a_plain_model_fills_to_the_sample_and_says_that_it_did_not_hear(plain: Wire) -> None:
    request = of(
        mode="fill", audio=(music("prompt", 1.0), music("following", 1.0, 7)), level="match",
        length=m.Length(frames=20_011),
    )  # fmt: skip
    start, audio, manifest = made(plain, request)
    assert (start, len(audio)) == (-2560, 2560 + 20_011 + 2560) and manifest["ignored"][:1] == ["following"]


def test_a_plain_model_cannot_accompany(plain: Wire) -> None:
    request = of(mode="accompany", audio=(music("context", 1.0),), seconds=0.5)
    failed = plain.events(plain.ask(request).job, wait_s=100)[-1]
    assert (failed.event, failed.error.code) == ("failed", "E_MODEL") and "pocket" in failed.error.message


def test_pocket_plays_what_is_missing(pocket: Wire) -> None:
    tracks = music("context", 2.0, stem="drums")
    _, audio, manifest = made(pocket, of(mode="accompany", audio=(tracks,), seconds=1.5))
    assert manifest["stems"] == ["bass", "other", "mix"] and manifest["ignored"] == []
    assert np.sqrt(np.mean(audio**2)) > 1e-3
    deaf = of(mode="accompany", audio=(music("context", 2.0, 7, stem="drums"),), seconds=1.5)
    assert not np.array_equal(made(pocket, deaf)[1], audio)


def test_pocket_varies_less_the_less_it_is_asked_to(pocket: Wire) -> None:
    source = music("source", 1.5)
    given = np.frombuffer(source.data, "<f4").astype(np.float64)
    near = []
    for strength in (0.0, 1.0):
        _, audio, _ = made(pocket, of(mode="vary", audio=(source,), strength=strength))
        near.append(likeness(audio, given))
    assert near[0] > 0.75 and near[0] > near[1] + 0.1, near


def test_pocket_fills_a_gap_and_meets_both_ends(pocket: Wire) -> None:
    following = music("following", 2.0, 7)
    request = of(mode="fill", audio=(music("prompt", 2.0), following), seconds=2.0, level="match")
    start, audio, manifest = made(pocket, request)
    assert (start, len(audio), manifest["ignored"]) == (-2560, 2560 + 2 * RATE + 2560, [])
    after = np.frombuffer(following.data, "<f4").astype(np.float64)
    ending = manifest["takes"][0]["ending"]
    end = audio[2560 : 2560 + 2 * RATE][-RATE:]
    if not ending["clamped"]:
        assert abs(seam.level_db(end) - seam.level_db(after[: 2 * RATE])) < 1.0
    deaf = dataclasses.replace(request, key=secrets.token_bytes(16), audio=request.audio[:1], mode="continue")
    assert not np.allclose(made(pocket, deaf)[1][: 2 * RATE], audio[: 2 * RATE])


@pytest.mark.parametrize("given", ["prompt", "text", "source"])
def test_pockets_loops_close(pocket: Wire, given: str) -> None:
    """Over the wrap: no click, the level of the beginning, exactly two bars."""
    mode = {"prompt": "continue", "text": "generate", "source": "vary"}[given]
    audio = () if given == "text" else (music(given, 2.0),)
    request = of(mode=mode, audio=audio, loop=True, length=m.Length(bars=1), text="house", level="match")
    start, whole, manifest = made(pocket, request)
    take = whole[-start:] if start else whole
    assert len(take) == 2 * RATE
    twice = np.concatenate([take, take])
    assert seam.click_db(twice, RATE, [2 * RATE], take) <= 0.0
    if not manifest["takes"][0]["ending"]["clamped"]:
        assert abs(seam.level_db(take[-RATE:]) - seam.level_db(take[:RATE])) < 1.0


@pytest.mark.parametrize("number", [1, 3, 5])
def test_the_seam_neither_clicks_nor_jumps(pocket: Wire, number: int) -> None:
    """A few of the prompts of `python -m tests.bench seam`."""
    found = seam.heard(pocket, number)
    assert found["click_db"] <= 0.0
    assert found["rest"] or abs(found["level_db"]) < 1.0, found
