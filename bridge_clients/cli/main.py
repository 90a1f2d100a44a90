"""The way into the ``segue`` command: parse, hand over to the module of the sub-command, end in a known way.

Whatever happens, the musician reads one sentence and a script reads a documented status (:mod:`.exits`); a
traceback goes to an incident file, never to the terminal.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bridge_clients.cli.exits import CANCELLED, DEFECT, DONE, sentence_of, status_of
from bridge_clients.cli.parser import build
from bridge_clients.connection import VARIABLE
from protocol.errors import SegueError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    parser = build()
    if not sys.warnoptions:  # what a library thinks of its surroundings is no sentence for a musician
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser.parse_args(argv)
        if args.shortcut == "version":
            args = parser.parse_args(["version"])
        if args.command is None:
            parser.print_help()
            return DONE
        return _run(args)
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a refusal that it has printed
        return stop.code if isinstance(stop.code, int) else DONE


def _run(args: Any) -> int:
    module_name, function_name = args.run.split(":")
    elsewhere = os.environ.get(VARIABLE)
    if getattr(args, "at", None):
        os.environ[VARIABLE] = args.at
    before = _on_terminate(_interrupt)  # a host that ends its child means the same as Ctrl-C
    try:
        status = getattr(import_module(f"bridge_clients.cli.{module_name}"), function_name)(args)
        sys.stdout.flush()
        return int(status)
    except SegueError as error:
        return _refuse(args, error)
    except KeyboardInterrupt:
        _say("Cancelled.")
        return CANCELLED
    except BrokenPipeError:  # `segue models | head`: the reader has gone, which is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        from bridge_clients.cli.incident import write_incident

        _say(write_incident(error))
        return DEFECT
    finally:
        _on_terminate(before)
        if getattr(args, "at", None):
            os.environ.pop(VARIABLE)
            os.environ.update({VARIABLE: elsewhere} if elsewhere else {})


def _refuse(args: Any, error: SegueError) -> int:
    status = status_of(error)
    if getattr(args, "json", False):
        import json

        line = {"event": "error", "status": status, **error.to_map()}
        sys.stdout.write(json.dumps(line, default=str) + "\n")
        sys.stdout.flush()
    _say(sentence_of(error))
    return status


def _say(sentence: str) -> None:
    sys.stderr.write(f"segue: {sentence}\n")


def _on_terminate(handler: Any) -> Any:
    """Set the handler of SIGTERM and give the one before; only the main thread can."""
    import threading

    if handler is None or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
