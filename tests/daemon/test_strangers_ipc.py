"""The door on this machine: who may knock, where it may be, what becomes of it when somebody breaks it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import config, lifecycle, security, sockets, tcp
from daemon.weight import FAR_ABOVE, RELIEF_S, Weight
from protocol import messages as m
from tests.chaos import zmtp
from tests.daemon.house import House, submit
from tests.daemon.network import Doors, free_port, let_in

NOBODY = 65534
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


# ---- another user ----

INTRUDER = """
import os, sys, time
import zmq
runtime, endpoint = sys.argv[1:]
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # after the imports: they may lie where only root reads

def reach(what, do):
    try:
        do()
        print("reached", what)
    except OSError as error:
        print("refused", what, type(error).__name__)

reach("folder", lambda: os.listdir(runtime))
reach("connection", lambda: open(os.path.join(runtime, "connection.json")).read())
reach("socket", lambda: os.stat(os.path.join(runtime, "segue.sock")))
context = zmq.Context(); context.linger = 0
dealer = context.socket(zmq.DEALER); dealer.connect(endpoint)
dealer.send_multipart([b"", b"from another user"])
time.sleep(1.0)
print("answered" if dealer.poll(500) else "silence")
sys.stdout.flush()
os._exit(0)
"""


def _as_nobody(runtime: Path, endpoint: str) -> subprocess.Popen[str]:
    packages = os.pathsep.join(entry for entry in sys.path if entry.endswith("-packages"))
    return subprocess.Popen(
        [sys.executable, "-c", INTRUDER, str(runtime), endpoint],
        stdout=subprocess.PIPE, text=True, cwd="/", env={"PYTHONPATH": packages, "PATH": "/usr/bin"},
    )  # fmt: skip


@root_only
@pytest.mark.parametrize("open_doors", [False, True], ids=["as it is", "with every mode opened"])
def test_another_user_is_not_heard(open_doors: bool) -> None:
    folder = Path(security.owner_only_folder(Path(f"/tmp/segue-t-{os.getpid()}")))
    try:
        with Doors(folder) as doors:
            doors.sockets.open()
            (doors.runtime / "connection.json").write_text("{}")
            if open_doors:  # what nobody should do; the uid of the handshake still keeps him out
                for path in (folder, doors.runtime):
                    path.chmod(0o777)
                for path in doors.runtime.iterdir():
                    path.chmod(0o666)
            intruder = _as_nobody(doors.runtime, doors.sockets.endpoints[0])
            found = []
            while intruder.poll() is None:
                found += doors.turn(0.2)
            said = intruder.stdout.read() if intruder.stdout else ""
            assert found == [] and "silence" in said, said
            assert ("reached" in said) == open_doors, said
            if open_doors:
                assert 'segue_handshakes_refused_total{what="user"} ' in doors.metrics.text()
    finally:
        shutil.rmtree(folder)


def test_a_peer_cannot_say_who_it_is(tmp_path: Path) -> None:
    """ "User-Id" as a property of the peer's own READY: what the handshake found counts, not what it says."""
    with Doors(tmp_path) as doors, socket.socket(socket.AF_UNIX) as peer:
        doors.sockets.open()
        peer.connect(doors.sockets.endpoints[0].removeprefix("ipc://"))
        properties = [(b"Socket-Type", b"DEALER"), (b"User-Id", b"x" * 40), (b"Peer-Address", b"x")]
        packed = b"".join(
            bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value for name, value in properties
        )
        peer.sendall(zmtp.greeting() + zmtp.command(b"READY", packed))
        doors.turn(0.3)
        peer.sendall(zmtp.message([b"", b"hello"]))
        (received,) = doors.turn(20, stop_at=1)
        assert received.key == "" and received.token == doors.token


# ---- where the door may be ----


def _runtime(path: Path | str) -> Path:
    settings = config.Settings()
    settings.folders.runtime = str(path)
    return security.runtime_folder(settings)


def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    assert stat.S_IMODE(_runtime(real).stat().st_mode) == 0o700
    real.chmod(0o777)
    assert stat.S_IMODE(_runtime(real).stat().st_mode) == 0o700, "ours, and closed again"
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "file", "pipe"):
        with pytest.raises((security.UnsafePath, OSError)):
            _runtime(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("length", [80, 92, 93, 94, 97, 98, 107, 108, 200])
def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(length: int) -> None:
    base = Path(f"/tmp/s{os.getpid()}")
    path = base / ("x" * (length - len(str(base)) - 1))
    try:
        if length + len("/segue.sock") <= security.MAX_SOCKET_PATH_BYTES:
            security.listening_socket(_runtime(path) / security.SOCKET_NAME).close()
        else:
            with pytest.raises(security.UnsafePath, match="too long"):
                _runtime(path)
            assert not base.exists()
    finally:
        shutil.rmtree(base, ignore_errors=True)


@root_only
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(security.UnsafePath, match="another user"):
        _runtime(theirs)


@root_only
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """As a user without root's rights: read-only means read-only."""
    house = House()
    house.runtime.parent.chmod(0o755)
    house.runtime.mkdir(mode=0o500)
    house.state.mkdir(mode=0o700)
    for path in (house.runtime, house.state):
        os.chown(path, NOBODY, NOBODY)
    script = (
        # what is imported late comes first: the checkout and its Python may be closed to other users
        "import os,sys,daemon.server;from daemon import config;from daemon.__main__ import main;"
        "config.resolve();"
        "os.setgroups([]);os.setgid(65534);os.setuid(65534);sys.exit(main(['serve']))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env={**house.environment(), "HOME": str(house.state)},
            capture_output=True, text=True, timeout=60, cwd="/",
        )  # fmt: skip
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "Permission denied" in done.stderr and str(house.runtime) in done.stderr, done.stderr
    finally:
        house.close()


@pytest.mark.parametrize("what", ["file", "folder", "link", "pipe"])
def test_what_lies_where_the_socket_goes_is_not_replaced(what: str) -> None:
    house = House()
    house.runtime.mkdir(mode=0o700)
    place = house.runtime / security.SOCKET_NAME
    if what == "file":
        place.write_text("precious")
    elif what == "folder":
        place.mkdir()
    elif what == "link":
        (house.runtime / "target").write_text("precious")
        place.symlink_to(house.runtime / "target")
    else:
        os.mkfifo(place)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "daemon", "serve"],
            env=house.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1 and "does not replace it" in done.stderr and done.stderr.count("\n") == 1
        assert os.path.lexists(place)
        if what in ("file", "link"):
            assert place.read_text() == "precious"
    finally:
        house.close()


@pytest.mark.parametrize(
    ("version", "lacks", "said"),
    [("4.3.4", "", "known holes"), ("4.2.5", "", "known holes"),
     ("4.3.5", "curve", "without curve"), ("4.3.5", "ipc", "without ipc")],
)  # fmt: skip
def test_an_unfit_libzmq_is_refused_with_a_reason(version: str, lacks: str, said: str) -> None:
    with pytest.raises(security.UnsafePath, match=said):
        lifecycle.check_libzmq(version, lambda what: what != lacks)
    lifecycle.check_libzmq("4.3.5", lambda what: True)
    lifecycle.check_libzmq("4.10.0", lambda what: True)


# ---- when somebody breaks it ----


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_socket_whose_name_was_taken_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LOOK_EVERY_S", 0.0)
    with Doors(tmp_path) as doors:
        doors.sockets.open()
        faithful = doors.dealer(doors.sockets.endpoints[0])
        faithful.send_multipart([b"", b"0"])
        assert len(doors.turn(20, stop_at=1)) == 1
        most = 0
        for round_ in range(1, 12):
            if round_ % 3 == 0:
                shutil.rmtree(doors.runtime)
            elif round_ % 3 == 1:
                doors.sockets.path.unlink()
            else:  # somebody else's socket in its place: the folder is ours alone, so it is nobody's
                doors.sockets.path.unlink()
                other = socket.socket(socket.AF_UNIX)
                other.bind(str(doors.sockets.path))
                other.close()
            doors.turn(0.05)
            fresh = doors.dealer(doors.sockets.endpoints[0])
            fresh.send_multipart([b"", b"%d" % round_])
            assert [r.frames[2] for r in doors.turn(20, stop_at=1)] == [b"%d" % round_]
            if round_ <= 3:  # the connection of before lives on
                faithful.send_multipart([b"", b"still here"])
                assert [r.frames[2] for r in doors.turn(20, stop_at=1)] == [b"still here"]
            fresh.close(0)
            doors.turn(0.05)
            most = max(most, _descriptors()) if round_ > 6 else _descriptors()
        assert most - _descriptors() <= 2 and most < 200
        assert stat.S_IMODE(doors.sockets.path.stat().st_mode) == 0o600
        assert [p.name for p in doors.runtime.iterdir()] == [security.SOCKET_NAME]


def test_a_folder_taken_over_by_a_stranger_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LOOK_EVERY_S", 0.0)
    with Doors(tmp_path) as doors:
        doors.sockets.open()
        aside, theirs = tmp_path / "aside", tmp_path / "theirs"
        doors.runtime.rename(aside)
        theirs.mkdir()
        doors.runtime.symlink_to(theirs)
        doors.turn(0.1)
        assert list(theirs.iterdir()) == []
        doors.runtime.unlink()
        doors.turn(0.1)
        assert doors.sockets.path.is_socket()


def test_the_daemon_outlives_its_runtime_folder(new_house: Callable[..., House]) -> None:
    house = new_house()
    with house.client() as before:
        job = before.ask(submit(0.3)).job
        shutil.rmtree(house.runtime)
        by = time.monotonic() + 40
        while not (house.runtime / "connection.json").exists() and time.monotonic() < by:
            time.sleep(0.1)
        again = json.loads((house.runtime / "connection.json").read_text())
        assert again == house.connection and house.process is not None and house.process.poll() is None
        assert before.events(job)[-1].event == "done", "who was connected notices nothing"
        with house.client() as after:
            assert after.ask(m.Ping()).boot == again["boot"]


def test_limits_and_modes_of_a_running_daemon(new_house: Callable[..., House]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(256, hard)
    before = os.umask(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        house = new_house()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.umask(before)
    assert house.process is not None
    limits = Path(f"/proc/{house.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3] == line.split()[4] == str(hard)
    with house.client() as wire:
        wire.events(wire.ask(submit(0.3)).job)
    for top in (house.runtime, house.state):
        for path in [top, *top.rglob("*")]:
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_without_descriptors_left_the_network_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(tcp, "REST_S", 0.5)
    used = [10]
    monkeypatch.setattr(tcp, "descriptors_in_use", lambda: used[0])
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Doors(tmp_path, endpoint) as doors:
        bundle = let_in(doors.state, "laptop", endpoint)
        doors.sockets.open()
        doors.turn(0.1)
        assert doors.sockets.tcp.endpoint == endpoint
        used[0] = 10**9
        assert doors.turn_until(lambda: doors.sockets.tcp.endpoint is None)
        local = doors.dealer(doors.sockets.endpoints[0])
        local.send_multipart([b"", b"hello"])
        assert len(doors.turn(20, stop_at=1)) == 1, "this machine is served all the same"
        used[0] = 10
        assert doors.turn_until(lambda: doors.sockets.tcp.endpoint == endpoint)
        keys = {
            "server": bundle["curve_public_key"],
            "public": bundle["client_public_key"],
            "secret": bundle["client_secret_key"],
        }
        returns = doors.dealer(endpoint, **keys)
        returns.send_multipart([b"", b"back"])
        assert [r.frames[2] for r in doors.turn(20, stop_at=1)] == [b"back"]


# ---- memory ----


def test_weight_renews_the_doors_before_it_leaves() -> None:
    now, held, trimmed = [0.0], [10], [0]

    def trim() -> None:
        trimmed[0] += 1

    weight = Weight(100, lambda: held[0], trim)

    def look(after_s: float) -> str:
        now[0] += after_s
        return weight.look(now[0])

    assert [look(1), look(1)] == ["", ""] and trimmed == [0]
    held[0] = 150
    assert [look(1), look(1), look(1)] == ["renew", "", ""] and trimmed == [3]
    held[0] = 50
    assert [look(1), look(RELIEF_S + 1), look(1)] == ["", "", ""] and trimmed == [5]
    held[0] = 150
    assert look(1) == "renew"
    assert look(RELIEF_S + 1) == "leave"
    held[0] = round(100 * FAR_ABOVE) + 1
    assert look(1) == "now"
    assert Weight(0, lambda: 10**15, trim).look(5.0) == ""


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_an_endless_message_costs_its_sender_the_connection(new_house: Callable[..., House]) -> None:
    """Parts of one message, more and more: libzmq has no limit for them. Jobs are not disturbed."""
    house = new_house("life.front_max_mib=150")
    assert house.process is not None
    with house.client() as wire, socket.socket(socket.AF_UNIX) as peer:
        job = wire.ask(submit(4.0, variations=2)).job
        base = _resident_mib(house.process.pid)
        peer.connect(house.connection["endpoints"][0].removeprefix("ipc://"))
        peer.settimeout(3)
        peer.sendall(zmtp.opening_3())
        time.sleep(0.3)
        part, sent = zmtp.frame(bytes(1 << 20), zmtp.MORE), 0
        with contextlib.suppress(OSError):
            while sent < 2000:
                peer.sendall(part)
                sent += 1
                time.sleep(0.004)
        assert sent < 2000, "it was never stopped"
        by = time.monotonic() + 30
        while _resident_mib(house.process.pid) > base + 40 and time.monotonic() < by:
            time.sleep(0.1)
        assert _resident_mib(house.process.pid) <= base + 40
        assert house.process.poll() is None
    with house.client() as after:
        events = after.events(job)
        assert events[-1].event == "done" and sum(e.event == "started" for e in events) == 1


def test_a_daemon_that_stays_heavy_leaves_with_a_status_for_its_service_manager() -> None:
    house = House("life.front_max_mib=5", "life.drain_s=0.2").start()
    try:
        assert house.process is not None
        assert house.process.wait(RELIEF_S + 40) == 4
        assert "starts over" in (house.state / "logs" / "segued.log").read_text()
    finally:
        house.close()


# ---- the loop ----


def test_a_crowd_at_the_door_does_not_starve_the_loop(tmp_path: Path) -> None:
    with Doors(tmp_path) as doors:
        doors.sockets.open()
        crowd = [doors.dealer(doors.sockets.endpoints[0]) for _ in range(100)]
        time.sleep(0.3)
        begun = time.monotonic()
        doors.sockets.answer_handshakes()
        assert time.monotonic() - begun < 0.5
        for client in crowd:
            client.send_multipart([b"", b"hello"])
        assert len(doors.turn(20, stop_at=100)) == 100


def test_a_message_of_endless_frames_is_cut(tmp_path: Path) -> None:
    with Doors(tmp_path) as doors:
        doors.sockets.open()
        client = doors.dealer(doors.sockets.endpoints[0])
        client.send_multipart([b""] + [b"x"] * 20_000)
        client.send_multipart([b"", b"after"])
        first, second = doors.turn(20, stop_at=2)
        assert len(first.frames) == 81 and second.frames[1:] == [b"", b"after"]


def test_sigkill_leaves_a_door_that_the_next_daemon_takes(new_house: Callable[..., House]) -> None:
    house = new_house()
    assert house.process is not None
    house.process.send_signal(signal.SIGKILL)
    house.process.wait()
    assert (house.runtime / security.SOCKET_NAME).is_socket()
    house.start()
    with house.client() as wire:
        assert wire.ask(m.Ping()).ready
