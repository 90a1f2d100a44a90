"""The network: closed by default, open to allowed keys only; whatever else knocks delivers nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from daemon import config, tcp, zap
from daemon.keys import AllowList
from protocol import messages as m
from protocol import replies
from protocol.errors import SegueError
from protocol.keys import AllowedClient, KeyFolder, is_key, new_token
from tests.chaos import zmtp
from tests.daemon.house import House, Wire, submit
from tests.daemon.network import Doors, free_port, let_in, new_pair


def _keys(bundle: dict[str, str]) -> dict[str, str]:
    return {
        "server": bundle["curve_public_key"],
        "public": bundle["client_public_key"],
        "secret": bundle["client_secret_key"],
    }


# ---- what may be bound ----


@pytest.mark.parametrize(
    "bind",
    [
        "tcp://*:5775", "tcp://0.0.0.0:5775", "tcp://0:5775", "tcp://localhost:5775", "tcp://studio.local:5775",
        "tcp://[::1]:5775", "tcp://[::]:5775", "tcp://::1:5775", "tcp://eth0:5775", "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",         "tcp://127.0.0.1:65536", "tcp://127.0.0.1:*", "tcp://127.0.0.1:!",
        "tcp://127.1:5775", "tcp://127.0.0.1:5775 ",
        "tcp://127.0.0.1:5775;tcp://*:1", "tcp://239.1.1.1:5775", "tcp://255.255.255.255:5775", "tcp://1.2.3.4.5:1",
        "inproc://segue", "ws://127.0.0.1:5775", "wss://127.0.0.1:5775", "pgm://eth0;239.192.1.1:5555",
        "epgm://eth0;239.192.1.1:5555", "ipc://@segue", "ipc:///tmp/x.sock", "udp://127.0.0.1:5775", "tipc://{5560,0,0}",
        "vmci://*:5555", "127.0.0.1:5775", "tcp://", "TCP://127.0.0.1:5775", "tcp://١٢٧.0.0.1:5775",
    ],
)  # fmt: skip
def test_only_one_address_of_this_machine_may_be_named(bind: str) -> None:
    with pytest.raises(tcp.Refused) as refused:
        tcp.address(bind)
    said = str(refused.value)
    assert bind in said and "tcp://127.0.0.1:5775" in said and "\n" not in said
    with pytest.raises(config.ConfigError, match="tcp.bind"):
        config.resolve(environment={}, words=[f"tcp.bind={json.dumps(bind)}"])


def test_the_network_is_off_unless_an_address_is_set(tmp_path: Path) -> None:
    assert config.Settings().tcp.bind == ""
    with Doors(tmp_path) as doors:
        let_in(doors.state, "laptop", "tcp://127.0.0.1:5775")
        doors.sockets.open()
        assert doors.sockets.tcp.endpoint is None and len(doors.sockets.endpoints) == 1


def _serve(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    settings = [word for setting in words for word in ("--set", setting)]
    return subprocess.run(
        [sys.executable, "-P", "-m", "daemon", "serve", *settings],
        env=house.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_without_an_allowed_key_the_daemon_does_not_start_on_the_network() -> None:
    house = House()
    try:
        for bind in (f"tcp://127.0.0.1:{free_port()}", "tcp://*:5775"):
            done = _serve(house, f"tcp.bind={bind}")
            assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
            assert "segue keys new" in done.stderr or "tcp.bind" in done.stderr
        assert not (house.runtime / "connection.json").exists()
        port = free_port()
        let_in(house.state, "laptop", f"tcp://127.0.0.1:{port}")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            done = _serve(house, f"tcp.bind=tcp://127.0.0.1:{port}")
            assert done.returncode == 1 and "in use by another program" in done.stderr, done.stderr
        done = _serve(house, f"tcp.bind=tcp://198.51.100.7:{port}")
        assert done.returncode == 1 and "not an address of this machine" in done.stderr, done.stderr
        os.chmod(house.state / "keys" / "clients.json", 0o666)
        done = _serve(house, f"tcp.bind=tcp://127.0.0.1:{port}")
        assert done.returncode == 1 and "no client is allowed" in done.stderr, done.stderr
    finally:
        house.close()


# ---- who comes in ----


def test_only_an_allowed_key_is_heard(tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Doors(tmp_path, endpoint) as doors:
        bundle = let_in(doors.state, "laptop", endpoint)
        keys, other, unknown = _keys(bundle), new_pair(), new_pair()
        doors.sockets.open()
        strangers = {
            "no key at all": doors.dealer(endpoint),
            "a key that is not on the list": doors.dealer(
                endpoint, server=keys["server"], public=unknown.public, secret=unknown.secret
            ),
            "the right key for another server": doors.dealer(endpoint, **{**keys, "server": other.public}),
            "an allowed public key without its secret": doors.dealer(
                endpoint, **{**keys, "secret": other.secret}
            ),
            "CURVE on the ipc door": doors.dealer(doors.sockets.endpoints[0], **keys),
        }
        plain = doors.clients.socket(zmq.DEALER)
        plain.plain_username, plain.plain_password = b"admin", b"admin"
        plain.connect(endpoint)
        strangers["PLAIN"] = plain
        for stranger in strangers.values():
            stranger.send_multipart([b"", b"let me in"])
        assert doors.turn(1.5) == []
        friend = doors.dealer(endpoint, **keys)
        friend.send_multipart([b"", b"hello"])
        local = doors.dealer(doors.sockets.endpoints[0])
        local.send_multipart([b"", b"hello"])
        found = doors.turn(20, stop_at=2)
        assert [received.frames[1:] for received in found] == [[b"", b"hello"]] * 2
        by_key = {received.key: received.token for received in found}
        assert by_key[keys["public"]] == bytes.fromhex(bundle["token"]) != doors.token
        assert by_key[""] == doors.token
        for received in found:  # the answers find their own socket
            doors.sockets.router.send_multipart(
                [*received.frames[:1], b"", b"you are", received.key.encode()]
            )
        assert friend.poll(2000) and friend.recv_multipart() == [b"", b"you are", keys["public"].encode()]
        assert local.poll(2000) and local.recv_multipart()[1] == b"you are"


def test_while_nobody_answers_handshakes_nobody_gets_in(tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Doors(tmp_path, endpoint) as doors:
        keys = _keys(let_in(doors.state, "laptop", endpoint))
        doors.sockets.open()
        asking = [doors.dealer(endpoint, **keys), doors.dealer(doors.sockets.endpoints[0])]
        for client in asking:
            client.send_multipart([b"", b"hello"])
        assert doors.turn(1.0, handshakes=False) == [], "the answerer hangs"
        assert len(doors.turn(20, stop_at=2)) == 2, "it answers again"
        doors.sockets.zap.close(0)  # and when it is gone altogether
        late = [doors.dealer(endpoint, **keys), doors.dealer(doors.sockets.endpoints[0])]
        for client in late:
            client.send_multipart([b"", b"hello"])
        assert doors.turn(1.0, handshakes=False) == []


def test_a_revoked_client_is_out_at_once_and_the_others_stay(tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Doors(tmp_path, endpoint) as doors:
        gone, stays = (let_in(doors.state, name, endpoint) for name in ("gone", "stays"))
        doors.sockets.open()
        first, second = (doors.dealer(endpoint, **_keys(bundle)) for bundle in (gone, stays))
        for client in (first, second):
            client.send_multipart([b"", b"one"])
        assert all(received.token for received in doors.turn(20, stop_at=2))
        KeyFolder(doors.state / "keys").revoke("gone")
        first.send_multipart([b"", b"two"])  # on the connection that stands: before the loop has looked
        assert doors.sockets.router.poll(20_000)
        received = doors.sockets.receive()
        assert received is not None and received.token is None and received.key == gone["client_public_key"]
        assert not doors.sockets.allowed(gone["client_public_key"])

        def unreachable() -> bool:
            try:
                doors.sockets.router.send_multipart([received.frames[0], b"", b"any"], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                return error.errno == zmq.EHOSTUNREACH
            return False

        begun = time.monotonic()
        assert doors.turn_until(unreachable), "its connection is ended"
        print(f"ended after {time.monotonic() - begun:.2f} s")
        with contextlib.suppress(zmq.Again):  # its socket may know already that it was shown the door
            first.send_multipart([b"", b"three"], zmq.NOBLOCK)
        knocks = doors.dealer(endpoint, **_keys(gone))
        knocks.send_multipart([b"", b"with a fresh socket"])
        second.send_multipart([b"", b"three"])
        found = doors.turn(20, stop_at=1) + doors.turn(1)
        assert [(r.key, r.frames[2]) for r in found] == [(stays["client_public_key"], b"three")]
        KeyFolder(doors.state / "keys").revoke("stays")
        assert doors.turn_until(lambda: doors.sockets.tcp.endpoint is None)

        def closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) != 0

        assert doors.turn_until(closed), "nobody listens on the port any more"
        again = let_in(doors.state, "again", endpoint)
        assert doors.turn_until(lambda: doors.sockets.tcp.endpoint is not None)
        fresh = doors.dealer(endpoint, **_keys(again))
        fresh.send_multipart([b"", b"four"])
        assert [r.frames[2] for r in doors.turn(20, stop_at=1)] == [b"four"]


def test_a_recorded_handshake_is_worth_nothing(tmp_path: Path) -> None:
    """All bytes of an allowed client's connection, sent again: the server's cookie is another."""
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    tape: list[bytes] = []
    with Doors(tmp_path, endpoint) as doors, socket.socket() as front:
        keys = _keys(let_in(doors.state, "laptop", endpoint))
        doors.sockets.open()
        front.bind(("127.0.0.1", 0))
        front.listen()

        def relay() -> None:
            inner, _ = front.accept()
            outer = socket.create_connection(("127.0.0.1", port))

            def pump(source: socket.socket, to: socket.socket, record: list[bytes]) -> None:
                try:
                    while data := source.recv(4096):
                        record.append(data)
                        to.sendall(data)
                except OSError:
                    return

            threading.Thread(target=pump, args=(outer, inner, []), daemon=True).start()
            pump(inner, outer, tape)
            outer.close()

        threading.Thread(target=relay, daemon=True).start()
        client = doors.dealer(f"tcp://127.0.0.1:{front.getsockname()[1]}", **keys)
        client.send_multipart([b"", b"the one and only"])
        assert len(doors.turn(20, stop_at=1)) == 1
        client.close(0)
        recorded = b"".join(tape)
        assert len(recorded) > 64 + 200 + 168  # greeting, HELLO, INITIATE and the message
        for pieces in (1, 5):
            with socket.create_connection(("127.0.0.1", port)) as thief:
                step = len(recorded) // pieces + 1
                for at in range(0, len(recorded), step):
                    thief.sendall(recorded[at : at + step])
                    time.sleep(0.05)
                assert doors.turn(0.5) == []


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + b"\x01\x00" * 200,
        b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x04\x19\x05READY" + bytes(20),
        b"\xff" + bytes(8) + b"\x7f\x01\x05" + b"\x00\x00" + b"\x01\x00\x00\x02hi",
        b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(47) + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192),
        b"\x01\x00\x01\x01\x00\x00\x02hi",
    ],
    ids=["http", "null", "zmtp2", "bad hello", "zmtp1"],
)
def test_raw_bytes_deliver_nothing(tmp_path: Path, data: bytes) -> None:
    port = free_port()
    with Doors(tmp_path, f"tcp://127.0.0.1:{port}") as doors:
        let_in(doors.state, "laptop", f"tcp://127.0.0.1:{port}")
        doors.sockets.open()
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(data)
            assert doors.turn(0.7) == []


def test_half_a_handshake_ends_within_seconds(tmp_path: Path) -> None:
    """Measured without a ZAP domain: a first byte other than 0xFF kept a connection for ever."""
    port = free_port()
    greeting = zmtp.greeting(0, b"CURVE")
    openings = [b"", b"\x01", b"P", b"\x01\x00", b"\xff", greeting[:30], greeting, greeting + b"\x04"]
    with Doors(tmp_path, f"tcp://127.0.0.1:{port}") as doors, contextlib.ExitStack() as opened:
        let_in(doors.state, "laptop", f"tcp://127.0.0.1:{port}")
        doors.sockets.open()
        peers = {}
        for opening in openings:
            for family, place in (
                (socket.AF_INET, ("127.0.0.1", port)),
                (socket.AF_UNIX, str(doors.sockets.path)),
            ):
                peer = opened.enter_context(socket.socket(family))
                peer.connect(place)
                peer.sendall(opening)
                peer.setblocking(False)
                peers[peer] = (family.name, opening)
        by = time.monotonic() + 30
        while peers and time.monotonic() < by:
            assert doors.turn(0.1) == []
            for peer in list(peers):
                with contextlib.suppress(BlockingIOError):
                    try:
                        ended = peer.recv(4096) == b""
                    except ConnectionResetError:
                        ended = True
                    if ended:
                        del peers[peer]
        assert not peers, list(peers.values())


def test_a_refused_client_is_told_by_its_own_libzmq(tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Doors(tmp_path, endpoint) as doors:
        keys, unknown = _keys(let_in(doors.state, "laptop", endpoint)), new_pair()
        doors.sockets.open()
        client = doors.clients.socket(zmq.DEALER)
        monitor = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        client.curve_serverkey = keys["server"].encode()
        client.curve_publickey, client.curve_secretkey = unknown.public.encode(), unknown.secret.encode()
        client.connect(endpoint)
        doors.turn_until(lambda: bool(monitor.poll(0)))
        assert monitor.poll(10_000)
        assert recv_monitor_message(monitor)["value"] == 400
        client.disable_monitor()


# ---- the whole daemon ----


def test_a_client_on_the_network_works_like_any_other(new_house: Callable[..., House]) -> None:
    port = free_port()
    house = House(f"tcp.bind=tcp://127.0.0.1:{port}")
    try:
        bundle = let_in(house.state, "laptop", f"tcp://127.0.0.1:{port}")
        other = let_in(house.state, "other", f"tcp://127.0.0.1:{port}")
        house.start()
        assert house.connection["curve_public_key"] == bundle["curve_public_key"]
        server_secret = json.loads((house.state / "keys" / "server.json").read_text())["secret_key"]
        for path in house.runtime.iterdir():
            assert path.is_socket() or server_secret not in path.read_text()
        assert stat.S_IMODE((house.state / "keys").stat().st_mode) == 0o700
        with Wire(bundle) as wire, house.client() as local:
            hello = wire.ask(m.Hello())
            assert hello.ready and hello.executable == "" and local.ask(m.Hello()).executable
            job = wire.ask(submit(0.5)).job
            events = wire.events(job)
            assert events[-1].event == "done"
            error = wire.refused(m.Fetch(job=job))
            assert (error.code, error.field, error.allowed) == ("E_ARGUMENT", "as", "bytes")
            got = wire.ask(m.Fetch(job=job, as_="bytes"))
            assert got.path is None and bytes(got.data)[:4] == b"RIFF"
            assert local.ask(m.Fetch(job=job)).path
            assert (
                wire.ask(m.Status(job=job)).info.folder is None and local.ask(m.Status(job=job)).info.folder
            )
            assert all(info.folder is None for info in wire.ask(m.List()).jobs)
            assert str(house.folder) not in repr([wire.ask(m.Models()), wire.ask(m.Status(job=job)), events])
            with Wire(
                {**bundle, "token": house.connection["token"]}
            ) as wrong:  # the local token is no good here
                wrong.send(m.Ping())
                assert wrong.receive(1.0) is None
            with Wire({**bundle, "token": other["token"]}) as wrong:
                wrong.send(m.Ping())
                assert wrong.receive(1.0) is None
            waiting = wire.ask(submit(30.0)).job
            wire.send(m.Next(job=waiting, after=1_000_000, wait_ms=20_000))
            KeyFolder(house.state / "keys").revoke("laptop")
            assert wire.receive(3.0) is None, "a revoked client hears nothing, not even what was held for it"
            local.ask(m.Cancel(job=waiting))
            with Wire(other) as second:
                assert second.ask(m.Ping()).ready
            with Wire(bundle) as out:
                assert not out.socket.poll(1000, zmq.POLLOUT), "its handshake is refused"
            text = local.ask(m.Metrics()).text
            assert 'segue_handshakes_refused_total{what="key"}' in text
    finally:
        house.close()


def test_every_field_that_holds_a_path_is_known_to_the_filter() -> None:
    """Whoever adds a path to an answer decides here what a client on another machine gets of it."""
    source = Path(replies.__file__).read_text()
    assert set(re.findall(r"^    (\w+): .*(?:_PATH|text\(4096\))", source, re.M)) == {
        "executable",
        "path",
        "folder",
    }


# ---- files ----


def test_a_damaged_or_open_list_lets_nobody_in(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    pair = new_pair()
    folder.allow(AllowedClient("laptop", pair.public, new_token(), 5))
    path = folder.path / "clients.json"
    good = path.read_bytes()
    allow = AllowList(folder)
    assert allow.client(pair.public) == folder.clients()[0]
    for bad in (b"", b"{", b"[]", b"null", b"[" * 100_000, good.replace(b"laptop", b"../../x"),
                b'{"format": 2}',
                b'{"format": 1}', b'{"format": 1, "clients": 3}', b'{"format": 1, "clients": [1]}',
                good.replace(pair.public.encode(), b"x" * 39 + b"~")):  # fmt: skip
        path.write_bytes(bad)
        os.utime(path, ns=(1, int.from_bytes(os.urandom(6))))
        assert allow.client(pair.public) is None, bad[:40]
        with pytest.raises(SegueError):
            folder.clients()
    path.write_bytes(good)
    os.utime(path, ns=(2, 2))
    assert allow.client(pair.public) is not None
    for mode in (0o640, 0o604, 0o620, 0o666):
        path.chmod(mode)
        os.utime(path, ns=(3, mode))
        assert allow.client(pair.public) is None, oct(mode)
    path.chmod(0o600)
    os.utime(path, ns=(4, 4))
    assert allow.client(pair.public) is not None
    folder.path.chmod(0o755)
    os.utime(path, ns=(5, 5))
    assert allow.client(pair.public) is None
    folder.path.chmod(0o700)
    path.rename(folder.path / "elsewhere")
    path.symlink_to(folder.path / "elsewhere")
    os.utime(path, ns=(6, 6))
    assert allow.client(pair.public) is None, "a link"
    path.unlink()
    assert not allow.clients()


def test_many_hands_on_the_list_lose_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KeyFolder(tmp_path / "keys")
    names = [f"client{number}" for number in range(24)]

    def work(mine: list[str]) -> None:
        for name in mine:
            folder.allow(AllowedClient(name, new_pair().public, new_token()))
            folder.allow(AllowedClient(f"{name}.gone", new_pair().public, new_token()))
            folder.revoke(f"{name}.gone")

    threads = [threading.Thread(target=work, args=(names[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(client.name for client in folder.clients()) == sorted(names)
    monkeypatch.setattr("protocol.keys.LOCK_PATIENCE_S", 0.1)
    with (folder.path / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SegueError, match="another program"):
            folder.revoke("client1")
    folder.revoke("client1")


def test_keys_are_told_from_other_text() -> None:
    pair = new_pair()
    assert is_key(pair.public) and is_key(pair.secret)
    for bad in (
        "",
        pair.public[:-1],
        pair.public + "0",
        pair.public[:-1] + "~",
        "#" * 40,
        None,
        5,
        b"x" * 40,
    ):
        assert not is_key(bad), bad


def test_handshakes_are_answered_by_rule() -> None:
    def asked(address: str, mechanism: bytes = b"NULL", *more: bytes, domain: bytes = b"segue") -> str:
        request = [b"1.0", b"7", domain, address.encode(), b"", mechanism, *more]
        reply, why_not = zap.answer(request, lambda key: False)
        assert reply[:2] == [b"1.0", b"7"] and len(reply) == 6
        assert reply[2] == (b"400" if why_not else b"200")
        return why_not

    mine = f"localhost:{os.getuid()}:0:1"
    assert asked(mine) == ""
    assert asked(f"localhost:{os.getuid() + 1}:0:1") == "user"
    assert asked(mine, b"PLAIN") == "user"
    assert asked(mine, domain=b"global") == "domain"
    for address in ("127.0.0.1", "", f"x:{os.getuid()}:0:1", "localhost"):
        assert asked(address) == "mechanism"
    assert asked("127.0.0.1", b"CURVE", bytes(32)) == "key"
    assert asked("127.0.0.1", b"CURVE", bytes(31)) == "mechanism"
    assert zap.answer([b"1.0"], lambda key: True)[0][2] == b"500"
