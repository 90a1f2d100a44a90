"""WAV without numpy, held against libsndfile."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_clients import wav
from protocol.errors import SegueError

RATE = 44_100
KINDS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
FLOATS = {"f32le": "<f4", "s16le": "<i2"}


def samples_of(coding: str, data: bytes, channels: int) -> np.ndarray:
    """float64 [frames, channels] of what goes over the wire."""
    if coding == "f32le":
        flat = np.frombuffer(data, "<f4").astype(np.float64)
    elif coding == "s16le":
        flat = np.frombuffer(data, "<i2") / 2.0**15
    else:
        raw = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        flat = ((raw[:, 0] << 8 | raw[:, 1] << 16 | raw[:, 2] << 24) >> 8) / 2.0**23
    return flat.reshape(-1, channels)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_it_reads_what_libsndfile_writes(container: str, kind: str, channels: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).uniform(-1, 1, (1001, channels))
    path = tmp_path / "x.wav"
    soundfile.write(path, noise, RATE, subtype=kind, format=container)
    expected = soundfile.read(path, dtype="float64", always_2d=True)[0]
    with path.open("rb") as file:
        info = wav.inspect(file, path.name)
        assert (info.rate_hz, info.channels, info.frames) == (RATE, channels, 1001)
        coding, data = wav.read(file, info, 100, 901, path.name)
    got = samples_of(coding, data, channels)
    step = 2.0**-23 if kind in ("PCM_32", "DOUBLE") else 0.0
    assert got.shape == (901, channels) and np.abs(got - expected[100:]).max() <= step


def test_libsndfile_reads_what_it_writes(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).standard_normal((777, 2)).astype("<f4")
    path = tmp_path / "x.wav"
    path.write_bytes(wav.header(RATE, 2, 777) + samples.tobytes())
    got, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE and soundfile.info(path).subtype == "FLOAT"
    np.testing.assert_array_equal(got, samples)


def test_beyond_four_gib_it_is_an_rf64(tmp_path: Path) -> None:
    frames = (1 << 32) // 8 + 5
    path = tmp_path / "x.wav"
    with path.open("wb") as file:
        file.write(wav.header(48_000, 2, frames))
        file.truncate(file.tell() + frames * 8)  # a hole: no disk is used
    assert soundfile.info(path).frames == frames and soundfile.info(path).format == "RF64"
    with path.open("rb") as file:
        assert wav.inspect(file, "x").frames == frames


def test_foreign_chunks_and_odd_lengths_are_skipped(tmp_path: Path) -> None:
    body = wav.header(RATE, 1, 3)
    data = np.asarray([0.5, -0.5, 0.25], "<f4").tobytes()
    extra = b"LIST" + struct.pack("<I", 5) + b"INFOx\0" + b"bext" + struct.pack("<I", 602) + bytes(602)
    path = tmp_path / "x.wav"
    path.write_bytes(body[:12] + extra + body[12:] + data)
    with path.open("rb") as file:
        info = wav.inspect(file, "x")
        assert info.frames == 3 and wav.read(file, info, 0, 3, "x")[1] == data


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_length_that_was_never_filled_in_is_taken_from_the_file(size: int, tmp_path: Path) -> None:
    head = bytearray(wav.header(RATE, 1, 3))
    head[-4:] = struct.pack("<I", size)
    path = tmp_path / "x.wav"
    path.write_bytes(bytes(head) + bytes(4 * 10 + 3))
    with path.open("rb") as file:
        assert wav.inspect(file, "x").frames == 10


def made(
    tag: int = 3, channels: int = 1, rate: int = RATE, bits: int = 32, block: int | None = None
) -> bytes:
    width = channels * bits // 8 if block is None else block
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * width & 0xFFFFFFFF, width, bits)
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 8) + bytes(8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"), (b"RIFF", "not a WAV"), (b"OggS" + bytes(60), "not a WAV"),
        (made()[:36], "no audio"), (made()[:-4], "cut short"), (made(channels=3, block=12), "3 channels"),
        (made(channels=0), "0 channels"), (made(rate=0), "0 Hz"), (made(rate=4_000_000), "Hz"),
        (made(tag=2, bits=4, block=1), "not known"), (made(tag=0x55, bits=0), "not known"),
        (made(tag=3, bits=16), "not known"), (made(block=7), "contradicts"),
        (b"RIFF\0\0\0\0WAVEdata\x08\0\0\0" + bytes(8), "after the audio"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0" + bytes(4), "cut short"),
        (made()[:40] + struct.pack("<I", 2) + bytes(8), "0 samples"),
    ],
)  # fmt: skip
def test_what_is_no_audio_is_said(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(SegueError) as caught:
        wav.inspect(file, "take.wav")
    assert caught.value.code == "E_AUDIO" and "take.wav" in caught.value.message
    assert words in caught.value.message, caught.value.message


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_bring_it_down(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Damaged headers end in E_AUDIO or in a length that the file has."""
    content = bytearray(made() + bytes(200))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.wav"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with path.open("rb") as file:
        try:
            info = wav.inspect(file, "x")
            assert info.data_offset + info.frames * info.frame_bytes <= path.stat().st_size
            wav.read(file, info, 0, info.frames, "x")
        except SegueError as error:
            assert error.code == "E_AUDIO"


def test_doubles_beyond_floats_are_no_audio() -> None:
    from protocol.audio import not_finite

    raw = struct.pack("<2d", 1e300, 0.5)
    info = wav.WavInfo(RATE, 1, 2, "f64le", 0)
    assert not_finite(wav.read(io.BytesIO(raw), info, 0, 2, "x")[1]) == (0, 1)


def test_it_costs_no_numpy() -> None:
    words = "import bridge_clients.wav, sys; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], capture_output=True, text=True).stdout == "False\n"
