"""The daemon with genmodel's own engine on the debug model: random weights, real everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from genmodel.request import MAX_BPM
from protocol import messages as m
from protocol.errors import SegueError
from tests.daemon.house import House, joined, submit, tone


@pytest.fixture(scope="module")
def real_house() -> object:
    house = House("worker.threads=1", model="debug", real=True).start()
    yield house
    house.close()


def test_a_take_through_every_wall(real_house: House) -> None:
    with real_house.client() as wire:
        request = submit(0.7, audio=(tone(1.0, 44_100, 2),), variations=2, text="slow piano", level="match")
        events = wire.events(wire.ask(request).job, wait_s=120)
        assert events[-1].event == "done", events[-1]
        frames = round(0.7 * 44_100)
        takes = [joined(events, variation) for variation in range(2)]
        for start, audio in takes:
            assert (start, audio.shape) == (-3528, (2, 3528 + frames)) and np.isfinite(audio).all()
        assert not np.array_equal(takes[0][1], takes[1][1])
        manifest = events[-1].manifest
        assert manifest["model"]["name"] == "debug" and manifest["device"] == "cpu"
        states = {tick.state for tick in wire.ticks}
        # ticks may be lost: so short a take can be made between two of them
        assert "loading" in states and states & {"prefill", "generating", "decoding", "finishing"}
        assert all(tick.steps == wire.ticks[-1].steps for tick in wire.ticks if tick.steps)

        again = wire.events(wire.ask(submit(0.7, audio=(tone(1.0, 44_100, 2),), text="slow piano")).job)
        path = wire.ask(m.Fetch(job=str(int(events[-1].manifest["job"])))).path
        whole = sf.read(path, dtype="float32", always_2d=True)[0].T
        assert np.array_equal(whole, takes[0][1][:, 3528:])
        assert joined(again)[1].shape == takes[0][1].shape


def test_the_same_seed_alone_and_in_company(real_house: House) -> None:
    with real_house.client() as wire:
        alone = wire.events(wire.ask(submit(0.5, seed=3, rate=32_000)).job, wait_s=120)
        jobs = [
            wire.ask(submit(0.5, seed=seed, rate=32_000, session=bytes([seed]) * 16)).job
            for seed in (4, 3, 5)
        ]
        company = [wire.events(job, wait_s=120) for job in jobs]
        assert np.abs(joined(alone)[1] - joined(company[1])[1]).max() < 1e-5
        assert not np.allclose(joined(alone)[1], joined(company[0])[1])


def test_cancel_is_seen_at_the_next_step(real_house: House) -> None:
    with real_house.client() as wire:
        job = wire.ask(submit(60, rate=32_000)).job
        while wire.ask(m.Next(job=job, after=2, wait_ms=1000)).last < 3:
            pass
        assert wire.ask(m.Cancel(job=job)).state == "cancelled"
        assert wire.events(wire.ask(submit(0.3)).job, wait_s=60)[-1].event == "done"


def test_a_cancelled_neighbour_leaves_a_take_identical_to_the_bit(real_house: House) -> None:
    with real_house.client() as wire:
        alone = joined(wire.events(wire.ask(submit(1.5, seed=3, rate=32_000)).job, wait_s=120))[1]
        for _ in range(3):
            kept = wire.ask(submit(1.5, seed=3, rate=32_000, session=b"k" * 16)).job
            gone = wire.ask(submit(20, seed=9, rate=32_000, session=b"g" * 16)).job
            while wire.ask(m.Next(job=gone, after=2, wait_ms=1000)).last < 3:
                pass
            wire.ask(m.Cancel(job=gone))
            assert np.array_equal(joined(wire.events(kept, wait_s=120))[1], alone)


def test_bad_words_are_refused_and_the_model_stays(real_house: House) -> None:
    with real_house.client() as wire:
        error = wire.events(wire.ask(submit(1, stems=["vocals"])).job, wait_s=60)[-1].error
        assert error.code == "E_ARGUMENT" and error.field == "stems" and "mix" in error.allowed
        assert wire.ask(m.Hello()).models == ("debug",)


def test_what_the_wire_takes_for_a_tempo_the_model_takes(real_house: House) -> None:
    with real_house.client() as wire:
        for bpm in (1, MAX_BPM):
            tempo = m.TempoMap(changes=[m.TempoChange(at=0, bpm=bpm)])
            assert wire.events(wire.ask(submit(0.3, tempo_map=tempo)).job, wait_s=60)[-1].event == "done"
    with pytest.raises(SegueError) as refused:
        m.TempoMap(changes=[m.TempoChange(at=0, bpm=MAX_BPM + 1)])
    assert refused.value.field.endswith("bpm")


def test_damaged_checkpoints_are_refused_never_run(real_house: House, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    code = b"cposix\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR."
    for name, content in (("pickle", code), ("truncated", b"PK\x03\x04" + bytes(100))):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("state_dict.bin", "compression_state_dict.bin"):
            (folder / file).write_bytes(content)
        with real_house.client() as wire:
            last = wire.events(wire.ask(submit(0.3, model=str(folder))).job, wait_s=60)[-1]
            assert last.event == "failed" and last.error.code == "E_MODEL", last
            assert wire.ask(m.Ping()).ready
    assert not proof.exists()
