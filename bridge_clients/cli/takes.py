"""``segue takes``: what the daemon keeps, until it is told that it may forget it."""

from __future__ import annotations

import json
from typing import Any

from bridge_clients.cli.connect import connect
from bridge_clients.cli.exits import DONE
from bridge_clients.cli.showing import json_line, say, table, when
from protocol.errors import SegueError
from protocol.replies import JobInfo
from protocol.requests import FINAL_STATES


def run(args: Any) -> int:
    """List, or one action on one job."""
    if args.action != "list" and not args.job:
        raise SegueError("E_ARGUMENT", f"takes {args.action} needs the id of a job.", field="job")
    action = {"list": _list, "show": _show, "export": _export, "forget": _forget}[args.action]
    with connect() as client:
        return action(client, args)


def find_job(client: Any, given: str) -> JobInfo:
    """The job of that id, or the only one whose id begins like that; ``E_JOB`` otherwise."""
    try:
        return client.status(given)
    except SegueError as error:
        if error.code not in ("E_JOB", "E_ARGUMENT"):
            raise
    found = [info for info in client.list(limit=None) if info.job.startswith(given)]
    if len(found) == 1:
        return client.status(found[0].job)
    several = f"{len(found)} jobs begin with" if found else "there is no job"
    raise SegueError(
        "E_JOB",
        f"{several[0].upper()}{several[1:]} {given!r}; `segue takes` lists them.",
        field="job",
        value=given,
    )


def _list(client: Any, args: Any) -> int:
    jobs = client.list(limit=args.limit, states=("done",))
    if args.json:
        for info in jobs:
            json_line({"event": "take", **info.to_map()})
        return DONE
    if not jobs:
        say("There are no takes yet: segue demo makes some.")
        return DONE
    table(["JOB", "MADE", "MODEL", "TAKES", "SECONDS", "SEED", "TEXT"], [_row(info) for info in jobs])
    return DONE


def _row(info: JobInfo) -> list[str]:
    seconds = f"{info.frames / info.rate:.3f}" if info.frames and info.rate else "-"
    words = " ".join((info.text or "-").split())
    return [
        info.job,
        when(info.ended_ms or info.created_ms),
        info.model or "-",
        str(info.variations),
        seconds,
        "-" if info.seed is None else str(info.seed),
        words if len(words) <= 40 else words[:39] + "…",
    ]


def _show(client: Any, args: Any) -> int:
    info = find_job(client, args.job)
    if args.json:
        json_line({"event": "take", **info.to_map()})
        return DONE
    say(json.dumps(info.to_map(), indent=1, ensure_ascii=False, default=str))
    return DONE


def _export(client: Any, args: Any) -> int:
    """Copy every finished stem and handle of a job into a new folder, under the names that `continue`
    uses.
    """
    from bridge_clients.audio_files import disk_error, publish
    from bridge_clients.cli.landing import new_folder

    info = find_job(client, args.job)
    if info.state != "done":
        raise SegueError(
            "E_TAKE_MISSING", f"Job {info.job} is {info.state}: it has no finished takes.", field="job"
        )
    folder = new_folder(args.out, info.job)
    names: list[str] = []
    try:
        for variation in range(info.variations):
            for stem in info.stems or ("mix",):
                for part in ("take", "handle"):
                    data = _fetched(client, info.job, variation, stem, part)
                    if data is None:
                        continue
                    name = f"v{variation + 1}.{stem}{'.handle' if part == 'handle' else ''}.wav"
                    temporary = folder.path / f".{name}.writing"
                    temporary.write_bytes(data)
                    publish(temporary, folder.path / name)
                    names.append(name)
        manifest = folder.path / ".manifest.json.writing"
        manifest.write_text(json.dumps(info.to_map(), indent=1, ensure_ascii=False, default=str), "utf-8")
        publish(manifest, folder.path / "manifest.json")
    except OSError as error:
        raise disk_error(folder.path / "take", error) from error
    finally:
        if not (folder.path / "manifest.json").exists():
            folder.remove_takes()
            folder.remove_if_empty()
    if args.json:
        json_line({"event": "exported", "job": info.job, "folder": str(folder.path), "files": names})
    else:
        say(f"{len(names)} files of job {info.job} are in {folder.path}.")
    return DONE


def _fetched(client: Any, job: str, variation: int, stem: str, part: str) -> bytes | None:
    """The checked bytes of one WAV file; None when this job has no handle there."""
    try:
        return bytes(client.fetch(job, variation, stem, part, as_="bytes").data or b"")
    except SegueError as error:
        if part == "handle" and error.code in ("E_TAKE_MISSING", "E_ARGUMENT"):
            return None
        raise


def _forget(client: Any, args: Any) -> int:
    info = find_job(client, args.job)
    if info.state not in FINAL_STATES:
        raise SegueError(
            "E_JOB", f"Job {info.job} is still {info.state}; cancel it first: segue cancel {info.job}."
        )
    reply = client.forget(info.job)
    if args.json:
        json_line({"event": "forgotten", **reply.to_map()})
    else:
        say(f"Job {info.job} is forgotten; {reply.freed_bytes / 1e6:.1f} MB are free again.")
    return DONE
