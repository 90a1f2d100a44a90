"""``python -m daemon check``: looks at everything that lies on the disk, changes nothing, needs no daemon.

Made for `segue doctor`, which may not open the journal itself. Works beside a daemon that runs or hangs, on a
full disk and in a folder that cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon import disk, places, rows, schema, security, standing
from daemon.config import Settings
from daemon.space import RESERVE_NAME
from protocol.errors import SegueError
from protocol.keys import KeyFolder

OK, NOTE, BAD = "ok", "note", "bad"
_INCIDENTS_BYTES = 1 << 20  # of the newest log
_YEAR_2025_S = 1_735_689_600
_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level`: "ok", "note" (worth knowing) or "bad" (see `advice`)."""

    what: str
    found: str
    level: str = OK
    advice: str = ""


def findings(settings: Settings, *, deep: bool) -> Iterator[Finding]:
    """One after the other, so that what is found is said even if a later look takes long. `deep`: read every
    finished file and hold it against its checksum.
    """
    runtime, state = _runtime(settings), security.state_place(settings)
    yield _folder("runtime", runtime, "SEGUE_RUNTIME")
    yield _folder("state", state, "SEGUE_STATE")
    yield _drive(state)
    holder = standing.holder(state) or standing.holder(runtime)
    yield _lock(holder)
    yield _space(settings, state)
    yield _journal(state, holder)
    yield from _aside(state)
    yield _takes(state, deep)
    yield _keys(settings, state)
    yield _log(state)
    yield _clock(state)


def _runtime(settings: Settings) -> Path:
    """The folder that is in use, else the one that would be."""
    wanted = security.runtime_places(settings)
    used = [place for place in wanted if (place / standing.LOCK_FILE).exists()]
    return (used or wanted)[0]


def _folder(what: str, path: Path, variable: str) -> Finding:
    there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    advice = f"make {there} yours, or set {variable} to a folder that is"
    try:
        info = there.lstat()
    except OSError as error:
        return Finding(what, f"{there}: {error.strerror}", BAD, advice)
    if not stat.S_ISDIR(info.st_mode):
        return Finding(what, f"{there} is a link or a file, where a folder is due", BAD, advice)
    if not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
        return Finding(what, f"{there} cannot be written", BAD, advice)
    if there != path:
        return Finding(what, f"{path} (made at the first start)")
    if info.st_uid != os.getuid():
        return Finding(what, f"{path} belongs to another user (uid {info.st_uid})", BAD, advice)
    if stat.S_IMODE(info.st_mode) & 0o077:
        found = f"{path} is open to other users (mode {stat.S_IMODE(info.st_mode):o})"
        return Finding(what, found, NOTE, f"chmod 700 {path}; the next start does it, too")
    loose = [entry.name for entry in os.scandir(path) if _open_to_others(entry)]
    if loose:
        found = f"{path} holds files that others may read: {', '.join(sorted(loose)[:5])}"
        return Finding(what, found, NOTE, "the folder keeps others out; chmod go= makes the files agree")
    return Finding(what, str(path))


def _open_to_others(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        info = entry.stat(follow_symlinks=False)
        return not stat.S_ISLNK(info.st_mode) and bool(info.st_mode & 0o077)
    return False


def _drive(state: Path) -> Finding:
    refusal, mount = places.refusal(state), places.mount_of(state)
    if refusal is not None:
        return Finding("drive", refusal, BAD, "set SEGUE_STATE to a folder on a disk of this machine")
    return Finding("drive", f"{mount.kind} at {mount.point}" if mount is not None else "of a kind not known")


def _lock(holder: standing.Holder | None) -> Finding:
    if holder is None:
        return Finding("lock", "free: no daemon has these folders")
    if holder.process == "runs":
        return Finding("lock", f"held by a daemon ({holder.who})")
    advice = holder.silence[0].upper() + holder.silence[1:]
    return Finding("lock", f"held, but its process is {holder.process} ({holder.who})", BAD, advice)


def _space(settings: Settings, state: Path) -> Finding:
    used = sum(disk.used_bytes(state / name, RESERVE_NAME) for name in ("spool", "takes"))
    there = next(folder for folder in (state, *state.parents) if folder.exists())
    free = shutil.disk_usage(there).free - settings.takes.keep_free_mib * _MIB
    quota = settings.takes.quota_gib * _GIB
    found = (
        f"{used / _MIB:.0f} MiB of {quota / _GIB:g} GiB used, {max(0, free) / _GIB:.1f} GiB free on the disk"
    )
    if free < 64 * _MIB:
        return Finding("space", found, BAD, f"make room on the disk of {there}: nothing new can be made")
    if used > 0.9 * quota:
        advice = "segue takes lists them: forget what you have saved, or raise takes.quota_gib"
        return Finding("space", found, BAD if used > 0.99 * quota else NOTE, advice)
    return Finding("space", found)


# ---- the journal ----


def _journal(state: Path, holder: standing.Holder | None) -> Finding:
    path = state / "journal.db"
    if not path.exists():
        return Finding("journal", "none yet")
    if holder is not None:
        return Finding("journal", "in use; the daemon looked at it when it started")
    try:
        with tempfile.TemporaryDirectory(prefix="segue-check-") as folder:
            copy = Path(folder) / path.name
            for end in ("", "-wal"):
                source = path.with_name(path.name + end)
                if source.exists():
                    shutil.copyfile(source, copy.with_name(copy.name + end))
            with contextlib.closing(sqlite3.connect(copy)) as db:
                return _read_journal(db)
    except OSError as error:
        return Finding("journal", f"cannot be read ({error.strerror})", BAD, "look at the disk: dmesg")
    except SegueError as error:
        return Finding("journal", error.message, BAD, "use the newer Segue again, or another SEGUE_STATE")
    except (sqlite3.Error, schema.JournalDamaged, rows.RowDamaged, TypeError, ValueError) as error:
        found = f"is damaged ({' '.join(str(error).split())[:200]})"
        advice = "start Segue: it sets the journal aside, builds it again beside the takes, and waits for you"
        return Finding("journal", found, BAD, advice)


def _read_journal(db: sqlite3.Connection) -> Finding:
    db.text_factory = schema.lenient_text
    schema.prepare(db, Path("journal.db"))
    states: dict[str, int] = {}
    for values in db.execute(f"SELECT {schema.JOB} FROM job"):
        row = rows.job_from(values)
        states[row.state] = states.get(row.state, 0) + 1
    events = 0
    for values in db.execute(f"SELECT {schema.EVENT} FROM event"):
        rows.event_from(values)
        events += 1
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no jobs"
    return Finding("journal", f"sound: {counted}, {events} events")


def _aside(state: Path) -> Iterator[Finding]:
    with contextlib.suppress(OSError):
        aside = sorted(path.name for path in state.glob("journal.db.bad-*") if path.suffix != "")
        aside = [name for name in aside if not name.endswith(("-wal", "-shm"))]
        if aside:
            found = f"{len(aside)} damaged journal{'s' if len(aside) > 1 else ''} set aside: {aside[-1]}"
            advice = f"when segue takes shows all that you miss, delete {state}/journal.db.bad-*"
            yield Finding("set aside", found, NOTE, advice)


# ---- takes ----


def _takes(state: Path, deep: bool) -> Finding:
    """Every finished take has its manifest and files of the right length; `deep`: and content."""
    root = state / "takes"
    checked = files = 0
    wrong: list[str] = []
    try:
        folders = sorted(folder for folder in root.iterdir() if folder.name.isdigit())
    except FileNotFoundError:
        folders = []
    except OSError as error:
        return Finding("takes", f"{root} cannot be read ({error.strerror})", BAD, "look at the disk: dmesg")
    for folder in folders:
        if not (folder / "manifest.json").exists():
            continue  # being written now, or left by a job that was not done: the next start removes it
        checked += 1
        bad = _take(folder, deep)
        files += bad[0]
        wrong += [f"{folder.name}/{name}" for name in bad[1]]
    how = "held against their checksums" if deep else "of the right length (--deep reads them)"
    if wrong:
        found = f"{len(wrong)} of {files} files damaged: {', '.join(wrong[:5])}"
        return Finding("takes", found, BAD, "segue takes show JOB has text and seed: make these takes again")
    return Finding("takes", f"{checked} takes, {files} files, all {how}" if checked else "none yet")


def _take(folder: Path, deep: bool) -> tuple[int, list[str]]:
    """How many files a take has, and which are damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        entries = [entry for take in manifest["takes"] for entry in take["files"]]
        expected = [(str(entry["name"]), int(entry["bytes"]), int(entry["crc"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return 1, ["manifest.json"]
    return len(expected), [
        name for name, size, crc in expected if not _sound(folder / Path(name).name, size, crc, deep)
    ]


def _sound(path: Path, size: int, crc: int, deep: bool) -> bool:
    try:
        if path.stat().st_size != size:
            return False
        if not deep:
            return True
        found = 0
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found = zlib.crc32(piece, found)
        return found == crc
    except OSError:
        return False


# ---- the rest ----


def _keys(settings: Settings, state: Path) -> Finding:
    bind, folder = settings.tcp.bind, state / "keys"
    try:
        clients = KeyFolder(folder).clients() if folder.exists() else ()
    except (SegueError, OSError) as error:
        said = error.message if isinstance(error, SegueError) else str(error)
        level = BAD if bind else NOTE
        return Finding("network", f"nobody is let in: {said}", level, f"look at {folder}; segue keys list")
    names = f"{len(clients)} client key{'' if len(clients) == 1 else 's'} allowed"
    if not bind:
        return Finding("network", f"no door (tcp.bind is empty), {names}")
    if not clients:
        return Finding("network", f"{bind}, but no client key is allowed", NOTE, "segue keys new makes one")
    return Finding("network", f"{bind}, {names}")


def _log(state: Path) -> Finding:
    path = state / "logs" / "segued.log"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _INCIDENTS_BYTES))
            newest = file.read(_INCIDENTS_BYTES)
    except FileNotFoundError:
        return Finding("log", "none yet")
    except OSError as error:
        return Finding("log", f"{path} cannot be read ({error.strerror})", NOTE)
    incidents = [line for line in newest.splitlines() if b'"incident":' in line]
    if not incidents:
        return Finding("log", f"{path}, no faults of Segue's own in it")
    last = {}
    with contextlib.suppress(ValueError):
        last = json.loads(incidents[-1])
    found = f"{len(incidents)} faults of Segue's own, the last at {last.get('time', '?')}"
    return Finding(
        "log", f"{found}: incident {last.get('incident', '?')}", NOTE, f"please send {path} with a report"
    )


def _clock(state: Path) -> Finding:
    now = time.time()
    if now < _YEAR_2025_S:
        return Finding("clock", time.strftime("it is %Y here"), NOTE, "set the clock: takes are dated by it")
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = max((entry.stat().st_mtime for entry in os.scandir(state / "takes")), default=0.0)
    if newest > now + 3600:
        ahead = (newest - now) / 86_400
        found = f"takes are dated {ahead:.1f} days in the future"
        return Finding("clock", found, NOTE, "was the clock set back? nothing but the dates depends on it")
    return Finding("clock", time.strftime("%Y-%m-%d %H:%M:%S"))
