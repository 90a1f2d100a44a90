"""``segue service``: hand the daemon to the system's own service manager, take it back, or look.

systemd (as the user, never as root's service) on Linux, launchd on macOS. The daemon then starts at login
and again after a crash or a hang.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bridge_clients.cli import units
from bridge_clients.cli.children import python_command
from bridge_clients.cli.exits import DONE, UNREACHABLE
from bridge_clients.cli.showing import json_line, say
from bridge_clients.supervised import AGENT_LABEL, UNIT_NAME, agent_path, unit_path
from protocol.build import code_root
from protocol.errors import SegueError

_PATIENCE_S = 30.0
_PATHS = ("SEGUE_RUNTIME", "SEGUE_STATE", "SEGUE_MODELS", "SEGUE_CONFIG")
# what depends on the terminal that installs it, and so tells nothing about being up to date
_OF_THE_TERMINAL = re.compile(
    r'(?m)^(?:Environment="SEGUE_|RuntimeDirectory).*\n'
    r"|<key>EnvironmentVariables</key>\s*<dict(?:/>|>[^\0]*?</dict>)"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """One service manager: its name, the file it reads, what the file should hold."""

    manager: str
    path: Path
    text: str

    @property
    def installed(self) -> bool:
        return self.path.is_file()

    @property
    def current(self) -> bool:
        """Whether the file is what this Segue would write now."""
        try:
            there = self.path.read_text("utf-8")
        except (OSError, ValueError):
            return False
        return _OF_THE_TERMINAL.sub("", there) == _OF_THE_TERMINAL.sub("", self.text)


def place(platform: str = sys.platform) -> Place:
    """Where and what, for the system this runs on. Raises E_ARGUMENT where there is no such thing."""
    start = _start()
    if platform.startswith("linux"):
        return Place("systemd", unit_path(), units.systemd_unit(start))
    if platform == "darwin":
        log = Path.home() / "Library" / "Logs" / "segue" / "segued.err"
        return Place("launchd", agent_path(), units.launchd_agent(start, log))
    raise SegueError(
        "E_ARGUMENT",
        f"Only systemd and launchd can start Segue; this is {platform}. segue serve starts it by hand.",
    )


def _start() -> units.Start:
    """The daemon's own module in this Python, and the Segue settings that are in this shell now."""
    command, _ = python_command(["-m", "daemon", "serve", "--foreground"])
    keep = {
        name: str(Path(value).expanduser().absolute()) if name in _PATHS else value
        for name, value in os.environ.items()
        if name.startswith("SEGUE_") and value
    }
    root = code_root()
    if root.name not in ("site-packages", "dist-packages"):  # a checkout
        keep["PYTHONPATH"] = str(root)
    return units.Start(command, keep)


def run(args: Any) -> int:
    """Install, remove or look."""
    found = place()
    if args.print:
        sys.stdout.write(found.text)
        return DONE
    action = {"install": _install, "remove": _remove, "status": _status}[args.action]
    return action(found, args)


# ---- install ----


def _install(found: Place, args: Any) -> int:
    renewed = found.installed
    same = renewed and found.path.read_bytes() == found.text.encode()
    if not same:
        _write(found)
    said = [f"{found.path} is {'as it should be' if same else 'renewed' if renewed else 'written'}."]
    said += [
        f"The service gets {name}={value} from this terminal."
        for name, value in _start().environment.items()
        if name != "PYTHONPATH"
    ]
    problem = _no_manager(found)
    started = False
    if problem is not None:
        said.append(f"{problem} Nothing was started; segue serve starts the daemon by hand.")
    else:
        busy = _make_way()
        if busy:
            said.append(busy)
        started = not busy
        said += _enable(found, start=started)
    return _tell(
        args, {"event": "service", "did": "install", "path": str(found.path), "started": started}, said
    )


def _write(found: Place) -> None:
    part = found.path.with_name(f".{found.path.name}.part")
    try:
        found.path.parent.mkdir(parents=True, exist_ok=True)
        if found.manager == "launchd":
            (Path.home() / "Library" / "Logs" / "segue").mkdir(mode=0o700, parents=True, exist_ok=True)
        part.write_text(found.text, "utf-8")
        os.replace(part, found.path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise SegueError(
            "E_ARGUMENT",
            f"{found.path} cannot be written ({error.strerror}); make {found.path.parent} yours.",
            field="path",
            value=str(found.path),
        ) from None


def _make_way() -> str:
    """Stop a daemon that runs beside the service manager, if it has nothing to do. A sentence if it stays."""
    from bridge_clients.cli.connect import connect
    from bridge_clients.cli.service import stop_daemon

    try:
        with connect(autostart=False) as client:
            ping, pid, supervised = client.ping(), client.hello.pid, client.hello.supervisor
    except SegueError:
        return ""
    if supervised:
        return ""
    if ping.running or ping.queued:
        return (
            f"A daemon that was started by hand (process {pid}) is at work and goes on."
            " The service takes over with the next login, or now: segue stop && segue service install."
        )
    stop_daemon(finish="none")
    return ""


def _enable(found: Place, *, start: bool) -> list[str]:
    if found.manager == "launchd":
        _call(["launchctl", "bootout", _target()])  # an older one, if there is any
        done, answer = _call(["launchctl", "bootstrap", f"gui/{os.getuid()}", str(found.path)])
        return ["Segue runs now, and with every login." if done else f"launchctl said: {answer}"]
    for words in (["daemon-reload"], ["enable", UNIT_NAME]):
        done, answer = _call(["systemctl", "--user", *words])
        if not done:
            return [f"systemctl --user {' '.join(words)} said: {answer}"]
    if not start:
        return ["Segue starts with every login."]
    done, answer = _call(["systemctl", "--user", "restart", UNIT_NAME])
    if not done:
        return [f"systemctl --user restart {UNIT_NAME} said: {answer}"]
    return ["Segue runs now, and with every login. segue service remove undoes this."]


# ---- remove ----


def _remove(found: Place, args: Any) -> int:
    said: list[str] = []
    problem = _no_manager(found)
    there = found.installed
    if problem is None and found.manager == "systemd":
        done, answer = _call(["systemctl", "--user", "disable", "--now", UNIT_NAME])
        if done:
            said.append("The service is stopped and no longer starts with a login.")
        elif there:
            said.append(f"systemctl --user disable said: {answer}")
    elif problem is None:
        done, _ = _call(["launchctl", "bootout", _target()])
        said += ["The service is stopped and no longer starts with a login."] if done else []
    elif there:
        said.append(f"{problem} A daemon that runs goes on; segue stop ends it.")
    if there:
        try:
            found.path.unlink()
        except OSError as error:
            raise SegueError(
                "E_ARGUMENT", f"{found.path} cannot be removed ({error.strerror}).", value=str(found.path)
            ) from None
        said.append(f"{found.path} is removed. Takes, settings and models are untouched.")
        if problem is None and found.manager == "systemd":
            _call(["systemctl", "--user", "daemon-reload"])
    elif not said:
        said.append(f"There was nothing to remove: {found.path} does not exist.")
    return _tell(args, {"event": "service", "did": "remove", "path": str(found.path), "removed": there}, said)


# ---- status ----


def state(found: Place, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
    """What is installed and what the manager says of it; for ``status`` and for the doctor. `patience_s` is
    for each question to the manager.
    """
    problem = _no_manager(found, patience_s)
    told: dict[str, Any] = {
        "manager": found.manager,
        "path": str(found.path),
        "installed": found.installed,
        "current": found.current,
        "problem": problem,
    }
    if problem is None and found.manager == "systemd":
        names = "LoadState,ActiveState,SubState,MainPID,NRestarts,UnitFileState,Result"
        done, words = _call(["systemctl", "--user", "show", UNIT_NAME, f"--property={names}"], patience_s)
        shown = dict(line.split("=", 1) for line in words.splitlines() if "=" in line) if done else {}
        told |= {
            "active": shown.get("ActiveState"),
            "pid": int(shown.get("MainPID") or 0) or None,
            "restarts": int(shown.get("NRestarts") or 0),
            "enabled": shown.get("UnitFileState") == "enabled",
            "result": shown.get("Result"),
        }
    elif problem is None:
        done, words = _call(["launchctl", "print", _target()], patience_s)
        told |= {"active": "active" if done and "state = running" in words else "inactive", "enabled": done}
    return told


def _status(found: Place, args: Any) -> int:
    told = state(found)
    if not told["installed"]:
        said = [f"Segue is no service: {found.path} does not exist. segue service install makes it one."]
    else:
        said = [f"installed  {found.path}"]
        if not told["current"]:
            said.append("           it is not what this Segue would write: segue service install renews it")
    if told["problem"]:
        said.append(str(told["problem"]))
    elif told["installed"]:
        said.append(f"at login   {'yes' if told['enabled'] else 'no'}")
        pid = f", process {told['pid']}" if told.get("pid") else ""
        again = f", started again {told['restarts']} times" if told.get("restarts") else ""
        said.append(f"now        {told['active']}{pid}{again}")
        if told.get("result") not in (None, "", "success"):
            said.append(f"           the last end: {told['result']}; journalctl --user -u segue tells why")
    status = (
        DONE if told["installed"] and told.get("active") in (None, "active", "activating") else UNREACHABLE
    )
    _tell(args, {"event": "service", **told}, said)
    return status


# ---- calling ----


def _no_manager(found: Place, patience_s: float = _PATIENCE_S) -> str | None:
    """A sentence when the service manager cannot be reached from here."""
    if found.manager == "launchd":
        return None if shutil.which("launchctl") else "launchctl is not to be found."
    if shutil.which("systemctl") is None:
        return "systemd does not run here."
    done, _ = _call(["systemctl", "--user", "show", "--property=Version"], patience_s)
    if done:
        return None
    if os.path.isdir("/run/systemd/system"):
        return "systemd has no session for this user here (over ssh or su: log in once at the screen)."
    return "systemd does not run here."


def _target() -> str:
    return f"gui/{os.getuid()}/{AGENT_LABEL}"


def _call(command: list[str], patience_s: float = _PATIENCE_S) -> tuple[bool, str]:
    """Whether it went well, and what it said."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {patience_s:.0f} s"
    except OSError as error:
        return False, str(error.strerror)
    return done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip()


def _tell(args: Any, told: dict[str, Any], said: list[str]) -> int:
    if args.json:
        json_line({**told, "said": said})
    else:
        for sentence in said:
            say(sentence)
    return DONE
