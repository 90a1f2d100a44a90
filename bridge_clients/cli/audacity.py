"""``segue audacity``: the words of the command, and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bridge_clients.cli.exits import CANCELLED, DONE

_MODES = {
    "continue": "the selection goes on (or what lies before the cursor)",
    "vary": "the selection, otherwise",
    "fill": "what is selected is made anew, between what comes before and after",
    "generate": "music from a description, at the cursor or as long as the selection",
    "accompany": "what else sounds beside the selected tracks",
}


def add_flags(parser: Any, making: Any, tempo: Callable[[Any], None], output: Any, number: Any) -> None:
    """The sub-commands. making, output: parsers with common flags; tempo: adds its own; number: a range."""
    actions = parser.add_subparsers(title="what", metavar="WHAT", dest="action", required=True)
    for name, words in _MODES.items():
        mode = actions.add_parser(name, help=words, description=_sentence(words), parents=[making, output])
        mode.add_argument(
            "--listen", type=number(0.1, 600), default=30.0, metavar="S", help="heard before and after (30 s)"
        )
        mode.add_argument("--stems", action="store_true", help="a track for each stem instead of the mix")
        mode.add_argument("--loop", action="store_true", help="the end meets the beginning")
        mode.set_defaults(strength=0.5, start="edge", stem=None)
        if name == "vary":
            mode.add_argument(
                "--strength",
                type=number(0, 1),
                default=0.5,
                metavar="X",
                help="how far from it (default 0.5)",
            )
        if name in ("continue", "generate", "accompany"):
            mode.add_argument(
                "--start", choices=["edge", "bar"], default="edge", help="at the edge or on the next bar"
            )
        if name == "accompany":
            mode.add_argument(
                "--stem",
                action="append",
                metavar="NAME",
                help="which stem a track is, from the top; repeatable",
            )
        tempo(mode)
    again = actions.add_parser("retake", help="the last job, or JOB, with another seed", parents=[output])
    again.add_argument("--seed", type=int, metavar="N", help="default: a new one")
    again.add_argument("--variations", type=int, metavar="N", help="takes (default: as before)")
    again.add_argument("--text", metavar="TEXT", help="other words than before")
    again.add_argument("--negative-text", metavar="TEXT", help="what it should not sound like")
    again.add_argument("--strength", type=number(0, 1), metavar="X", help="of a variation")
    place = actions.add_parser("land", help="finished takes, whose Audacity was closed", parents=[output])
    for action in (again, place):
        action.add_argument("job", nargs="?", metavar="JOB", help="default: the newest of Audacity's")
    actions.add_parser("cancel", help="stop what runs for Audacity", parents=[output])


def output_flags() -> argparse.ArgumentParser:
    """--json and --quiet."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--json", action="store_true", help="one JSON object per event on stdout, for scripts")
    flags.add_argument("--quiet", action="store_true", help="print nothing but refusals")
    return flags


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def run(args: Any) -> int:
    """Do one action; the exit status."""
    from bridge_clients.cli.connect import connect
    from bridge_clients.cli.progress import reporter_for

    reporter = reporter_for(args)
    try:
        if args.action == "cancel":
            return _cancel(connect, reporter)
        from bridge_clients.audacity import actions

        if args.action in ("retake", "land"):
            done = getattr(actions, args.action)(args, connect, reporter)
        else:
            done = actions.make(args.action, args, connect, reporter)
        return DONE if done else CANCELLED
    finally:
        reporter.close()


def _cancel(connect: Any, reporter: Any) -> int:
    from bridge_clients.audacity.stopping import cancel
    from protocol.errors import SegueError

    try:
        with connect(autostart=False) as client:
            jobs = cancel(client)
    except SegueError as error:
        if error.code != "E_UNREACHABLE":
            raise
        jobs = []
    reporter.event("cancelled", jobs=jobs)
    words = f"Stopped: job {', '.join(jobs)}." if jobs else "Nothing waits or runs for Audacity."
    reporter.summary([words])
    return DONE
