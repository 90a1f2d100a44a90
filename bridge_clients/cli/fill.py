"""``segue fill``: a stretch of a recording made anew, between what comes before and after it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any


def run(args: Any) -> int:
    """Fill the file from ``--from`` to ``--to``, exactly."""
    from bridge_clients.audio_files import MIN_PROMPT_S, inspect, is_silent, read_between
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.request import Given, block_of, prompt_frames, stretch, submit_from
    from protocol.errors import SegueError

    if args.seconds is not None or args.bars is not None:
        raise SegueError("E_ARGUMENT", "A gap is as long as --from and --to say.", field="length")
    info = inspect(Path(args.input).expanduser())
    begin, end = stretch(args, info)
    before = None
    if begin >= MIN_PROMPT_S * info.rate_hz:
        before = read_between(info, max(0, begin - prompt_frames(args, info)), begin)
        before = None if is_silent(before) else before
    if end >= info.frames:
        raise SegueError(
            "E_ARGUMENT", "Nothing follows the gap; use `segue continue --start-at`.", field="to"
        )
    after = read_between(info, end, min(info.frames, end + prompt_frames(args, info)))
    given = Given(
        "fill",
        (block_of(after, "following", end - begin),),
        info.rate_hz,
        info.channels,
        Fraction(begin, info.rate_hz),
        end - begin,
    )
    submit = submit_from(args, before, given)
    subtype = args.subtype or info.matching_subtype
    return make(args, Making("fill", info.path.stem, submit, subtype, before, after))
