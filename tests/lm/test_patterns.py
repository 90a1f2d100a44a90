"""Codebook patterns: AudioCraft's own tensors, and the properties that hold for every pattern."""

from __future__ import annotations

import pytest
import torch

from genmodel.errors import GenModelError
from genmodel.lm.patterns import Coord, get_pattern_provider
from tests import golden_files

DELAYS = {
    "musicgen-tiny-mono": [0, 1, 2, 3],
    "musicgen-tiny-stereo": [0, 0, 1, 1, 2, 2, 3, 3],
    "audiogen-tiny": [0, 1, 2, 3],
}


@pytest.mark.parametrize("model", golden_files.MODELS)
def test_delay_pattern_is_audiocrafts(model: str) -> None:
    expected = golden_files.tensors(model)
    codes = expected["pattern.codes"]
    card = golden_files.tensors(model)["lm.logits"].shape[-1]
    pattern = get_pattern_provider("delay", codes.shape[1], {"delays": DELAYS[model]}).get_pattern(12)
    sequence, _, mask = pattern.build_pattern_sequence(codes, card)
    assert torch.equal(sequence, expected["pattern.sequence"])
    assert torch.equal(mask, expected["pattern.mask"])
    assert torch.equal(pattern.revert_pattern_sequence(sequence, -1)[0], codes)


PATTERNS = [
    ("parallel", {}),
    ("delay", {"delays": [0, 1, 2, 3]}),
    ("delay", {"delays": [0, 0, 2, 5]}),
    ("delay", {"delays": [0, 1, 2, 3], "flatten_first": 2, "empty_initial": 1}),
    ("unroll", {"flattening": [0, 1, 1, 2], "delays": [0, 0, 0, 0]}),
    ("unroll", {"flattening": [0, 1, 1, 3], "delays": [0, 3, 3, 3]}),
    ("coarse_first", {"delays": [0, 1, 2]}),
    ("musiclm", {"group_by": 2}),
]


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize(("name", "options"), PATTERNS)
def test_every_pattern_writes_each_token_once_and_reverts(name: str, options: dict, frames: int) -> None:
    pattern = get_pattern_provider(name, 4, options).get_pattern(frames)
    written = [c for step in pattern.layout for c in step if c.t < frames]
    assert sorted(written) == [Coord(t, q) for t in range(frames) for q in range(4)]
    codes = torch.randint(0, 50, (3, 4, frames))
    sequence, index, mask = pattern.build_pattern_sequence(codes, 99)
    assert torch.equal(pattern.revert_pattern_sequence(sequence, -1)[0], codes)
    flat = torch.cat([codes.flatten(1), torch.full((3, 1), 99)], dim=1)
    assert torch.equal(flat[:, index.flatten()].view_as(sequence), sequence)
    assert bool((sequence[:, ~mask] == 99).all()) and pattern.layout[0] == ()


def test_logits_revert_one_step_earlier() -> None:
    pattern = get_pattern_provider("delay", 2, {"delays": [0, 1]}).get_pattern(3)
    logits = torch.arange(pattern.steps).float().expand(1, 5, 2, -1)  # each cell holds its step
    reverted, _, mask = pattern.revert_pattern_logits(logits, float("nan"))
    assert reverted[0, 0].tolist() == [[0, 1, 2], [1, 2, 3]] and bool(mask.all())
    short, _, mask = pattern.revert_pattern_logits(
        logits[..., : pattern.valid_steps], float("nan"), keep_only_valid_steps=True
    )
    # the steps beyond the last frame are no targets in training, though the last logits would predict one
    assert mask.tolist() == [[True, True, True], [True, True, False]] and bool(short[0, 0, 1, 2].isnan())


def test_unroll_orders_delayed_books_behind_the_frames_they_wait_for() -> None:
    pattern = get_pattern_provider("unroll", 2, {"flattening": [0, 1], "delays": [0, 1]}).get_pattern(2)
    # frame t of book 1 is written one frame late; a delayed step sorts before that frame's own when its t is
    # lower
    assert pattern.layout == (
        (),
        (Coord(0, 0),),
        (Coord(0, 1),),
        (Coord(1, 0),),
        (Coord(1, 1),),
        (Coord(2, 0),),
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("delay", {"delays": [0, 2, 1, 3]}),
        ("delay", {"delays": [0, 1]}),
        ("unroll", {"flattening": [0, 0, 1, 1], "delays": [0, 1, 0, 0]}),
        ("coarse_first", {"delays": [0]}),
        ("delay", {"stride": 3}),
        ("zigzag", {}),
    ],
)
def test_patterns_that_cannot_be_are_refused_by_name(name: str, options: dict) -> None:
    with pytest.raises(GenModelError) as caught:
        get_pattern_provider(name, 4, options)
    assert caught.value.code == "E_MODEL" and "codebooks_pattern" in str(caught.value.field)
