"""What `segue audacity` does: ask Audacity, ask the daemon, land the takes.

Audacity is asked at the beginning and at the end, for a moment each; meanwhile nobody holds its pipe, and
the musician works on. The job outlives this process: `land` brings takes whose Audacity was closed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridge_clients.audacity.asking import Seam, ask, described, seam_of
from bridge_clients.audacity.host import land as put_in_place
from bridge_clients.audacity.host import restore, where
from bridge_clients.audacity.pipe import Pipe
from bridge_clients.audacity.project import Piece, Strip
from bridge_clients.audacity.stopping import SESSION
from bridge_clients.cli.making import CONDITIONS
from bridge_clients.cli.progress import Reporter
from bridge_clients.cli.running import CancelOnInterrupt
from bridge_clients.core import Fetched
from protocol.errors import SegueError
from protocol.events import Cancelled, Done, Failed, Requeued, Started, Tick
from protocol.replies import JobInfo

Connect = Callable[..., Any]
LANDS = ("take", "handle", "tail")
CHANGES = ("text", "negative_text", "strength")


def make(mode: str, args: Any, connect: Connect, reporter: Reporter) -> bool:
    """One of the five modes, from the selection to the takes on their tracks. False when it was cancelled."""
    with Pipe() as pipe:
        place = where(pipe)
        try:
            submit = ask(pipe, place, mode, args)
        finally:
            restore(pipe, place)
    with connect(reporter=reporter) as client:
        return _run(client, lambda: client.submit(submit), connect, reporter, submit.to_map())


def retake(args: Any, connect: Connect, reporter: Reporter) -> bool:
    """The same job with another seed, perhaps other words, landed at the same place."""
    with connect(reporter=reporter) as client:
        info = _job(client, args.job)
        seam_of(info)
        again = client.retake
        change = {name: getattr(args, name) for name in CHANGES if getattr(args, name) is not None}
        return _run(
            client,
            lambda: again(info.job, seed=args.seed, variations=args.variations, change=change or None),
            connect,
            reporter,
        )


def land(args: Any, connect: Connect, reporter: Reporter) -> bool:
    """Finished takes that are not in Audacity yet, or once more."""
    with connect(reporter=reporter) as client:
        info = _job(client, args.job)
        if info.state != "done":
            raise SegueError(
                "E_JOB", f"Job {info.job} is {info.state}, not done.", field="job", value=info.job
            )
        _land(client, info.job, reporter)
        return True


def _job(client: Any, given: str | None) -> JobInfo:
    """The job of that id, or Audacity's newest finished one."""
    if given:
        return client.status(given)
    found = client.list(session=SESSION, states=("done",), limit=1)
    if not found:
        raise SegueError("E_JOB", "No take was made from Audacity yet.", field="job")
    return client.status(found[0].job)


def _run(
    client: Any, submit: Callable[[], Any], connect: Connect, reporter: Reporter,
    asked: dict[str, Any] | None = None,
) -> bool:  # fmt: skip
    """Hand the job in, follow it to its end, land it. asked: the request, where it was made here."""
    if client.skew:
        reporter.note(client.skew)
    known: list[str] = []

    def stop() -> None:
        while not known:
            time.sleep(0.02)
        with connect(autostart=False) as other:
            other.cancel(known[0])

    with CancelOnInterrupt(stop, reporter) as interrupt:
        job = submit()
        known.append(job.id)
        reporter.event("submitted", job=job.id, state=job.state, position=job.position, seed=job.seed)
        if not _follow(job, reporter, interrupt):
            reporter.event("cancelled", message="Cancelled; nothing was changed in Audacity.")
            reporter.note(f"Cancelled: job {job.id} has stopped, and nothing was changed in Audacity.")
            return False
    reporter.writing()
    try:
        _land(client, job.id, reporter, asked)
    except SegueError:
        reporter.note(f"The takes are made and kept; they land with: segue audacity land {job.id}")
        raise
    return True


def _follow(job: Any, reporter: Reporter, interrupt: CancelOnInterrupt) -> bool:
    """To the end of the job; False when it was cancelled. Raises the job's failure."""
    for event in job.events(audio=False):
        if isinstance(event, Tick):
            reporter.tick({key: value for key, value in event.to_map().items() if value is not None})
        elif isinstance(event, Started):
            reporter.event("started", attempt=event.attempt, model=event.model, device=event.device)
        elif isinstance(event, Requeued):
            reporter.note(f"The daemon goes on with it after: {event.why or 'its worker ended'}.")
        elif isinstance(event, Failed):
            raise event.error
        elif isinstance(event, Cancelled):
            if not interrupt.asked:
                reporter.note("It was cancelled from elsewhere.")
            return False
        elif isinstance(event, Done):
            return True
    raise SegueError("E_INTERNAL", f"The events of job {job.id} ended without a result.", job=job.id)


def _land(client: Any, job: str, reporter: Reporter, asked: dict[str, Any] | None = None) -> None:
    """Fetch, put in place, say so."""
    info = client.status(job)
    seam = seam_of(info)
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        takes = _takes(client, info, Path(folder))
        at = seam.frame + info.lead_frames
        manifest = info.manifest or {}
        settings = {
            "mode": info.mode,
            "text": info.text,
            **(asked or {}),
            **(manifest.get("settings") or {}),
            "seed": info.seed,
        }
        model = str((manifest.get("model") or {}).get("name") or info.model)
        label = (at, at + (info.frames or 0), described(settings, job, model))

        def strips(handles: bool) -> Sequence[Strip]:
            return [_strip(info, seam, *which, parts, at, handles) for which, parts in takes.items()]

        with Pipe() as pipe:
            put_in_place(pipe, seam.rate_hz, strips, label)
    for name in manifest.get("ignored") or ():
        reporter.note(f"{model} does not listen to {CONDITIONS.get(name, name)}: that was left aside.")
    reporter.event(
        "landed", job=job, seed=info.seed, at_frame=at, frames=info.frames, rate=seam.rate_hz,
        takes=info.variations, tracks=len(takes), undo_steps=1,
    )  # fmt: skip
    reporter.close()
    reporter.summary(
        [
            f"{len(takes)} new track{'s' if len(takes) > 1 else ''} at {at / seam.rate_hz:.3f} s "
            f"(sample {at}), {info.frames} samples each, from {model}, seed {info.seed}.",
            "One step of Undo takes everything back; only the first take is not muted."
            if len(takes) > 1
            else "One step of Undo takes it back.",
            f"Another try: segue audacity retake {job}",
        ]
    )


def _takes(
    client: Any, info: JobInfo, folder: Path
) -> dict[tuple[int, str], dict[str, tuple[Path, Fetched]]]:
    """(variation, stem) → part → where it lies and what it is; the mix only where there are no stems."""
    stems = info.stems or ("mix",)
    stems = tuple(stem for stem in stems if stem != "mix") or ("mix",)
    found: dict[tuple[int, str], dict[str, tuple[Path, Fetched]]] = {}
    for variation in range(info.variations):
        for stem in stems:
            parts = found.setdefault((variation, stem), {})
            for part in LANDS:
                got = _fetched(client, info.job, variation, stem, part)
                if got is None:
                    continue
                path = got.path
                if path is None:
                    path = folder / f"v{variation}.{stem}.{part}.wav"
                    path.write_bytes(got.data or b"")
                parts[part] = (path, got)
    return found


def _fetched(client: Any, job: str, variation: int, stem: str, part: str) -> Fetched | None:
    try:
        return client.fetch(job, variation, stem, part)
    except SegueError as error:
        if part != "take" and error.code in ("E_TAKE_MISSING", "E_ARGUMENT"):
            return None
        raise


def _strip(
    info: JobInfo, seam: Seam, variation: int, stem: str, parts: dict[str, tuple[Path, Fetched]], at: int,
    handles: bool,
) -> Strip:  # fmt: skip
    """One take as a track: what lies before and after it is there, out of sight."""
    take_path, take = parts["take"]
    if info.frames is not None and take.frames != info.frames:
        raise SegueError(
            "E_TAKE_DAMAGED",
            f"Take {variation + 1} has {take.frames} samples where {info.frames} were asked for.",
            job=info.job,
        )
    pieces = [Piece(take_path, 0, take.frames)]
    before = after = 0
    if handles and "handle" in parts:
        path, handle = parts["handle"]
        before = min(handle.frames, at)  # nothing lies before the project's start
        if before:
            pieces.insert(0, Piece(path, handle.frames - before, before))
    if handles and "tail" in parts:
        path, tail = parts["tail"]
        after = tail.frames
        pieces.append(Piece(path, 0, after))
    which = "" if stem == "mix" else f" {stem}"
    return Strip(
        name=f"segue {info.mode} v{variation + 1}{which} seed {info.seed}",
        channels=take.channels,
        at_frame=at,
        pieces=tuple(pieces),
        before=before,
        after=after,
        mute=variation > 0,
    )
