"""``segue vary``: a recording again, otherwise."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any


def run(args: Any) -> int:
    """Vary the file from ``--from`` to ``--to``; what lies before is heard first."""
    from bridge_clients.audio_files import MIN_PROMPT_S, inspect, is_silent, read_between
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.request import Given, block_of, prompt_frames, stretch, submit_from

    info = inspect(Path(args.input).expanduser())
    begin, end = stretch(args, info)
    source = read_between(info, begin, end)
    before = None
    if begin >= MIN_PROMPT_S * info.rate_hz:
        before = read_between(info, max(0, begin - prompt_frames(args, info)), begin)
        before = None if is_silent(before) else before
    given = Given(
        "vary",
        (block_of(source, "source", 0),),
        info.rate_hz,
        info.channels,
        Fraction(begin, info.rate_hz),
        end - begin,
    )
    submit = submit_from(args, before, given)
    subtype = args.subtype or info.matching_subtype
    return make(args, Making("vary", info.path.stem, submit, subtype, before))
