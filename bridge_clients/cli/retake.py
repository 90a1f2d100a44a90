"""``segue retake``: a job once more, with another seed or other words."""

from __future__ import annotations

import secrets
from typing import Any


def run(args: Any) -> int:
    """Have another take of a finished job made; what is not said stays as it was."""
    from bridge_clients.cli import connect as connection
    from bridge_clients.cli.making import Making, make
    from bridge_clients.cli.takes import find_job
    from protocol.errors import SegueError
    from protocol.limits import KEY_BYTES
    from protocol.submit import Retake, Submit
    from protocol.tempo import Length

    names = ("text", "negative_text", "strength", "model")
    change: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.temperature is not None:
        change["sampling"] = {"temperature": args.temperature}
    if args.guidance is not None:
        change["guidance"] = {"cfg_coef": args.guidance}
    with connection.connect() as client:
        info = client.status(find_job(client, args.job).job)
    settings = (info.manifest or {}).get("settings")
    if settings is None:
        raise SegueError(
            "E_JOB", f"Job {info.job} is {info.state}; only a finished one can be made again.", job=info.job
        )
    again = Retake(
        job=info.job, key=secrets.token_bytes(KEY_BYTES), seed=args.seed, variations=args.variations,
        change=change or None,
    )  # fmt: skip
    as_it_was = {name: value for name, value in settings.items() if name in Submit.WIRE}
    made = again.changed(as_it_was) | {"key": again.key, "seed": args.seed}
    if args.variations is not None:
        made["variations"] = args.variations
    if "tempo_map" not in made:  # too long to come along: the length is known all the same
        made |= {"length": Length(frames=info.frames).to_map(), "start": "edge", "harmony": None}
    elif made.get("length") is None:
        made["length"] = Length(frames=info.frames).to_map()
    submit = Submit.from_map(made)
    return make(args, Making("retake", f"job-{info.job}", submit, args.subtype or "float", again=again))
