"""``segue accompany``: the stems that the given tracks do not have."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def run(args: Any) -> int:
    """Read the tracks, which begin together, and have the rest played from ``--from`` on: to their end, where
    nothing else is said.
    """
    from bridge_clients.audio_files import inspect
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.request import Given, context_blocks, submit_from, track_of
    from protocol.errors import SegueError

    infos = [inspect(track_of(word)[0]) for word in args.tracks]
    first = infos[0]
    seam_s = Fraction(args.from_s)
    left_s = max(Fraction(info.frames, info.rate_hz) for info in infos) - seam_s
    if left_s <= 0:
        raise SegueError(
            "E_ARGUMENT", "--from lies behind the end of the tracks.", field="from", value=float(seam_s)
        )
    length_s = float(args.seconds or left_s)
    given = Given(
        "accompany",
        context_blocks(args.tracks, seam_s, 0.0, max(length_s, float(left_s) if args.bars else 0.0)),
        first.rate_hz,
        first.channels,
        seam_s,
        round(left_s * first.rate_hz),
    )
    submit = submit_from(args, None, given)
    return make(args, Making("accompany", first.path.stem, submit, args.subtype or first.matching_subtype))
