"""The command line: every sub-command, flag and check that needs nothing but the words themselves.

Only argparse is imported. A refused word ends with status 2 and one sentence on stderr.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from typing import Any

from bridge_clients.cli.audacity import add_flags as add_audacity
from bridge_clients.cli.audacity import output_flags as audacity_output
from bridge_clients.cli.making_flags import add_making, making_flags, output_flags, tempo_flags
from bridge_clients.cli.words import Parser, bars, integer, number
from protocol.limits import MAX_INTEGER, MAX_VARIATIONS

_EPILOG = """exit status:
  0 done · 1 a defect in Segue · 2 bad argument · 3 bad audio or file · 4 model · 5 no daemon
  6 refused for now (queue, disk, memory, paused) · 7 the job failed · 130 cancelled by Ctrl-C"""


# commands that are about this machine, whatever daemon the others speak to
_ONLY_HERE = ("serve", "service", "keys", "config", "doctor", "version", "pull", "bench", "install")


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

    output, making = output_flags(), making_flags()
    add_making(add, making, output)
    demo = add("demo", "demo:run", "hear the built-in loop go on, offline", output)
    demo.add_argument("--bars", type=bars, default=Fraction(8), metavar="N", help="default 8")
    demo.add_argument(
        "--variations", type=integer(1, MAX_VARIATIONS), default=2, metavar="N", help="default 2"
    )
    demo.add_argument("--seed", type=integer(0, MAX_INTEGER), default=7, metavar="N", help="default 7")
    demo.add_argument("--model", default="pocket", metavar="NAME", help="default pocket")
    demo.add_argument("--stop", action="store_true", help="stop the daemon afterwards if the demo started it")

    job = add("job", "job:run", "do the job that a host has laid into a folder")
    job.add_argument("directory", metavar="DIR", help="the job directory, see bridge_clients/JOBDIR.md")

    watch = add("watch", "watch:run", "do the jobs that a host lays into a folder, one after the other")
    watch.add_argument("folder", metavar="FOLDER", help="where the host makes its job directories")
    watch.add_argument(
        "--at-most", type=integer(1, 16), default=4, metavar="N", help="so many at the same time (default 4)"
    )
    host = add("install", "hosts:run", "put Segue's actions into a host, or take them out", _json_flag())
    host.add_argument("host", choices=["reaper", "ardour", "audacity"], metavar="HOST")
    host.add_argument("--uninstall", action="store_true", help="take back what was installed")
    host.add_argument("--to", metavar="FOLDER", help="the host's folder, if it is not the usual one")
    host.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    audacity = add("audacity", "audacity:run", "the selection in Audacity goes on, onto new tracks")
    add_audacity(audacity, making, tempo_flags, audacity_output(), number)

    osc = add("osc", "osc:run", "speak OSC with SuperCollider, Pure Data and others on this machine")
    osc.add_argument("--port", type=integer(0, 65_535), default=5776, metavar="N", help="UDP, default 5776")
    osc.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="of the loopback; no other")
    osc.add_argument("--takes", metavar="DIR", help="where takes go (default ./segue-takes)")
    osc.add_argument(
        "--at-most", type=integer(1, 64), default=16, metavar="N", help="jobs at a time (default 16)"
    )
    osc.add_argument(
        "--any-user", action="store_true", help="hear programs of this machine's other users, too"
    )

    takes = add("takes", "takes:run", "list, show, play, export or forget finished takes", _json_flag())
    takes.add_argument(
        "action", nargs="?", default="list", choices=["list", "show", "play", "export", "forget"]
    )
    takes.add_argument("jobs", nargs="*", metavar="JOB", help="a job's id, or the beginning of it")
    takes.add_argument("--all", action="store_true", help="list: failed and cancelled jobs, too")
    takes.add_argument(
        "--variation", type=integer(1, MAX_VARIATIONS), default=1, metavar="N", help="play: default 1"
    )
    takes.add_argument("--stem", default="mix", metavar="NAME", help="play: default mix")
    takes.add_argument("--out", metavar="DIR", help="export: where to (default ./segue-takes/…)")
    takes.add_argument("--overwrite", action="store_true", help="export: replace what is there")
    takes.add_argument("--yes", action="store_true", help="forget: do not ask")
    takes.add_argument("--limit", type=integer(1, 1000), default=20, metavar="N", help="list: default 20")

    add("models", "models:run_models", "list the models that can be used", _json_flag())
    pull = add("pull", "models:run_pull", "download a model")
    pull.add_argument("name", metavar="NAME", help="for example facebook/musicgen-small")
    add_bench(
        add("bench", "bench:run", "measure how fast a model is on this machine, and how exact", _json_flag())
    )
    for name, help_text in (("load", "load a model now"), ("unload", "give a model's memory back")):
        command = add(name, f"models:run_{name}", help_text, _json_flag())
        command.add_argument("model", metavar="NAME", nargs="?", help="default: the default model")

    ping = add("ping", "ping:run", "ask whether the daemon answers", _json_flag())
    ping.add_argument("--timeout", type=number(0.01, 60), default=2.0, metavar="S", help="default 2 s")
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


def add_bench(bench: Any) -> None:
    """The flags of ``segue bench``."""
    bench.add_argument("--model", default="pocket", metavar="NAME", help="default pocket")
    bench.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 … (default: auto)")
    bench.add_argument(
        "--precision", default="auto", metavar="NAMES", help="only these, with commas between (default: all)"
    )
    bench.add_argument(
        "--threads",
        type=integer(0, 1024),
        default=0,
        metavar="N",
        help="of the CPU (default: torch's choice)",
    )
    bench.add_argument("--quick", action="store_true", help="a first look; changes nothing")
    bench.add_argument("--picture", metavar="FILE.png", help="draw the figures, too")
    bench.add_argument("--no-save", action="store_true", help="leave worker.precision=auto as it is")
    bench.add_argument("--forget", action="store_true", help="forget what was measured of this model")


def _json_flag() -> Parser:
    flags = Parser(add_help=False)
    flags.add_argument("--json", action="store_true", help="one JSON object per line, for scripts")
    return flags
