"""`segue osc` against the coded daemon: packets, requests, takes, several senders, and everything hostile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_clients.osc.packets import MAX_DEPTH, MAX_MESSAGES, Message, OscError, decode, encode
from bridge_clients.osc.requests import KEYS, parse
from bridge_clients.osc.senders import Senders, loopback, owners
from protocol.errors import SegueError
from tests.daemon import engine
from tests.daemon.house import ROOT, alive
from tests.hosts.conftest import HostHouse

RATE = 32_000


class Bridge:
    """A running `segue osc`, and a socket that talks with it."""

    def __init__(self, house: HostHouse, folder: Path, *words: str) -> None:
        self.takes = folder / "takes"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bridge_clients.cli.main", "osc", "--port", "0", "--takes",
             str(self.takes), *words],
            env=dict(house.environment(), PYTHONPATH=str(ROOT)), cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline()]
        assert "Listening" in self.said[0], self.said[0] + self.process.stdout.read()
        self.port = int(self.said[0].split("UDP port ")[1].split(";")[0])
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said += iter(self.process.stdout.readline, "")

    def sender(self) -> Sender:
        return Sender(self.port)

    def close(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5)


class Sender:
    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect(("127.0.0.1", port))
        self.seen: list[Message] = []

    def send(self, address: str, *values: Any) -> None:
        self.socket.send(encode(address, values))

    def until(self, *addresses: str, wait_s: float = 30.0) -> Message:
        """The next message of one of these addresses; all are kept in `seen`."""
        by = time.monotonic() + wait_s
        while (left_s := by - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                (found,) = decode(self.socket.recv(65_536))
                self.seen.append(found)
                if found.address in addresses:
                    return found
        raise AssertionError(f"no {addresses} came; {self.seen[-5:]}")

    def of(self, address: str) -> list[tuple[Any, ...]]:
        return [message.values for message in self.seen if message.address == address]


@pytest.fixture
def bridge(coded_house: HostHouse, tmp_path: Path) -> Iterator[Callable[..., Bridge]]:
    made: list[Bridge] = []

    def make(*words: str, house: HostHouse = coded_house) -> Bridge:
        made.append(Bridge(house, tmp_path, *words))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    path = tmp_path / "a prompt 🎷.wav"
    wave = 0.25 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
    soundfile.write(path, wave.astype("f4"), RATE, subtype="FLOAT")
    return path


def wrong_samples(take: tuple[Any, ...], seed: int) -> int:
    """How many samples of a take's file, handle and all, are not the model's."""
    _, variation, stem, path, frames, rate, _, handle, tail, _ = take
    found, told_rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert (told_rate, len(found)) == (rate, handle + frames + tail)
    right = engine.samples(seed, variation - 1, stem, -handle, len(found))
    return int(np.count_nonzero(found.T != right))


# ---- packets ----

VALUES = st.one_of(
    st.integers(1 - 2**31, 2**31 - 1),  # python-osc writes -2**31 in 64 bits
    st.floats(width=32, allow_nan=False),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.binary(min_size=1, max_size=20),  # python-osc writes no empty blob
)


@given(st.lists(VALUES, max_size=12))
@settings(deadline=None, max_examples=200)
def test_packets_are_those_of_another_implementation(values: list[Any]) -> None:
    builder_module = pytest.importorskip(
        "pythonosc.osc_message_builder", reason="python-osc is not installed"
    )
    from pythonosc.osc_message import OscMessage

    builder = builder_module.OscMessageBuilder("/segue/x")
    for value in values:
        builder.add_arg(value)
    theirs = builder.build().dgram
    mine = encode("/segue/x", values)
    assert mine == theirs
    assert decode(theirs) == [Message("/segue/x", tuple(values))]
    assert list(OscMessage(mine)) == values


def test_bundles_are_opened_and_bounded() -> None:
    def bundle(*parts: bytes) -> bytes:
        return b"#bundle\0" + bytes(8) + b"".join(len(p).to_bytes(4, "big") + p for p in parts)

    one = encode("/segue/a", [1])
    assert [m.address for m in decode(bundle(one, bundle(encode("/segue/b"))))] == ["/segue/a", "/segue/b"]
    deep = one
    for _ in range(MAX_DEPTH + 1):
        deep = bundle(deep)
    for bad in (deep, bundle(*[one] * (MAX_MESSAGES + 1)), b"#bundle\0", bundle(one)[:-1], b"", b"/",
                b"x\0\0\0", b"/a\0\0,i\0\0", b"/a\0\0,b\0\0\x7f\xff\xff\xff", b"/a\0\0,s\0\0abcd",
                b"/a\0\0,q\0\0", b"/\xff\xff\0", b"/a\0\0i\0\0\0", b"/a\0\0,b\0\0\xff\xff\xff\xff",
                ):  # fmt: skip
        with pytest.raises(OscError):
            decode(bad)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_no_bytes_do_harm(raw: bytes) -> None:
    for packet in (raw, b"#bundle\0" + raw, b"/segue/a\0\0\0\0," + raw):
        with contextlib.suppress(OscError):
            decode(packet)


# ---- requests ----


@pytest.mark.parametrize(
    ("values", "length", "more"),
    [
        (["/a.wav", 8], {"seconds": 8}, {}),
        (["/a.wav", 8.0, "seed", 7.0], {"seconds": 8.0}, {"seed": 7}),
        (["/a.wav", 2.5, "seconds"], {"seconds": 2.5}, {}),
        (["/a.wav", 4, "bars", "bpm", 120], {"bars": 4}, {}),
        (["/a.wav", "4bars", "bpm", 120.0], {"bars": 4}, {}),
        (["/a.wav", "7/2 bars", "bpm", 120], {"bars": "7/2"}, {}),
        (["/a.wav", "bars", 2.5, "bpm", 90], {"bars": 2.5}, {}),
        (["/a.wav", "frames", 1000.0], {"frames": 1000}, {}),
        (["/a.wav", 1, "text", 909.0, "stems", "drums, bass"], {"seconds": 1}, {"text": "909"}),
        (["/a.wav", 1, "loop", 1, "strength", 0.25], {"seconds": 1}, {"loop": True, "strength": 0.25}),
    ],
)  # fmt: skip
def test_what_senders_write_is_understood(values: list[Any], length: Any, more: dict[str, Any]) -> None:
    request = parse("continue", values).request
    assert request["length"] == length
    assert {name: request[name] for name in more} == more


def test_tempo_is_what_was_typed_although_osc_has_24_bits() -> None:
    (message,) = decode(encode("/x", ["/a.wav", "bars", 4.0, "bpm", 120.1, "meter", "6/8", "at", 12.5]))
    tempo = parse("continue", message.values).request["tempo_map"]
    assert tempo == {"changes": [{"at": 0, "bpm": 120.1, "beats": 6, "unit": 8}], "start": 12.5}


def test_tracks_cuts_and_names() -> None:
    wanted = parse(
        "accompany", ["/d.wav", 4, "stem", "drums", "track", "/b.wav", "stem", "bass", "from", 1, "to", 3.0,
                      "id", 5.0, "name", "song", "folder", "/tmp"],
    )  # fmt: skip
    assert [(str(s.path), s.role, s.stem, s.from_s, s.to_s) for s in wanted.sounds] == [
        ("/d.wav", "context", "drums", 1, 3.0), ("/b.wav", "context", "bass", None, None),
    ]  # fmt: skip
    assert (wanted.tag, wanted.folder) == (5, Path("/tmp"))
    assert [sound.role for sound in parse("fill", ["/a.wav", "/b.wav", 2]).sounds] == ["prompt", "following"]
    assert "length" not in parse("vary", ["/a.wav"]).request


@pytest.mark.parametrize(
    ("mode", "values", "field"),
    [
        ("continue", [], "path"), ("continue", [3, 4], "path"), ("continue", ["a.wav", 4], "path"),
        ("continue", ["/a.wav"], "length"), ("continue", ["/a.wav", 4, "seed"], "arguments"),
        ("continue", ["/a.wav", 4, "sead", 1], "sead"), ("continue", ["/a.wav", 4, "seed", 1.5], "seed"),
        ("continue", ["/a.wav", 4, "seed", "x"], "seed"), ("continue", ["/a.wav", 4, "meter", "4"], "meter"),
        ("continue", ["/a.wav", 4, "at", 1], "bpm"), ("continue", ["/a.wav", float("nan")], "seconds"),
        ("continue", ["/a.wav", 4, "strength", float("inf")], "strength"),
        ("generate", ["from", 1, 2], "arguments"),
        ("continue", ["/a.wav", 4, "loop", "maybe"], "loop"), ("continue", ["/a.wav", 4, "id", b"x"], "id"),
        ("continue", ["/a.wav", 4, "stem", "drums"], "stem"), ("continue", ["/a.wav", b"x"], "length"),
        ("fill", ["/a.wav", 4], "following"), ("generate", [4, "from", 1], "from"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(mode: str, values: list[Any], field: str) -> None:
    with pytest.raises(SegueError) as caught:
        parse(mode, values)
    assert (caught.value.code, caught.value.field) == ("E_ARGUMENT", field)
    assert caught.value.allowed


# ---- who may ----


@pytest.mark.parametrize(
    "host", ["192.168.1.20", "0" + ".0.0.0", "::1", "example.org", "255.255.255.255", "*"]
)
def test_only_the_loopback_is_bound_and_answered(host: str, coded_house: HostHouse) -> None:
    with pytest.raises(SegueError, match="this machine only"):
        loopback(host)
    with pytest.raises(SegueError, match="this machine only"):
        Senders().answer_to(("127.0.0.1", 1), host, 5)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bridge_clients.cli.main", "osc", "--bind", host, "--port", "0"],
        env=coded_house.environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "no keys" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says whose a UDP port is")
def test_another_users_program_is_not_heard() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to be another user")
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    assert owners(ours.getsockname()[1]) == {0}
    assert Senders().may(ours.getsockname())
    program = (
        "import os, socket, sys\nos.setuid(65534)\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('127.0.0.1', 0))\nprint(s.getsockname()[1], flush=True)\nsys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        assert owners(port) == {65534}
        assert not Senders().may(("127.0.0.1", port))
        assert Senders(any_user=True).may(("127.0.0.1", port))
    finally:
        child.communicate()
    assert not Senders().may(("127.0.0.1", port)), "a sender that has gone is nobody's"
    assert not Senders().may(("192.168.1.20", ours.getsockname()[1]))
    ours.close()


# ---- jobs ----


def test_a_prompt_goes_on_to_exact_takes(bridge: Callable[..., Bridge], prompt: Path) -> None:
    sender = bridge().sender()
    sender.send("/segue/continue", str(prompt), 2, "seed", 7.0, "variations", 3, "level", "off", "id", "mine")
    done = sender.until("/segue/done", "/segue/error")
    assert done.values == ("mine", "done", 3, 7), done
    ((tag, job, seed, frames, rate, lead, variations),) = sender.of("/segue/accepted")
    assert (tag, seed, frames, rate, lead, variations) == ("mine", 7, 2 * RATE, RATE, 0, 3) and job
    takes = sender.of("/segue/take")
    assert [take[1] for take in takes] == [1, 2, 3]
    for take in takes:
        assert (take[4], take[5], take[6]) == (2 * RATE, RATE, 0) and take[7] > 0
        assert wrong_samples(take, 7) == 0
    assert sender.of("/segue/progress")


def test_every_mode_and_a_seed_that_can_be_typed_again(bridge: Callable[..., Bridge], prompt: Path) -> None:
    sender = bridge().sender()
    for number, (mode, values) in enumerate(
        [
            ("generate", ["2bars", "bpm", 120, "rate", RATE, "channels", 1]),
            ("vary", [str(prompt), "strength", 0.2]),
            ("fill", [str(prompt), str(prompt), 0.5]),
            ("continue", [str(prompt), 0.5, "from", 0.25, "to", 0.75]),
        ]
    ):
        sender.send(f"/segue/{mode}", *values, "level", "off")
        done = sender.until("/segue/done", "/segue/error")
        assert done.address == "/segue/done" and done.values[:2] == (number + 1, "done"), done
        assert 0 <= done.values[3] < 1_000_000
    frames = [take[4] for take in sender.of("/segue/take")]
    assert frames == [4 * RATE, RATE, RATE // 2, RATE // 2]


def test_stems_beside_a_track_and_the_bar_line(bridge: Callable[..., Bridge], prompt: Path) -> None:
    sender = bridge().sender()
    sender.send("/segue/accompany", str(prompt), 1, "stem", "drums", "model", "stems", "level", "off")
    assert sender.until("/segue/done", "/segue/error").values[:3] == (1, "done", 3), sender.seen[-1]
    assert {take[2] for take in sender.of("/segue/take")} == {"bass", "other", "mix"}
    sender.send(
        "/segue/continue",
        str(prompt),
        "1bars",
        "bpm",
        120,
        "at",
        3.5,
        "start",
        "bar",
        "level",
        "off",
        "id",
        "b",
    )
    assert sender.until("/segue/done", "/segue/error").values[:2] == ("b", "done"), sender.seen[-1]
    (accepted,) = [values for values in sender.of("/segue/accepted") if values[0] == "b"]
    assert accepted[3:6] == (2 * RATE, RATE, RATE // 4)
    (take,) = [values for values in sender.of("/segue/take") if values[0] == "b"]
    assert take[6] == RATE // 4 and take[7] >= RATE // 4, (
        "the handle reaches back over the way to the bar line"
    )


def test_the_real_model_is_heard(
    bridge: Callable[..., Bridge], pocket_house: HostHouse, tmp_path: Path
) -> None:
    beats = np.zeros((88_200, 2), np.float32)
    beats[::22_050] = 0.8
    hits = np.apply_along_axis(np.convolve, 0, beats, np.hanning(400))[: len(beats)]
    soundfile.write(tmp_path / "loop.wav", hits, 44_100, subtype="FLOAT")
    sender = bridge(house=pocket_house).sender()
    sender.send("/segue/continue", str(tmp_path / "loop.wav"), 1, "bars", "bpm", 120, "seed", 3)
    done = sender.until("/segue/done", "/segue/error", wait_s=120)
    assert done.values == (1, "done", 4, 3), done  # the mix and its three stems
    (mix,) = [take for take in sender.of("/segue/take") if take[2] == "mix"]
    _, _, _, path, frames, rate, position, handle, tail, _ = mix
    found, told = soundfile.read(path, always_2d=True)
    assert (frames, rate, position, told, len(found)) == (88_200, 44_100, 0, 44_100, handle + 88_200 + tail)
    assert found.shape[1] == 2 and np.abs(found[handle:]).max() > 0.01


def test_the_daemons_refusals_arrive_whole(
    bridge: Callable[..., Bridge], prompt: Path, tmp_path: Path
) -> None:
    sender = bridge().sender()
    for values, code, field in [
        ((str(prompt), 4000, "id", 1), "E_TOO_LONG", ""),
        ((str(prompt), 1, "model", "no-such", "id", 2), "E_MODEL", "model"),
        ((str(prompt), 1, "variations", 99, "id", 3), "E_ARGUMENT", "variations"),
        ((str(tmp_path / "none.wav"), 1, "id", 4), "E_AUDIO", "input"),
        ((str(prompt), 1, "from", 9, "id", 5), "E_ARGUMENT", "from"),
        ((str(prompt), 1, "nonsense", 9, "id", 6), "E_ARGUMENT", "nonsense"),
        ((str(prompt), 1, "folder", f"{prompt}/below", "id", 7), "E_ARGUMENT", "folder"),
    ]:
        sender.send("/segue/continue", *values)
        error = sender.until("/segue/error", "/segue/done")
        assert error.address == "/segue/error" and len(error.values) == 6
        assert error.values[:2] == (values[-1], code), error
        assert not field or error.values[3] == field, error
        assert len(str(error.values[2])) > 10
    sender.send("/segue/sing")
    assert sender.until("/segue/error").values[1] == "E_UNKNOWN_OP"


def test_texts_pass_unharmed(bridge: Callable[..., Bridge], coded_house: HostHouse, tmp_path: Path) -> None:
    sender = bridge().sender()
    texts = [
        "\"quotes\" 'and' `these`",
        "new\nlines\r\n",
        f"$(touch {tmp_path}/never); :",
        "🎷 音楽",
        "y" * 10_240,
    ]
    for text in texts:
        sender.send("/segue/generate", 0.1, "text", text, "rate", RATE, "channels", 1, "id", "$(x)/../ 🎷")
        assert sender.until("/segue/done", "/segue/error").address == "/segue/done", sender.seen[-1]
        job = sender.of("/segue/accepted")[-1][1]
        with coded_house.client() as wire:
            from protocol import messages as m

            assert wire.ask(m.Status(job=job)).info.text == text
    assert not (tmp_path / "never").exists()


def test_cancel_stops_the_daemons_job_in_200_ms(
    bridge: Callable[..., Bridge], coded_house: HostHouse
) -> None:
    sender = bridge().sender()
    sender.send("/segue/generate", 120, "text", "slow=20", "id", 3)
    while sender.until("/segue/progress").values[2] < 5:
        pass
    job = sender.of("/segue/accepted")[-1][1]
    from protocol import messages as m

    with coded_house.client() as wire:
        begun = time.monotonic()
        sender.send("/segue/cancel", 3.0)
        while wire.ask(m.Status(job=job)).info.state != "cancelled":
            assert time.monotonic() - begun < 5
            time.sleep(0.005)
        took_s = time.monotonic() - begun
    assert took_s < 0.2, f"{took_s:.3f} s"
    assert sender.until("/segue/done").values[:2] == (3, "cancelled")
    sender.send("/segue/cancel", 3)
    assert sender.until("/segue/error").values[1] == "E_JOB"
    sender.send("/segue/cancel")  # of no jobs: nothing


def test_several_senders_and_reply_ports(bridge: Callable[..., Bridge], prompt: Path) -> None:
    running = bridge()
    senders = [running.sender() for _ in range(4)]
    listener = running.sender()
    senders[3].send("/segue/reply", "127.0.0.1", listener.socket.getsockname()[1])
    for seed, sender in enumerate(senders):
        sender.send("/segue/continue", str(prompt), 1, "seed", seed, "level", "off", "id", 1)
    for seed, sender in enumerate([*senders[:3], listener]):
        done = sender.until("/segue/done", "/segue/error")
        assert done.values == (1, "done", 1, seed), done
        assert wrong_samples(sender.of("/segue/take")[0], seed) == 0
    assert not senders[3].seen
    senders[0].send("/segue/reply", "192.168.1.20", 5000)
    assert senders[0].until("/segue/error").values[3] == "host"
    senders[0].send("/segue/status")
    state, queued, active, jobs, model, _ = senders[0].until("/segue/status").values
    assert (state, queued, active, jobs, model) == ("ready", 0, 0, 0, "coded")


def test_a_flood_of_everything_does_not_hurt(bridge: Callable[..., Bridge], prompt: Path) -> None:
    running = bridge("--at-most", "3")
    honest, flood = running.sender(), running.sender()
    honest.send("/segue/continue", str(prompt), 3, "text", "slow=5", "seed", 5, "level", "off", "id", 1)
    honest.until("/segue/accepted")
    dice = random.Random(5)
    good = encode("/segue/generate", [30, "text", "slow=50"])
    by = time.monotonic() + 3.0
    sent = 0
    while time.monotonic() < by:
        kind = dice.randrange(4)
        if kind == 0:
            packet = dice.randbytes(dice.randrange(200))
        elif kind == 1:
            packet = good
        elif kind == 2:
            packet = (
                b"#bundle\0" + bytes(8) + b"".join(len(good).to_bytes(4, "big") + good for _ in range(60))
            )
        else:
            packet = bytes(b ^ (dice.random() < 0.05) for b in good)
        with contextlib.suppress(OSError):
            flood.socket.send(packet)
        sent += 1
    assert sent > 2000
    done = honest.until("/segue/done", "/segue/error")
    assert done.values == (1, "done", 1, 5), done
    assert wrong_samples(honest.of("/segue/take")[0], 5) == 0
    flood.send("/segue/cancel")
    refused = 0
    flood.socket.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while refused < 100_000:
            refused += flood.socket.recv(65_536).startswith(b"/segue/error")
    assert 0 < refused < 800, "answers to a flood are bounded"
    honest.send("/segue/status")
    assert honest.until("/segue/status").values[0] == "ready"


def test_the_daemon_dies_in_the_middle_and_the_take_is_whole(
    bridge: Callable[..., Bridge], own_house: Callable[..., HostHouse], prompt: Path
) -> None:
    house = own_house()
    sender = bridge(house=house).sender()
    sender.send("/segue/continue", str(prompt), 3, "text", "slow=10 resumable", "seed", 9, "level", "off")
    while sender.until("/segue/progress").values[2] < 20:
        pass
    killed = house.kill_current()
    assert killed
    done = sender.until("/segue/done", "/segue/error", wait_s=60)
    assert done.values == (1, "done", 1, 9), done
    assert wrong_samples(sender.of("/segue/take")[0], 9) == 0
    assert sender.of("/segue/note")


def test_its_end_cancels_and_leaves_nothing(bridge: Callable[..., Bridge], coded_house: HostHouse) -> None:
    running = bridge()
    sender = running.sender()
    sender.send("/segue/generate", 60, "text", "slow=20")
    sender.until("/segue/accepted")
    job = sender.of("/segue/accepted")[0][1]
    assert running.close() == 0
    assert not alive(running.process.pid)
    from protocol import messages as m

    with coded_house.client() as wire:
        assert wire.ask(m.Status(job=job)).info.state == "cancelled"
    assert not any("Traceback" in line for line in running.said)


def test_a_port_that_is_taken_is_said(bridge: Callable[..., Bridge], coded_house: HostHouse) -> None:
    port = bridge().port
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bridge_clients.cli.main", "osc", "--port", str(port)],
        env=coded_house.environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and f"port {port} cannot be had" in done.stderr


def test_the_page_names_every_key() -> None:
    page = (ROOT / "bridge_clients" / "osc" / "README.md").read_text()
    missing = [key for key in KEYS if f"`{key}`" not in page]
    assert not missing
