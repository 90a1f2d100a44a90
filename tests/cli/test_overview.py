"""The picture: it has the right size, is not blank, and shows the seam and the takes where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from bridge_clients.overview import PROMPT_COLOUR, SEAM_COLOUR, TAKE_COLOUR, Overview, TakePicture, draw

RATE = 22_050


def noise(seconds: float, channels: int = 1) -> np.ndarray:
    return (0.2 * np.random.default_rng(0).standard_normal((round(seconds * RATE), channels))).astype("f4")


def pixels_of(image: np.ndarray, colour: str) -> np.ndarray:
    """Columns in which a colour occurs."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.flatnonzero((np.abs(image[..., :3] - wanted).max(axis=2) < 0.02).any(axis=0))


@pytest.mark.parametrize("takes", [1, 3])
def test_prompt_seam_and_takes_lie_from_left_to_right(tmp_path: Path, takes: int) -> None:
    path = tmp_path / "overview.png"
    rows = [TakePicture(f"take {i + 1}", noise(4)) for i in range(takes)]
    draw(Overview("loop $goes$ on 火", "pocket · seed 7", RATE, rows, noise(9), [-2.0, 0.0, 2.0]), path)
    image = imread(path)
    assert image.shape[1] == 1320
    assert image.shape[0] == pytest.approx(110 * (1.35 + 2.9 * takes), abs=1)
    prompt, seam, take = (pixels_of(image, colour) for colour in (PROMPT_COLOUR, SEAM_COLOUR, TAKE_COLOUR))
    assert len(prompt) > 300 and len(take) > 300 and len(seam) >= 1
    # As much prompt as take is shown: the seam lies in the middle of the axes.
    assert prompt.min() < seam.mean() < take.max()
    assert seam.mean() == pytest.approx((prompt.min() + take.max()) / 2, abs=15)
    assert image[..., :3].std() > 0.1


@pytest.mark.parametrize("seconds", [0.0005, 0.3])
def test_short_and_silent_takes_are_drawn(tmp_path: Path, seconds: float) -> None:
    frames = max(1, round(seconds * RATE))
    draw(Overview("t", "s", RATE, [TakePicture("take 1", np.zeros((frames, 2), "f4"))]), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_a_tone_shows_as_one_line_at_its_pitch() -> None:
    from bridge_clients.overview import _BANDS, _band_levels_db

    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype("f4")
    levels, low_hz, high_hz = _band_levels_db(tone, RATE)
    loudest = levels[:, 5:-5].mean(axis=1).argmax()
    assert low_hz * (high_hz / low_hz) ** ((loudest + 0.5) / _BANDS) == pytest.approx(440, rel=0.03)


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(Overview("t", "s", RATE, []), tmp_path / "a.png")
