"""A real Ardour for a test: its own home, its own display, a session made for it, always ended."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DISPLAY = ":71"
_CONFIG = """<?xml version="1.0" encoding="UTF-8"?>
<Ardour>
  <Config>
    <Option name="try-autostart-engine" value="1"/>
    <Option name="hide-dummy-backend" value="0"/>
    <Option name="auto-analyse-audio" value="0"/>
  </Config>
  <Extra><AudioMIDISetup><EngineStates>
    <State backend="None (Dummy)" driver="Normal Speed" device="Silence" input-device="" output-device=""
      sample-rate="{rate}" buffer-size="1024" n-periods="0" input-latency="0" output-latency="0" lm-input=""
      lm-output="" active="1" use-buffered-io="0" midi-option="No MIDI I/O" lru="2147483647">
      <MIDIDevices/></State>
  </EngineStates></AudioMIDISetup></Extra>
  <ControlProtocols><Protocol name="Open Sound Control (OSC)" active="1"/></ControlProtocols>
</Ardour>
"""
# Runs a file of Lua that a test wrote, and tells what it gave back.
_DRIVER = """
local function drive ()
	local f, why = loadfile ([[%(folder)s/in.lua]])
	local ok, found = pcall (f or function () error (why) end)
	local out = io.open ([[%(folder)s/out.new]], "wb")
	out:write (ok and "ok\\n" or "failed\\n", tostring (found))
	out:close ()
	os.rename ([[%(folder)s/out.new]], [[%(folder)s/out]])
end
drive ()
"""
# What the user does in Ardour's Script Manager, as Ardour keeps it: base64 of Lua, in slots and hooks.
_LOAD = "ardour = function () end assert(loadfile([==[{path}]==]))() return factory({{}})"
_TIMER = 47  # LuaTimerDS among the 49 signals of Ardour 7.3


def missing() -> str:
    """Why the tests of the editor cannot run here; empty if they can."""
    for program in ("ardour", "ardour7-lua", "Xvfb"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


def _quoted(text: str) -> str:
    return f"[====[{text}]====]"


def _ui_scripts(actions: list[str], hooks: list[Path]) -> str:
    state = "scripts = {} "
    for i, code in enumerate(actions, 1):
        state += f"scripts[{i}] = {{}} scripts[{i}]['n'] = 'slot{i}' scripts[{i}]['s'] = '' "
        state += f"scripts[{i}]['f'] = {_quoted(code)} "
    found = ""
    bits = "".join("1" if 48 - i == _TIMER else "0" for i in range(49))
    for i, path in enumerate(hooks):
        code = f"s = {{}} s['n'] = 'hook{i}' s['s'] = '' s['f'] = {_quoted(_LOAD.format(path=path))} "
        text = base64.b64encode(code.encode()).decode()
        found += (
            f'<LuaCallback lua="Lua 5.3" id="4242{i}" name="hook{i}" signals="{bits}">{text}</LuaCallback>'
        )
    text = base64.b64encode(state.encode()).decode()
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<UIScripts>\n'
        f'  <ActionScript lua="Lua 5.3">{text}</ActionScript>\n'
        f"  <ActionHooks>{found}</ActionHooks>\n</UIScripts>\n"
    )


def osc(path: str, *words: str | float) -> bytes:
    """One OSC message."""

    def padded(data: bytes) -> bytes:
        return data + b"\0" * (4 - len(data) % 4)

    import struct

    types = "," + "".join("s" if isinstance(w, str) else "f" for w in words)
    body = b"".join(padded(w.encode()) if isinstance(w, str) else struct.pack(">f", w) for w in words)
    return padded(path.encode()) + padded(types.encode()) + body


class Ardour:
    """The editor under Xvfb with Segue's scripts in its action slots, in the order of `actions`."""

    def __init__(
        self,
        scripts: Path,
        actions: list[str],
        hook: str | None,
        environment: Mapping[str, str],
        command: Path,
        rate: int = 48_000,
        display: str = DISPLAY,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segue-ardour-", dir="/tmp"))
        self.home, self.session = self.folder / "home", self.folder / "my song"
        self.rate, self.display = rate, display
        self.slots = {name: i for i, name in enumerate(actions, 1)}
        self.slots["driver"] = len(actions) + 1
        config = self.home / ".config" / "ardour7"
        self.scripts = config / "scripts"
        shutil.copytree(scripts, self.scripts)
        (self.scripts / "segue-command.txt").write_text(f"{command}\n")
        (config / ".a7").touch()
        (config / "config").write_text(_CONFIG.format(rate=rate))
        drive = self.folder / "driver.lua"
        drive.write_text(_DRIVER % {"folder": self.folder})
        code = ["return function () " + _LOAD.format(path=self.scripts / name) + "() end" for name in actions]
        code.append(f"return function () assert(loadfile([==[{drive}]==]))() end")
        watch = self.folder / "watch.lua"
        watch.write_text(_WATCH % {"folder": self.folder})
        hooks = [watch] + ([self.scripts / hook] if hook else [])
        (config / "ui_scripts").write_text(_ui_scripts(code, hooks))
        self.environment = dict(environment, HOME=str(self.home), DISPLAY=display)
        self.environment["XDG_CONFIG_HOME"] = str(self.home / ".config")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.groups: list[int] = []
        self.port = 0

    def make_session(self, *more: str) -> None:
        """Without a window; then the file is told to switch OSC on, which a new session has off."""
        done = subprocess.run(
            ["ardour7-lua", str(HERE / "ardour_session.lua"), str(self.session), "song", str(self.rate)]
            + list(more),
            env=self.environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        path = self.session / "song.ardour"
        if done.returncode or not path.exists():
            raise AssertionError(done.stdout.decode() + done.stderr.decode())
        text = path.read_text()
        path.write_text(
            text.replace('Open Sound Control (OSC)" active="0"', 'Open Sound Control (OSC)" active="1"')
        )

    def start(self, wait_s: float = 60.0) -> None:
        xvfb = ["Xvfb", self.display, "-screen", "0", "1440x900x24", "-nolisten", "tcp"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(subprocess.Popen(xvfb, **quiet))  # type: ignore[call-overload]
        socket_path = Path("/tmp/.X11-unix") / f"X{self.display[1:]}"
        _until(socket_path.exists, 10, "Xvfb")
        self.launch(wait_s)

    def launch(self, wait_s: float = 60.0) -> None:
        for unsaved in self.session.glob("*.pending"):
            unsaved.unlink()  # nobody is there to say whether it shall be recovered
        with (self.folder / "log").open("ab") as log:
            self.editor = subprocess.Popen(
                ["ardour", "--no-announcements", "--no-splash", str(self.session / "song.ardour")],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        self.processes.append(self.editor)
        self.groups.append(self.editor.pid)
        self.port = 0  # another one, if a job that goes on still holds what it inherited
        _until(lambda: self._find_port() or self.editor.poll() is not None, wait_s, "Ardour's OSC")
        if self.editor.poll() is not None:
            raise AssertionError((self.folder / "log").read_text()[-4000:])
        ticks = self.folder / "watch"
        ticks.unlink(missing_ok=True)
        _until(ticks.exists, wait_s, "Ardour's first hook")

    def _find_port(self) -> int:
        """The UDP port that this very process listens on: others may run one too."""
        inodes = set()
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{self.editor.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(link)
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
        for table in ("/proc/net/udp", "/proc/net/udp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[9] in inodes:
                    self.port = int(words[1].rpartition(":")[2], 16)
        return self.port

    def send(self, path: str, *words: str | float) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(osc(path, *words), ("127.0.0.1", self.port))

    def act(self, name: str) -> None:
        """As if its key were pressed."""
        self.send("/access_action", f"LuaAction/script-{self.slots[name]}")

    def lua(self, code: str, wait_s: float = 20.0) -> str:
        """Run Lua in the editor and get what it returns, as text."""
        out = self.folder / "out"
        out.unlink(missing_ok=True)
        (self.folder / "in.lua").write_text(code)
        self.act("driver")
        _until(lambda: out.exists() or self.editor.poll() is not None, wait_s, "the driver in Ardour")
        if self.editor.poll() is not None:
            raise AssertionError("Ardour ended: " + (self.folder / "log").read_text()[-4000:])
        state, _, text = out.read_text().partition("\n")
        if state != "ok":
            raise AssertionError(text)
        return text

    def json(self, code: str) -> Any:
        """Run Lua that returns JSON text."""
        return json.loads(self.lua(code))

    def longest_gap_s(self) -> float:
        """The longest time between two of the editor's 0.1 s ticks since the last call, and start afresh."""
        path = self.folder / "watch"
        text = path.read_text().split()
        (self.folder / "watch.reset").touch()
        _until(lambda: not (self.folder / "watch.reset").exists(), 5, "the editor's ticks")
        return float(text[0])

    def screenshot(self, path: Path) -> None:
        """The editor's window, small enough for a page."""
        subprocess.run(
            ["import", "-display", self.display, "-window", "root", "-crop", "1350x520+0+0", "+repage",
             "+dither", "-colors", "64", f"png8:{path}"],
            check=True, timeout=30,
        )  # fmt: skip

    def quit(self) -> None:
        """End the editor and nothing that it has started."""
        self.editor.terminate()
        try:
            self.editor.wait(5)
        except subprocess.TimeoutExpired:
            self.editor.kill()
            self.editor.wait(5)

    def close(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(5)
        shutil.rmtree(self.folder, ignore_errors=True)


# A second hook, which only looks at the clock: how long the editor's thread was away between two ticks.
_WATCH = """
function factory ()
	local last, most, n = nil, 0, 0
	return function ()
		local now = ARDOUR.LuaAPI.monotonic_time ()
		if last then most = math.max (most, (now - last) / 1e6) end
		last, n = now, n + 1
		local f = io.open ([[%(folder)s/watch.reset]])
		if f then f:close (); os.remove ([[%(folder)s/watch.reset]]); most = 0 end
		local out = io.open ([[%(folder)s/watch.new]], "w")
		if not out then return end
		out:write (string.format ("%%.6f %%d", most, n))
		out:close ()
		os.rename ([[%(folder)s/watch.new]], [[%(folder)s/watch]])
	end
end
"""


def _until(done: Any, wait_s: float, what: str) -> None:
    by = time.monotonic() + wait_s
    while not done():
        if time.monotonic() > by:
            raise AssertionError(f"{what} did not come within {wait_s} s")
        time.sleep(0.02)
