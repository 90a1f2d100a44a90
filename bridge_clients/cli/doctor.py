"""``segue doctor``: what could be wrong on this machine, and what to do about each thing that is.

Never waits for a daemon that hangs: what lies on the disk is looked at by a process of its own
(``python -m daemon check``), and all of it together takes at most about 3 s (``--deep`` takes its time).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge_clients.cli.children import python_command
from bridge_clients.cli.showing import json_line, say
from bridge_clients.installing import BAD, NOTE, OK, Finding

FINE, WRONG = 0, 1
_NEEDED = (
    "torch",
    "numpy",
    "omegaconf",
    "safetensors",
    "soundfile",
    "soxr",
    "zmq",
    "msgpack",
    "platformdirs",
    "rich",
    "matplotlib",
)
_ZMQ = (4, 3, 5)
_LOW_DISK_BYTES = 2_000_000_000
_BUDGET_S, _DEEP_S, _HELLO_S, _MANAGER_S = 2.5, 3600.0, 1.0, 0.5
# Runs in a child process: importing torch here would cost seconds and memory whatever the answer is.
_TORCH_QUESTION = """
import os
os.nice(10)
import json, torch
cuda = torch.cuda.is_available()
mps = bool(getattr(torch.backends, "mps", None)) and torch.backends.mps.is_available()
kind = "cuda" if cuda else "mps" if mps else "cpu"
name = torch.cuda.get_device_name(0) if cuda else f"{torch.get_num_threads()} threads"
print(json.dumps({"torch": torch.__version__, "device": kind, "name": name}))
"""


class Child:
    """This Python at a question while others are asked; it is ended when its time is over."""

    def __init__(self, *words: str) -> None:
        command, environment = python_command(words)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip

    def answer(self, by_s: float) -> tuple[int | None, str, str]:
        """(status, stdout, stderr) by then (monotonic); status None when it was not ready."""
        try:
            out, err = self._process.communicate(timeout=max(0.05, by_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            return None, out, err
        return self._process.returncode, out, err


def run(args: Any) -> int:
    """Print all findings. Exit status: 0 nothing is wrong, 1 something is (marked BAD)."""
    worst = FINE
    for finding in _findings(deep=args.deep):
        worst = max(worst, WRONG if finding.level == BAD else FINE)
        if args.json:
            json_line({"event": "finding", **vars(finding), "ok": finding.level != BAD})
            continue
        mark = {OK: "ok  ", NOTE: "note", BAD: "BAD "}[finding.level]
        say(f"{mark}  {finding.what:<9} {finding.found}")
        if finding.advice:
            say(f"      {'':<9} → {finding.advice}")
    if not args.json:
        say("Nothing is wrong." if worst == FINE else "What is marked BAD needs you: see the arrows.")
    return worst


def _findings(*, deep: bool) -> Iterator[Finding]:
    by_s = time.monotonic() + (_DEEP_S if deep else _BUDGET_S)
    check = Child("-m", "daemon", "check", "--json", *(["--deep"] if deep else []))
    torch = Child("-c", _TORCH_QUESTION)
    native = Child("-m", "genmodel.engine.native")
    yield Finding(
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )
    yield _packages()
    yield _sound_library()
    yield _zmq()
    yield from _models()
    yield _service()
    yield _player()
    yield from _hosts()
    daemon = _daemon()
    found = list(_checked(*check.answer(by_s)))
    lock = next((finding for finding in found if finding.what == "lock"), None)
    if daemon.level == BAD and lock is not None and lock.level == BAD:
        daemon = Finding(daemon.what, daemon.found, daemon.level, lock.advice)
    yield daemon
    yield from found
    yield _torch(*torch.answer(by_s))
    yield _native(*native.answer(by_s))


# ---- this installation ----


def _packages() -> Finding:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        advice = "install Segue again in this environment: pip install segue-daw"
        return Finding("packages", f"missing: {', '.join(missing)}", BAD, advice)
    return Finding("packages", f"all {len(_NEEDED)} are here")


def _sound_library() -> Finding:
    try:
        import soundfile

        return Finding("audio", f"libsndfile {soundfile.__libsndfile_version__}")
    except (ImportError, OSError) as error:
        found = f"libsndfile does not load ({error})"
        return Finding("audio", found, BAD, "pip install --force-reinstall soundfile")


def _zmq() -> Finding:
    try:
        import zmq
    except (ImportError, OSError) as error:
        return Finding("zeromq", f"pyzmq does not load ({error})", BAD, "pip install --force-reinstall pyzmq")
    found = f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"
    advice = "pip install --force-reinstall pyzmq: its wheel has what is needed"
    if zmq.zmq_version_info() < _ZMQ:
        return Finding("zeromq", f"{found}, which has known holes (4.3.5 is needed)", BAD, advice)
    lacks = [name for name in ("ipc", "curve") if not zmq.has(name)]
    if lacks:
        return Finding("zeromq", f"{found}, built without {' and '.join(lacks)}", BAD, advice)
    return Finding("zeromq", f"{found}, with ipc and curve")


def _torch(status: int | None, out: str, err: str) -> Finding:
    if status is None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = f"{version('torch')} is installed, but was not loaded within {_BUDGET_S:g} s"
        except PackageNotFoundError:
            found = f"was not loaded within {_BUDGET_S:g} s"
        return Finding("torch", found, NOTE, "segue doctor --deep waits for it and names the device")
    try:
        told = json.loads(out.splitlines()[-1]) if status == 0 else None
    except (ValueError, IndexError):
        told = None
    if told is None:
        last = (err.strip() or out.strip() or f"status {status}").splitlines()[-1]
        return Finding("torch", f"does not work ({last[:120]})", BAD, "install torch again: see pytorch.org")
    found = f"{told['torch']} on {told['device']} ({told['name']})"
    if told["device"] == "cpu" and Path("/proc/driver/nvidia/version").exists():
        advice = "there is an NVIDIA driver: a CUDA build of torch would use it"
        return Finding("torch", found, NOTE, advice)
    return Finding("torch", found)


def _native(status: int | None, out: str, err: str) -> Finding:
    """Which native kernels run here: the models' own answer."""
    if status is None:
        return Finding(
            "native", f"the native kernels did not answer within {_BUDGET_S:g} s", NOTE, "ask again"
        )
    try:
        told = json.loads(out)
        return Finding("native", str(told["found"]), str(told["level"]), str(told["advice"]))
    except (ValueError, KeyError, TypeError):
        last = (err.strip() or f"status {status}").splitlines()[-1]
        found = f"native kernels cannot be used ({last[:120]})"
        return Finding("native", found, NOTE, "send this with a report")


def _models() -> Iterator[Finding]:
    from importlib.util import find_spec

    import platformdirs

    spec = find_spec("genmodel")
    folders = list(spec.submodule_search_locations or []) if spec else []
    weights = [path for folder in folders for path in Path(folder, "pocket").glob("*.safetensors")]
    if weights:
        size = sum(path.stat().st_size for path in weights) / 1e6
        yield Finding("pocket", f"{len(weights)} weight files, {size:.1f} MB")
    else:
        advice = "install Segue again: pip install segue-daw"
        yield Finding("pocket", "the built-in model's weights are missing", BAD, advice)
    chosen = os.environ.get("SEGUE_MODELS")
    place = Path(chosen) if chosen else Path(platformdirs.user_data_dir("segue", appauthor=False)) / "models"
    place = place.expanduser()
    try:
        names = sorted(entry.name for entry in place.iterdir() if entry.is_dir())
    except FileNotFoundError:
        names = []
    except OSError as error:
        yield Finding("models", f"{place} cannot be read ({error.strerror})", BAD, "set SEGUE_MODELS")
        return
    found = f"{place}: {', '.join(names[:5]) or 'none pulled yet'}{', …' if len(names) > 5 else ''}"
    free = _free_bytes(place)
    if free is not None and free < _LOW_DISK_BYTES:
        advice = "models need some gigabytes: make room before you pull one"
        yield Finding("models", f"{found}, {free / 1e9:.1f} GB free", NOTE, advice)
    else:
        yield Finding("models", found)


def _free_bytes(path: Path) -> int | None:
    import shutil

    try:
        return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
    except (OSError, StopIteration):
        return None


def _player() -> Finding:
    from bridge_clients.cli.playing import PLAYERS, player

    words = player()
    if words is None:
        advice = f"segue takes play needs one of {', '.join(PLAYERS)}"
        return Finding("player", "none is installed", NOTE, advice)
    return Finding("player", words[0])


def _hosts() -> Iterator[Finding]:
    from bridge_clients.host_files import findings

    yield from findings()


# ---- the daemon ----


def _service() -> Finding:
    from bridge_clients.cli import install
    from protocol.errors import SegueError

    try:
        told = install.state(install.place(), _MANAGER_S)
    except SegueError as error:
        return Finding("service", error.message)
    if not told["installed"]:
        return Finding("service", "not installed; any job starts the daemon (segue service install)")
    found = f"{told['path']}: {told.get('active') or told['problem'] or 'unknown'}"
    if not told["current"]:
        return Finding("service", found, NOTE, "it is of another Segue: segue service install renews it")
    if told.get("active") == "failed":
        advice = "systemctl --user reset-failed segue.service, then segue service install"
        return Finding("service", f"{found} ({told.get('result')})", BAD, advice)
    return Finding("service", found)


def _daemon() -> Finding:
    from bridge_clients.cli.connect import connect
    from bridge_clients.connection import find
    from protocol.errors import SegueError

    pid = 0
    try:
        with connect(autostart=False, timeout_s=_HELLO_S) as client:
            begun = time.perf_counter()
            reply, hello, skew = client.ping(_HELLO_S), client.hello, client.skew
            took_ms = 1000 * (time.perf_counter() - begun)
    except SegueError as error:
        if error.code == "E_UNREACHABLE" and error.field is None:
            return Finding("daemon", "does not run; any job starts it")
        if error.code == "E_TIMEOUT":
            with contextlib.suppress(SegueError):
                known = find()
                pid = known.pid if known is not None else pid
            advice = f"kill -9 {pid} ends it, and nothing that was accepted is lost; any job starts a new one"
            return Finding("daemon", f"process {pid} is there, but does not answer", BAD, advice)
        advice = "do what the sentence says; any job starts a new daemon"
        return Finding("daemon", error.message, BAD, advice)
    state = "paused: segue resume goes on" if reply.paused else "ready" if reply.ready else "starting"
    found = f"process {hello.pid} is {state}, answers in {took_ms:.1f} ms"
    if reply.notice:
        return Finding("daemon", found, NOTE, reply.notice)
    return Finding("daemon", found, NOTE, skew) if skew else Finding("daemon", found)


def _checked(status: int | None, out: str, err: str) -> Iterator[Finding]:
    """The findings of the daemon's own look at the disk."""
    for line in out.splitlines():
        try:
            told = json.loads(line)
            yield Finding(*(str(told[name]) for name in ("what", "found", "level", "advice")))
        except (ValueError, KeyError, TypeError):
            continue
    if status is None:
        found = f"the disk was not looked at within {_BUDGET_S:g} s: the machine is busy, or the disk hangs"
        yield Finding("check", found, NOTE, "segue doctor --deep waits for it")
    elif status not in (0, 1) or (err.strip() and not out.strip()):
        last = (err.strip() or f"status {status}").splitlines()[-1]
        advice = "segue config check FILE, SEGUE_… variables" if status == 2 else "send this with a report"
        yield Finding("config" if status == 2 else "check", last[:300], BAD, advice)
