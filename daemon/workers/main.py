"""The worker process: ``python -m daemon.workers.main --model NAME --device DEVICE``, spoken to over stdin
and stdout.

Threading model: one thread for everything but finished files, which `finishing` writes. Between two steps it
reads what the front-end wants, never waiting while there is work. The end of stdin means that the front-end
is gone, and ends the process.

Test hook: with SEGUE_TEST_ENGINE=module:function the player comes from that function(model, device) instead
of genmodel. It exists for the tests of the daemon; nothing else sets it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import importlib
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.workers.finishing import Finisher
from daemon.workers.footprint import Footprint
from daemon.workers.interface import Failure, Player, PlayerError
from daemon.workers.link import Decoder, encode
from daemon.workers.past import ResumeRefused
from daemon.workers.rendering import Rendering, Stopped
from protocol.errors import SegueError

PROGRESS_INTERVAL_S = 0.1
_READ_BYTES = 1 << 16
# what is said of a disk, not of a file that is missing: of these the spool is the cause
_OF_THE_DISK = (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ParentGone(Exception):
    """The front-end closed the link."""


class Link:
    """The worker's end: the real stdin and stdout, moved out of reach of prints."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what a library prints goes to the log, not into the protocol
        sys.stdout = sys.stderr
        self._decoder = Decoder()
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def wake(self) -> None:
        """End a wait in `receive`; may be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it will wake up anyhow
            os.write(self._waker, b".")

    def send(self, message: dict[str, Any]) -> None:
        view = memoryview(encode(message))
        try:
            while view.nbytes:
                view = view[os.write(self._out, view) :]
        except BrokenPipeError:
            raise ParentGone from None

    def receive(self, wait_s: float | None) -> list[dict[str, Any]]:
        """Messages that are there; waits up to `wait_s` (None: for ever) for the first bytes."""
        ready = select.select([self._in, self._woken], [], [], wait_s)[0]
        if self._woken in ready:
            os.read(self._woken, _READ_BYTES)
        if self._in not in ready:
            return []
        data = os.read(self._in, _READ_BYTES)
        if not data:
            raise ParentGone
        return self._decoder.feed(data)


class Worker:
    """One player and the jobs aboard it."""

    def __init__(self, link: Link, player: Player, footprint: Footprint) -> None:
        self._link, self._player, self._footprint = link, player, footprint
        self._jobs: dict[int, Rendering] = {}
        self._finisher = Finisher(link.wake)
        self._paused = False
        self._ended = False
        self._reported = 0.0
        self._steps, self._step_time_s = 0, 0.0

    def run(self) -> None:
        """Serve until told to end; takes that are being written are finished first."""
        while not self._ended:
            for message in self._link.receive(self._patience_s()):
                self._obey(message)
            if self._player.busy and not self._paused and not self._ended:
                self._step()
            self._hand_over()
            busy = self._player.busy and not self._paused
            if (busy or self._finisher.aboard) and self._due():
                self._report()
        while self._finisher.aboard:
            for message in self._link.receive(PROGRESS_INTERVAL_S):
                self._obey(message)
            self._hand_over()

    def _patience_s(self) -> float | None:
        if self._player.busy and not self._paused:
            return 0.0
        return PROGRESS_INTERVAL_S if self._finisher.aboard else None

    def _due(self) -> bool:
        return time.monotonic() - self._reported >= PROGRESS_INTERVAL_S

    def _obey(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "start":
            self._start(message)
        elif op == "drop":
            self._drop(message["job"], message["attempt"])
        elif op in ("pause", "resume"):
            self._paused = op == "pause"
        elif op == "end":
            self._ended = True

    def _drop(self, job: int, attempt: int) -> None:
        if self._finisher.drop(job, attempt):
            return  # said when its files are gone
        rendering = self._jobs.get(job)
        if rendering is not None and rendering.attempt == attempt:
            self._release(rendering)
        self._link.send({"op": "dropped", "job": job, "attempt": attempt})

    def _start(self, message: dict[str, Any]) -> None:
        rendering = None
        try:
            rendering = Rendering(message, self._player.facts, self._player.identity)
            rendering.remarks = self._player.remarks(rendering.order)
            rendering.ticket = self._player.add(rendering.order, rendering.recalled)
        except Exception as error:
            if rendering is not None:
                rendering.close()
            self._fail(message["job"], message["attempt"], error)
            return
        self._jobs[rendering.job] = rendering
        self._report()

    def _step(self) -> None:
        begun = time.monotonic()
        try:
            pieces = self._player.step()
        except Exception as error:  # nobody knows what state the model is in: say why, and end
            self._link.send({"op": "broken", "error": error_map(error)})
            self._ended = True
            return
        self._steps += 1
        self._step_time_s += time.monotonic() - begun
        by_ticket = {rendering.ticket: rendering for rendering in self._jobs.values()}
        announced: dict[int, list[dict[str, Any]]] = {}
        for piece in pieces:
            rendering = by_ticket.get(piece.ticket)
            if rendering is None or rendering.job not in self._jobs:
                continue  # dropped, or failed by an earlier piece of this very step
            if isinstance(piece, Failure):
                self._release(rendering)
                self._fail(rendering.job, rendering.attempt, piece.error)
                continue
            try:
                rendering.note(self._player.made(rendering.ticket))
                placed = rendering.take(piece)
            except Exception as error:
                self._release(rendering)
                self._fail(rendering.job, rendering.attempt, error)
                continue
            announced.setdefault(rendering.job, []).extend(map(rendering.announcement, placed))
        for job, chunks in announced.items():
            if chunks and job in self._jobs:
                self._announce(self._jobs[job], chunks)
        for rendering in [found for found in self._jobs.values() if found.complete]:
            self._finish(rendering)

    def _announce(self, rendering: Rendering, chunks: list[dict[str, Any]]) -> None:
        """On the disk first, then said."""
        try:
            rendering.sync()
        except OSError as error:
            self._release(rendering)
            self._fail(rendering.job, rendering.attempt, error)
            return
        progress = self._player.progress(rendering.ticket)
        message = {"op": "audio", "job": rendering.job, "attempt": rendering.attempt, "chunks": chunks}
        self._link.send(message | {"reached": [progress.step, progress.steps, rendering.samples_made]})

    def _finish(self, rendering: Rendering) -> None:
        self._finisher.begin(rendering, self._player.progress(rendering.ticket))
        self._player.drop(rendering.ticket)
        del self._jobs[rendering.job]
        self._report()

    def _hand_over(self) -> None:
        """Say what has been written, or why it could not be."""
        for entry in self._finisher.ended():
            where = {"job": entry.rendering.job, "attempt": entry.rendering.attempt}
            if isinstance(entry.result, dict):
                self._link.send({"op": "done", **where, "manifest": entry.result})
            elif isinstance(entry.result, Exception) and not isinstance(entry.result, Stopped):
                self._fail(entry.rendering.job, entry.rendering.attempt, entry.result)
            if entry.dropped:
                self._link.send({"op": "dropped", **where})

    def _release(self, rendering: Rendering) -> None:
        self._player.drop(rendering.ticket)
        self._jobs.pop(rendering.job, None)
        rendering.close()

    def _fail(self, job: int, attempt: int, error: Exception) -> None:
        if isinstance(error, ResumeRefused):
            self._link.send({"op": "resume_refused", "job": job, "attempt": attempt, "why": str(error)})
            return
        self._link.send({"op": "failed", "job": job, "attempt": attempt, "error": error_map(error)})

    def _report(self) -> None:
        self._reported = time.monotonic()
        entries = []
        at = [(found, self._player.progress(found.ticket)) for found in self._jobs.values()]
        at += [
            (found.rendering, replace(found.progress, state="finishing")) for found in self._finisher.aboard
        ]
        for rendering, progress in at:
            entries.append(
                {
                    "job": rendering.job,
                    "attempt": rendering.attempt,
                    "state": progress.state,
                    "step": progress.step,
                    "steps": progress.steps,
                    "samples": rendering.samples_made,
                }
            )
        step_ms = 1000 * self._step_time_s / self._steps if self._steps else 0.0
        held = {"bytes": self._footprint.now_bytes, "peak_bytes": self._footprint.peak_bytes}
        message = {"op": "progress", "jobs": entries, "steps": self._steps, "step_ms": step_ms}
        self._link.send(message | held)


def error_map(error: Exception) -> dict[str, Any]:
    """Any exception as an error of the wire; what nobody foresaw becomes E_INTERNAL with its trace in the
    log.
    """
    if isinstance(error, PlayerError):
        return SegueError.from_map({"retry": None, **error.error}).to_map()
    if isinstance(error, SegueError):
        return error.to_map()
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return disk.storage_error(error).to_map()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return SegueError(
            "E_MEMORY", "There is not enough memory for this job: fewer variations need less."
        ).to_map()
    traceback.print_exception(error)
    return SegueError("E_INTERNAL", f"The worker met a fault: {error}", detail=type(error).__name__).to_map()


def make_player(model: str, device: str, precision: str, slots: int, capture: str = "auto") -> Player:
    """The player for this process; raises `PlayerError` when the model cannot be had."""
    hook = os.environ.get("SEGUE_TEST_ENGINE")
    if hook:
        module, _, function = hook.partition(":")
        return getattr(importlib.import_module(module), function)(model, device)
    from daemon.workers.genmodel_player import load

    return load(model, device=device, precision=precision, slots=slots, capture=capture)


def _die_with_parent(parent: int) -> None:
    """On Linux the kernel ends this process with its parent; elsewhere the closed link
    does, between steps.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def _be_modest(nice: int) -> None:
    """What plays audio on this machine comes first; when memory runs out it is taken from us."""
    if nice:
        with contextlib.suppress(OSError):
            os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def main() -> int:
    parser = argparse.ArgumentParser(prog="segue-worker")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--capture", default="auto")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--parent", type=int, default=os.getppid())
    given = parser.parse_args()
    _die_with_parent(given.parent)
    _be_modest(given.nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the front-end's business
    link = Link()
    try:
        link.send({"op": "ready", "pid": os.getpid()})
        begun, footprint = time.monotonic(), Footprint()
        try:
            player = make_player(given.model, given.device, given.precision, given.slots, given.capture)
        except Exception as error:
            link.send({"op": "load_failed", "error": error_map(error)})
            return 1
        facts = player.facts
        described = {
            name: getattr(facts, name)
            for name in ("name", "rate", "channels", "device", "precision", "sha256", "licence")
        }
        described |= {"stems": list(facts.stems), "conditions": list(facts.conditions)}
        footprint.settle(facts.device)
        held = {"bytes": footprint.now_bytes, "peak_bytes": footprint.peak_bytes}
        load_s = time.monotonic() - begun
        link.send({"op": "loaded", "model": described, "load_s": load_s, **held})
        Worker(link, player, footprint).run()
    except ParentGone:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
