"""One bit flipped in the state folder, at rest or under the running daemon: nothing is served as good.

Every byte that the daemon then serves is compared with the truth (`shelf`): it is right, or it is refused as
damaged. A flip in the journal costs nothing, because each job's record has the same once more.
"""

from __future__ import annotations

import random
import re
import signal
import sys
from collections import defaultdict
from pathlib import Path

from tests.chaos.report import Report, Scale, side_by_side
from tests.chaos.shelf import Shelf

KINDS = ("journal", "record", "take", "spool", "input", "manifest")  # what a worker noted lies in the spool
_PATTERNS = (
    (r"/record$|^forgotten$", "record"),
    (r"\.wav$", "take"),
    (r"\.(pcm|tokens)$", "spool"),
    (r"input\.raw$", "input"),
    (r"manifest\.json$", "manifest"),
)
GO_ON_EVERY = 5
BATCH = 12  # flips under one daemon


def kind_of(name: str) -> str:
    """Which of `KINDS` a file of the state folder is, "" for what no promise is about."""
    if name.startswith("journal.db") and not name.endswith("-shm"):
        return "journal"
    for pattern, kind in _PATTERNS:
        if re.search(pattern, name):
            return kind
    return ""


def places(state: Path) -> dict[str, list[Path]]:
    """Files by kind."""
    found = defaultdict(list)
    for path in sorted(state.rglob("*")):
        kind = kind_of(path.relative_to(state).as_posix())
        if path.is_file() and kind and path.stat().st_size:
            found[kind].append(path)
    return found


def choose(state: Path, rng: random.Random) -> tuple[str, Path, int, int]:
    """(kind, file, byte, bit): half of the time over all bytes, else over the kinds first."""
    by_kind = places(state)
    if rng.random() < 0.5:
        files = [path for found in by_kind.values() for path in found]
    else:
        files = by_kind[rng.choice(sorted(by_kind))]
    sizes = [path.stat().st_size for path in files]
    path = rng.choices(files, sizes)[0]
    kind, size = kind_of(path.relative_to(state).as_posix()), path.stat().st_size
    byte = rng.randrange(size)
    for _ in range(8 if kind == "journal" else 0):  # the free space of pages is zeros, and tells nothing
        if _byte(path, byte):
            break
        byte = rng.randrange(size)
    return kind, path, byte, rng.randrange(8)


def flip(path: Path, byte: int, bit: int) -> None:
    """In place, as a disk would do it."""
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ (1 << bit)]))


def _at_rest(shelf: Shelf, number: int) -> None:
    """One flip in a folder that nobody uses; then a daemon is started on it."""
    shelf.house.kill()
    settled = number % 2 == 1
    shelf.restore(settled=settled)
    kind, path, byte, bit = choose(shelf.house.state, shelf.rng)
    where = _named(shelf, "at rest after a stop" if settled else "at rest after a kill", path, byte, bit)
    flip(path, byte, bit)
    shelf.report.count(f"flips in {kind}, at rest")
    if shelf.start(where):
        _look(shelf, kind, path, where)
        if number % GO_ON_EVERY == 0 or kind == "input" or shelf.rng.random() < 0.3 * (kind == "spool"):
            shelf.go_on(where)
        shelf.answers(where)


def _under_the_daemon(shelf: Shelf, flips: int) -> None:
    """Some flips, one after the other, in the files of one running daemon; the last one stays."""
    shelf.house.kill()
    shelf.restore(settled=shelf.rng.random() < 0.5)
    if not shelf.start("before the flips") or shelf.read("before the flips"):
        shelf.report.broken.append("the shelf cannot be read although nothing was done to it")
        return
    for number in range(flips):
        kind, path, byte, bit = choose(shelf.house.state, shelf.rng)
        where = _named(shelf, "running", path, byte, bit)
        before = _byte(path, byte)
        flip(path, byte, bit)
        shelf.report.count(f"flips in {kind}, running")
        _look(shelf, kind, path, where)
        if not shelf.answers(where):
            return
        if number < flips - 1 and path.exists() and _byte(path, byte) == before ^ (1 << bit):
            flip(path, byte, bit)
    shelf.go_on(where)


def _named(shelf: Shelf, when: str, path: Path, byte: int, bit: int) -> str:
    return f"{when}, bit {bit} of byte {byte} of {path.relative_to(shelf.house.state).as_posix()}"


def _byte(path: Path, at: int) -> int:
    with path.open("rb") as file:
        file.seek(at)
        return (file.read(1) or b"\0")[0]


def _look(shelf: Shelf, kind: str, path: Path, where: str) -> None:
    """Read all; only the job whose own audio was hit may be refused."""
    refused = shelf.read(where)
    if refused:
        shelf.report.count("flips after which something was refused")
    owner = {path.relative_to(shelf.house.state).parts[1]} if kind in ("take", "spool", "input") else set()
    shelf.report.expect(refused <= owner, f"{where}: jobs {sorted(refused - owner)} cannot be read")


def _flips(flips: int, seed: int) -> Report:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    report = Report("bitflips", seed)
    report.figures["served as good"] = 0
    shelf = Shelf(seed, report)
    try:
        kinds = places(shelf.kept)
        missing = [kind for kind in KINDS if kind not in kinds]
        report.expect(not missing, f"there are no files of these kinds: {', '.join(missing)}")
        batches = flips // 2 // BATCH
        for number in range(flips - batches * BATCH):
            _at_rest(shelf, number)
        for _ in range(batches):
            _under_the_daemon(shelf, BATCH)
    finally:
        shelf.close()
    return report


def run(scale: Scale, seed: int, folder: Path) -> Report:
    """100 flips in CI, 1,000 in a full run; half of them while the daemon runs."""
    report = Report("bitflips", seed)
    half = -(-scale.pick(100, 1000) // 2)
    for found in side_by_side(_flips, [(half, seed), (half, seed + 1)]):
        report.add(found)
    return report
