"""Audio files: what is read, what is refused and how, what is written and that nothing is lost."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridge_clients.audio_files import inspect, read_before, write_wav
from protocol.errors import SegueError

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "subtype", "ours"),
    [
        ("a.wav", "PCM_16", "pcm16"),
        ("a.wav", "PCM_24", "pcm24"),
        ("a.wav", "FLOAT", "float"),
        ("a.wav", "PCM_U8", "pcm16"),
        ("a.aiff", "PCM_24", "pcm24"),
        ("a.flac", "PCM_16", "pcm24"),
        ("a.ogg", "VORBIS", "pcm24"),
        ("a.mp3", "MPEG_LAYER_III", "pcm24"),
    ],
)
@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_every_kind_of_file_is_read(write: Write, name: str, subtype: str, ours: str, rate: int) -> None:
    info = inspect(write(name, 0.5, rate, 1, subtype))
    assert (info.rate_hz, info.channels, info.matching_subtype) == (rate, 1, ours)
    excerpt = read_before(info, info.frames, rate)
    assert excerpt.samples.dtype == np.float32
    assert excerpt.samples.shape == (info.frames, 1)


def test_only_the_stretch_before_the_seam_is_read(write: Write) -> None:
    samples = np.linspace(-0.9, 0.9, 44_100 * 2)[:, None]
    info = inspect(write("ramp.wav", samples=samples, subtype="FLOAT"))
    excerpt = read_before(info, 50_000, 5_000)
    assert (excerpt.start_frame, excerpt.end_frame) == (45_000, 50_000)
    np.testing.assert_array_equal(excerpt.samples, samples[45_000:50_000].astype(np.float32))


def test_ten_hours_are_read_from_the_end_alone(tmp_path: Path) -> None:
    """A sparse file of ten hours: only its last second exists, and only that is touched."""
    rate, frames = 44_100, 36_000 * 44_100
    path = tmp_path / "long.wav"
    data = 2 * frames
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + data) + b"WAVEfmt ")
        file.write(
            struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + b"data" + struct.pack("<I", data)
        )
        file.seek(44 + data - 2 * rate)
        file.write((np.sin(np.arange(rate) * 0.05) * 20_000).astype("<i2").tobytes())
    info = inspect(path)
    assert info.seconds == 36_000
    excerpt = read_before(info, info.frames, 2 * rate)
    assert len(excerpt.samples) == 2 * rate
    assert np.abs(excerpt.samples[rate:]).max() > 0.5


def _zero_hertz(path: Path) -> None:
    soundfile.write(path, np.full((100, 1), 0.5), 44_100)
    data = bytearray(path.read_bytes())
    data[24:28] = bytes(4)
    path.write_bytes(data)


def _with(path: Path, **values: float) -> None:
    samples = np.full((44_100, 2), 0.25, np.float32)
    for place, value in values.items():
        samples[int(place[1:]), 0] = value
    soundfile.write(path, samples, 44_100, subtype="FLOAT")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is not there"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "no samples": (lambda path: soundfile.write(path, np.zeros((0, 1)), 44_100), "holds no audio"),
    "words": (lambda path: path.write_text("la la la " * 100), "is not audio"),
    "pipe": (lambda path: os.mkfifo(path), "is not an ordinary file"),
    "0 Hz": (_zero_hertz, "sample rate is 0 Hz"),
    "1 Hz": (lambda path: soundfile.write(path, np.full((100, 1), 0.5), 1), "sample rate of 1 Hz"),
    "7 channels": (lambda path: soundfile.write(path, np.full((9_000, 7), 0.5), 44_100), "7 channels"),
    "one sample": (lambda path: soundfile.write(path, np.full((1, 1), 0.5), 44_100), "only 1 sample "),
    "99 ms": (
        lambda path: soundfile.write(path, np.full((4_409, 1), 0.5), 44_100),
        "only 4409 samples to continue from",
    ),
    "silent": (lambda path: soundfile.write(path, np.zeros((44_100, 1)), 44_100), "is silent from 0.00"),
    "NaN": (lambda path: _with(path, s500=float("nan")), "holds 1 sample that is not a number"),
    "infinity": (
        lambda path: _with(path, s500=float("inf"), s501=-float("inf")),
        "holds 2 samples that are not a number (NaN or infinity), the first at sample 500 (0.011 s)",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_continued_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, words = BAD[kind]
    path = tmp_path / "in.wav"
    make(path)
    with pytest.raises(SegueError) as refused:
        info = inspect(path)
        read_before(info, info.frames, 44_100)
    assert refused.value.code == "E_AUDIO"
    assert refused.value.field == "input"
    assert words in refused.value.message
    assert "in.wav" in refused.value.message


def test_a_file_cut_off_in_the_middle_is_read_as_far_as_it_goes(write: Write) -> None:
    path = write("cut.wav", 2.0, 44_100, 1, "PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 44_100])
    info = inspect(path)
    assert info.frames == 22_050
    assert len(read_before(info, info.frames, 44_100).samples) == 22_050


@pytest.mark.parametrize(("subtype", "bits"), [("pcm16", 15), ("pcm24", 23), ("float", 0)])
def test_samples_survive_writing(tmp_path: Path, subtype: str, bits: int) -> None:
    samples = (np.random.default_rng(1).integers(-(2**14), 2**14, (30_001, 2)) / 2**15).astype(np.float32)
    written = write_wav(tmp_path / "a.wav", [samples[:7], samples[7:]], 48_000, subtype)  # type: ignore[arg-type]
    back, rate = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    assert rate == 48_000
    np.testing.assert_array_equal(back, samples)
    assert (written.frames, written.clipped_samples) == (30_001, 0)
    assert written.peak == np.abs(samples).max()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("subtype", ["pcm16", "pcm24"])
def test_full_scale_is_no_clipping_and_more_is_counted(tmp_path: Path, subtype: str) -> None:
    edge = np.array([[1.0], [-1.0], [0.0]], np.float32)
    assert write_wav(tmp_path / "edge.wav", [edge], 8_000, subtype).clipped_samples == 0  # type: ignore[arg-type]
    loud = np.array([[1.5], [-1.01], [0.5]], np.float32)
    written = write_wav(tmp_path / "loud.wav", [loud], 8_000, subtype)  # type: ignore[arg-type]
    assert (written.clipped_samples, written.peak) == (2, 1.5)
    back, _ = soundfile.read(tmp_path / "loud.wav", dtype="float64")
    assert back[0] > 0.9999 and back[1] == -1.0 and back[2] == 0.5


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write_wav(path, [np.zeros((10, 1), np.float32)], 8_000, "pcm16")
    assert path.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_said_and_leaves_nothing() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    from bridge_clients.audio_files import disk_error

    error = disk_error(Path("x.wav"), OSError(28, "No space left on device"))
    assert isinstance(error, SegueError) and error.code == "E_DISK_FULL"
