"""The commands that make music, and the flags that they have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bridge_clients.cli.words import Parser, bars, exact, integer, meter, number
from protocol.limits import (
    DEFAULT_RATE_HZ,
    MAX_INTEGER,
    MAX_LENGTH_S,
    MAX_RATE_HZ,
    MAX_VARIATIONS,
    MIN_RATE_HZ,
)

_FILES = "WAV, FLAC, OGG, AIFF or MP3, mono or stereo, any rate"


def add_making(add: Callable[..., Parser], making: Parser, output: Parser) -> None:
    """`continue`, `generate`, `accompany`, `vary`, `fill`, `retake`; `add` makes a command."""
    one = add("continue", "continue_:run", "continue a recording", making, output)
    one.add_argument("input", metavar="IN.wav", help=_FILES)
    one.add_argument(
        "--start-at",
        type=exact(0, 360_000),
        metavar="S",
        help="continue from S seconds, not the end",
    )
    _listen_flag(one)
    tempo_flags(one)
    place_flags(one)
    context_flag(one)
    two = add("generate", "generate:run", "make music from a description", making, output)
    two.add_argument(
        "--rate",
        type=integer(MIN_RATE_HZ, MAX_RATE_HZ),
        default=DEFAULT_RATE_HZ,
        metavar="HZ",
        help="default 48000",
    )
    two.add_argument("--channels", type=integer(1, 2), default=2, metavar="N", help="1 or 2 (default 2)")
    tempo_flags(two)
    place_flags(two)
    context_flag(two)
    three = add(
        "accompany", "accompany:run", "play the stems that the given tracks do not have", making, output
    )
    three.add_argument(
        "tracks",
        nargs="+",
        metavar="TRACK[:STEM]",
        help=f"files that begin together ({_FILES}); :drums says which of the model's stems one is",
    )
    three.add_argument(
        "--from", dest="from_s", type=exact(0, 360_000), default=0, metavar="S", help="begin at S seconds"
    )
    tempo_flags(three)
    place_flags(three)
    four = add("vary", "vary:run", "make a recording again, otherwise", making, output)
    four.add_argument("input", metavar="IN.wav", help=_FILES)
    four.add_argument(
        "--from", dest="from_s", type=exact(0, 360_000), default=0, metavar="S", help="begin at S seconds"
    )
    four.add_argument("--to", dest="to_s", type=exact(0, 360_000), metavar="S", help="end at S seconds")
    four.add_argument(
        "--strength",
        type=number(0, 1),
        default=0.5,
        metavar="X",
        help="how far from it: 0 is as near as the model can, 1 only goes along with it (default 0.5)",
    )
    _listen_flag(four)
    tempo_flags(four)
    place_flags(four, start=False)
    five = add("fill", "fill:run", "fill a stretch of a recording anew", making, output)
    five.add_argument("input", metavar="IN.wav", help=_FILES)
    five.add_argument(
        "--from",
        dest="from_s",
        type=exact(0, 360_000),
        required=True,
        metavar="S",
        help="the gap's beginning",
    )
    five.add_argument(
        "--to", dest="to_s", type=exact(0, 360_000), required=True, metavar="S", help="the gap's end"
    )
    _listen_flag(five)
    tempo_flags(five)
    place_flags(five, start=False, loop=False)
    six = add("retake", "retake:run", "make a finished job again, with another seed or other words", output)
    six.add_argument("job", metavar="JOB", help="a job's id, or the beginning of it")
    six.add_argument("--seed", type=integer(0, MAX_INTEGER), metavar="N", help="default: a new one")
    six.add_argument("--variations", type=integer(1, MAX_VARIATIONS), metavar="N", help="default: as before")
    six.add_argument("--text", metavar="TEXT", help="default: as before")
    six.add_argument("--negative-text", metavar="TEXT", help="default: as before")
    six.add_argument("--strength", type=number(0, 1), metavar="X", help="default: as before")
    six.add_argument("--temperature", type=number(0, 10), metavar="T", help="default: as before")
    six.add_argument("--guidance", type=number(0, 100), metavar="X", help="default: as before")
    six.add_argument("--model", metavar="NAME", help="default: as before")


def _listen_flag(parser: Parser) -> None:
    parser.add_argument(
        "--listen",
        type=number(0.1, 600),
        default=30.0,
        metavar="S",
        help="how much is heard before (default 30 s)",
    )


def place_flags(parser: Parser, *, start: bool = True, loop: bool = True) -> None:
    """Where new audio begins and how it ends."""
    group = parser.add_argument_group("where")
    if start:
        group.add_argument(
            "--start",
            choices=["edge", "bar"],
            default="edge",
            help="begin at once, or on the next bar line (needs the tempo)",
        )
    if loop:
        group.add_argument(
            "--loop", action="store_true", help="the end meets the beginning, to play in a loop"
        )
    group.add_argument(
        "--tail-ms", type=integer(0, 1000), metavar="MS", help="how much after the end, for a crossfade"
    )
    group.add_argument(
        "--tempo-map",
        metavar="FILE.json",
        help="tempo and meter with changes, as the protocol writes them (tempo_map in SPEC.md)",
    )


def context_flag(parser: Parser) -> None:
    """Other tracks."""
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="FILE[:STEM]",
        help="another track, which begins where the input does; may be given several times",
    )


def output_flags() -> Parser:
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


def making_flags() -> Parser:
    flags = Parser(add_help=False)
    length = flags.add_argument_group("how long").add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=number(0, MAX_LENGTH_S, above=True), metavar="S", help="default 8, without --bars"
    )
    length.add_argument("--bars", type=bars, metavar="N", help="bars, also 2.5 or 7/2; needs --tempo")
    what = flags.add_argument_group("what")
    what.add_argument("--text", metavar="TEXT", help="what it should sound like")
    what.add_argument("--negative-text", metavar="TEXT", help="what it should not sound like")
    what.add_argument(
        "--variations", type=integer(1, MAX_VARIATIONS), default=1, metavar="N", help="takes (default 1)"
    )
    what.add_argument(
        "--seed", type=integer(0, MAX_INTEGER), metavar="N", help="the same seed, the same takes"
    )
    what.add_argument("--model", default="", metavar="NAME", help="default: the daemon's default model")
    how = flags.add_argument_group("how it is drawn")
    how.add_argument("--temperature", type=number(0, 10), metavar="T", help="default 1; 0: greedy")
    how.add_argument("--top-k", type=integer(0, 65_536), metavar="K", help="default 250; 0: no limit")
    how.add_argument("--top-p", type=number(0, 1), metavar="P", help="default 0: off")
    how.add_argument("--greedy", action="store_true", help="always the likeliest token")
    how.add_argument("--guidance", type=number(0, 100), metavar="X", help="default: the model's own")
    how.add_argument(
        "--priority",
        choices=["interactive", "batch"],
        default="interactive",
        help="batch lets others go first",
    )
    return flags


def tempo_flags(parser: Parser) -> None:
    group = parser.add_argument_group("tempo")
    group.add_argument("--tempo", type=exact(1, 2000), metavar="BPM", help="quarter notes per minute")
    group.add_argument("--meter", type=meter, metavar="N/M", help="default 4/4")
    group.add_argument(
        "--downbeat",
        type=exact(-36_000, 360_000),
        metavar="S",
        help="seconds in the file at which a bar begins (default 0: its first sample)",
    )
