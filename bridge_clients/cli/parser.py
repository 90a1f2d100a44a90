"""The command line: every sub-command, flag and check that needs nothing but the words themselves.

Only argparse is imported. A refused word ends with status 2 and one sentence on stderr.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from bridge_clients.cli.audacity import add_flags as add_audacity
from bridge_clients.cli.audacity import output_flags as audacity_output
from bridge_clients.cli.exits import USAGE
from protocol.limits import (
    DEFAULT_RATE_HZ,
    MAX_INTEGER,
    MAX_LENGTH_S,
    MAX_RATE_HZ,
    MAX_VARIATIONS,
    MIN_RATE_HZ,
)

_EPILOG = """exit status:
  0 done · 1 a defect in Segue · 2 bad argument · 3 bad audio or file · 4 model · 5 no daemon
  6 refused for now (queue, disk, memory, paused) · 7 the job failed · 130 cancelled by Ctrl-C"""


# commands that are about this machine, whatever daemon the others speak to
_ONLY_HERE = ("serve", "service", "keys", "config", "doctor", "version", "pull", "install")


class Parser(argparse.ArgumentParser):
    """argparse, except that a refusal is one sentence and no wall of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse, but the sub-command refuses what it does not know, and points to its own help."""
        found, extras = super().parse_known_args(args, namespace)
        if extras and " " in self.prog:
            self.error(f"unknown word{'s' if len(extras) > 1 else ''}: {' '.join(extras)[:200]}")
        return found, extras

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message.rstrip('.')} (see `{self.prog} --help`).\n")
        raise SystemExit(USAGE)


def _number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """A finite number within [low, high], or (low, high] with ``above``."""
    allowed = f"{'above ' if above else ''}{low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number (allowed: {allowed})") from None
        if not math.isfinite(value) or value < low or value > high or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text} is out of range (allowed: {allowed})")
        return value

    return parse


def _exact(low: float, high: float) -> Callable[[str], Fraction]:
    """The same, kept exact: "120.1" is 1201/10, so that a thousand bars stay on the grid."""
    check = _number(low, high)

    def parse(text: str) -> Fraction:
        check(text)
        return Fraction(text)

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number (allowed: {low} to {high})"
            ) from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range (allowed: {low} to {high})")
        return value

    return parse


def _bars(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of bars (allowed: 4, 2.5 or 7/2)"
        ) from None
    if not 0 < value <= 10_000 or value.denominator > 10_000:
        raise argparse.ArgumentTypeError(f"{text} is out of range (allowed: above 0 to 10000 bars)")
    return value


def _meter(text: str) -> tuple[int, int]:
    beats, _, unit = text.partition("/")
    if not (beats.isdecimal() and unit.isdecimal() and len(text) <= 5):
        raise argparse.ArgumentTypeError(f"{text!r} is not a meter (allowed: 4/4, 3/4, 6/8, …)")
    value = int(beats), int(unit)
    if not 1 <= value[0] <= 64 or value[1] not in (1, 2, 4, 8, 16, 32, 64):
        raise argparse.ArgumentTypeError(f"{text} is not a meter (allowed: 1 to 64 beats of 1/1 to 1/64)")
    return value


def build() -> Parser:
    """The whole parser. ``args.run`` of the result names the module and function, ``module:function``."""
    parser = Parser(
        prog="segue",
        description="Your audio goes on: a local daemon continues it, on the bar, in takes and stems.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="store_const", const="version", dest="shortcut", help=argparse.SUPPRESS
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def add(name: str, run: str, help_text: str, *parents: Parser, **defaults: Any) -> Parser:
        command: Parser = commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            parents=list(parents),
        )
        command.set_defaults(run=run, **defaults)
        if name not in _ONLY_HERE:
            command.add_argument(
                "--at",
                metavar="FILE",
                help="the key file of a daemon on another machine (default: $SEGUE_CONNECTION)",
            )
        return command

    output, making = _output_flags(), _making_flags()
    one = add("continue", "continue_:run", "continue a recording", making, output)
    one.add_argument("input", metavar="IN.wav", help="WAV, FLAC, OGG, AIFF or MP3, mono or stereo, any rate")
    one.add_argument(
        "--start-at",
        type=_exact(0, 360_000),
        metavar="S",
        help="continue from S seconds, not the end",
    )
    one.add_argument(
        "--listen",
        type=_number(0.1, 600),
        default=30.0,
        metavar="S",
        help="how much is heard before (default 30 s)",
    )
    _tempo_flags(one)
    two = add("generate", "generate:run", "make music from a description", making, output)
    two.add_argument(
        "--rate",
        type=_integer(MIN_RATE_HZ, MAX_RATE_HZ),
        default=DEFAULT_RATE_HZ,
        metavar="HZ",
        help="default 48000",
    )
    two.add_argument("--channels", type=_integer(1, 2), default=2, metavar="N", help="1 or 2 (default 2)")
    _tempo_flags(two)
    demo = add("demo", "demo:run", "hear the built-in loop go on, offline", output)
    demo.add_argument("--bars", type=_bars, default=Fraction(8), metavar="N", help="default 8")
    demo.add_argument(
        "--variations", type=_integer(1, MAX_VARIATIONS), default=2, metavar="N", help="default 2"
    )
    demo.add_argument("--seed", type=_integer(0, MAX_INTEGER), default=7, metavar="N", help="default 7")
    demo.add_argument("--model", default="pocket", metavar="NAME", help="default pocket")
    demo.add_argument("--stop", action="store_true", help="stop the daemon afterwards if the demo started it")

    job = add("job", "job:run", "do the job that a host has laid into a folder")
    job.add_argument("directory", metavar="DIR", help="the job directory, see bridge_clients/JOBDIR.md")

    watch = add("watch", "watch:run", "do the jobs that a host lays into a folder, one after the other")
    watch.add_argument("folder", metavar="FOLDER", help="where the host makes its job directories")
    watch.add_argument(
        "--at-most", type=_integer(1, 16), default=4, metavar="N", help="so many at the same time (default 4)"
    )
    host = add("install", "hosts:run", "put Segue's actions into a host, or take them out", _json_flag())
    host.add_argument("host", choices=["reaper", "ardour", "audacity"], metavar="HOST")
    host.add_argument("--uninstall", action="store_true", help="take back what was installed")
    host.add_argument("--to", metavar="FOLDER", help="the host's folder, if it is not the usual one")
    host.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    audacity = add("audacity", "audacity:run", "the selection in Audacity goes on, onto new tracks")
    add_audacity(audacity, making, _tempo_flags, audacity_output(), _number)

    takes = add("takes", "takes:run", "list, show, play, export or forget finished takes", _json_flag())
    takes.add_argument(
        "action", nargs="?", default="list", choices=["list", "show", "play", "export", "forget"]
    )
    takes.add_argument("jobs", nargs="*", metavar="JOB", help="a job's id, or the beginning of it")
    takes.add_argument("--all", action="store_true", help="list: failed and cancelled jobs, too")
    takes.add_argument(
        "--variation", type=_integer(1, MAX_VARIATIONS), default=1, metavar="N", help="play: default 1"
    )
    takes.add_argument("--stem", default="mix", metavar="NAME", help="play: default mix")
    takes.add_argument("--out", metavar="DIR", help="export: where to (default ./segue-takes/…)")
    takes.add_argument("--overwrite", action="store_true", help="export: replace what is there")
    takes.add_argument("--yes", action="store_true", help="forget: do not ask")
    takes.add_argument("--limit", type=_integer(1, 1000), default=20, metavar="N", help="list: default 20")

    add("models", "models:run_models", "list the models that can be used", _json_flag())
    pull = add("pull", "models:run_pull", "download a model")
    pull.add_argument("name", metavar="NAME", help="for example facebook/musicgen-small")
    for name, help_text in (("load", "load a model now"), ("unload", "give a model's memory back")):
        command = add(name, f"models:run_{name}", help_text, _json_flag())
        command.add_argument("model", metavar="NAME", nargs="?", help="default: the default model")

    ping = add("ping", "ping:run", "ask whether the daemon answers", _json_flag())
    ping.add_argument("--timeout", type=_number(0.01, 60), default=2.0, metavar="S", help="default 2 s")
    serve = add("serve", "service:run_serve", "start the daemon")
    serve.add_argument("--foreground", action="store_true", help="stay in this terminal")
    serve.add_argument("--config", metavar="FILE", help="a configuration file other than the usual one")
    serve.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting; may be given several times",
    )
    unit = add(
        "service", "install:run", "let the system start the daemon at login and after a crash", _json_flag()
    )
    unit.add_argument("action", choices=["install", "remove", "status"])
    unit.add_argument("--print", action="store_true", help="show the unit's text and change nothing")
    keys = add("keys", "keys:run", "let clients on other machines in, or out", _json_flag())
    keys.add_argument("action", nargs="?", default="list", choices=["list", "new", "allow", "revoke"])
    keys.add_argument(
        "what",
        nargs="?",
        metavar="WHAT",
        help="new, revoke: the client's name; allow: its public key or file",
    )
    keys.add_argument("--name", metavar="NAME", help="allow: the client's name")
    keys.add_argument("--out", metavar="FILE", help="where the client's file goes (default NAME.key)")
    keys.add_argument(
        "--endpoint", metavar="TCP", help="where clients find this machine (default: tcp.bind itself)"
    )
    stop = add("stop", "service:run_stop", "stop the daemon politely", _json_flag())
    stop.add_argument("--now", action="store_true", help="do not wait for the jobs that run")
    add("status", "service:run_status", "the daemon, its device and models", _json_flag())
    ps = add("ps", "service:run_ps", "jobs that wait or run", _json_flag())
    ps.add_argument("--all", action="store_true", help="finished ones too")
    cancel = add("cancel", "service:run_cancel", "cancel a job", _json_flag())
    cancel.add_argument("job", metavar="JOB", help="a job's id, or the beginning of it")
    add("pause", "service:run_pause", "give the device back while you record", _json_flag())
    add("resume", "service:run_resume", "go on after a pause", _json_flag())
    add("metrics", "service:run_metrics", "the daemon's counters, as Prometheus text")
    config = add("config", "service:run_config", "show the configuration, or check a file")
    config.add_argument("action", choices=["show", "check"])
    config.add_argument("file", nargs="?", metavar="FILE", help="check: the file")
    doctor = add("doctor", "doctor:run", "find what is wrong and what to do about it", _json_flag())
    doctor.add_argument("--deep", action="store_true", help="read every take and wait for torch")
    add("version", "service:run_version", "print the version", _json_flag())
    return parser


def _json_flag() -> Parser:
    flags = Parser(add_help=False)
    flags.add_argument("--json", action="store_true", help="one JSON object per line, for scripts")
    return flags


def _output_flags() -> Parser:
    flags = Parser(add_help=False)
    group = flags.add_argument_group("output")
    group.add_argument("--out", metavar="DIR", help="default ./segue-takes/<name>-<date-time>")
    group.add_argument(
        "--stems",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a file per stem beside the mix, if the model has stems (default)",
    )
    group.add_argument(
        "--subtype",
        choices=["float", "pcm24", "pcm16"],
        help="default: the input's own; 24 bits for compressed files",
    )
    group.add_argument(
        "--overview", action=argparse.BooleanOptionalAction, default=True, help="draw overview.png (default)"
    )
    group.add_argument("--json", action="store_true", help="one JSON object per event on stdout, for scripts")
    group.add_argument("--quiet", action="store_true", help="print nothing but refusals")
    return flags


def _making_flags() -> Parser:
    flags = Parser(add_help=False)
    length = flags.add_argument_group("how long").add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=_number(0, MAX_LENGTH_S, above=True), metavar="S", help="default 8, without --bars"
    )
    length.add_argument("--bars", type=_bars, metavar="N", help="bars, also 2.5 or 7/2; needs --tempo")
    what = flags.add_argument_group("what")
    what.add_argument("--text", metavar="TEXT", help="what it should sound like")
    what.add_argument("--negative-text", metavar="TEXT", help="what it should not sound like")
    what.add_argument(
        "--variations", type=_integer(1, MAX_VARIATIONS), default=1, metavar="N", help="takes (default 1)"
    )
    what.add_argument(
        "--seed", type=_integer(0, MAX_INTEGER), metavar="N", help="the same seed, the same takes"
    )
    what.add_argument("--model", default="", metavar="NAME", help="default: the daemon's default model")
    how = flags.add_argument_group("how it is drawn")
    how.add_argument("--temperature", type=_number(0, 10), metavar="T", help="default 1; 0: greedy")
    how.add_argument("--top-k", type=_integer(0, 65_536), metavar="K", help="default 250; 0: no limit")
    how.add_argument("--top-p", type=_number(0, 1), metavar="P", help="default 0: off")
    how.add_argument("--greedy", action="store_true", help="always the likeliest token")
    how.add_argument("--guidance", type=_number(0, 100), metavar="X", help="default: the model's own")
    how.add_argument(
        "--priority",
        choices=["interactive", "batch"],
        default="interactive",
        help="batch lets others go first",
    )
    return flags


def _tempo_flags(parser: Parser) -> None:
    group = parser.add_argument_group("tempo")
    group.add_argument("--tempo", type=_exact(1, 2000), metavar="BPM", help="quarter notes per minute")
    group.add_argument("--meter", type=_meter, metavar="N/M", help="default 4/4")
    group.add_argument(
        "--downbeat",
        type=_exact(-36_000, 360_000),
        metavar="S",
        help="seconds in the file at which a bar begins (default 0: its first sample)",
    )
