"""``python -m daemon serve | stop | check | config``: the daemon without the `segue` command around it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from daemon import check, lifecycle
from daemon.config import ConfigError, Settings, check_file, describe, resolve
from daemon.security import UnsafePath
from protocol.errors import SegueError

ALREADY_RUNNING = 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m daemon", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the daemon (in the foreground unless --background)")
    where = serve.add_mutually_exclusive_group()
    where.add_argument("--foreground", action="store_true", help="stay in this process (default)")
    where.add_argument(
        "--background", action="store_true", help="start another process and wait until it answers"
    )
    stop = commands.add_parser("stop", help="stop the daemon politely")
    stop.add_argument("--finish", choices=("none", "running", "all"), default="running")
    config = commands.add_parser("config", help="show the configuration, or check a file")
    config.add_argument("action", choices=("show", "check"))
    config.add_argument("path", nargs="?", type=Path)
    checked = commands.add_parser("check", help="look at folders, lock, journal and takes; change nothing")
    checked.add_argument("--deep", action="store_true", help="read every finished file")
    checked.add_argument("--json", action="store_true", help="one JSON object a line")
    for command in (serve, stop, config, checked):
        command.add_argument("--config", type=Path, default=None, metavar="FILE")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="words")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 well, 1 it could not be done, 2 wrong configuration or arguments, 3 another daemon has
    these folders, 4 its memory grew without end. A service manager need not try again after 2 and 3.
    """
    given = _parser().parse_args(arguments)
    try:
        if given.command == "config" and given.action == "check":
            path = given.path or given.config
            if path is None:
                raise ConfigError("config check needs the name of a file.")
            check_file(path)
            _say(f"{path} is valid.")
            return 0
        resolved = resolve(given.config, words=given.words)
        if given.command == "config":
            for key, value, origin in describe(resolved):
                _say(f"{key} = {value!r}  # {origin}")
            return 0
        if given.command == "check":
            return _check(resolved.settings, deep=given.deep, as_json=given.json)
        if given.command == "stop":
            stopped = lifecycle.stop(resolved.settings, finish=given.finish)
            _say("Segue has stopped." if stopped else "Segue was not running.")
            return 0
        if given.background:
            words = [word for setting in given.words for word in ("--set", setting)]
            words += ["--config", str(given.config.absolute())] if given.config else []
            connection = lifecycle.start_background(resolved.settings, words)
            _say(f"Segue is running: pid {connection['pid']}, {connection['endpoints'][0]}.")
            return 0
        return lifecycle.serve(resolved.settings, foreground=True)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except lifecycle.AlreadyRunning as error:
        sys.stderr.write(f"{error}\n")
        return ALREADY_RUNNING
    except (UnsafePath, SegueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _check(settings: Settings, *, deep: bool, as_json: bool) -> int:
    worst = 0
    for finding in check.findings(settings, deep=deep):
        worst = max(worst, int(finding.level == check.BAD))
        _say(
            json.dumps(vars(finding)) if as_json else f"{finding.level:<4}  {finding.what:<9} {finding.found}"
        )
        if finding.advice and not as_json:
            _say(f"      {'':<9} → {finding.advice}")
        sys.stdout.flush()
    return worst


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
