"""``segue doctor``: what could be wrong on this machine, and what to do about each thing that is."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_clients.cli.exits import AUDIO, BUSY, DEFECT, DONE, MODEL, UNREACHABLE, USAGE
from bridge_clients.cli.showing import json_line, say

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
_LOW_DISK_BYTES = 2_000_000_000
_TORCH_PATIENCE_S = 120.0
# Runs in a child process: importing torch here would cost seconds and memory whatever the answer is.
_TORCH_QUESTION = """
import json, torch
cuda = torch.cuda.is_available()
mps = bool(getattr(torch.backends, "mps", None)) and torch.backends.mps.is_available()
kind = "cuda" if cuda else "mps" if mps else "cpu"
name = torch.cuda.get_device_name(0) if cuda else f"{torch.get_num_threads()} threads"
print(json.dumps({"torch": torch.__version__, "device": kind, "name": name}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``status`` is 0 when it is fine, else the exit status a job would
    meet.
    """

    what: str
    found: str
    status: int = DONE
    advice: str = ""


def run(args: Any) -> int:
    """Print all findings; the exit status is that of the first thing that is wrong."""
    worst = DONE
    for finding in _findings():
        worst = worst or finding.status
        if args.json:
            json_line({"event": "finding", **vars(finding), "ok": finding.status == DONE})
            continue
        say(f"{'ok ' if finding.status == DONE else 'BAD'}  {finding.what:<10} {finding.found}")
        if finding.advice:
            say(f"     {'':<10} → {finding.advice}")
    if not args.json:
        say(
            "Everything is fine."
            if worst == DONE
            else "Something needs your attention: see the arrows above."
        )
    return worst


def _findings() -> Iterator[Finding]:
    yield _python()
    yield _packages()
    yield _sound_library()
    yield _torch()
    yield from _folders()
    yield _model()
    yield _daemon()


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return Finding("python", found)


def _packages() -> Finding:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return Finding(
            "packages",
            f"missing: {', '.join(missing)}",
            DEFECT,
            "install Segue again in this environment: pip install segue-daw",
        )
    return Finding("packages", f"all {len(_NEEDED)} are here")


def _sound_library() -> Finding:
    try:
        import soundfile

        return Finding("audio", f"libsndfile {soundfile.__libsndfile_version__}")
    except (ImportError, OSError) as error:
        return Finding(
            "audio", f"libsndfile does not load ({error})", DEFECT, "pip install --force-reinstall soundfile"
        )


def _torch() -> Finding:
    from bridge_clients.cli.children import ask_python

    status, words = ask_python(["-c", _TORCH_QUESTION], _TORCH_PATIENCE_S)
    try:
        told = json.loads(words.splitlines()[-1]) if status == 0 else None
    except (ValueError, IndexError):
        told = None
    if told is None:
        last = words.splitlines()[-1] if words else f"no answer within {_TORCH_PATIENCE_S:.0f} s"
        return Finding(
            "torch", f"does not work ({last[:120]})", DEFECT, "install torch again: see pytorch.org"
        )
    found = f"{told['torch']} on {told['device']} ({told['name']})"
    nvidia_unused = told["device"] == "cpu" and Path("/proc/driver/nvidia/version").exists()
    if nvidia_unused:
        return Finding("torch", found, DONE, "there is an NVIDIA driver: a CUDA build of torch would use it")
    return Finding("torch", found)


def _folders() -> Iterator[Finding]:
    import platformdirs

    folders = {
        "runtime": os.environ.get("SEGUE_RUNTIME") or platformdirs.user_runtime_dir("segue"),
        "state": os.environ.get("SEGUE_STATE") or platformdirs.user_state_dir("segue"),
        "models": os.environ.get("SEGUE_MODELS")
        or str(Path(platformdirs.user_data_dir("segue", appauthor=False)) / "models"),
        "here": os.getcwd(),
    }
    for what, name in folders.items():
        yield _folder(what, Path(name).expanduser())


def _folder(what: str, path: Path) -> Finding:
    import shutil

    there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        if what == "runtime":  # the daemon has another place for its socket
            return Finding(what, f"{path} cannot be used; /tmp/segue-{os.getuid()} is taken instead")
        advice = f"make {there} yours, or set SEGUE_{what.upper()} to a folder that is"
        if what == "here":
            advice = "takes go into ./segue-takes: change to a folder that you own, or use --out"
        return Finding(what, f"{there} cannot be written", AUDIO, advice)
    free = shutil.disk_usage(there).free
    found = f"{path}, {free / 1e9:.1f} GB free"
    if what != "runtime" and free < _LOW_DISK_BYTES:
        return Finding(what, found, BUSY, "make room: takes and models need some gigabytes")
    return Finding(what, found)


def _model() -> Finding:
    from importlib.util import find_spec

    spec = find_spec("genmodel")
    folders = list(spec.submodule_search_locations or []) if spec else []
    weights = [path for folder in folders for path in Path(folder, "pocket").glob("*.safetensors")]
    if not weights:
        return Finding(
            "pocket",
            "the built-in model's weights are missing",
            MODEL,
            "install Segue again: pip install segue-daw",
        )
    return Finding(
        "pocket", f"{len(weights)} weight files, {sum(p.stat().st_size for p in weights) / 1e6:.1f} MB"
    )


def _daemon() -> Finding:
    from bridge_clients.cli.connect import connect
    from protocol.errors import SegueError

    try:
        with connect(autostart=False) as client:
            begun = time.perf_counter()
            reply = client.ping()
            took_ms = 1000 * (time.perf_counter() - begun)
    except SegueError as error:
        if error.code == "E_UNREACHABLE":
            return Finding("daemon", "does not run; any job starts it")
        status = USAGE if error.code == "E_VERSION" else UNREACHABLE
        advice = error.message if status == USAGE else "segue stop, then try again"
        return Finding("daemon", f"answers with {error.code}", status, advice)
    state = "paused: segue resume goes on" if reply.paused else "ready" if reply.ready else "starting"
    notice = f". {reply.notice}" if reply.notice else ""
    return Finding("daemon", f"{state}, answers in {took_ms:.1f} ms{notice}")
