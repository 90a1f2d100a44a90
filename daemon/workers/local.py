"""A worker process seen from the front-end: start it, write to it without waiting, read what it says, end it.

Threading model: called from the front-end's one thread; nothing here blocks. A write to a worker that has
just died is not an error of the caller: the death is seen by `poll` in the next turn of the loop.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.workers.link import Decoder, LinkError, encode

_PACKAGES = Path(__file__).resolve().parents[2]
_READ_BYTES = 1 << 18
_PIPE_PATIENCE_BYTES = 8 << 20


@dataclass
class LocalWorker:
    """One spawned process with one model.

    States: "loading" until it says "loaded", then "loaded"; "ending" after `end`. `aboard` maps jobs to
    attempts.
    """

    name: str
    device: str
    model: str
    process: subprocess.Popen[bytes]
    state: str = "loading"
    facts: dict[str, Any] = field(default_factory=dict)
    memory_bytes: int = 0
    started_s: float = field(default_factory=time.monotonic)
    heard_s: float = field(default_factory=time.monotonic)
    progressed_s: float = field(default_factory=time.monotonic)
    idle_since_s: float = field(default_factory=time.monotonic)
    keep_alive_s: float = 300.0
    aboard: dict[int, int] = field(default_factory=dict)
    dropping: dict[int, float] = field(default_factory=dict)  # job -> when it was told to drop it
    ending_since_s: float | None = None
    terminated_s: float | None = None  # when SIGTERM was sent
    loaded_s: float = 0.0
    peak_bytes: int = 0
    slept: bool = False  # the machine slept since it last made a step
    closed: bool = False  # it has closed its end: about to be gone
    stalled: bool = False
    why: str = ""  # why it was ended, in words
    broken: dict[str, Any] | None = None  # the error it ended itself with
    decoder: Decoder = field(default_factory=Decoder)
    pending: bytearray = field(default_factory=bytearray)

    @property
    def fileno(self) -> int:
        """Readable when the worker has said something."""
        return self.process.stdout.fileno()  # type: ignore[union-attr]

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message and write what the pipe takes now."""
        self.pending += encode(message)
        self.flush()

    def flush(self) -> None:
        """Write on; called again by the loop while there is more."""
        while self.pending:
            try:
                written = os.write(self.process.stdin.fileno(), self.pending)  # type: ignore[union-attr]
            except BlockingIOError:
                if len(self.pending) > _PIPE_PATIENCE_BYTES:
                    self.kill()
                return
            except (OSError, ValueError):  # it is gone: `poll` will say so
                self.pending.clear()
                return
            del self.pending[:written]

    def receive(self) -> list[dict[str, Any]]:
        """Messages that have arrived; a worker that does not keep to the language is ended."""
        messages: list[dict[str, Any]] = []
        with contextlib.suppress(BlockingIOError, OSError):
            while not self.closed:
                data = os.read(self.fileno, _READ_BYTES)
                if not data:
                    self.closed = True
                    break
                try:
                    messages += self.decoder.feed(data)
                except LinkError:
                    self.kill()
                    break
        if messages:
            self.heard_s = time.monotonic()
        return messages

    def poll(self) -> int | None:
        """Exit status once the process has ended (negative: the signal), else None."""
        return self.process.poll()

    def end(self) -> None:
        """Ask it to end between two steps."""
        if self.ending_since_s is None:
            self.ending_since_s = time.monotonic()
            self.state = "ending"
            self.send({"op": "end"})

    def terminate(self) -> None:
        if self.ending_since_s is None:
            self.ending_since_s = time.monotonic()
        self.state, self.terminated_s = "ending", time.monotonic()
        with contextlib.suppress(OSError):
            self.process.terminate()

    def kill(self) -> None:
        if self.ending_since_s is None:
            self.ending_since_s = time.monotonic()
        self.state = "ending"
        with contextlib.suppress(OSError):
            self.process.kill()

    def close(self) -> None:
        """Give the pipes back after the process has ended."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def spawn(
    *,
    name: str,
    model: str,
    device: str,
    precision: str,
    slots: int,
    threads: int,
    capture: str,
    nice: int,
    log: Path,
    environment: dict[str, str],
    folder: Path,
) -> LocalWorker:
    """Start a worker in `folder`. Its stderr goes to `log`; its own session keeps a terminal's Ctrl-C away
    from it.
    """
    # -P and PYTHONPATH: what lies in the current folder is never imported by accident
    # "=": a name that begins with a dash is still a name, not an option
    command = [sys.executable, "-P", "-m", "daemon.workers.main", f"--model={model}", f"--device={device}"]
    command += ["--precision", precision, "--slots", str(slots), "--threads", str(threads)]
    command += ["--capture", capture, "--nice", str(nice)]
    command += ["--parent", str(os.getpid())]
    variables = dict(os.environ, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", MALLOC_ARENA_MAX="2")
    # Threads that wait for each other by spinning for ever eat the cores that a DAW needs: beside four other
    # processes on two cores pocket took 31 s so, 3.2 s with threads that sleep at once. But waking a sleeper
    # costs more than pocket's small products: 15 ms a step on an idle machine, 6.4 ms after a short spin.
    if "OMP_WAIT_POLICY" not in variables:
        variables.setdefault("GOMP_SPINCOUNT", "3000")
    # oneDNN keeps each convolution and product it has met by its exact shape, 1024 of them unless told
    # otherwise: prompts of 60 different lengths grew pocket's worker by half (480 to 960 MB).
    variables.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "192")
    variables |= environment
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGES), variables.get("PYTHONPATH", "")]))
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            env=variables,
            cwd=folder,
            start_new_session=True,
            close_fds=True,
            bufsize=0,
        )
    finally:
        os.close(descriptor)
    os.set_blocking(process.stdin.fileno(), False)  # type: ignore[union-attr]
    os.set_blocking(process.stdout.fileno(), False)  # type: ignore[union-attr]
    return LocalWorker(name, device, model, process)
