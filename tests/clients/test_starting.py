"""Starting a daemon when there is none, once, however many want it; and reading the connection file
safely.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_clients.client import Client
from bridge_clients.connection import find, read, runtime_folders
from protocol.errors import SegueError
from tests.clients.fake import write_connection

ROOT = Path(__file__).resolve().parents[2]
FAKE = [sys.executable, "-m", "tests.clients.fake"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "run"
    monkeypatch.setenv("SEGUE_RUNTIME", str(place))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield place
    for pid in started(place):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def started(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "starts").read_text().split()]
    except FileNotFoundError:
        return []


def test_the_daemon_is_started_waited_for_and_outlives_the_client(folder: Path) -> None:
    said: list[str] = []
    with Client(command=[*FAKE, "0.3"], on_wait=said.append) as client:
        pid = client.hello.pid
        assert client.ping().ready
    assert pid != os.getpid() and os.getsid(pid) != os.getsid(0)
    assert "Starting the daemon." in said
    assert any("the paint to dry" in words for words in said)
    with Client(autostart=False) as client:
        assert client.hello.pid == pid
    assert (folder.stat().st_mode & 0o777) == 0o700


def test_twenty_clients_start_one_daemon(folder: Path) -> None:
    script = (
        "import os, sys\n"
        "from bridge_clients.client import Client\n"
        f"with Client(command={[*FAKE, '0.2']!r}) as c: print(c.hello.pid, c.ping().boot)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(20)
    ]
    said = [process.communicate(timeout=60) for process in running]
    assert all(process.returncode == 0 for process in running), said
    assert len({out for out, _ in said}) == 1
    assert len(started(folder)) == 1


def test_a_daemon_that_was_killed_is_started_again_by_the_next_question(folder: Path) -> None:
    with Client(command=FAKE) as client:
        first = client.hello.pid
        os.kill(first, signal.SIGKILL)
        assert client.ping().ready
        assert client.hello.pid != first


def test_a_daemon_that_cannot_start_is_explained_by_its_last_words(folder: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('the port of Hamburg is closed')"]
    with pytest.raises(SegueError) as caught:
        Client(command=command, start_timeout_s=10)
    assert caught.value.code == "E_UNREACHABLE" and "Hamburg" in caught.value.message
    with pytest.raises(SegueError) as caught:
        Client(command=["/nonexistent/python"])
    assert caught.value.code == "E_UNREACHABLE"


def test_a_daemon_that_never_gets_ready_costs_the_time_allowed(folder: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(SegueError) as caught:
        Client(command=[*FAKE, "100"], start_timeout_s=0.8)
    assert caught.value.code == "E_TIMEOUT"
    assert time.monotonic() - begun < 5


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_connection_file_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    write_connection(folder)
    os.chown(folder / "connection.json", 12345, 12345)
    with pytest.raises(SegueError) as caught:
        find()
    assert "another user" in caught.value.message
    os.chown(folder / "connection.json", 0, 0)
    os.chown(folder, 12345, 12345)
    with pytest.raises(SegueError):
        find()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_connection_file_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir(mode=0o700)
    write_connection(folder)
    (folder / "connection.json").chmod(mode)
    with pytest.raises(SegueError) as caught:
        find()
    assert caught.value.code == "E_UNREACHABLE" and "open to other users" in caught.value.message


def test_a_folder_open_to_others_or_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    write_connection(folder)
    folder.chmod(0o750)
    with pytest.raises(SegueError):
        find()
    folder.chmod(0o700)
    (tmp_path / "elsewhere").symlink_to(folder)
    with pytest.raises(SegueError):
        read(tmp_path / "elsewhere" / "connection.json")
    (folder / "connection.json").rename(folder / "real.json")
    (folder / "connection.json").symlink_to(folder / "real.json")
    with pytest.raises(SegueError):
        find()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"endpoints": [], "token": ""}',
        b'{"endpoints": ["ipc:///x"], "token": "00"}',
        b'{"endpoints": ["ipc:///x"], "token": 7}',
        b'{"endpoints": ["inproc://x"], "token": "' + b"00" * 32 + b'"}',
        b'{"endpoints": 5, "token": "' + b"00" * 32 + b'"}',
        b" " * 70_000,
    ],
)
def test_a_damaged_connection_file_is_explained(folder: Path, content: bytes) -> None:
    folder.mkdir(mode=0o700)
    write_connection(folder)
    (folder / "connection.json").write_bytes(content)
    with pytest.raises(SegueError) as caught:
        find()
    assert caught.value.code == "E_UNREACHABLE" and "connection.json" in caught.value.message


def test_no_file_is_no_daemon(folder: Path) -> None:
    assert find() is None
    folder.mkdir(mode=0o700)
    assert find() is None
    assert runtime_folders() == [folder]


def test_the_way_to_a_ping_is_light() -> None:
    """Neither numpy nor asyncio nor anything of that weight is paid for by a quick question."""
    script = (
        "import sys; import bridge_clients.client\n"
        "heavy = {'numpy', 'asyncio', 'torch', 'soundfile', 'rich', 'subprocess', 'ssl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
