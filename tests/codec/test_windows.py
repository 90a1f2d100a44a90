"""Windows of a codec stream with tensors of their own give what the stream gives, to the bit."""

import logging
import random

import pytest
import torch

from genmodel.codec.windows import CodecWindows, _Window
from tests.codec.test_stream import wrapped
from tests.codec.tiny import codec, random_codes

KINDS = ["mono", "true-stereo", "stereo", "per-timestep", "stems"]


def rehearsal() -> CodecWindows:
    return CodecWindows(torch.device("cpu"), always=True)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_give_the_streams_bits(kind: str, pad_mode: str) -> None:
    model, windows = wrapped(kind, pad_mode), rehearsal()
    for seed in range(2):  # the second take finds the first one's windows
        codes = random_codes(model, 1, 150)
        plain, other = model.stream(1), model.stream(1)
        for piece in codes.split([13, *[12] * 9, 4, *[6] * 4, 1], 2):
            assert torch.equal(plain.push(piece), windows.push(other, piece))
            assert other.frames_in == plain.frames_in and other.samples_out == plain.samples_out
        assert torch.equal(plain.finish(), other.finish())
        assert 2 <= windows.kept <= (2, 4)[seed]  # of 12 and of 6 frames, then of those that came once


def test_states_stay_values() -> None:
    model, windows = wrapped("stems", "reflect"), rehearsal()
    codes, stream = random_codes(model, 1, 120), model.stream(1)
    for piece in codes[:, :, :60].split(12, 2):
        windows.push(stream, piece)
    moment = stream.snapshot()
    first = windows.push(stream, codes[:, :, 60:72])
    kept = first.clone()
    after = [windows.push(stream, piece) for piece in codes[:, :, 72:].split(12, 2)]
    assert torch.equal(first, kept)
    again = model.stream(1)
    again.restore(moment)
    assert torch.equal(windows.push(again, codes[:, :, 60:72]), kept)
    for piece, audio in zip(codes[:, :, 72:].split(12, 2), after, strict=True):
        assert torch.equal(again.push(piece), audio)


def test_streams_take_turns_and_few_windows_are_kept() -> None:
    model, windows = codec("musicgen"), rehearsal()
    dice = random.Random(1)
    takes = []
    for length in range(1, 13):
        codes = random_codes(model, 1, 12 * length)
        takes.append((model.stream(1), model.stream(1), list(codes.split(length, 2))))
    while any(pieces for _, _, pieces in takes):
        plain, other, pieces = dice.choice([take for take in takes if take[2]])
        piece = pieces.pop(0)
        assert torch.equal(plain.push(piece), windows.push(other, piece))
        assert windows.kept <= 8


def test_where_nothing_can_be_captured_streams_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: CodecWindows, window: _Window) -> None:
        raise torch.OutOfMemoryError("no room for a graph")

    monkeypatch.setattr(CodecWindows, "_captured", full)
    model, windows = codec("musicgen"), CodecWindows(torch.device("cpu"), capture=True)
    codes = random_codes(model, 1, 100)
    plain, other = model.stream(1), model.stream(1)
    with caplog.at_level(logging.WARNING):
        for piece in codes.split(10, 2):
            assert torch.equal(plain.push(piece), windows.push(other, piece))
    assert windows.kept == 0 and len(caplog.records) == 1


def test_nothing_is_kept_where_it_is_switched_off() -> None:
    model, windows = codec("musicgen"), CodecWindows(torch.device("cpu"))
    stream = model.stream(1)
    for piece in random_codes(model, 1, 60).split(10, 2):
        windows.push(stream, piece)
    assert windows.kept == 0
