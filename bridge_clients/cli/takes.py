"""``segue takes``: what the daemon keeps, until it is told that it may forget it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from bridge_clients.cli.connect import connect
from bridge_clients.cli.exits import DONE
from bridge_clients.cli.showing import age, json_line, say, size, table, when
from protocol.errors import SegueError
from protocol.replies import JobInfo
from protocol.requests import FINAL_STATES, List


def run(args: Any) -> int:
    """List, or one action on the jobs that were named."""
    if args.action != "list" and not args.jobs:
        raise SegueError("E_ARGUMENT", f"takes {args.action} needs the id of a job.", field="job")
    if len(args.jobs) > 1 and args.action != "forget":
        raise SegueError("E_ARGUMENT", f"takes {args.action} takes one job at a time.", field="job")
    action = {"list": _list, "show": _show, "play": _play, "export": _export, "forget": _forget}
    with connect() as client:
        return action[args.action](client, args)


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
    jobs = client.list(limit=args.limit, states=FINAL_STATES if args.all else ("done",))
    usage = client.request(List(limit=1))
    if args.json:
        for info in jobs:
            json_line({"event": "take", **info.to_map()})
        return DONE
    if jobs:
        table(
            ["JOB", "STATE", "AGE", "SECONDS", "TAKES", "SIZE", "MODEL", "PROJECT", "TEXT"],
            [_row(info) for info in jobs],
        )
    else:
        say("There are no takes yet: segue demo makes some.")
    if usage.used_bytes is not None and (jobs or usage.used_bytes):
        more = "" if len(jobs) < args.limit else f" (the newest {len(jobs)}; --limit shows more)"
        say(f"{size(usage.used_bytes)} of {size(usage.quota_bytes)} are used{more}.")
    return DONE


def _row(info: JobInfo) -> list[str]:
    return [
        info.job,
        info.state,
        age(info.ended_ms or info.created_ms),
        _seconds(info),
        str(info.variations),
        size(info.size_bytes),
        info.model or "-",
        _short(info.project, 16),
        _short(info.text, 40),
    ]


def _seconds(info: JobInfo) -> str:
    return f"{info.frames / info.rate:.3f}" if info.frames and info.rate else "-"


def _short(words: str | None, most: int) -> str:
    """On one line, with nothing in it that could steer a terminal."""
    plain = "".join(letter if letter.isprintable() else " " for letter in words or "")
    plain = " ".join(plain.split()) or "-"
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def _show(client: Any, args: Any) -> int:
    info = find_job(client, args.jobs[0])
    if args.json:
        json_line({"event": "take", **info.to_map()})
        return DONE
    manifest = info.manifest or {}
    rows = [
        ("job", f"{info.job}, {info.state}"),
        ("made", f"{when(info.ended_ms or info.created_ms)} ({age(info.ended_ms or info.created_ms)} ago)"),
        ("text", _short(info.text, 1000)),
        ("project", _short(info.project, 600)),
        ("length", f"{_seconds(info)} s, {info.frames or '-'} samples at {info.rate or '-'} Hz"),
        ("takes", f"{info.variations} of {', '.join(info.stems or ('mix',))}"),
        ("model", info.model or "-"),
        ("seed", "-" if info.seed is None else str(info.seed)),
        ("made on", f"{manifest.get('device', '-')}, {manifest.get('precision', '-')}"),
        ("size", size(info.size_bytes)),
        ("folder", info.folder or "-"),
    ]
    if info.error is not None:
        rows.append(("failed", info.error.message))
    for name, value in rows:
        say(f"{name:<8} {value}")
    for take in manifest.get("takes", ()):
        for entry in take.get("files", ()):
            name = entry.get("name") or f"v{take.get('variation', 0)}.{entry.get('stem', '?')}"
            level = f"{entry['lufs']:.1f} LUFS" if isinstance(entry.get("lufs"), float) else "-"
            say(f"{'':<8} {name}, {size(entry.get('bytes'))}, {level}")
    return DONE


def _play(client: Any, args: Any) -> int:
    """The take as it lies on the disk, held against its checksum first; from another machine a copy."""
    import tempfile

    from bridge_clients.cli.playing import play, player

    info = find_job(client, args.jobs[0])
    take = (info.job, args.variation - 1, args.stem, "take")
    with tempfile.TemporaryDirectory(prefix="segue-play-") as folder:
        if info.folder is None:
            path = Path(folder) / f"job{info.job}.v{args.variation}.wav"
            path.write_bytes(bytes(client.fetch(*take, as_="bytes").data or b""))
        else:
            path = client.fetch(*take, as_="path").path
        if args.json:
            json_line({"event": "playing", "job": info.job, "path": str(path)})
        elif player() is not None:
            say(f"Playing take {args.variation} of job {info.job} ({_seconds(info)} s): {path}")
        play(path)
    return DONE


def _export(client: Any, args: Any) -> int:
    """Copy every finished stem and handle of a job, each held against its checksum, under the names that
    `continue` uses: into a new folder, or (with ``--overwrite``) over what is there.
    """
    from bridge_clients.audio_files import disk_error, publish
    from bridge_clients.cli.landing import new_folder

    info = find_job(client, args.jobs[0])
    if info.state != "done":
        raise SegueError(
            "E_TAKE_MISSING", f"Job {info.job} is {info.state}: it has no finished takes.", field="job"
        )
    folder = new_folder(args.out, info.job, overwrite=args.overwrite)
    put = os.replace if args.overwrite else publish
    names: list[str] = []
    complete = False
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
                    put(temporary, folder.path / name)
                    names.append(name)
        manifest = folder.path / ".manifest.json.writing"
        manifest.write_text(json.dumps(info.to_map(), indent=1, ensure_ascii=False, default=str), "utf-8")
        put(manifest, folder.path / "manifest.json")
        complete = True
    except OSError as error:
        raise disk_error(folder.path / "take", error) from error
    finally:
        if not complete:
            for temporary in folder.path.glob(".*.writing"):
                temporary.unlink(missing_ok=True)
            if not args.overwrite:
                folder.remove_takes()
                folder.remove_if_empty()
    if args.json:
        json_line({"event": "exported", "job": info.job, "folder": str(folder.path), "files": names})
    else:
        count = "1 file" if len(names) == 1 else f"{len(names)} files"
        say(f"{count} of job {info.job} {'is' if len(names) == 1 else 'are'} in {folder.path}.")
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
    """Delete takes for good, after asking (unless ``--yes``)."""
    infos = [find_job(client, given) for given in dict.fromkeys(args.jobs)]
    for info in infos:
        if info.state not in FINAL_STATES:
            raise SegueError(
                "E_JOB", f"Job {info.job} is still {info.state}; cancel it first: segue cancel {info.job}."
            )
    if not args.yes:
        _ask(infos)
    for info in infos:
        reply = client.forget(info.job)
        if args.json:
            json_line({"event": "forgotten", **reply.to_map()})
        else:
            say(f"Job {info.job} is forgotten; {size(reply.freed_bytes)} are free again.")
    return DONE


def _ask(infos: list[JobInfo]) -> None:
    """Let a person say yes; raises E_ARGUMENT where nobody can be asked, E_CANCELLED for any other answer."""
    if not sys.stdin.isatty():
        raise SegueError("E_ARGUMENT", "Nobody can be asked here; takes forget --yes deletes without asking.")
    for info in infos:
        said = f"job {info.job}, {_seconds(info)} s, {info.variations} takes, {size(info.size_bytes)}"
        say(f"{said}: {_short(info.text, 60)}")
    sys.stdout.write(
        f"Delete {'this job' if len(infos) == 1 else f'these {len(infos)} jobs'} for good? [y/N] "
    )
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes", "j", "ja"):
        raise SegueError("E_CANCELLED", "Nothing was deleted.")
