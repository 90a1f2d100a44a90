"""The logs: small, whole, harmless to a terminal, silent about texts, and never a reason to fail."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import logs
from daemon.config import Log
from protocol import messages as m
from tests.daemon.house import House, submit

SECRET = "zaubermelodie"
EVIL = 'x\n{"level":"error","message":"forged"}\r\x1b[31m\x07\u202e\u2028'


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[logging.Logger, logs.LineFile, Path]]:
    """A log of its own, 20 kB a file, three old ones kept."""
    path = tmp_path / "a.log"
    file = logs.LineFile(path, max_bytes=20_000, keep=3)
    file.setFormatter(logs.JsonLines())
    logger = logging.Logger("segue.test")
    logger.addHandler(file)
    yield logger, file, path
    file.close()


def lines(*paths: Path) -> list[dict]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_it_stays_small_and_loses_nothing_it_keeps(
    log: tuple[logging.Logger, logs.LineFile, Path], tmp_path: Path
) -> None:
    logger, file, path = log
    for number in range(5000):
        logger.info("a line", extra={"number": number})
    names = sorted(tmp_path.iterdir())
    assert [name.name for name in names] == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert all(name.stat().st_size <= 20_000 and name.stat().st_mode & 0o777 == 0o600 for name in names)
    numbers = [line["number"] for line in lines(*reversed(names))]
    assert numbers == list(range(5000 - len(numbers), 5000)) and len(numbers) > 500
    assert file.lost == 0


def test_a_full_disk_drops_lines_and_nothing_else(
    log: tuple[logging.Logger, logs.LineFile, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, file, path = log
    logger.info("before")
    write, room = os.write, [30]

    def full(descriptor: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0], count = room[0] - len(data), min(room[0], len(data))
        return write(descriptor, data[:count])

    monkeypatch.setattr(logs.os, "write", full)
    for _ in range(10):
        logger.info("in between")
    assert file.lost == 10
    monkeypatch.undo()
    logger.info("after")
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["message"] for line in whole] == ["before", "after"]


def test_a_real_full_disk(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        file = logs.LineFile(place / "a.log", max_bytes=1_000_000, keep=2)
        file.setFormatter(logs.JsonLines())
        logger = logging.Logger("segue.test")
        logger.addHandler(file)
        for number in range(2000):
            logger.info("a line", extra={"number": number})
        assert file.lost > 500
        (place / "a.log").write_bytes(b"")
        logger.info("room again")
        assert "room again" in (place / "a.log").read_text()
        file.close()
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    "trouble", ["folder gone", "a folder in its place", "a link in its place", "removed"]
)
def test_a_log_that_cannot_be_written_never_hurts(tmp_path: Path, trouble: str) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "a.log"
    file = logs.LineFile(path, max_bytes=5000, keep=1)
    file.setFormatter(logs.JsonLines())
    logger = logging.Logger("segue.test")
    logger.addHandler(file)
    logger.info("one")
    path.unlink()
    if trouble == "folder gone":
        folder.rmdir()
    elif trouble == "a folder in its place":
        path.mkdir()
    elif trouble == "a link in its place":
        path.symlink_to(tmp_path / "elsewhere")
    logger.info("two")
    if trouble == "removed":
        assert [line["message"] for line in lines(path)] == ["two"]
    else:
        assert file.lost == 1 and not (tmp_path / "elsewhere").exists()
    file.close()


def test_old_files_that_cannot_be_shifted_stop_the_log_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.log.1").mkdir()
    (tmp_path / "a.log.1" / "x").touch()
    file = logs.LineFile(tmp_path / "a.log", max_bytes=2000, keep=1)
    file.setFormatter(logs.JsonLines())
    for _ in range(200):
        file.emit(logging.makeLogRecord({"msg": "a line", "name": "segue.test"}))
    assert 2000 < (tmp_path / "a.log").stat().st_size < 4400 and file.lost > 100


def test_a_line_cannot_be_forged_nor_steer_a_terminal(
    log: tuple[logging.Logger, logs.LineFile, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    logger, _, path = log
    logger.info(EVIL, extra={"model": EVIL, "thing": object(), "raw": b"\xff\x00\n"})
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        number = logs.incident(logger, "a fault", error, op=EVIL)
    first, second = lines(path)
    assert first["message"] == EVIL and second["incident"] == number and "ValueError" in second["trace"]
    assert re.fullmatch(rb"[\x20-\x7e\n]*", path.read_bytes())
    said = logs.Plain().format(logging.makeLogRecord({"msg": EVIL}))
    assert "\n" not in said and "\x1b" not in said and "\u202e" not in said


def test_an_endless_line_is_cut(log: tuple[logging.Logger, logs.LineFile, Path]) -> None:
    logger, _, path = log
    logger.info("x" * 5_000_000)
    (line,) = lines(path)
    assert line["cut"] and path.stat().st_size <= logs.MAX_LINE_BYTES


def test_a_log_of_another_process_is_kept_small_while_it_writes(tmp_path: Path) -> None:
    path, settings = tmp_path / "worker0.log", Log(max_mib=0.01, keep=2)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for number in range(4):
            os.write(descriptor, f"{number} ".encode() * 10_000)
            assert logs.rotate_open(path, settings)
            assert not logs.rotate_open(path, settings)
        os.write(descriptor, b"the end")
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"the end"
    assert (tmp_path / "worker0.log.1").read_bytes()[-2:] == b"3 "
    assert (tmp_path / "worker0.log.2").read_bytes()[-2:] == b"2 "
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "worker0.log", "worker0.log.1", "worker0.log.2",
    ]  # fmt: skip


def test_a_run_says_nothing_of_its_texts_and_keeps_its_workers_log_small() -> None:
    house = House("log.max_mib=0.05", "log.level=debug", "worker.backoff_s=0")
    try:
        house.start()
        with house.client() as wire:
            wire.ask(m.Hello(client=EVIL[:64], version=EVIL[:64]))
            words = ("slow=1", "crash=3", "nan=5", "impossible")
            jobs = [
                wire.ask(submit(0.3, rate=32_000, text=f"{word} {SECRET}", project=f"p-{SECRET}")).job
                for word in words
            ]
            for job in jobs:
                wire.events(job)
            bad = wire.ask(submit(0.3, model=EVIL, text=SECRET)).job
            wire.events(bad)
            wire.events(wire.ask(submit(0.3, rate=32_000)).job)
            by = time.monotonic() + 20
            while len(house.worker_pids()) > 1:  # that of the model that is none takes its time to go
                assert time.monotonic() < by
                time.sleep(0.05)
            (worker,) = house.worker_pids()
            stderr_of_worker = Path(f"/proc/{worker}/fd/2")
            (log,) = [
                path for path in (house.state / "logs").glob("worker*.log") if stderr_of_worker.samefile(path)
            ]
            with log.open("ab") as stderr:  # a library that says too much
                stderr.write(b"spam " * 50_000)
            by = time.monotonic() + 5
            while log.stat().st_size > 0.05 * 2**20:
                assert time.monotonic() < by
                time.sleep(0.05)
            assert stderr_of_worker.samefile(log)
        house.stop()
        seen = 0
        for path in [*(house.state / "logs").iterdir(), *house.runtime.iterdir(), house.folder / "stderr"]:
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                seen += len(content)
                assert SECRET.encode() not in content, path
                if path.name.startswith("segued.log"):
                    assert re.fullmatch(rb"[\x20-\x7e\n]*", content), path
                    lines(path)
                assert b"\x1b" not in content, path
        assert seen > 5000
    finally:
        house.close()


def test_texts_are_logged_when_a_user_says_so() -> None:
    house = House("log.texts=true")
    try:
        house.start()
        with house.client() as wire:
            wire.events(wire.ask(submit(0.2, text=SECRET)).job)
        assert SECRET in (house.state / "logs" / "segued.log").read_text()
    finally:
        house.close()
