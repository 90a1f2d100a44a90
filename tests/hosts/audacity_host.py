"""A real Audacity under Xvfb for the tests: its own home and configuration, ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from bridge_clients.audacity import host, installing
from bridge_clients.audacity.pipe import Pipe
from bridge_clients.audacity.pipe_ends import posix_paths
from bridge_clients.installing import Setting
from protocol.errors import SegueError

DISPLAY = ":72"
START_S = 30.0


def missing() -> str:
    """Why no Audacity can run here, or nothing."""
    for program in ("audacity", "Xvfb"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if installing.module_file(Path("/")) is None:
        return "this Audacity was built without mod-script-pipe"
    return ""


class Audacity:
    """One Audacity and its screen."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segue-a-"))
        self.home = self.folder / "home"
        (self.home / "tmp").mkdir(parents=True)
        self.screen: subprocess.Popen[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        home = str(self.home)
        return {
            **os.environ,
            "HOME": home,
            "DISPLAY": DISPLAY,
            "XDG_CONFIG_HOME": f"{home}/.config",
            "XDG_DATA_HOME": f"{home}/.local/share",
            "XDG_CACHE_HOME": f"{home}/.cache",
        }

    def configure(self) -> None:
        """A configuration that asks nothing at the start, with the pipe switched on as the installer does."""
        path = self.home / ".config/audacity/audacity.cfg"
        path.parent.mkdir(parents=True)
        sections: dict[str, list[str]] = {
            "Version": ["Major=3", "Minor=2", "Micro=4"],
            "GUI": ["ShowSplashScreen=0"],
            "Update": ["DefaultUpdatesChecking=0", "UpdateNoticeShown=1"],
            "Directories": [f"TempDir={self.home}/tmp"],
        }
        for setting in installing.files("linux", self.home, {}):
            assert isinstance(setting, Setting) and setting.target == path, setting
            sections.setdefault(setting.section, []).append(f"{setting.key}={setting.value}")
        text = "NewPrefsInitialized=1\n"
        for name, lines in sections.items():
            text += f"[{name}]\n" + "".join(f"{line}\n" for line in lines)
        path.write_text(text)

    def start(self) -> Audacity:
        """Running and answering. The first start may leave a pipe that nobody reads: then once more."""
        if not self.home.joinpath(".config").exists():
            self.configure()
        if self.screen is None:
            self.screen = subprocess.Popen(
                ["Xvfb", DISPLAY, "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            by = time.monotonic() + 10
            while not Path(f"/tmp/.X11-unix/X{DISPLAY[1:]}").exists() and time.monotonic() < by:
                time.sleep(0.02)
        for attempt in (1, 2):
            for path in posix_paths():
                path.unlink(missing_ok=True)
            self.process = subprocess.Popen(
                ["audacity"], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                with Pipe(connect_s=START_S / 2, answer_s=START_S):
                    return self
            except SegueError:
                self.kill()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def kill(self) -> None:
        """As a crash would end it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def close(self) -> None:
        self.kill()
        if self.screen is not None:
            self.screen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.screen.wait(5)
            self.screen.kill()
        for path in posix_paths():
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what tests do in it ----

    def empty(self) -> None:
        """No track is left, and nothing that was done can be undone into the next test."""
        with Pipe() as pipe:
            count = len(host.tracks(pipe))
            if count:
                pipe.do(f"SelectTracks: Track=0 TrackCount={count} Mode=Set")
                pipe.do("RemoveTracks:")

    def load(self, path: Path) -> None:
        with Pipe() as pipe:
            pipe.do(f'Import2: Filename="{path}"')

    def select(self, start_s: float, end_s: float, *tracks: int) -> None:
        with Pipe() as pipe:
            host._select_tracks(pipe, tracks or [0])
            pipe.do(f"SelectTime: Start={start_s!r} End={end_s!r} RelativeTo=ProjectStart")

    def names(self) -> list[str]:
        with Pipe() as pipe:
            return [track.name for track in host.tracks(pipe)]

    def place(self) -> host.Place:
        with Pipe() as pipe:
            return host.where(pipe)

    def heard(self, track: int, start: int, end: int) -> np.ndarray:
        """float32 [frames, channels] of one track between two samples of the project."""
        with Pipe() as pipe:
            place = host.where(pipe)
            block = host.sound(pipe, place, start, end, [place.tracks[track]], "prompt")
            host.restore(pipe, place)
        assert block.format.format == "f32le", block.format
        return np.frombuffer(block.data, "<f4").reshape(-1, block.format.channels)

    def do(self, *commands: str) -> list[str]:
        with Pipe() as pipe:
            return [pipe.do(command) for command in commands]
