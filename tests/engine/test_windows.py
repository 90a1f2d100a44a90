"""The schedule of windows, in whole frames: every duration, and what is refused."""

from __future__ import annotations

import pytest

from genmodel.engine.session import plan_windows
from genmodel.errors import GenModelError

FAMILIES = {"musicgen": (30.0, 18.0, 50.0), "audiogen": (10.0, 2.0, 50.0), "debug": (30.0, 18.0, 25.0)}


@pytest.mark.parametrize("prompt", [0, 1, 333])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_duration_on_a_10_ms_grid_is_met_exactly(family: str, prompt: int) -> None:
    max_duration, stride_s, rate = FAMILIES[family]
    window, stride = round(max_duration * rate), round(stride_s * rate)
    for hundredths in range(1, 12_001):
        total = round(hundredths / 100 * rate)
        if total <= prompt:
            continue
        have = prompt
        for i, part in enumerate(windows := plan_windows(min(prompt, window - 1), total, window, stride)):
            have = min(prompt, window - 1) if i == 0 else have
            assert part.start == i * stride and part.known == have - part.start
            assert 0 <= part.known < part.frames <= window
            assert part.frames == window or part is windows[-1]
            have = part.start + part.frames
        assert have == total


def test_a_window_that_fits_exactly_is_one() -> None:
    assert len(plan_windows(0, 1500, 1500, 900)) == 1
    assert len(plan_windows(0, 1501, 1500, 900)) == 2


@pytest.mark.parametrize(
    ("arguments", "field", "code"),
    [
        ((0, 0, 100, 50), "duration", "E_ARGUMENT"),
        ((0, -5, 100, 50), "duration", "E_ARGUMENT"),
        ((100, 300, 100, 50), "prompt", "E_TOO_LONG"),
        ((50, 50, 100, 50), "prompt", "E_TOO_LONG"),
        ((0, 101, 100, None), "extend_stride", "E_ARGUMENT"),
        ((0, 101, 100, 100), "extend_stride", "E_ARGUMENT"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple, field: str, code: str) -> None:
    with pytest.raises(GenModelError) as caught:
        plan_windows(*arguments)
    assert (caught.value.field, caught.value.code) == (field, code)
