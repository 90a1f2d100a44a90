"""The disk fills up at 30 points: before a job, while it waits, while it plays, at its cancel, at a restart,
at a forget; with nothing left, or a little.

The state folder lies on a small file system of its own where we may mount one (root), and in turns on one
that the preloaded library pretends (`shim`). At every point: the daemon answers, what it refuses it refuses
as E_DISK_FULL, cancel and forget work, and when there is space again all goes on as if nothing had been.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from protocol import messages as m
from protocol.errors import SegueError
from tests.chaos import checker, shim, work
from tests.chaos.line import Line, NoAnswer
from tests.chaos.report import Report, Scale
from tests.chaos.scripted import Script
from tests.chaos.settings import known
from tests.daemon.house import House

MOMENTS = ("before", "waiting", "playing", "cancel", "restart", "forget")
LEFT_BYTES = (0, 4096, 65_536, 300_000, 1_000_000)
SIZE_MIB = 24
SETTINGS = (
    "takes.chunk_s=0.1", "takes.keep_free_mib=0", "worker.attempts=100", "worker.deaths=1000",
    "worker.backoff_s=0.02", "worker.backoff_most_s=0.02", "life.drain_s=1", "life.crash_pause_s=0",
)  # fmt: skip
ANSWER_S = 5.0


class Mounted:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        """Raises `OSError` with the reason when it cannot be had."""
        self._folder = folder
        folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0700", "segue-chaos", str(folder)]
        ended = None
        if sys.platform == "linux" and os.geteuid() == 0:
            with contextlib.suppress(OSError):
                ended = subprocess.run(command, capture_output=True, text=True)
        if ended is None or ended.returncode:
            folder.rmdir()
            raise OSError(ended.stderr.strip() if ended else "only root may mount")
        self._filler = folder / "filler"

    def fill(self, leave_bytes: int) -> None:
        self.free()
        with self._filler.open("wb") as file:
            for _ in range(50):  # the daemon writes meanwhile
                found = os.statvfs(self._folder)
                with contextlib.suppress(OSError):
                    size = found.f_bavail * found.f_frsize - leave_bytes
                    if size > 0:
                        os.posix_fallocate(file.fileno(), 0, size)
                    return
        raise OSError("the disk could not be filled")

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], capture_output=True)


class Pretended:
    """A limit that the preloaded library keeps."""

    def __init__(self, made: shim.Shim) -> None:
        self._shim = made

    def fill(self, leave_bytes: int) -> None:
        self._shim.space_bytes = leave_bytes

    def free(self) -> None:
        self._shim.space_bytes = -1

    def close(self) -> None:
        self._shim.close()


class Bench:
    """A daemon on a disk that can be filled."""

    def __init__(self, library: Path | None, seed: int, report: Report) -> None:
        """With a library the full disk is pretended, without it is mounted (`OSError` when it cannot be)."""
        self.rng, self.report = random.Random(seed), report
        self.house = House(*known(*SETTINGS))
        self.disk: Mounted | Pretended
        if library is None:
            self.disk = Mounted(self.house.state)
        else:
            made = shim.Shim(library, self.house.folder / "control", self.house.state)
            self.house.hook |= made.environment
            self.disk = Pretended(made)
        self.house.start()
        self.line = Line(self.house.runtime)

    def close(self) -> None:
        self.line.close()
        for pid in self.house.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.house.kill()
        self.disk.close()
        self.house.close()

    # ---- one point ----

    def point(self, moment: str, left_bytes: int) -> None:
        where = f"{moment}, {left_bytes} bytes left"
        script = Script(self.line, self.rng, self.report, where)
        self.line.ask(m.Ping())
        getattr(self, f"_{moment}")(script, left_bytes)
        for request in (m.Ping(), m.List(), m.Hello()):
            script.ask(request)
        self.disk.free()
        script.ask(m.Resume())
        for told in [found for found in script.told.values() if not found.forgot]:
            ended = script.follow(told)
            self.report.count(f"accepted jobs {ended} in the end")
            if ended == "failed" and isinstance(self.disk, Mounted):  # the other counts in whole blocks
                script.broken(f"job {told.job} was accepted, so its space was held, and it failed")
            if ended == "done":
                script.fetch(told)
        refused = len(script.refused)
        fresh = script.submit(self._task(""))
        if fresh is None or script.follow(fresh) != "done":
            script.broken(f"space is back, and a job cannot be made: {script.refused[refused:]}")
        script.judge()
        script.forget()
        for op, code in script.refused[:refused]:
            self.report.count(f"{op} refused as {code}")
            self.report.expect(code == "E_DISK_FULL", f"{where}: {op} was refused as {code}")
        self.report.count("points")

    def _task(self, text: str, frames: int = work.RATE) -> work.Task:
        return work.Task(self.rng.randbytes(16).hex(), frames, self.rng.randrange(2**31), f"{text} resumable")

    def _before(self, script: Script, left_bytes: int) -> None:
        self.disk.fill(left_bytes)
        told = script.submit(self._task("slow=1", 5 * work.RATE))
        self.report.count("accepted on a full disk" if told else "refused on a full disk")
        if told is None:
            script.expect_code("submit", "E_DISK_FULL")

    def _waiting(self, script: Script, left_bytes: int) -> None:
        script.ask(m.Pause())
        told = script.submit(self._task("slow=1"))
        self.disk.fill(left_bytes)
        script.ask(m.Resume())
        self._look(script, told)

    def _playing(self, script: Script, left_bytes: int) -> None:
        told = script.submit(self._task("slow=5"))
        if told is not None:
            script.follow(told, "audio")
        self.disk.fill(left_bytes)
        self._look(script, told)

    def _look(self, script: Script, told: checker.Told | None) -> None:
        """A job that was accepted before the disk was full: it goes on, or ends in words, or waits."""
        if told is None:
            return
        by = time.monotonic() + 2.0
        while time.monotonic() < by:
            try:
                info = self.line.ask(m.Status(job=told.job), ANSWER_S).info
            except (SegueError, NoAnswer) as error:
                script.broken(f"status was not answered: {error}")
                return
            if info.state in checker.FINAL:
                break
            time.sleep(0.05)
        self.report.count(f"accepted before, on the full disk {info.state}")

    def _cancel(self, script: Script, left_bytes: int) -> None:
        told = script.submit(self._task("slow=20", 5 * work.RATE))
        if told is None:
            return
        script.follow(told, "audio")
        self.disk.fill(left_bytes)
        begun = time.monotonic()
        script.cancel(told)
        state = self.line.ask(m.Status(job=told.job), ANSWER_S).info.state
        if state not in ("cancelled", "failed"):
            script.broken(f"cancelled on a full disk, the job is {state}")
        took = time.monotonic() - begun
        self.report.figures["slowest cancel s"] = round(
            max(took, self.report.figures.get("slowest cancel s", 0)), 3
        )

    def _restart(self, script: Script, left_bytes: int) -> None:
        done = script.submit(self._task(""))
        told = script.submit(self._task("slow=20"))
        if done is not None:
            script.follow(done)
        if told is not None:
            script.follow(told, "audio")
        self.disk.fill(left_bytes)
        self.house.kill()
        (self.house.folder / "stderr").unlink(missing_ok=True)
        try:
            self.house.start()
            self.report.count("starts on a full disk")
        except AssertionError as error:
            said = str(error).strip()
            self.report.count("starts refused on a full disk")
            if not said or "Traceback" in said:
                script.broken(f"the start failed without a sentence: {said[-300:]}")
            self.disk.free()
            self.house.start()

    def _forget(self, script: Script, left_bytes: int) -> None:
        done = script.submit(self._task(""))
        if done is None:
            return
        script.follow(done)
        self.disk.fill(left_bytes)
        begun = len(script.refused)
        script.ask(m.Forget(job=done.job))
        if len(script.refused) > begun:
            script.broken(f"a take cannot be forgotten on a full disk: {script.refused[begun:]}")
        else:
            done.asked_forget = done.forgot = True


def run(scale: Scale, seed: int, folder: Path) -> Report:
    """10 points in CI, 30 in a full run; each on the next of the disks that can be had."""
    report = Report("disk-full", seed)
    rng = random.Random(seed)
    sizes = {moment: rng.sample(LEFT_BYTES, len(LEFT_BYTES)) for moment in MOMENTS}
    points = [(moment, sizes[moment][turn]) for turn in range(len(LEFT_BYTES)) for moment in MOMENTS]
    chosen = list(itertools.islice(itertools.cycle(points), scale.pick(10, 30)))
    benches: list[Bench] = []
    try:
        try:
            benches.append(Bench(None, seed, report))
        except OSError as error:
            report.skipped.append(f"a file system of its own: {error}")
        try:
            benches.append(Bench(shim.build(folder), seed + 1, report))
        except shim.NoShim as error:
            report.skipped.append(str(error))
        for index, (moment, left_bytes) in enumerate(chosen if benches else []):
            benches[index % len(benches)].point(moment, left_bytes)
        report.figures["disks"] = ", ".join(type(bench.disk).__name__.lower() for bench in benches)
    finally:
        for bench in benches:
            bench.close()
    return report
