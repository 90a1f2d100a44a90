"""``segue continue``: a recording goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run(args: Any) -> int:
    """Read the end of the file (or what lies before ``--start-at``), and have it continued."""
    from bridge_clients.audio_files import inspect, read_before
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.request import prompt_frames, seam_frame, submit_from

    info = inspect(Path(args.input).expanduser())
    excerpt = read_before(info, seam_frame(args, info), prompt_frames(args, info))
    submit = submit_from(args, excerpt)
    subtype = args.subtype or info.matching_subtype
    return make(args, Making("continue", info.path.stem, submit, subtype, excerpt))
