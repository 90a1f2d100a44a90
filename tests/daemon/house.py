"""A daemon of its own for a test: started as users start it, asked over its socket, always ended."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from protocol import messages as m
from protocol.audio import AudioBlock, AudioFormat
from protocol.errors import SegueError
from protocol.framing import decode_push, decode_reply, encode_request

ROOT = Path(__file__).resolve().parents[2]


class House:
    """One daemon process and its folders."""

    def __init__(self, *settings: str, model: str = "coded", real: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segue-t-", dir="/tmp"))  # short: socket paths are bounded
        self.runtime, self.state = self.folder / "run", self.folder / "state"
        self.settings = [f"worker.default_model={model}", "worker.keep_alive_s=-1", *settings]
        self.hook = {} if real else {"SEGUE_TEST_ENGINE": "tests.daemon.engine:make"}
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: dict[str, Any] = {}

    def environment(self) -> dict[str, str]:
        return dict(
            os.environ,
            SEGUE_RUNTIME=str(self.runtime),
            SEGUE_STATE=str(self.state),
            SEGUE_CONFIG="",
            SEGUE_MODELS=str(self.folder / "models"),
            SEGUE_TEST_COUNTER=str(self.folder / "crashes"),
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS="1",
            **self.hook,
        )

    def start(self) -> House:
        words = [word for setting in self.settings for word in ("--set", setting)]
        with (self.folder / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "daemon", "serve", "--foreground", *words],
                env=self.environment(), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        by = time.monotonic() + 20
        path = self.runtime / "connection.json"
        while time.monotonic() < by:
            if self.process.poll() is not None:
                raise AssertionError((self.folder / "stderr").read_text())
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads(path.read_text())
                if found["pid"] == self.process.pid:
                    self.connection = found
                    return self
            time.sleep(0.01)
        raise AssertionError("the daemon did not start")

    def kill(self) -> None:
        """SIGKILL, as a power cut would feel to it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        """Nothing of it is left, whatever the test did."""
        for pid in self.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def worker_pids(self) -> list[int]:
        """Processes whose parent is the daemon."""
        if self.process is None or self.process.poll() is not None:
            return []
        with contextlib.suppress(OSError):
            path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return [int(pid) for pid in path.read_text().split()]
        return []

    def client(self, kind: int = zmq.REQ) -> Wire:
        return Wire(self.connection, kind)


class Wire:
    """A socket and the protocol's own framing, nothing more: what a client in another language would be."""

    def __init__(self, connection: dict[str, Any], kind: int = zmq.REQ) -> None:
        self._token = bytes.fromhex(connection["token"])
        self._context = zmq.Context()
        self._context.linger = 0
        self.socket = self._context.socket(kind)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        if connection.get("client_secret_key"):
            self.socket.curve_serverkey = connection["curve_public_key"].encode()
            self.socket.curve_publickey = connection["client_public_key"].encode()
            self.socket.curve_secretkey = connection["client_secret_key"].encode()
        self.socket.connect(connection["endpoints"][0])
        self._kind, self._id = kind, 0
        self.slowest_s = 0.0
        self.pushed: list[tuple[str, Any]] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close(0)
        self._context.term()

    def send(self, request: m.Request) -> None:
        self._id += 1
        head = [b""] if self._kind == zmq.DEALER else []
        assert self.socket.poll(5000, zmq.POLLOUT)
        self.socket.send_multipart([*head, *encode_request(request, self._id, self._token)])

    def receive(self, wait_s: float = 30.0) -> Any:
        """The next reply, or on a DEALER the next pushed (job, event or tick); None in time."""
        if not self.socket.poll(round(1000 * wait_s)):
            return None
        frames = self.socket.recv_multipart(zmq.NOBLOCK)
        if self._kind == zmq.DEALER:
            frames = frames[1:]
            push = decode_push(frames)
            if push is not None:
                return push
        return decode_reply(frames)[1]

    def ask(self, request: m.Request, wait_s: float = 30.0) -> Any:
        """Send and wait; raises the daemon's error. Pushes that come meanwhile are kept in `pushed`."""
        begun = time.monotonic()
        self.send(request)
        while isinstance(reply := self.receive(wait_s), tuple):
            self.pushed.append(reply)
        assert reply is not None, f"{request.op} was not answered within {wait_s} s"
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        if isinstance(reply, SegueError):
            raise reply
        return reply

    def refused(self, request: m.Request) -> SegueError:
        """The error of a request that must not succeed."""
        try:
            reply = self.ask(request)
        except SegueError as error:
            return error
        raise AssertionError(f"{request.op} was answered: {reply}")

    def events(self, job: str, after: int = 0, max_bytes: int = 1 << 20, wait_s: float = 40.0) -> list[Any]:
        """All events until the last one; ticks are collected in `ticks`."""
        found: list[Any] = []
        self.ticks: list[Any] = []
        by = time.monotonic() + wait_s
        while not (found and found[-1].final):
            assert time.monotonic() < by, f"job {job} did not end; so far {[e.event for e in found]}"
            reply = self.ask(m.Next(job=job, after=after, max_bytes=max_bytes, wait_ms=500))
            found += reply.events
            after = found[-1].seq if found else after
            if reply.tick is not None:
                self.ticks.append(reply.tick)
        return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to notice its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def tone(seconds: float = 1.0, rate: int = 32_000, channels: int = 1) -> AudioBlock:
    """A prompt."""
    count = round(seconds * rate)
    wave = 0.25 * np.sin(2 * np.pi * 220 * np.arange(count) / rate)
    data = np.repeat(wave.astype("<f4")[:, None], channels, axis=1).tobytes()
    return AudioBlock(AudioFormat(rate=rate, channels=channels, frames=count, role="prompt"), data)


def submit(seconds: float | None = 1.0, **more: Any) -> m.Submit:
    """A job that continues a tone; `audio=()` and mode="generate" for one without."""
    given: dict[str, Any] = {"key": secrets.token_bytes(16), "mode": "continue", "level": "off", "seed": 7}
    if seconds is not None:
        given["length"] = m.Length(seconds=seconds)
    audio = more.pop("audio", None)
    given |= more
    if audio is None:
        audio = (tone(),) if given["mode"] == "continue" else ()
    return m.Submit(**given).with_audio(audio)


def joined(events: list[Any], variation: int = 0, stem: str = "mix") -> tuple[int, np.ndarray]:
    """(first position, samples [channels, n]) of the attempts that count; pieces must follow each other
    exactly.
    """
    void = max((e.seq for e in events if e.event == "requeued" and e.discard_from is not None), default=0)
    pieces = [
        e
        for e in events
        if e.event == "audio" and (e.variation, e.stem) == (variation, stem) and e.seq > void
    ]
    at = pieces[0].position
    for piece in pieces:
        assert piece.position == at, f"a gap or overlap at {at}"
        at += piece.frames
    flat = np.concatenate([np.frombuffer(piece.block.data, "<f4") for piece in pieces])
    return pieces[0].position, flat.reshape(-1, pieces[0].channels).T
