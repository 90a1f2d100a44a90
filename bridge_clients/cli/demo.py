"""``segue demo``: the loop that ships with Segue goes on, offline, with the model that ships with Segue.

``demo/loop.json`` says what the loop is: ``bpm``, ``beats`` and ``unit`` of its meter, ``text`` that
describes it, ``title`` and ``licence``.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from protocol.errors import SegueError

_FOLDER = Path(__file__).resolve().parent / "demo"


def run(args: Any) -> int:
    """Continue the loop; with ``--stop`` end the daemon afterwards if it was not there before."""
    from bridge_clients.audio_files import inspect, read_before
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.request import prompt_frames, submit_from

    about = _about()
    info = inspect(_FOLDER / "loop.flac")
    for name, value in {
        "seconds": None,
        "tempo": Fraction(str(about["bpm"])),
        "meter": (int(about.get("beats", 4)), int(about.get("unit", 4))),
        "downbeat": None,
        "start_at": None,
        "listen": 30.0,
        "text": about.get("text"),
        "negative_text": None,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "greedy": False,
        "guidance": None,
        "priority": "interactive",
    }.items():
        setattr(args, name, value)
    excerpt = read_before(info, info.frames, prompt_frames(args, info))
    submit = submit_from(args, excerpt)
    was_there = _daemon_answers() if args.stop else True
    try:
        # float, because a small model's drums peak above full scale and a newcomer should not hear clipping
        return make(args, Making("demo", "demo", submit, args.subtype or "float", excerpt))
    finally:
        if not was_there:
            _stop_again(quiet=args.quiet or args.json)


def _about() -> dict[str, Any]:
    try:
        about = json.loads((_FOLDER / "loop.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SegueError("E_AUDIO", f"The demo's loop is not installed ({error}).", field="input") from error
    return dict(about)


def _daemon_answers() -> bool:
    from bridge_clients.cli.connect import connect

    try:
        with connect(autostart=False) as client:
            client.ping()
    except SegueError:
        return False
    return True


def _stop_again(*, quiet: bool) -> None:
    from bridge_clients.cli.service import stop_daemon
    from bridge_clients.cli.showing import say

    if stop_daemon(finish="none") is not None and not quiet:
        say("The daemon that the demo started has stopped again.")
