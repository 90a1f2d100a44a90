"""Whatever stands in `request.json`: a checked request, or one typed error, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge_clients.jobdir.folder import JobDir, to_json
from bridge_clients.jobdir.request import JobRequest, read_request
from protocol.audio import AudioFormat
from protocol.errors import SegueError
from protocol.submit import Retake, Submit
from tests.hosts.kit import tone, write_wav

SOUND: dict[str, Any] = {"version": 1, "mode": "continue", "length": {"seconds": 1}, "seed": 3}
PROMPT = [{"file": "prompt.wav", "role": "prompt"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobDir]:
    folder = tmp_path_factory.mktemp("fuzz") / "job"
    folder.mkdir(mode=0o700)
    write_wav(folder / "prompt.wav", tone(0.2))
    made = JobDir(folder)
    yield made
    made.close()


def read(place: JobDir, request: Any) -> JobRequest | SegueError:
    (place.path / "request.json").write_bytes(json.dumps(request).encode("utf-8", "surrogatepass"))
    try:
        return read_request(place)
    except SegueError as error:
        assert error.message and "\n" not in error.message and len(error.message) < 2000
        to_json(error.to_map())
        return error


def test_the_request_is_the_wires_own(place: JobDir) -> None:
    found = read(place, {**SOUND, "audio": PROMPT, "text": "a\nb", "session": "0a" * 16, "x-new": 1})
    assert isinstance(found, JobRequest) and isinstance(found.submit, Submit)
    assert (found.submit.session, found.submit.text, found.unknown) == (b"\n" * 16, "a\nb", ("x-new",))
    assert found.submit.audio[0].format.role == "prompt"
    again = read(place, {**found.settings, "key": found.key.hex()})
    assert isinstance(again, JobRequest) and again.submit.digest() == found.submit.digest()  # type: ignore[union-attr]


NAMES = sorted(
    {
        *Submit.WIRE,
        *Retake.WIRE,
        "audio",
        "version",
        "takes_folder",
        "takes_name",
        "chunks",
        "chunk_s",
        "retake",
    }
)
WORDS = sorted({"file", *AudioFormat.WIRE})
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["continue", "vary", "fill", "1/3", "prompt.wav", "../x", "prompt", "/", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*NAMES, *WORDS, "at", "bpm"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(NAMES), PLAIN, max_size=5))
@example({"takes_folder": "/tmp/\ud800"})
@example({"takes_name": "\ud800"})
@example({"\ud800" * 400: 1})
@example({"length": {"frames": 10**400}})
@example({"tempo_map": {"changes": [{"at": 0, "bpm": 5e-324}]}, "length": {"bars": "1/3"}})
@example({"tempo_map": {"changes": []}})
@example({"harmony": [{"at": 0, "chord": "\0"}]})
@example({"audio": [{"file": "prompt.wav", "role": "prompt", "position": 1e300}]})
@example({"audio": [{"file": "prompt.wav", "role": "context", "position": -(2**53)}], "mode": "generate"})
@example({"audio": [{"file": "prompt.wav", "role": "context", "position": 2**52}], "mode": "generate"})
@example({"audio": PROMPT * 100})
def test_no_request_brings_it_down(place: JobDir, changes: dict[str, Any]) -> None:
    read(place, {**SOUND, "audio": PROMPT, **changes})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(WORDS), PLAIN, max_size=4))
def test_no_words_about_audio_bring_it_down(place: JobDir, words: dict[str, Any]) -> None:
    read(place, {**SOUND, "audio": [{**PROMPT[0], **words}]})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_bring_it_down(place: JobDir, raw: bytes) -> None:
    (place.path / "request.json").write_bytes(raw)
    with pytest.raises(SegueError):
        read_request(place)


def test_a_key_that_went_out_is_used_again(place: JobDir) -> None:
    place.put("key", b"ab" * 16 + b"\n")
    found = read(place, {**SOUND, "audio": PROMPT})
    assert isinstance(found, JobRequest) and found.key == bytes.fromhex("ab" * 16)
    place.put("key", b"half")
    error = read(place, {**SOUND, "audio": PROMPT})
    assert isinstance(error, SegueError) and error.field == "key"
    os.unlink(place.path / "key")


def test_all_that_can_be_said_is_read(place: JobDir, tmp_path: Path) -> None:
    """The fields of `submit` go in and come out in the settings, under the same names."""
    told = {
        "mode": "continue", "length": {"bars": "9/2"}, "session": "00" * 16, "project": "p", "model": "m",
        "text": "t", "negative_text": "n",
        "tempo_map": {"changes": [{"at": 0.0, "bpm": 120.5}], "start": "1/3"},
        "harmony": [{"at": 0, "chord": "Am7"}], "variations": 2, "stems": ["mix"], "seed": 1,
        "sampling": {"top_k": 5}, "guidance": {"cfg_coef": 2.5}, "rate": 44100.0, "channels": 1,
        "handle_ms": 40, "level": "off", "priority": "batch", "deadline_ms": 1000, "loop": False,
        "start": "bar", "strength": 0.25, "tail_ms": 10, "key": "11" * 16,
    }  # fmt: skip
    assert set(told) <= set(Submit.WIRE)
    found = read(place, {"version": 1, **told, "audio": PROMPT})
    assert isinstance(found, JobRequest), found
    for name, value in told.items():
        if name not in ("key", "tempo_map", "loop"):
            assert found.settings[name] == value, name
    assert found.submit.to_map()["tempo_map"]["changes"][0]["bpm"] == 120.5
