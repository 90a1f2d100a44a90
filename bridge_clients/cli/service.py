"""The daemon itself, from a terminal: serve, stop, status, ps, cancel, pause, resume, metrics, config,
version.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from bridge_clients.cli.children import run_python
from bridge_clients.cli.connect import connect
from bridge_clients.cli.exits import DEFECT, DONE, UNREACHABLE
from bridge_clients.cli.progress import speed_words, state_words
from bridge_clients.cli.showing import json_line, say, table, when
from bridge_clients.cli.units import ALREADY_RUNNING
from bridge_clients.connection import VARIABLE, chosen
from protocol.errors import SegueError
from protocol.requests import FINAL_STATES

_LIVE_STATES = ("queued", "loading", "running", "cancelling")
_STOP_PATIENCE_S, _CANCEL_PATIENCE_S, _LOOK_EVERY_S = 60.0, 30.0, 0.05


def run_serve(args: Any) -> int:
    """Start the daemon; with ``--foreground`` it is this terminal's child until it ends."""
    if chosen() is not None:
        raise SegueError(
            "E_ARGUMENT", f"{VARIABLE} leads to a daemon elsewhere; unset it to start one on this machine."
        )
    settings = [word for setting in args.set for word in ("--set", setting)]
    settings += ["--config", args.config] if args.config else []
    if args.foreground or settings:
        how = "--foreground" if args.foreground else "--background"
        status = run_python(["-m", "daemon", "serve", how, *settings])
        return UNREACHABLE if status in (DEFECT, ALREADY_RUNNING) else status  # it has said why
    with connect() as client:
        hello = client.hello
    say(f"The daemon runs (process {hello.pid}, {hello.device or 'no device yet'}). segue stop ends it.")
    return DONE


def stop_daemon(*, finish: str = "running") -> int | None:
    """Ask the daemon to end and wait until it has; gives its process id, None if there was none.

    Raises ``E_NOT_READY`` when it is still there after a minute.
    """
    try:
        with connect(autostart=False) as client:
            pid, boot, remote = client.drain(stop=True, finish=finish).pid, client.hello.boot, client.remote
    except SegueError as error:
        if error.code == "E_UNREACHABLE":
            return None
        raise
    end = time.monotonic() + _STOP_PATIENCE_S
    while time.monotonic() < end:
        if not (_answers(boot) if remote else _alive(pid)):
            return pid
        time.sleep(_LOOK_EVERY_S)
    raise SegueError(
        "E_NOT_READY", f"The daemon (process {pid}) finishes what runs; segue stop --now does not wait."
    )


def _answers(boot: str) -> bool:
    """Whether the daemon of that start still answers, where its process cannot be seen."""
    try:
        with connect(autostart=False, timeout_s=1.0) as client:
            return client.hello.boot == boot
    except SegueError:
        return False


def _alive(pid: int) -> bool:
    import os

    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """An ended child whose parent has not looked yet (Linux only): as good as gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            return handle.read().rpartition(b")")[2].split()[0] == b"Z"
    except (OSError, IndexError):
        return False


def run_stop(args: Any) -> int:
    """Stop politely: what runs is finished first, unless ``--now``. No daemon is no failure."""
    pid = stop_daemon(finish="none" if args.now else "running")
    if args.json:
        json_line({"event": "stopped", "pid": pid})
    else:
        say("No daemon was running." if pid is None else f"The daemon (process {pid}) has stopped.")
    return DONE


def run_status(args: Any) -> int:
    """Who answers, on what, and how busy. Never starts a daemon."""
    with connect(autostart=False) as client:
        hello, ping, skew = client.hello, client.ping(), client.skew
    if args.json:
        json_line({"event": "status", **hello.to_map(), **ping.to_map()})
        return DONE
    state = (
        "paused" if ping.paused else "stopping" if ping.draining else "ready" if ping.ready else "starting"
    )
    if not ping.ready and hello.waiting_for:
        state += f" ({hello.waiting_for})"
    hours = hello.uptime_ms / 3_600_000
    for name, value in (
        ("state", state),
        ("process", f"{hello.pid}, up {hours:.1f} h"),
        ("version", f"{hello.daemon} {hello.build}".strip()),
        ("protocol", ".".join(str(part) for part in hello.protocol)),
        ("device", hello.device or "not chosen yet"),
        ("models loaded", ", ".join(hello.models) or "none"),
        ("jobs", f"{ping.running} running, {ping.queued} waiting"),
    ):
        say(f"{name:<14} {value}")
    for said in (hello.notice, skew):
        if said:
            say(said)
    return DONE


def run_ps(args: Any) -> int:
    """Jobs that wait or run, newest first; with ``--all`` those that have ended too."""
    with connect(autostart=False) as client:
        jobs = client.list(limit=100, states=None if args.all else _LIVE_STATES)
    if args.json:
        for info in jobs:
            json_line({"event": "job", **info.to_map()})
        return DONE
    if not jobs:
        say("No jobs." if args.all else "Nothing waits or runs.")
        return DONE
    rows = []
    for info in jobs:
        tick = info.tick.to_map() if info.tick and not info.ended else {}
        step, steps = tick.get("step", 0), tick.get("steps")
        done = f"{100 * step // steps} % ({step}/{steps})" if steps else "-"
        state = state_words(tick) if tick else info.state
        rows.append(
            [
                info.job, state, done, speed_words(tick) or "-", info.priority, str(info.attempt or "-"),
                info.model or "-", info.worker or "-", info.project or "-", when(info.created_ms),
            ]
        )  # fmt: skip
    table(["JOB", "STATE", "DONE", "SPEED", "CLASS", "TRY", "MODEL", "WORKER", "PROJECT", "SINCE"], rows)
    return DONE


def run_cancel(args: Any) -> int:
    """Cancel a job and wait until it has stopped."""
    from bridge_clients.cli.takes import find_job

    with connect(autostart=False) as client:
        info = find_job(client, args.job)
        was_over = info.state in FINAL_STATES
        end = time.monotonic() + _CANCEL_PATIENCE_S
        reply = client.cancel(info.job)
        while reply.state not in FINAL_STATES and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
            reply = client.cancel(info.job)
    if args.json:
        json_line({"event": "cancel", **reply.to_map()})
    elif was_over:
        say(f"Job {info.job} was {reply.state} already.")
    else:
        say(f"Job {info.job} is {reply.state}.")
    return DONE


def run_pause(args: Any) -> int:
    """Start no step until ``segue resume``: the device is yours while you record."""
    with connect(autostart=False) as client:
        reply = client.pause()
    if args.json:
        json_line({"event": "pause", **reply.to_map()})
    else:
        say("Paused; segue resume goes on.")
    return DONE


def run_resume(args: Any) -> int:
    """Go on after a pause."""
    with connect(autostart=False) as client:
        reply = client.resume()
    if args.json:
        json_line({"event": "resume", **reply.to_map()})
    else:
        say("Going on.")
    return DONE


def run_metrics(args: Any) -> int:
    """Prometheus text."""
    with connect(autostart=False) as client:
        sys.stdout.write(client.metrics())
    return DONE


def run_config(args: Any) -> int:
    """The daemon reads its own configuration; this only passes the question on."""
    if args.action == "check" and not args.file:
        raise SegueError("E_ARGUMENT", "config check needs the file to check.", field="file")
    return run_python(["-m", "daemon", "config", args.action, *([args.file] if args.file else [])])


def run_version(args: Any) -> int:
    """The version of Segue, of the protocol and of Python."""
    from protocol.build import VERSION, build_id
    from protocol.limits import MAJOR, MINOR

    if args.json:
        json_line({"event": "version", "segue": VERSION, "build": build_id(), "protocol": f"{MAJOR}.{MINOR}"})
    else:
        say(f"segue {VERSION} (protocol {MAJOR}.{MINOR}, Python {sys.version.split()[0]})")
    return DONE
