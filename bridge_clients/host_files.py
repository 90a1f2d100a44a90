"""Puts a host's files where they belong, remembers what it did, and takes it back.

Nothing of the user's is ever written over or removed: what stands at a place is replaced or deleted only
when it is, to the last bit, what was put there from here. What was done is remembered in
`installed/<host>.json` in Segue's state folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from bridge_clients.installing import BAD, HOSTS, NOTE, Copy, Finding, Setting
from bridge_clients.settings_file import SettingsFile, runs
from protocol.build import VERSION
from protocol.errors import SegueError

FORMAT = 1
WRITTEN, SAME, KEPT, REMOVED, SET, RESTORED, GONE = (
    "written", "as it was", "kept", "removed", "set", "put back", "gone already",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing that was done (or would be): `did` is one of the words above."""

    did: str
    path: Path
    remark: str = ""


@dataclass
class Memory:
    """What was put where: {path: SHA-256}, {path: folders made for it}, settings with what stood before."""

    file: Path
    files: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    version: str = ""

    @classmethod
    def of(cls, host: str, folder: Path) -> Memory:
        """Read it; empty when nothing was installed. Raises E_ARGUMENT when it is damaged."""
        file = folder / f"{host}.json"
        try:
            found = json.loads(file.read_text("utf-8"))
            if found["format"] != FORMAT:
                raise ValueError("format")
            return cls(
                file, dict(found["files"]), list(found["folders"]), list(found["settings"]), found["version"]
            )
        except FileNotFoundError:
            return cls(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SegueError(
                "E_ARGUMENT", f"{file} cannot be read ({error}); remove it, then install again.",
                field="installed", value=str(file),
            ) from None  # fmt: skip

    @property
    def empty(self) -> bool:
        return not (self.files or self.settings)

    def keep(self) -> None:
        """Write it, or remove it when there is nothing left to remember."""
        if self.empty:
            self.file.unlink(missing_ok=True)
            return
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {
            "format": FORMAT, "version": VERSION, "files": self.files, "folders": self.folders,
            "settings": self.settings,
        }  # fmt: skip
        _write(self.file, (json.dumps(content, indent=1) + "\n").encode())


def memory_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where it is remembered what was installed."""
    given = environment.get("SEGUE_STATE")
    if given:
        return Path(given).expanduser() / "installed"
    from platformdirs import user_state_dir

    return Path(user_state_dir("segue", appauthor=False)) / "installed"


def wanted(host: str, platform: str, home: Path, environment: Mapping[str, str]) -> list[Copy | Setting]:
    """What the host's own folder says. Raises E_ARGUMENT."""
    found: list[Copy | Setting] = _module(host).files(platform, home, environment)
    return found


def looked_at(host: str, platform: str, home: Path, environment: Mapping[str, str]) -> list[Finding]:
    """What the host's own folder finds."""
    return list(_module(host).check(platform, home, environment))


def last_words(host: str) -> str:
    """What the user has to do now, in the host's own sentence."""
    return str(getattr(_module(host), "AFTERWARDS", ""))


def _module(host: str) -> Any:
    if host not in HOSTS:
        raise SegueError(
            "E_ARGUMENT", f"There is nothing to install for {host}.", field="host", value=host,
            allowed=", ".join(HOSTS),
        )  # fmt: skip
    name = f"bridge_clients.{host}.installing"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise SegueError(
            "E_ARGUMENT", f"This Segue came without its files for {host}.", field="host", value=host,
            allowed="pip install --force-reinstall segue-daw",
        ) from None  # fmt: skip


def install(wants: Sequence[Copy | Setting], memory: Memory, *, dry: bool = False) -> Iterator[Step]:
    """Put everything in place and remember it. With `dry` only say what would be done.

    Raises E_ARGUMENT when a folder cannot be written or the host runs, E_DISK_FULL.
    """
    for setting in wants:
        if isinstance(setting, Setting):
            _check_still(setting)
    targets = {str(want.target) for want in wants if isinstance(want, Copy)}
    try:
        for path in [path for path in memory.files if path not in targets]:
            yield _take_back(path, memory, dry)  # a file of an older Segue that this one does not have
        for want in wants:
            yield _copy(want, memory, dry) if isinstance(want, Copy) else _set(want, memory, dry)
    except OSError as error:
        raise _failed(error) from None
    finally:
        if not dry:
            memory.keep()


def uninstall(memory: Memory, *, dry: bool = False) -> Iterator[Step]:
    """Take everything back that is still as it was put there. Raises as `install` does."""
    for entry in memory.settings:
        _check_still(_setting(entry))
    try:
        for path in list(memory.files):
            yield _take_back(path, memory, dry)
        for entry in list(memory.settings):
            yield _put_back(entry, memory, dry)
        if not dry:
            for folder in sorted(memory.folders, key=len, reverse=True):
                with contextlib.suppress(OSError):  # something of the user's is in it
                    os.rmdir(folder)
            memory.folders = [folder for folder in memory.folders if os.path.isdir(folder)]
    except OSError as error:
        raise _failed(error) from None
    finally:
        if not dry:
            memory.keep()


# ---- files ----


def _copy(want: Copy, memory: Memory, dry: bool) -> Step:
    content, path = want.content(), str(want.target)
    new, there = hashlib.sha256(content).hexdigest(), _hash(want.target)
    if there == new:
        if not dry:
            memory.files[path] = new
        return Step(SAME, want.target)
    if there is not None and there != memory.files.get(path):
        changed = "you changed it" if path in memory.files else "it was not put there by Segue"
        return Step(KEPT, want.target, f"{changed}; remove it and install again for Segue's own")
    if not dry:
        _make_folders(want.target, memory)
        _write(want.target, content, 0o644)
        memory.files[path] = new
    return Step(WRITTEN, want.target)


def _make_folders(target: Path, memory: Memory) -> None:
    for folder in reversed([f for f in target.parents if not f.exists()]):
        folder.mkdir()
        memory.folders.append(str(folder))


def _take_back(path: str, memory: Memory, dry: bool) -> Step:
    there, target = _hash(Path(path)), Path(path)
    if there is not None and there != memory.files[path]:
        step = Step(KEPT, target, "you changed it")
    else:
        step = Step(REMOVED if there is not None else GONE, target)
    if not dry:
        if step.did == REMOVED:
            target.unlink()
        del memory.files[path]
    return step


def _hash(path: Path) -> str | None:
    """SHA-256 of what is there, None when nothing is. A folder or pipe is nothing of ours: never equal."""
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# ---- settings ----


def _set(want: Setting, memory: Memory, dry: bool) -> Step:
    file = SettingsFile.read(want.target)
    before = file.get(want.section, want.key)
    what = f"[{want.section}] {want.key}={want.value}"
    if before == want.value:
        return Step(SAME, want.target, what)
    if not dry:
        known = next((e for e in memory.settings if _names(e) == _names(want)), None)
        if known is None:
            made = not want.target.exists() or any(
                entry["made"] for entry in memory.settings if entry["path"] == str(want.target)
            )
            memory.settings.append(
                {"path": str(want.target), "section": want.section, "key": want.key, "value": want.value,
                 "before": before, "made": made, "process": want.process}
            )  # fmt: skip
        else:
            known["value"] = want.value
        _make_folders(want.target, memory)
        memory.keep()  # before the change, so that what stood there is never lost
        file.set(want.section, want.key, want.value)
        _write(want.target, file.content(), file.mode)
    return Step(SET, want.target, what)


def _put_back(entry: dict[str, Any], memory: Memory, dry: bool) -> Step:
    target = Path(entry["path"])
    file = SettingsFile.read(target)
    now = file.get(entry["section"], entry["key"])
    what = f"[{entry['section']}] {entry['key']}"
    if now is None and not target.exists():
        step = Step(GONE, target, what)
    elif now != entry["value"]:
        step = Step(KEPT, target, f"{what}: it was changed since")
    else:
        step = Step(RESTORED, target, what)
    if not dry:
        if step.did == RESTORED:
            file.set(entry["section"], entry["key"], entry["before"])
            if entry.get("made") and not file.content().strip():
                target.unlink()
            else:
                _write(target, file.content(), file.mode)
        memory.settings.remove(entry)
    return step


def _setting(entry: dict[str, Any]) -> Setting:
    return Setting(
        Path(entry["path"]), entry["section"], entry["key"], entry["value"], entry.get("process", "")
    )


def _names(what: Any) -> tuple[str, str, str]:
    if isinstance(what, Setting):
        return str(what.target), what.section, what.key
    return what["path"], what["section"], what["key"]


def _check_still(setting: Setting) -> None:
    if setting.process and runs(setting.process):
        raise SegueError(
            "E_ARGUMENT",
            f"{setting.process} runs, and writes its settings when it ends: quit it, then try again.",
            field="host", value=setting.process,
        )  # fmt: skip


def _failed(error: OSError) -> SegueError:
    from bridge_clients.jobdir.folder import disk_error

    made = disk_error(Path(error.filename or "."), error)
    made.code = "E_ARGUMENT" if made.code == "E_DISK" else made.code
    return made


# ---- the doctor ----


def findings(
    platform: str = sys.platform, home: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """What is to be said about each host's set-up. Where Segue was never put into a host nothing is wrong."""
    home = home or Path.home()
    for host in HOSTS:
        asked_for = True
        try:
            memory = Memory.of(host, memory_folder(environment))
            asked_for = not memory.empty
            found = looked_at(host, platform, home, environment)
            found += _as_installed(memory, host, platform, home, environment)
        except SegueError as error:
            found = [Finding(host, error.message, BAD, error.allowed or f"segue install {host}")]
        except (OSError, ValueError, KeyError) as error:
            found = [Finding(host, f"its folder could not be looked at ({error})", NOTE)]
        for finding in found:
            mild = finding.level == BAD and not asked_for
            yield dataclasses.replace(finding, level=NOTE) if mild else finding


def _as_installed(
    memory: Memory, host: str, platform: str, home: Path, environment: Mapping[str, str]
) -> Iterator[Finding]:
    if memory.empty:
        return
    missing = [path for path in memory.files if not os.path.lexists(path)]
    changed = [path for path, hash_ in memory.files.items() if _hash(Path(path)) not in (None, hash_)]
    renew = f"segue install {host}"
    if missing:
        yield Finding(host, f"{missing[0]} is missing{_more(missing)}", BAD, renew)
    if changed:
        advice = f"yours is kept; remove it and {renew} for Segue's own"
        yield Finding(host, f"{changed[0]} was changed{_more(changed)}", NOTE, advice)
    try:
        wants = [w for w in wanted(host, platform, home, environment) if isinstance(w, Copy)]
    except SegueError:  # the command or the host has gone, which the host's own look has said
        return
    old = [
        str(w.target) for w in wants
        if memory.files.get(str(w.target)) not in (None, hashlib.sha256(w.content()).hexdigest())
    ]  # fmt: skip
    if old:
        yield Finding(
            host, f"its files are those of Segue {memory.version}, or of another place", NOTE, renew
        )


def _more(found: Sequence[str]) -> str:
    return f", and {len(found) - 1} more" if len(found) > 1 else ""
