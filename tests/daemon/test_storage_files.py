"""Space and finished files: what is accepted has room, and what is damaged is never handed out."""

from __future__ import annotations

import os
import random
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from daemon import disk
from daemon.space import RESERVE_NAME, Space, give_back, need_bytes
from daemon.spool import Chunk, SpoolWriter
from daemon.sweeper import TRASH_NAME, Sweeper
from daemon.verify import BLOCK_BYTES, SLICE_BLOCKS, Verifier
from protocol import messages as m
from protocol.errors import SegueError
from tests.daemon import engine
from tests.daemon.house import House, joined, submit

NewHouse = Callable[..., House]
SEED = 20261122


def blocks_of(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def space(tmp_path: Path) -> Space:
    for name in ("spool/1", "takes"):
        (tmp_path / name).mkdir(parents=True)
    return Space(tmp_path, quota_bytes=1 << 40, keep_free_bytes=0)


# ---- space ----


def test_a_job_holds_its_space_and_gives_it_back_as_it_writes(tmp_path: Path, space: Space) -> None:
    need = need_bytes(1 << 20, 100)
    space.hold(1, need)
    reserve = tmp_path / "spool" / "1" / RESERVE_NAME
    if not reserve.exists():
        pytest.skip("this file system cannot hold space")
    assert reserve.stat().st_size == need and blocks_of(reserve) >= need and space.recount(1) == 0
    writer = SpoolWriter(reserve.with_name("1.pcm"))
    data = bytes(8 * 10_000)
    placed = [writer.append(Chunk(1, 0, 0, at, 10_000, 48_000, 2), data) for at in (0, 10_000)]
    writer.append_note(b"n" * 100)
    writer.close()
    used = sum(found.total_bytes for found in placed) + 100
    assert reserve.stat().st_size == need - used and blocks_of(reserve) < need - used + 8192
    space.lend(1)
    assert reserve.stat().st_size < need - used
    os.unlink(reserve.with_name("1.pcm"))
    space.renew(1, need)
    assert reserve.stat().st_size == need
    give_back(reserve, 10 * need)
    assert reserve.stat().st_size == 0
    space.release(1)
    assert not reserve.exists()
    give_back(reserve, 1)  # nothing is held: nothing happens


def test_a_disk_that_cannot_hold_the_space_refuses_the_job(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int, **_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "allocate", full)
    with pytest.raises(SegueError) as error:
        space.hold(1, 1000)
    assert error.value.code == "E_DISK_FULL" and error.value.retry == "after"
    assert not (tmp_path / "spool" / "1" / RESERVE_NAME).exists()
    monkeypatch.setattr(disk, "allocate", lambda *_, **__: False)
    space.hold(1, 1000)  # a file system without it: promises are only counted, and then they count
    free = shutil.disk_usage(tmp_path).free
    space.check(1000, 0)
    with pytest.raises(SegueError):
        space.check(free // 2, 2 * free // 3)


def test_what_goes_is_out_of_sight_at_once_and_gone_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(tmp_path)
    trash = tmp_path / TRASH_NAME
    for n in range(20):
        (tmp_path / f"f{n}").mkdir()
        (tmp_path / f"f{n}" / "a").write_bytes(b"x" * 1000)
        sweeper.discard(tmp_path / f"f{n}")
        assert not (tmp_path / f"f{n}").exists()
    sweeper.discard(tmp_path / "never")
    sweeper.wait()
    assert not sweeper.busy and not list(trash.iterdir())
    file = tmp_path / "file"
    file.write_bytes(b"y")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename", lambda *_: (_ for _ in ()).throw(OSError(5, "io")))
        sweeper.discard(file)
    assert not file.exists()
    sweeper.close()
    (trash / "left by a kill").mkdir()
    (trash / "too").write_bytes(b"z")
    again = Sweeper(tmp_path)
    again.wait()
    assert not list(trash.iterdir())
    again.close()


# ---- finished files ----


def verified(verifier: Verifier, path: Path, data: bytes) -> int:
    """Slices until the file is known."""
    slices = 1
    while not verifier.step(path, len(data), zlib.crc32(data)):
        slices += 1
    return slices


def test_a_file_is_tested_once_in_slices_and_every_range_again(tmp_path: Path) -> None:
    data = random.Random(SEED).randbytes(9 * BLOCK_BYTES + 77)
    path = tmp_path / "v0.mix.wav"
    path.write_bytes(data)
    verifier = Verifier()
    assert verified(verifier, path, data) == -(-10 // SLICE_BLOCKS) and verified(verifier, path, data) == 1
    for offset, count in (
        (0, 10),
        (BLOCK_BYTES - 3, 7),
        (5, 3 * BLOCK_BYTES),
        (len(data) - 5, 100),
        (len(data), 9),
    ):
        assert verifier.read(path, offset, count) == data[offset : offset + count]
    # rot behind the file system's back: same times, same inode
    about = path.stat()
    with path.open("r+b") as file:
        file.seek(4 * BLOCK_BYTES)
        file.write(bytes([data[4 * BLOCK_BYTES] ^ 4]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    seen = verifier._seen[path]
    descriptor = os.open(path, os.O_RDONLY)
    changed = os.fstat(descriptor)
    os.close(descriptor)
    seen.identity = (*seen.identity[:4], changed.st_ctime_ns)
    assert verifier.read(path, 0, 4 * BLOCK_BYTES) == data[: 4 * BLOCK_BYTES]
    with pytest.raises(SegueError) as error:
        verifier.read(path, 4 * BLOCK_BYTES + 50, 10)
    assert error.value.code == "E_TAKE_DAMAGED"
    with pytest.raises(SegueError):
        verified(verifier, path, data)


def test_no_flipped_bit_is_handed_out(tmp_path: Path) -> None:
    data = random.Random(SEED).randbytes(100_000)
    path = tmp_path / "a.wav"
    verifier = Verifier()
    dice = random.Random(SEED)
    for _ in range(200):
        path.write_bytes(data)
        verified(verifier, path, data)
        broken = bytearray(data)
        bit = dice.randrange(8 * len(data))
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.raises(SegueError) as error:
            verified(verifier, path, data)
        assert error.value.code == "E_TAKE_DAMAGED"
    for wrong in (data[:-1], data + b"x", b""):
        path.write_bytes(wrong)
        with pytest.raises(SegueError):
            verified(verifier, path, data)
    path.unlink()
    with pytest.raises(SegueError) as error:
        verified(verifier, path, data)
    assert error.value.code == "E_TAKE_MISSING"


# ---- through the daemon ----


def _done(house: House, seconds: float = 1.0) -> str:
    with house.client() as wire:
        job = wire.ask(submit(seconds, rate=32_000)).job
        assert wire.events(job)[-1].event == "done"
    return job


def test_a_damaged_take_is_told_and_never_served(new_house: NewHouse) -> None:
    house = new_house()
    job = _done(house)
    with house.client() as wire:
        reply = wire.ask(m.Fetch(job=job))
        path = Path(reply.path)
        sound = path.read_bytes()
        part = wire.ask(m.Fetch(job=job, as_="bytes", offset=1000, max_bytes=5000))
        assert part.data == sound[1000:6000] and part.crc == zlib.crc32(sound) == reply.crc
        assert not (house.state / "spool" / job / RESERVE_NAME).exists()
        dice = random.Random(SEED)
        for _ in range(20):
            broken = bytearray(sound)
            broken[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
            path.write_bytes(broken)
            for request in (
                m.Fetch(job=job), m.Fetch(job=job, as_="bytes"),
                m.Fetch(job=job, as_="bytes", offset=7, max_bytes=9),
            ):  # fmt: skip
                assert wire.refused(request).code == "E_TAKE_DAMAGED"
        path.write_bytes(sound)
        assert wire.ask(m.Fetch(job=job)).path == str(path)
        path.unlink()
        assert wire.refused(m.Fetch(job=job)).code == "E_TAKE_MISSING"
        assert wire.refused(m.Next(job=job, after=0)).code == "E_TAKE_MISSING"
        shutil.rmtree(path.parent)
        assert wire.refused(m.Fetch(job=job)).code == "E_TAKE_MISSING"
        assert wire.ask(m.Status(job=job)).info.state == "done"
        wire.ask(m.Forget(job=job))


def test_big_files_are_tested_while_others_are_answered(new_house: NewHouse) -> None:
    house = new_house()
    with house.client() as wire:
        job = wire.ask(submit(30, rate=96_000, channels=2, stems=["mix"])).job
        by = time.monotonic() + 60
        while wire.ask(m.Status(job=job)).info.state != "done":
            assert time.monotonic() < by
            time.sleep(0.1)
        with house.client() as other:
            wire.send(m.Fetch(job=job))
            waits, by = [], time.monotonic() + 20
            while not wire.socket.poll(0):
                assert time.monotonic() < by
                begun = time.monotonic()
                other.ask(m.Ping())
                waits.append(time.monotonic() - begun)
        reply = wire.receive()
        assert reply.path and reply.total_bytes > 20 << 20
        assert len(waits) >= 2 and sorted(waits)[len(waits) // 2] < 0.05


def test_an_accepted_job_has_its_room_when_the_disk_fills_up(new_house: NewHouse) -> None:
    """A second job that would not fit is refused, the first is made to its end."""
    house = new_house("takes.quota_gib=0.01")
    with house.client() as wire:
        wire.ask(m.Pause())
        first = wire.ask(submit(30, rate=32_000, stems=["mix"])).job
        assert wire.refused(submit(30, rate=32_000, stems=["mix"])).code == "E_DISK_FULL"
        wire.ask(m.Resume())
        events = wire.events(first)
        assert events[-1].event == "done"
        start, audio = joined(events)
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))
        # finished takes keep their room: nothing is deleted to make some
        for _ in range(3):
            if isinstance(error := _try(wire), SegueError):
                assert error.code == "E_DISK_FULL" and "forget takes" in error.message
                break
        else:
            raise AssertionError("the quota never refused")
        assert wire.ask(m.Fetch(job=first)).path
        wire.ask(m.Forget(job=first))
        assert wire.events(wire.ask(submit(1, rate=48_000)).job)[-1].event == "done"


def _try(wire: object) -> SegueError | None:
    try:
        wire.events(wire.ask(submit(30, rate=32_000, stems=["mix"])).job)
    except SegueError as error:
        return error
    return None
