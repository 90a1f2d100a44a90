"""The streaming decode equals the decode of the whole: any chunking, any shape, long memory."""

import copy
import random
import threading

import pytest
import torch

from genmodel.codec import (
    CodecStreamState,
    InterleaveStereoCompressionModel,
    StemsCompressionModel,
    push_together,
)
from genmodel.errors import GenModelError
from tests.codec.tiny import SHAPES, chunked, codec, error, random_codes, slow_decode, streamed

CHUNKS = (1, 5, 10, 25, 50, "random")


def wrapped(kind: str, pad_mode: str):
    if kind == "true-stereo":
        return codec("musicgen", channels=2, pad_mode=pad_mode)
    inner = codec("musicgen", pad_mode=pad_mode)
    return {
        "mono": inner,
        "stereo": InterleaveStereoCompressionModel(inner),
        "per-timestep": InterleaveStereoCompressionModel(inner, per_timestep=True),
        "stems": StemsCompressionModel(inner, ("drums", "bass", "other")),
    }[kind]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("kind", ["mono", "true-stereo", "stereo", "per-timestep", "stems"])
def test_exact_for_every_chunk_size(kind, pad_mode, chunk):
    model = wrapped(kind, pad_mode)
    codes = random_codes(model, 2, 60)
    audio = streamed(model.stream(2), codes, chunk)
    truth = slow_decode(model, codes)
    assert audio.shape == (2, len(model.stems), model.channels, 60 * model.hop_samples)
    assert error(audio, truth) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_for_every_shape_and_length(shape):
    model = codec(shape)
    look = model.lookahead_frames
    for frames in (1, 2, 3, 4, 5, 7, 8, 12, 40):
        codes = random_codes(model, 1, frames, seed=frames)
        truth = slow_decode(model, codes)
        assert error(model.decode_stems(codes), truth) < 1e-5, frames
        for chunk in (1, 3, "random"):
            stream, pieces, pushed = model.stream(1), [], 0
            for piece in chunked(codes, chunk, seed=frames):
                pieces.append(stream.push(piece))
                pushed += piece.shape[2]
                assert stream.frames_in == pushed
                assert pieces[-1].shape[3] % model.hop_samples == 0
                assert stream.samples_out >= max(0, pushed - look) * model.hop_samples
            pieces.append(stream.finish())
            assert error(torch.cat(pieces, 3), truth) < 1e-5, (frames, chunk)
            assert stream.samples_out == frames * model.hop_samples


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_given_is_final(shape):
    """Audio given after n frames does not depend on what comes later."""
    model = codec(shape)
    early = random_codes(model, 1, 12, seed=1)
    later = [torch.cat([early, random_codes(model, 1, 9, seed=s)], 2) for s in (2, 3)]
    given = model.stream(1).push(early)
    for codes in later:
        assert error(given, slow_decode(model, codes)[..., : given.shape[3]]) < 1e-5 or given.shape[3] == 0


def test_lookahead_is_no_longer_than_needed():
    """Four frames for the published shapes: with three, the last frame given would still change."""
    for shape in ("musicgen", "musicgen-zeros", "audiogen"):
        assert codec(shape).lookahead_frames == 4
    model = codec("musicgen")
    a = random_codes(model, 1, 20, seed=1)
    b = a.clone()
    b[:, :, 14] = (b[:, :, 14] + 1) % model.cardinality
    changed = (slow_decode(model, a) - slow_decode(model, b)).abs()[0, 0, 0]
    first = int((changed > 0).nonzero()[0])
    assert first // model.hop_samples == 10


def test_snapshots_are_values():
    model = wrapped("stems", "reflect")
    codes = random_codes(model, 2, 37)
    truth = slow_decode(model, codes)
    stream = model.stream(2)
    pieces, saved = [], []
    for piece in codes.split(3, dim=2):
        saved.append((stream.snapshot(), len(pieces)))
        pieces.append(stream.push(piece))
    frozen = copy.deepcopy([state for state, _ in saved])
    pieces.append(stream.finish())
    order = list(range(len(saved)))
    random.Random(0).shuffle(order)
    for i in order:  # rewind anywhere, in the same stream and in another one
        state, have = saved[i]
        for other in (stream, model.stream(2)):
            other.restore(state)
            assert other.frames_in == 3 * i
            rest = [other.push(piece) for piece in codes[:, :, 3 * i :].split(5, dim=2)]
            audio = torch.cat([*pieces[:have], *rest, other.finish()], 3)
            assert error(audio, truth) < 1e-5
    assert all(_same(a, b) for (a, _), b in zip(saved, frozen, strict=True))


def _same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dict__"):
        return _same(tuple(vars(a).values()), tuple(vars(b).values()))
    return a == b


def test_state_is_small_and_does_not_grow():
    model = codec("musicgen")
    stream = model.stream(1)
    sizes = []
    for piece in random_codes(model, 1, 120).split(10, dim=2):
        stream.push(piece)
        sizes.append(stream.snapshot().nbytes)
    assert len(set(sizes[1:])) == 1
    assert sizes[-1] < 64 * 1024


def test_streams_share_a_codec():
    model = codec("musicgen")
    codes = [random_codes(model, 1, 23, seed=s) for s in range(4)]
    streams = [model.stream(1) for _ in codes]
    pieces = [[] for _ in codes]
    for at in range(23):  # interleaved in one thread
        for stream, own, c in zip(streams, pieces, codes, strict=True):
            own.append(stream.push(c[:, :, at : at + 1]))
    for stream, own, c in zip(streams, pieces, codes, strict=True):
        assert error(torch.cat([*own, stream.finish()], 3), slow_decode(model, c)) < 1e-5


def test_streams_run_in_threads():
    model = codec("musicgen")
    codes = [random_codes(model, 1, 15, seed=s) for s in range(4)]
    results: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        results[i] = streamed(model.stream(1), codes[i], 2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, c in enumerate(codes):
        assert error(results[i], slow_decode(model, c)) < 1e-5


def test_rows_equal_single_rows():
    model = wrapped("stereo", "constant")
    codes = random_codes(model, 3, 30)
    together = streamed(model.stream(3), codes, 7)
    for row in range(3):
        alone = streamed(model.stream(1), codes[row : row + 1], 7)
        assert error(together[row : row + 1], alone) < 1e-5


def test_new_weights_reach_new_streams():
    model = codec("causal")
    codes = random_codes(model, 1, 6)
    before = streamed(model.stream(1), codes, 2)
    with torch.no_grad():
        model.decoder.model[0].weights.weight.mul_(2.0)
    after = streamed(model.stream(1), codes, 2)
    assert error(after, slow_decode(model, codes)) < 1e-5
    assert error(after, before) > 1e-3


def test_copies_and_double_precision():
    model = codec("musicgen")
    codes = random_codes(model, 1, 12)
    model.decode(codes)
    twin = copy.deepcopy(model).double()
    truth = slow_decode(twin, codes)
    assert truth.dtype == torch.float64
    assert error(streamed(twin.stream(1), codes, 5), truth) < 1e-12
    assert error(model.decode_stems(codes).double(), truth) < 1e-5


def test_empty_stream_and_empty_pushes():
    model = wrapped("stereo", "reflect")
    stream = model.stream(2)
    assert stream.push(random_codes(model, 2, 0)).shape == (2, 1, 2, 0)
    assert stream.finish().shape == (2, 1, 2, 0)
    assert isinstance(stream.snapshot(), CodecStreamState)


@pytest.mark.parametrize("rows", [0, -1, 1.5, True, "2"])
def test_rows_are_checked(rows):
    with pytest.raises(GenModelError, match="row") as caught:
        codec("causal").stream(rows)
    assert caught.value.field == "rows"


def test_misuse_is_refused_and_changes_nothing():
    model = codec("musicgen")
    codes = random_codes(model, 2, 10)
    stream = model.stream(2)
    first = stream.push(codes[:, :, :6])
    state = stream.snapshot()
    for bad, field in (
        (codes[:1], "codes.batch"),
        (codes[:, :3], "codes.codebooks"),
        (codes - 100, "codes"),
        (codes.float(), "codes.dtype"),
        (codes[0], "codes"),
        ("x", "codes"),
    ):
        with pytest.raises(GenModelError) as caught:
            stream.push(bad)
        assert caught.value.field == field
        assert stream.snapshot() is state
    for bad in (None, model.stream(1).snapshot(), codec("no-lstm").stream(2).snapshot()):
        with pytest.raises(GenModelError):
            stream.restore(bad)
    rest = stream.push(codes[:, :, 6:])
    assert error(torch.cat([first, rest, stream.finish()], 3), slow_decode(model, codes)) < 1e-5
    for call in (stream.finish, lambda: stream.push(codes)):
        with pytest.raises(GenModelError, match="finished"):
            call()
    stream.restore(state)
    assert stream.push(codes[:, :, 6:]).shape == rest.shape


def test_interleaved_time_must_end_on_a_pair():
    model = wrapped("per-timestep", "constant")
    stream = model.stream(1)
    stream.push(random_codes(model, 1, 3))
    with pytest.raises(GenModelError, match="pair"):
        stream.finish()


@pytest.mark.parametrize("kind", ["mono", "stereo", "per-timestep", "stems"])
def test_streams_pushed_together_equal_streams_alone(kind):
    """Streams at any position, of any number of rows, some just begun, joined and parted at random."""
    model = wrapped(kind, "reflect")
    draw = random.Random(3)
    rows = [1, 2, 1, 3]
    codes = [random_codes(model, r, 44, seed=i) for i, r in enumerate(rows)]
    streams, at = [model.stream(r) for r in rows], [0] * 4
    pieces: list[list[torch.Tensor]] = [[] for _ in rows]
    joined = 0
    while min(at) < 44:
        members = [i for i in draw.sample(range(4), draw.randint(1, 4)) if at[i] < 44]
        frames = draw.choice([0, 1, 2, 2, 4])
        pushed = [codes[i][:, :, at[i] : at[i] + frames] for i in members]
        for i, piece, audio in zip(
            members, pushed, push_together([streams[i] for i in members], pushed), strict=True
        ):
            pieces[i].append(audio)
            at[i] += piece.shape[2]
            assert streams[i].frames_in == at[i]
            assert streams[i].samples_out == sum(p.shape[3] for p in pieces[i])
        shapes = [streams[i].snapshot()._shape() for i in members]
        joined += len(shapes) > 1 and shapes[0] == shapes[1] and at[members[0]] != at[members[1]]
    assert joined  # states at different positions do join once they have begun
    for i, stream in enumerate(streams):
        pieces[i].append(stream.finish())
        assert error(torch.cat(pieces[i], 3), slow_decode(model, codes[i])) < 1e-5


def test_pushing_together_checks_before_it_moves():
    model = codec("musicgen")
    streams = [model.stream(1), model.stream(2)]
    good, bad = random_codes(model, 1, 8), random_codes(model, 2, 8) + 1000
    before = [s.snapshot() for s in streams]
    for members, codes in ((streams, [good, bad]), (streams, [good]), ([streams[0]] * 2, [good, good])):
        with pytest.raises(GenModelError):
            push_together(members, codes)
        assert [s.snapshot() for s in streams] == before
    assert push_together([], []) == []
