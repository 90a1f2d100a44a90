"""A short soak in the suite; the long one is ``python -m tests.bench soak --count 2000``."""

from __future__ import annotations

import random
from argparse import Namespace
from dataclasses import replace

import pytest

from tests.bench import soak
from tests.model.models import stems_model


def test_every_take_of_a_short_soak_equals_its_solo_twin() -> None:
    found = soak.run(Namespace(count=24, precision=None, seed=7))
    assert found["different"] == 0, found["examples"]
    assert found["requests"] == 24 == found["finished"] + found["cancelled"]
    assert found["most_aboard"] > 1 and found["failed"] is False


def test_a_soak_sees_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = soak.solo
    monkeypatch.setattr(
        soak, "solo", lambda engine, asked: honest(engine, replace(asked, seed=asked.seed + 1))
    )
    tally = soak.Tally()
    soak.soak(stems_model(soak.WINDOW_S), "float32", 5, random.Random(3), tally)
    assert len(tally.different) >= 3 and all("differ" in words for words in tally.different)


def test_the_same_seed_asks_for_the_same() -> None:
    def asked(seed: int) -> list[tuple[str, int, int]]:
        dice = random.Random(seed)
        found = [soak.random_request(dice, True) for _ in range(40)]
        return [(mode, request.frames, request.seed) for mode, request in found]

    assert asked(5) == asked(5) != asked(6)
    assert {mode for mode, _, _ in asked(5)} == set(soak.MODES)
