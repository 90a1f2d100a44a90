"""Noise by position: the same bits everywhere, and no pattern in them."""

from __future__ import annotations

import hashlib

import torch

from genmodel.engine.noise import _anywhere as anywhere
from genmodel.engine.noise import gumbel_noise, position_keys


def test_the_bits_are_fixed() -> None:
    # A take's seed is a promise: these digests may change only together with a note in the release.
    keys = position_keys(2**63 + 12345, 3, 50, 4)
    noise = gumbel_noise(keys, 100)
    assert keys[0, :3].tolist() == [-5883437792873945883, -1910409149442716767, -993285993322349395]
    assert (
        hashlib.sha256(noise.numpy().tobytes()).hexdigest()
        == "1217a6297d793a58e60290f6fc21050f0572e1e104fc9b7a97011447143498e8"
    )


def test_numpy_on_the_host_gives_the_bits_of_torch_anywhere() -> None:
    for seed, card in ((0, 2048), (2**64 - 1, 400), (77, 1)):
        keys = position_keys(seed, 5, 90, 12)
        for part in (keys, keys[:, 7], keys[:, 3][None], keys.T, keys[:, :0]):
            noise = gumbel_noise(part, card)
            assert noise.shape == (*part.shape, card) and noise.dtype == torch.float32
            assert torch.equal(noise, anywhere(part, card))


def test_it_is_gumbel_noise() -> None:
    noise = gumbel_noise(position_keys(1, 0, 5000, 4), 64).double()
    assert abs(float(noise.mean()) - 0.57722) < 0.005 and abs(float(noise.std()) - 1.28255) < 0.005
    exceeded = [float((noise > at).double().mean()) for at in (0.0, 2.0, 6.0, 10.0)]
    wanted = [
        float(-torch.expm1(-torch.exp(torch.tensor(-at, dtype=torch.float64))))
        for at in (0.0, 2.0, 6.0, 10.0)
    ]
    for share, truth in zip(exceeded, wanted, strict=True):
        assert abs(share - truth) < 5 * (truth / noise.numel()) ** 0.5 + 1e-9


def test_neighbours_have_nothing_to_do_with_each_other() -> None:
    def ranks(noise: torch.Tensor) -> torch.Tensor:
        flat = noise.flatten().argsort().argsort().double()
        return (flat - flat.mean()) / flat.std()

    base = gumbel_noise(position_keys(7, 0, 500, 4), 32)
    others = {
        "seed": gumbel_noise(position_keys(8, 0, 500, 4), 32),
        "variation": gumbel_noise(position_keys(7, 1, 500, 4), 32),
        "frame": base.roll(1, 1),
        "codebook": base.roll(1, 0),
        "token": base.roll(1, 2),
    }
    for name, other in others.items():
        correlation = float((ranks(base) * ranks(other)).mean())
        assert abs(correlation) < 0.02, (name, correlation)


def test_a_position_does_not_depend_on_how_much_is_asked_for() -> None:
    long, short = position_keys(3, 2, 900, 8), position_keys(3, 2, 10, 4)
    assert torch.equal(long[:4, :10], short)
    assert torch.equal(gumbel_noise(short, 64)[..., :20], gumbel_noise(short, 20))
