"""``segue doctor``: every trouble is named with what to do, and no trouble makes the doctor wait."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_clients.cli import doctor
from tests.cli.conftest import ROOT
from tests.daemon.house import House, submit


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def findings(house: House, *words: str) -> tuple[int, dict[str, dict]]:
    """(exit status, findings by name). On a machine that is too busy for the 3 s it is asked again."""
    for _ in range(20):
        begun = time.monotonic()
        status, found = asked(house, *words)
        took_s = time.monotonic() - begun
        assert took_s < 8 or words, f"the doctor took {took_s:.1f} s"
        if "check" not in found:
            return status, found
    raise AssertionError("the machine is too busy for this test")


def asked(house: House, *words: str) -> tuple[int, dict[str, dict]]:
    environment = {**os.environ, **house.environment(), "SEGUE_MODELS": str(house.folder / "models")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bridge_clients.cli", "doctor", "--json", *words], env=environment,
        capture_output=True, text=True, check=False, timeout=120, cwd=house.folder,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["event"] == "finding" and line["level"] in ("ok", "note", "bad") for line in found)
    assert all(line["advice"] for line in found if line["level"] == "bad"), found
    assert done.returncode == int(any(line["level"] == "bad" for line in found))
    return done.returncode, {line["what"]: line for line in found}


def made_take(house: House) -> Path:
    """The folder of a finished take, its daemon gone."""
    house.start()
    with house.client() as wire:
        job = wire.ask(submit(0.3, rate=32_000)).job
        assert wire.events(job)[-1].event == "done"
    assert house.stop() == 0
    return house.state / "takes" / job


def test_nothing_is_wrong_before_the_first_start_and_nothing_is_made(house: House) -> None:
    status, found = findings(house)
    assert status == 0 and "does not run" in found["daemon"]["found"]
    assert "made at the first start" in found["state"]["found"]
    assert not house.state.exists() and not house.runtime.exists()
    assert found["zeromq"]["found"].endswith("with ipc and curve")
    assert "native kernels" in found["native"]["found"]


def test_the_native_kernels_say_where_they_run_without_being_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SEGUE_NATIVE", "0")
    by_s = time.monotonic() + 60
    words = ("-m", "genmodel.engine.native")
    assert "SEGUE_NATIVE=0" in doctor._native(*doctor.Child(*words).answer(by_s)).found
    monkeypatch.delenv("SEGUE_NATIVE")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    absent = doctor._native(*doctor.Child(*words).answer(by_s))
    if "installed" not in absent.found:
        assert absent.level == "note" and "compiler" in absent.advice and not list(tmp_path.iterdir())
    broken = doctor._native(1, "", "Traceback\nImportError: no such thing")
    assert broken.level == "note" and "no such thing" in broken.found


def test_a_daemon_at_work_is_fine(house: House) -> None:
    house.start()
    assert house.process is not None
    status, found = findings(house)
    assert status == 0
    assert f"process {house.process.pid} is ready, answers in" in found["daemon"]["found"]
    assert f"pid {house.process.pid}" in found["lock"]["found"]
    assert found["journal"]["found"].startswith("in use")


def test_a_daemon_that_hangs_is_named_and_not_waited_for(house: House) -> None:
    house.start()
    assert house.process is not None
    pid = house.process.pid
    house.process.send_signal(signal.SIGSTOP)
    try:
        status, found = findings(house)
    finally:
        house.process.send_signal(signal.SIGCONT)
    assert status == 1 and found["daemon"]["found"] == f"process {pid} is there, but does not answer"
    assert f"kill -CONT {pid}" in found["daemon"]["advice"] and found["lock"]["level"] == "bad"


def test_one_that_takes_connections_and_says_nothing(house: House) -> None:
    """Not stopped, only deaf."""
    house.start()
    assert house.process is not None
    path = house.runtime / "segue.sock"
    connection = json.loads((house.runtime / "connection.json").read_text())
    house.kill()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen(8)
        (house.runtime / "connection.json").write_text(json.dumps({**connection, "pid": os.getpid()}))
        status, found = findings(house)
    assert status == 1 and f"kill -9 {os.getpid()} ends it" in found["daemon"]["advice"]


def test_a_damaged_connection_file(house: House) -> None:
    house.runtime.mkdir(mode=0o700)
    (house.runtime / "connection.json").write_bytes(b'{"endpoints":')
    (house.runtime / "connection.json").chmod(0o600)
    status, found = findings(house)
    assert status == 1 and "connection.json is damaged; remove it" in found["daemon"]["found"]


def test_a_sound_journal_is_counted_and_a_damaged_one_found(house: House) -> None:
    made_take(house)
    status, found = findings(house)
    assert status == 0 and found["journal"]["found"].startswith("sound: 1 done, ")
    assert found["takes"]["found"].startswith("1 takes, 2 files, all of the right length")
    journal = house.state / "journal.db"
    good = journal.read_bytes()
    journal.write_bytes(good[:3000] + bytes(byte ^ 1 for byte in good[3000:6000]) + good[6000:])
    status, found = findings(house)
    assert status == 1 and "is damaged" in found["journal"]["found"]
    assert "start Segue" in found["journal"]["advice"]
    assert journal.read_bytes() != good and not list(house.state.glob("*.bad-*"))  # it changed nothing
    house.start()
    status, found = findings(house)
    assert status == 0 and found["daemon"]["level"] == "note"
    assert "journal" in found["daemon"]["advice"] and "journal.db.bad-" in found["set aside"]["found"]


def test_damaged_takes_are_found_by_length_and_by_content(house: House) -> None:
    folder = made_take(house)
    wav = next(folder.glob("*.mix.wav"))
    content = bytearray(wav.read_bytes())
    content[len(content) // 2] ^= 4
    wav.write_bytes(content)
    assert findings(house)[0] == 0
    status, found = findings(house, "--deep")
    assert status == 1 and f"1 of 2 files damaged: {folder.name}/{wav.name}" in found["takes"]["found"]
    assert found["torch"]["level"] != "bad" and " on " in found["torch"]["found"]
    wav.write_bytes(content[:-4])
    assert findings(house)[1]["takes"]["level"] == "bad"
    (folder / "manifest.json").write_bytes(b"{")
    assert "manifest.json" in findings(house)[1]["takes"]["found"]


def test_open_folders_and_keys(house: House) -> None:
    made_take(house)
    house.state.chmod(0o755)
    keys = house.state / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    (keys / "clients.json").write_text("{")
    (keys / "clients.json").chmod(0o600)
    _, found = findings(house)
    assert "open to other users (mode 755)" in found["state"]["found"]
    assert found["state"]["advice"].startswith("chmod 700")
    assert "nobody is let in" in found["network"]["found"]


def test_incidents_are_counted(house: House) -> None:
    made_take(house)
    with (house.state / "logs" / "segued.log").open("a") as log:
        log.write('{"time": "2026-01-01T00:00:00.000Z", "level": "error", "incident": "c0ffee00"}\n')
    _, found = findings(house)
    assert found["log"]["level"] == "note" and "incident c0ffee00" in found["log"]["found"]


def test_wrong_settings_are_said(house: House) -> None:
    house.hook["SEGUE_WORKER_SLOTS"] = "many"
    status, found = findings(house)
    assert status == 1 and "SEGUE_WORKER_SLOTS" in found["config"]["found"]


def test_a_home_that_cannot_be_written(house: House) -> None:
    house.state.mkdir(mode=0o700)
    words = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(house.state)]
    if os.getuid() != 0 or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a disk for the test")
    try:
        status, found = findings(house)
    finally:
        subprocess.run(["umount", house.state], check=True)
    assert status == 1 and "cannot be written" in found["state"]["found"]


def test_a_check_that_hangs_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    child = doctor.Child("-c", "import time; print('{}', flush=True); time.sleep(60)")
    status, out, _ = child.answer(time.monotonic() + 0.5)
    assert status is None and out == "{}\n" and time.monotonic() - begun < 3
    (finding,) = doctor._checked(None, "", "")
    assert finding.level == "note" and finding.advice


@pytest.mark.skipif(shutil.which("true") is None, reason="needs /bin/true")
def test_a_take_is_played_by_what_is_there(house: House, tmp_path: Path) -> None:
    made_take(house)
    house.start()
    programs = tmp_path / "bin"
    programs.mkdir()
    environment = {**os.environ, **house.environment(), "PATH": str(programs), "PYTHONPATH": str(ROOT)}

    def play(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "bridge_clients.cli", "takes", "play", "1", *words], check=False,
            env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip

    none = play()
    assert none.returncode == 2 and "No player is installed" in none.stderr and ".wav" in none.stderr
    script = programs / "aplay"
    script.write_text('#!/bin/sh\necho "$@" > played\n')
    script.chmod(0o755)
    done = play()
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "played").read_text().split()
    assert words[0] == "-q" and Path(words[1]).name == "v0.mix.wav"
    script.write_text("#!/bin/sh\necho no sound card >&2\nexit 1\n")
    failed = play()
    assert (
        failed.returncode == 2 and "aplay cannot play" in failed.stderr and "no sound card" in failed.stderr
    )
    assert play("--stem", "kazoo").returncode == 3
