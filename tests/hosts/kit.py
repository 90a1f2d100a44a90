"""A host as the job directory's contract sees it: makes folders, writes files, starts one program, reads."""

from __future__ import annotations

import array
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bridge_clients import wav


def write_wav(path: Path, samples: Any, rate: int = 48_000) -> None:
    """float32 [frames] or [frames, channels]."""
    block = np.asarray(samples, "<f4")
    block = block[:, None] if block.ndim == 1 else block
    path.write_bytes(wav.header(rate, block.shape[1], len(block)) + array.array("f", block.ravel()).tobytes())


def tone(seconds: float = 1.0, rate: int = 48_000, channels: int = 2, hz: float = 220.0) -> np.ndarray:
    """float32 [frames, channels]."""
    wave = 0.25 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave.astype(np.float32)[:, None], channels, axis=1)


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    """(rate, float32 [frames, channels])."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return rate, samples


class HostJob:
    """One job directory and the process that works on it."""

    def __init__(self, folder: Path, command: Path) -> None:
        self.folder, self._command = folder, command
        self.process: subprocess.Popen[str] | None = None
        self.begun_s = 0.0

    def start(self, **environment: str) -> HostJob:
        self.begun_s = time.monotonic()
        self.process = subprocess.Popen(
            [str(self._command), "job", str(self.folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        return self

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """What `progress` says so far, whole lines only."""
        try:
            text = (self.folder / "progress").read_text()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if event is None or line["event"] == event]

    def until(self, event: str, wait_s: float = 30.0, **fields: Any) -> dict[str, Any]:
        """Wait for a line of this kind with these fields."""
        by = time.monotonic() + wait_s
        while time.monotonic() < by:
            for line in self.lines(event):
                if all(line.get(name) == value for name, value in fields.items()):
                    return line
            if (
                self.process is not None
                and self.process.poll() is not None
                and (self.folder / "done").exists()
            ):
                break
            time.sleep(0.005)
        raise AssertionError(f"no {event} {fields}; so far {self.lines()}, done {self.done()}")

    def done(self) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / "done").read_text())
            return found
        return None

    def wait(self, wait_s: float = 60.0) -> dict[str, Any]:
        """Wait for the process; gives what `done` says."""
        assert self.process is not None
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            beat_s = time.time() - (self.folder / "heartbeat").stat().st_mtime
            raise AssertionError(f"no end; last beat {beat_s:.1f} s ago; {self.lines()[-5:]}") from None
        found = self.done()
        assert found is not None, self.process.stderr and self.process.stderr.read()
        return found

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for stream in (self.process.stdout, self.process.stderr) if self.process else ():
            if stream is not None:
                stream.close()


class Jobs:
    """Makes job directories as a host does, and ends what is left of them."""

    def __init__(self, folder: Path, command: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder, self.command = folder, command
        self.made: list[HostJob] = []

    def lay(self, *, prompt: Any = None, rate: int = 48_000, **request: Any) -> HostJob:
        """A directory with its request; a `continue` of a tone with 0.5 s of new audio unless it says
        otherwise.
        """
        job = HostJob(self.folder / f"job-{secrets.token_hex(6)}", self.command)
        job.folder.mkdir(mode=0o700)
        given = {"version": 1, "host": "tests", "mode": "continue", "length": {"seconds": 0.5}, "seed": 7}
        given |= {"level": "off"} | request
        if given["mode"] == "continue" and "audio" not in request and "retake" not in request:
            write_wav(job.folder / "prompt.wav", tone(rate=rate) if prompt is None else prompt, rate)
            given["audio"] = [{"file": "prompt.wav", "role": "prompt"}]
        given = {name: value for name, value in given.items() if value is not None}
        (job.folder / ".request.json.part").write_text(json.dumps(given))
        (job.folder / ".request.json.part").rename(job.folder / "request.json")
        self.made.append(job)
        return job

    def run(self, wait_s: float = 60.0, **request: Any) -> tuple[HostJob, dict[str, Any]]:
        """Lay, start, wait."""
        job = self.lay(**request).start()
        return job, job.wait(wait_s)

    def close(self) -> None:
        for job in self.made:
            job.kill()
            shutil.rmtree(job.folder, ignore_errors=True)
