"""Caches are as large as what is aboard needs, and what is aboard keeps its bits when they are made anew."""

from __future__ import annotations

import pytest
import torch

from genmodel.engine.kernels import native_absent
from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import run_sessions
from genmodel.lm.lm import LMModel
from tests.engine.test_company import session
from tests.engine.tiny import tiny_lm

KINDS = [
    "float32",
    pytest.param("int8", marks=pytest.mark.skipif(bool(native_absent()), reason=str(native_absent()))),
]
SHORT, LONG = 20, 300  # frames: 64 and 320 places (with three steps of the pattern)


def own_bytes(stepper: Stepper, slots: int, places: int) -> int:
    """Keys and values of both halves of guidance."""
    caches, net = stepper.caches, stepper.network
    value = caches.own[0].element_size()
    return len(net.layers) * 2 * slots * 2 * net.heads * places * caches.width * value


def held(stepper: Stepper) -> int:
    return sum(cache.nbytes for cache in stepper.caches.own)


def take(lm: LMModel, frames: int, seed: int) -> Session:
    return session(lm, "slow warm piano", frames, seed, window=400)


def begin(stepper: Stepper, one: Session) -> Session:
    stepper.admit(one)
    stepper.prefill([one])
    return one


def leave(stepper: Stepper, one: Session) -> None:
    number = stepper.slot_of(one)
    stepper.release(one)
    stepper.caches.release(number)


@pytest.mark.parametrize("precision", KINDS)
def test_bytes_follow_what_is_aboard(precision: str) -> None:
    lm = tiny_lm()
    stepper = Stepper(lm, 16, precision)
    many = [begin(stepper, take(lm, SHORT, seed)) for seed in range(16)]
    assert held(stepper) == own_bytes(stepper, 16, 64)
    for one in many[1:]:
        leave(stepper, one)
    assert held(stepper) == own_bytes(stepper, 16, 64)  # nothing moves before a window begins
    cross = stepper.caches.nbytes - held(stepper)
    begin(stepper, take(lm, LONG, 20))
    # not 16 slots of 320 places: two are in use
    assert held(stepper) == own_bytes(stepper, 2, 320)
    assert stepper.caches.nbytes - held(stepper) == cross // 8
    leave(stepper, next(s.session for s in stepper.slots if s is not None and s.session is not many[0]))
    begin(stepper, take(lm, SHORT, 21))
    assert held(stepper) == own_bytes(stepper, 2, 64)
    # a little too large is left as it is
    leave(stepper, many[0])
    begin(stepper, take(lm, SHORT, 22))
    assert held(stepper) == own_bytes(stepper, 2, 64)


@pytest.mark.parametrize("precision", KINDS)
def test_the_last_of_several_gives_all_back_and_one_alone_stays_warm(precision: str) -> None:
    lm = tiny_lm()
    stepper = Stepper(lm, 4, precision)
    several = [begin(stepper, take(lm, SHORT, seed)) for seed in range(3)]
    for one in several:
        leave(stepper, one)
    assert stepper.caches.nbytes == 0
    one = begin(stepper, take(lm, LONG, 3))
    leave(stepper, one)
    moves = stepper.caches.moves
    assert held(stepper) == own_bytes(stepper, 1, 320)
    begin(stepper, take(lm, LONG, 4))
    assert stepper.caches.moves == moves


@pytest.mark.parametrize("precision", KINDS)
def test_what_is_aboard_keeps_its_bits(precision: str) -> None:
    lm = tiny_lm()
    alone = take(lm, 60, 7)
    run_sessions(Stepper(lm, 1, precision), [alone])
    stepper = Stepper(lm, 8, precision)
    first = [begin(stepper, take(lm, 60, seed)) for seed in (5, 6, 7)]
    for _ in range(10):
        stepper.step()
    others = [begin(stepper, take(lm, LONG, seed)) for seed in (8, 9, 10)]
    stepper.step()
    for one in others + first[:2]:
        leave(stepper, one)
    before = [cache[:, 2, :, :, :64].clone() for cache in (*stepper.caches.own, *stepper.caches.cross)]
    bytes_before, moves = held(stepper), stepper.caches.moves
    begin(stepper, take(lm, SHORT, 11))
    assert held(stepper) < bytes_before / 2 and stepper.caches.moves > moves
    after = (*stepper.caches.own, *stepper.caches.cross)
    assert all(torch.equal(old, new[:, 2, :, :, :64]) for old, new in zip(before, after, strict=True))
    while not first[2].done:
        stepper.step()
    stepper.sync(first[2])
    assert torch.equal(first[2].tokens, alone.tokens)


@pytest.mark.parametrize("precision", KINDS)
def test_no_memory_half_way_leaves_every_layer_as_it_was(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm()
    alone = take(lm, SHORT, 7)
    run_sessions(Stepper(lm, 1, precision), [alone])
    stepper = Stepper(lm, 2, precision)
    one = begin(stepper, take(lm, SHORT, 7))
    caches = stepper.caches
    shapes = [cache.shape for cache in caches.own]
    honest, made = caches._new, []

    def scarce(shape: list[int]) -> torch.Tensor:
        made.append(shape)
        if len(made) == 2:
            raise MemoryError
        return honest(shape)

    monkeypatch.setattr(caches, "_new", scarce)
    with pytest.raises(MemoryError):
        caches.reserve(2, 2, LONG)
    assert [cache.shape for cache in caches.own] == shapes
    while not one.done:
        stepper.step()
    assert torch.equal(one.tokens, alone.tokens)
