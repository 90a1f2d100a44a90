"""Starting under faults: one daemon whatever happens, and one sentence when it cannot be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge_clients import Client
from daemon import lifecycle, places, security, standing
from daemon.config import resolve
from protocol import messages as m
from protocol.errors import SegueError
from tests.daemon import engine
from tests.daemon.house import House, joined, submit

NewHouse = Callable[..., House]


def daemon(house: House, *words: str, wait_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """`python -m daemon …` in the folders of a house."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "daemon", *words], env=house.environment(), capture_output=True,
        text=True, check=False, timeout=wait_s, stdin=subprocess.DEVNULL, cwd=house.folder,
    )  # fmt: skip


@pytest.fixture
def house() -> Iterator[House]:
    """Folders, and no daemon yet."""
    made = House()
    yield made
    made.close()


@pytest.fixture
def small_disk(house: House) -> Iterator[Callable[[str], None]]:
    """Mount a small disk as the state folder; skips where that may not be done."""
    mounted = []

    def mount(options: str) -> None:
        house.state.mkdir(mode=0o700, exist_ok=True)
        if os.getuid() != 0:
            pytest.skip("only root can mount a disk for the test")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(house.state)]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(house.state)

    yield mount
    house.kill()
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def one_sentence(done: subprocess.CompletedProcess[str], status: int) -> str:
    assert done.returncode == status, (done.returncode, done.stderr)
    assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_twenty_starts_at_once_give_one_daemon(house: House) -> None:
    starts = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "daemon", "serve"], env=house.environment(), cwd=house.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(20)
    ]  # fmt: skip
    try:
        by = time.monotonic() + 60
        while sum(start.poll() is None for start in starts) > 1:
            assert time.monotonic() < by
            time.sleep(0.05)
        (winner,) = [start for start in starts if start.poll() is None]
        losers = [start for start in starts if start is not winner]
        for loser in losers:
            said = loser.communicate()[1]
            assert loser.returncode == 3 and said.count("\n") == 1, said
            assert said.startswith(f"Segue is already running: pid {winner.pid}, version"), said
        assert json.loads((house.runtime / "connection.json").read_text())["pid"] == winner.pid
    finally:
        for start in starts:
            start.kill()
            start.wait()


def test_a_daemon_that_is_stopped_is_explained(house: House) -> None:
    house.start()
    assert house.process is not None
    pid = house.process.pid
    try:
        house.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        said = one_sentence(daemon(house, "serve"), 3)
        assert time.monotonic() - begun < 5
        for word in (f"pid {pid}", "version 0", "since 20", "segue.sock", "does not answer: it is stopped"):
            assert word in said
        assert f"kill -CONT {pid} lets it go on" in said
        assert "it is stopped" in one_sentence(daemon(house, "stop"), 1)
    finally:
        house.process.send_signal(signal.SIGCONT)
    assert daemon(house, "stop").stdout == "Segue has stopped.\n"
    assert daemon(house, "stop").stdout == "Segue was not running.\n"


def test_a_lock_file_with_nonsense_in_it_is_no_obstacle(house: House) -> None:
    house.runtime.mkdir(mode=0o700)
    for content in (b"", b"[]", b"\xff\x00", b'{"pid": -4}', b'{"pid": 1, "version": []}', b"[" * 9000):
        (house.runtime / standing.LOCK_FILE).write_bytes(content)
        assert standing.holder(house.runtime) is None
        descriptor = os.open(house.runtime / standing.LOCK_FILE, os.O_RDWR)
        holder = standing.told(house.runtime, standing.said(descriptor))
        assert holder.who and holder.silence
        os.close(descriptor)
    house.start()


def test_looking_at_a_lock_does_not_keep_a_daemon_from_starting(house: House) -> None:
    house.runtime.mkdir(mode=0o700)
    lock = lifecycle.Lock(house.runtime, {"pid": os.getpid()})
    assert standing.holder(house.runtime) is not None
    lock.release()
    stop = time.monotonic() + 2
    script = (
        "import sys, time; from pathlib import Path; from daemon import standing\n"
        "end = time.monotonic() + 3\n"
        "while time.monotonic() < end: standing.holder(Path(sys.argv[1])); time.sleep(0.001)\n"
    )
    looker = subprocess.Popen(
        [sys.executable, "-c", script, str(house.runtime)], env=house.environment(), stdin=subprocess.DEVNULL
    )
    try:
        tries = 0
        while time.monotonic() < stop:
            lifecycle.Lock(house.runtime, {"pid": os.getpid()}).release()
            tries += 1
        assert tries > 10
    finally:
        looker.kill()
        looker.wait()


@pytest.mark.parametrize("content", [b"", b'{"endpoints": ["ipc:', b"null", b"{}", b'{"token": 3}'])
def test_a_half_written_connection_file_is_replaced(house: House, content: bytes) -> None:
    house.runtime.mkdir(mode=0o700)
    path = house.runtime / "connection.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert daemon(house, "stop").stdout == "Segue was not running.\n"
    house.start()
    with house.client() as wire:
        assert wire.ask(m.Ping()).ready


def test_a_connection_file_that_was_taken_away_comes_back(house: House) -> None:
    house.start()
    path = house.runtime / "connection.json"
    for damage in (lambda: path.unlink(), lambda: path.write_bytes(b"{")):
        before = path.read_bytes()
        damage()
        by = time.monotonic() + 10
        while not path.exists() or path.read_bytes() != before:
            assert time.monotonic() < by
            time.sleep(0.1)
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_read_only_is_one_sentence(house: House, small_disk: Callable[[str], None]) -> None:
    small_disk("ro,mode=700")
    said = one_sentence(daemon(house, "serve"), 1)
    assert "cannot be written (Read-only file system)" in said and str(house.state) in said
    assert "SEGUE_STATE" in said
    assert standing.holder(house.runtime) is None and not (house.runtime / "connection.json").exists()


@pytest.mark.parametrize("left_pages", [0, 1, 4, 8, 16])
def test_a_disk_that_is_full_is_one_sentence_or_a_daemon_that_refuses(
    house: House, small_disk: Callable[[str], None], left_pages: int
) -> None:
    small_disk("size=1m,mode=700")
    filler = house.state / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    if left_pages:
        os.truncate(filler, filler.stat().st_size - 4096 * left_pages)
    try:
        house.start()
    except AssertionError as error:
        said = str(error)
        assert said.count("\n") == 1 and "Traceback" not in said and "full" in said, said
        assert left_pages < 16
    else:
        with house.client() as wire:
            assert wire.refused(submit(1.0)).code == "E_DISK_FULL"
            assert wire.ask(m.Ping()).ready
    house.kill()
    filler.unlink()
    house.start()
    with house.client() as wire:
        assert wire.ask(m.Ping()).ready


# ---- network drives ----

_MOUNTINFO = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:26 / /home rw - nfs4 server:/export/home rw,vers=4.2
31 30 8:2 / /home/me/local\040disk rw - xfs /dev/sdb1 rw
32 21 0:30 / /mnt/share rw - cifs //nas/music rw
33 21 0:31 / /mnt/ssh rw - fuse.sshfs me@host:/ rw
34 21 0:32 / /tmp rw master:3 - tmpfs tmpfs rw
35 21 0:33 / /mnt/host rw - 9p host rw
36 32 8:3 / /mnt/share rw - ext4 /dev/sdc1 rw
broken line
"""
_MAC = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)
//me@nas/music on /Volumes/music (smbfs, nodev, nosuid, mounted by me)
server:/x on /Volumes/x (y) (nfs, asynchronous)
"""


@pytest.mark.parametrize(
    ("path", "kind", "refused"),
    [
        ("/var/lib", "ext4", False),
        ("/home/me/.local/state/segue", "nfs4", True),
        ("/homeless", "ext4", False),
        ("/home/me/local disk/segue", "xfs", False),
        ("/mnt/share/x", "ext4", False),  # mounted over the share
        ("/mnt/ssh/x", "fuse.sshfs", True),
        ("/tmp", "tmpfs", False),
        ("/mnt/host/x", "9p", False),
    ],
)
def test_network_drives_are_known_from_others(path: str, kind: str, refused: bool) -> None:
    mount = places.holding(path, places.linux_mounts(_MOUNTINFO))
    assert mount is not None and (mount.kind, mount.on_network) == (kind, refused)


def test_network_drives_of_a_mac() -> None:
    mounts = places.mac_mounts(_MAC)
    assert places.holding("/Volumes/music/segue", mounts) == places.Mount(
        "/Volumes/music", "smbfs", "//me@nas/music"
    )
    assert places.holding("/Volumes/x (y)/s", mounts).on_network  # type: ignore[union-attr]
    assert not places.holding("/Users/me", mounts).on_network  # type: ignore[union-attr]


def test_the_disk_of_this_test_is_known(tmp_path: Path) -> None:
    mount = places.mount_of(tmp_path / "not" / "there" / "yet")
    assert mount is not None and mount.kind


def test_no_journal_is_begun_on_a_network_drive(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = places.Mount("/", "nfs4", "server:/home")
    monkeypatch.setattr(places, "mount_of", lambda path: drive)
    monkeypatch.setattr(os, "umask", lambda mask: 0)
    words = [f"folders.state={house.state}", f"folders.runtime={house.runtime}"]
    with pytest.raises(security.UnsafePath, match="network drive .nfs4, server:/home.*SEGUE_STATE"):
        lifecycle.serve(resolve(environment={}, words=words).settings, foreground=True)
    assert not list(house.state.iterdir())


# ---- a daemon that does not run for a while ----


def test_a_stopped_daemon_costs_its_clients_their_own_patience_and_no_more(house: House) -> None:
    house.start()
    assert house.process is not None
    with Client(folder=house.runtime, autostart=False) as client:
        job = client.submit(submit(2.0, rate=32_000, text="slow=20"))
        events = []
        for event in job.events(ticks=False):
            events.append(event)
            if isinstance(event, m.Audio):
                break
        try:
            house.process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            for call in (
                lambda: client.ping(1.0),
                lambda: client.request(m.Status(job=job.id), 1.0),
                lambda: list(job.events(timeout_s=1.0)),
                lambda: client.fetch(job.id, timeout_s=1.0),
            ):
                begun = time.monotonic()
                with pytest.raises(SegueError) as caught:
                    call()
                assert caught.value.code in ("E_TIMEOUT", "E_UNREACHABLE")
                assert time.monotonic() - begun < 1.8, "a call took longer than its own timeout"
            while time.monotonic() - stopped < 7:  # longer than the 5 s that count as lost time
                time.sleep(0.05)
        finally:
            house.process.send_signal(signal.SIGCONT)
        events += list(job.events(ticks=False))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].event == "done" and "requeued" not in [event.event for event in events]
        start, audio = joined(events)
        assert np.array_equal(audio, engine.samples(7, 0, "mix", start, audio.shape[1]))
        assert 'segue_clock_jumps_total{what="stopped"} 1' in client.metrics()
