"""Strangers: another user of the machine, keys that are wrong, revoked or missing, a handshake that nobody
answers, and games with the paths of the socket. All are refused, the daemon counts them, its user is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from bridge_clients.connection import FILE_NAME, read
from protocol import messages as m
from protocol.errors import SegueError
from protocol.framing import encode_request
from protocol.keys import KeyFolder
from tests.chaos.bad_messages import good_submit
from tests.chaos.report import Report, Scale
from tests.chaos.watch import counted, incidents
from tests.daemon.house import ROOT, House, Wire
from tests.daemon.network import Doors, free_port, let_in, new_pair

NOBODY = 65534
SILENCE_S = 1.5


def run(scale: Scale, seed: int, folder: Path) -> Report:
    report = Report("strangers", seed)
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    house = House(f"tcp.bind={endpoint}")
    try:
        house.state.mkdir(mode=0o700, parents=True)
        bundles = {name: let_in(house.state, name, endpoint) for name in ("laptop", "second", "revoked")}
        KeyFolder(house.state / "keys").revoke("revoked")
        house.start()
        with house.client() as wire:
            _keys(report, scale, house, wire, bundles, endpoint)
            _other_user(report, house, wire)
            report.expect(wire.ask(m.Ping()).ready, "its own user is not served any more")
        report.broken += [f"incident: {line}" for line in incidents(house)[:5]]
    finally:
        house.close()
    _nobody_answers(report, scale)
    _paths(report)
    _clients_own_care(report)
    return report


# ---- keys ----


def _keys(
    report: Report, scale: Scale, house: House, wire: Wire, bundles: dict[str, dict[str, Any]], endpoint: str
) -> None:
    """Every way of coming with the wrong key, several times each, all at once."""
    friend = bundles["laptop"]
    right = {
        "server": friend["curve_public_key"], "public": friend["client_public_key"],
        "secret": friend["client_secret_key"],
    }  # fmt: skip
    unknown, other = new_pair(), new_pair()
    gone = bundles["revoked"]
    ways: dict[str, dict[str, str]] = {
        "no key": {},
        "unknown key": {**right, "public": unknown.public, "secret": unknown.secret},
        "revoked key": {**right, "public": gone["client_public_key"], "secret": gone["client_secret_key"]},
        "wrong server key": {**right, "server": other.public},
        "public key without its secret": {**right, "secret": other.secret},
        "the server's key as its own": {**right, "public": right["server"]},
    }
    tokens = [bytes.fromhex(token) for token in (friend["token"], house.connection["token"], gone["token"])]
    dice = random.Random(report.seed)
    before = wire.ask(m.Metrics()).text
    context = zmq.Context()
    context.linger = 0
    sockets: list[tuple[str, zmq.Socket[bytes]]] = []
    for _ in range(scale.pick(3, 20)):
        for way, keys in ways.items():
            sockets.append((way, _dealer(context, endpoint, keys)))
        plain = context.socket(zmq.DEALER)
        plain.plain_username, plain.plain_password = b"admin", b"admin"
        plain.connect(endpoint)
        sockets.append(("PLAIN", plain))
        sockets.append(("CURVE on ipc", _dealer(context, house.connection["endpoints"][0], right)))
    for _, dealer in sockets:
        for token in tokens:
            for request in (m.Hello(), good_submit(dice)):
                with contextlib.suppress(zmq.Again):  # it may have been shown the door already
                    dealer.send_multipart([b"", *encode_request(request, 1, token)], zmq.NOBLOCK)
    wrong_token = []
    for token in (house.connection["token"], bundles["second"]["token"], "00" * 32):
        dealer = _dealer(context, endpoint, right)
        dealer.send_multipart([b"", *encode_request(good_submit(dice), 1, bytes.fromhex(token))])
        wrong_token.append(dealer)
    time.sleep(SILENCE_S)
    heard = [way for way, dealer in sockets if dealer.poll(0)]
    report.expect(not heard, f"strangers were answered: {sorted(set(heard))}")
    report.expect(not any(d.poll(0) for d in wrong_token), "an allowed key with another's token was answered")
    with Wire(friend) as good:
        report.expect(good.ask(m.Ping()).ready, "the allowed client is not served")
    for _, dealer in sockets:
        dealer.close(0)
    for dealer in wrong_token:
        dealer.close(0)
    context.term()
    jobs = wire.ask(m.List()).jobs
    report.expect(not jobs, f"strangers made jobs: {[info.job for info in jobs]}")
    after = wire.ask(m.Metrics()).text
    grown = counted(after, "segue_handshakes_refused_total") - counted(
        before, "segue_handshakes_refused_total"
    )
    silent = counted(after, "segue_silent_refusals_total") - counted(before, "segue_silent_refusals_total")
    report.expect(grown > 0, "the daemon does not count refused handshakes")
    report.expect(silent >= len(wrong_token), "the daemon does not count wrong tokens")
    report.figures |= {
        "ways with a wrong key": [*ways, "PLAIN", "CURVE on ipc", "another's token"],
        "connections of these, answered": f"{len(sockets) + len(wrong_token)}, {len(heard)}",
        "handshakes refused, messages dropped, as the daemon counts": f"{grown:g}, {silent:g}",
    }


def _dealer(context: zmq.Context[Any], endpoint: str, keys: dict[str, str]) -> zmq.Socket[bytes]:
    made = context.socket(zmq.DEALER)
    if keys:
        made.curve_serverkey = keys["server"].encode()
        made.curve_publickey = keys["public"].encode()
        made.curve_secretkey = keys["secret"].encode()
    made.connect(endpoint)
    return made


def _nobody_answers(report: Report, scale: Scale) -> None:
    """The one who answers handshakes hangs, comes back, and dies: meanwhile nobody gets in."""
    with tempfile.TemporaryDirectory(prefix="segue-z-", dir="/tmp") as name:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        with Doors(Path(name), endpoint) as doors:
            bundle = let_in(doors.state, "laptop", endpoint)
            keys = {
                "server": bundle["curve_public_key"], "public": bundle["client_public_key"],
                "secret": bundle["client_secret_key"],
            }  # fmt: skip
            doors.sockets.open()
            count = scale.pick(2, 10)
            asking: list[zmq.Socket[bytes]] = []

            def knock() -> None:
                for _ in range(count):
                    for address, given in ((endpoint, keys), (doors.sockets.endpoints[0], {})):
                        asking.append(doors.dealer(address, **given))
                        asking[-1].send_multipart([b"", b"hello"])

            knock()
            report.expect(doors.turn(1.0, handshakes=False) == [], "a handshake that nobody answered let in")
            found = doors.turn(10, stop_at=2 * count)
            report.expect(
                len(found) == 2 * count, f"{len(found)} of {2 * count} came in once it was answered"
            )
            doors.sockets.zap.close(0)
            knock()
            report.expect(doors.turn(1.0, handshakes=False) == [], "with nobody left to answer, they came in")
            report.figures["handshakes while nobody answers, let in"] = f"{4 * count}, 0"


# ---- another user ----


def _other_user(report: Report, house: House, wire: Wire) -> None:
    """What a user with another id can read, connect to and say, however carelessly the modes were changed."""
    if os.getuid() != 0:
        report.skipped.append("another user: only root can become one")
        return
    before = counted(wire.ask(m.Metrics()).text, "segue_handshakes_refused_total", what="user")
    tried = 0
    for opened in (False, True):
        if opened:  # as if somebody had opened every mode: the uid is still asked for
            house.folder.chmod(0o777)
            house.runtime.chmod(0o777)
            (house.runtime / "segue.sock").chmod(0o777)
        told = {
            "paths": [
                str(p) for p in (house.runtime, house.state, *house.runtime.iterdir(), *house.state.iterdir())
            ],
            "endpoint": house.connection["endpoints"][0],
            "token": house.connection["token"],
            "runtime": str(house.runtime),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.other_user"], cwd=ROOT, input=json.dumps(told), text=True,
            capture_output=True, env=dict(os.environ, PYTHONPATH=str(ROOT)), timeout=60,
        )  # fmt: skip
        if not report.expect(done.returncode == 0, f"the other user fell over: {done.stderr[-500:]}"):
            continue
        found = json.loads(done.stdout)
        tried += found["tried"]
        allowed = [] if not opened else [str(house.runtime), told["endpoint"].removeprefix("ipc://")]
        reached = [path for path in found["reached"] if path not in allowed]
        report.expect(not reached, f"another user reached {reached}{' with open modes' if opened else ''}")
        report.expect(found["answers"] == 0, "another user was answered")
        report.expect(
            found["used"] == "E_UNREACHABLE", f"a client of another user took what it found: {found['used']}"
        )
    house.runtime.chmod(0o700)
    (house.runtime / "segue.sock").chmod(0o600)
    after = counted(wire.ask(m.Metrics()).text, "segue_handshakes_refused_total", what="user")
    report.expect(after > before, "the daemon did not count another user's handshake")
    report.expect(not wire.ask(m.List()).jobs, "another user made a job")
    report.figures["another user: things tried, handshakes refused by uid"] = f"{tried}, {after - before:g}"


# ---- paths ----


def _paths(report: Report) -> None:
    """What may lie where the daemon wants its folder and socket: refused in one sentence, nothing is
    replaced.
    """
    outcomes: dict[str, str] = {}

    def game(name: str, prepare: Callable[[House], Callable[[], bool]], refused: bool = True) -> None:
        house = House()
        try:
            untouched = prepare(house)
            done = subprocess.Popen(
                [sys.executable, "-P", "-m", "daemon", "serve", "--foreground"], env=house.environment(),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            try:
                _, said = done.communicate(timeout=10 if refused else 3)
            except subprocess.TimeoutExpired:
                said = "it serves"
            serving = done.poll() is None
            if serving:
                done.kill()
                done.communicate()
            report.expect(untouched(), f"{name}: what lay there was changed")
            if refused:
                report.expect(not serving and done.returncode != 0, f"{name}: the daemon started")
                report.expect(
                    said.count("\n") == 1 and "Traceback" not in said, f"{name}: it says {said[:300]!r}"
                )
            outcomes[name] = said.strip()[:160]
        finally:
            house.close()

    def file_for_folder(house: House) -> Callable[[], bool]:
        house.runtime.write_text("precious")
        return lambda: house.runtime.read_text() == "precious"

    def link_for_folder(house: House) -> Callable[[], bool]:
        (house.folder / "elsewhere").mkdir(mode=0o700)
        house.runtime.symlink_to(house.folder / "elsewhere")
        return lambda: house.runtime.is_symlink() and not list((house.folder / "elsewhere").iterdir())

    def file_for_socket(house: House) -> Callable[[], bool]:
        house.runtime.mkdir(mode=0o700)
        (house.runtime / "segue.sock").write_text("precious")
        return lambda: (house.runtime / "segue.sock").read_text() == "precious"

    def link_for_socket(house: House) -> Callable[[], bool]:
        house.runtime.mkdir(mode=0o700)
        (house.folder / "precious").write_text("precious")
        (house.runtime / "segue.sock").symlink_to(house.folder / "precious")
        return lambda: (house.folder / "precious").read_text() == "precious"

    def folder_for_socket(house: House) -> Callable[[], bool]:
        (house.runtime / "segue.sock").mkdir(mode=0o700, parents=True)
        house.runtime.chmod(0o700)
        return lambda: (house.runtime / "segue.sock").is_dir()

    def anothers_folder(house: House) -> Callable[[], bool]:
        house.runtime.mkdir(mode=0o777)
        os.chown(house.runtime, NOBODY, NOBODY)
        return lambda: not list(house.runtime.iterdir())

    def long_path(house: House) -> Callable[[], bool]:
        house.runtime = house.folder / ("x" * 100)
        return lambda: True

    def link_for_connection(house: House) -> Callable[[], bool]:
        house.runtime.mkdir(mode=0o700)
        (house.folder / "precious").write_text("precious")
        (house.runtime / FILE_NAME).symlink_to(house.folder / "precious")
        return lambda: (house.folder / "precious").read_text() == "precious"

    def open_folder(house: House) -> Callable[[], bool]:
        house.runtime.mkdir()
        house.runtime.chmod(0o777)
        return lambda: stat.S_IMODE(house.runtime.stat().st_mode) == 0o700

    game("a file where the folder is due", file_for_folder)
    game("a link where the folder is due", link_for_folder)
    game("a file where the socket is due", file_for_socket)
    game("a link where the socket is due", link_for_socket)
    game("a folder where the socket is due", folder_for_socket)
    game("a path too long for a socket", long_path)
    game(
        "a link where the connection file is due: the link goes, its target stays", link_for_connection, False
    )
    game("a folder open to all: closed before it is used", open_folder, False)
    if os.getuid() == 0:
        game("a folder of another user", anothers_folder)
    else:
        report.skipped.append("a folder of another user: only root can make one")
    report.figures["games with paths"] = len(outcomes)
    report.figures["what the daemon says to them"] = outcomes


def _clients_own_care(report: Report) -> None:
    """A client does not take a token or an address from a file that others may have written."""
    good = {"endpoints": ["ipc:///tmp/nowhere.sock"], "token": "00" * 32, "pid": 1}
    tried = 0
    with tempfile.TemporaryDirectory(prefix="segue-f-", dir="/tmp") as name:
        modes = [(0o755, 0o600, good), (0o777, 0o600, good), (0o700, 0o644, good), (0o700, 0o666, good)]
        bad: list[Any] = [{}, [], "x" * 70_000]
        bad += [{**good, key: value} for key, value in (("token", "00"), ("endpoints", []))]
        bad.append({**good, "endpoints": ["inproc://x"]})
        for folder_mode, file_mode, content in [*modes, *((0o700, 0o600, content) for content in bad)]:
            folder = Path(name) / str(tried)
            folder.mkdir()
            path = folder / FILE_NAME
            path.write_text(json.dumps(content))
            path.chmod(file_mode)
            folder.chmod(folder_mode)
            tried += 1
            try:
                read(path)
                report.broken.append(f"a client took {oct(folder_mode)} {oct(file_mode)} {str(content)[:60]}")
            except SegueError as error:
                report.expect(error.code == "E_UNREACHABLE", f"{error.code} instead of E_UNREACHABLE")
    report.figures["connection files that a client does not take"] = tried
