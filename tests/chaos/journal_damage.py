"""The journal damaged: its header, a page, its write-ahead log; cut short, zeroed, replaced, removed.

After each: the daemon answers; all jobs are there with the same numbers, events and takes; every key still
gives its own job; a journal that was set aside is kept, and the daemon says so until somebody resumes.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from protocol import messages as m
from tests.chaos.report import Report, Scale, side_by_side
from tests.chaos.shelf import Shelf

PAGE_BYTES = 4096
GO_ON_EVERY = 6


def _write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _region(path: Path, rng: random.Random) -> tuple[int, int]:
    size = path.stat().st_size
    at = rng.randrange(max(1, size))
    return at, min(size - at, rng.choice((1, 16, 512, PAGE_BYTES, 4 * PAGE_BYTES)))


def header(path: Path, rng: random.Random) -> str:
    at = rng.randrange(100)
    _write(path, at, rng.randbytes(rng.randint(1, 100 - at)))
    return f"header from byte {at}"


def garbage(path: Path, rng: random.Random) -> str:
    at, count = _region(path, rng)
    _write(path, at, rng.randbytes(count))
    return f"{count} bytes of noise at {at}"


def zeros(path: Path, rng: random.Random) -> str:
    at, count = _region(path, rng)
    _write(path, at, bytes(count))
    return f"{count} zeros at {at}"


def page(path: Path, rng: random.Random) -> str:
    number = rng.randrange(max(1, path.stat().st_size // PAGE_BYTES))
    _write(path, number * PAGE_BYTES, rng.choice((bytes(PAGE_BYTES), rng.randbytes(PAGE_BYTES))))
    return f"page {number}"


def swap(path: Path, rng: random.Random) -> str:
    """Two pages change places: each is sound in itself."""
    data = path.read_bytes()
    count = len(data) // PAGE_BYTES
    one, other = rng.randrange(count), rng.randrange(count)
    _write(path, one * PAGE_BYTES, data[other * PAGE_BYTES : (other + 1) * PAGE_BYTES])
    _write(path, other * PAGE_BYTES, data[one * PAGE_BYTES : (one + 1) * PAGE_BYTES])
    return f"pages {one} and {other} changed places"


def cut(path: Path, rng: random.Random) -> str:
    size = rng.choice((0, 1, 100, rng.randrange(max(1, path.stat().st_size))))
    with path.open("r+b") as file:
        file.truncate(size)
    return f"cut to {size} bytes"


def text(path: Path, rng: random.Random) -> str:
    path.write_text("This is not a database.\n" * rng.choice((1, 1000)))
    return "replaced by text"


def gone(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


DATABASE: tuple[Callable[[Path, random.Random], str], ...] = (
    header,
    page,
    swap,
    garbage,
    zeros,
    cut,
    text,
    gone,
)
LOG: tuple[Callable[[Path, random.Random], str], ...] = (garbage, zeros, cut, gone, text)


def _damage(shelf: Shelf) -> str:
    """Something bad for the database, its log, or both; says what."""
    state, rng, done = shelf.house.state, shelf.rng, []
    which = rng.choice(("db", "db", "wal", "both"))
    if which != "wal":
        done.append("journal.db: " + rng.choice(DATABASE)(state / "journal.db", rng))
    wal = state / "journal.db-wal"
    if which != "db" and wal.exists() and wal.stat().st_size:
        done.append("journal.db-wal: " + rng.choice(LOG)(wal, rng))
    if rng.random() < 0.3:
        shared = state / "journal.db-shm"
        if shared.exists():
            done.append("journal.db-shm: " + rng.choice((garbage, cut, gone))(shared, rng))
    return "; ".join(done)


def _at_rest(shelf: Shelf, number: int) -> None:
    report, state = shelf.report, shelf.house.state
    shelf.house.kill()
    shelf.restore(settled=bool(number % 2))
    where = f"at rest, {'log settled, ' if number % 2 else ''}{_damage(shelf)}"
    report.count("damages at rest")
    if not shelf.start(where):
        return
    _judge(shelf, where)
    aside = sorted(
        path.name for path in state.glob("journal.db.bad-*") if not path.name.endswith(("-wal", "-shm"))
    )
    hello = shelf.line.ask(m.Hello())
    if aside:
        report.count("set aside and built again")
        report.expect(bool(hello.notice), f"{where}: {aside} was set aside and nothing is said")
        report.expect(shelf.line.ask(m.Ping()).paused, f"{where}: {aside} was set aside and nothing waits")
    else:
        report.count("mended in place" if hello.notice else "needed no mending")
    shelf.same_keys(where)
    if number % GO_ON_EVERY == 0:
        shelf.go_on(where)
        report.expect(shelf.line.ask(m.Hello()).notice is None, f"{where}: the notice stays after resume")


def _under_the_daemon(shelf: Shelf) -> None:
    """Damage under a running daemon; it answers, serves nothing wrong; after a kill all is there again."""
    report = shelf.report
    shelf.house.kill()
    shelf.restore()
    if not shelf.start("before the damage"):
        return
    where = f"running, {_damage(shelf)}"
    report.count("damages under the daemon")
    refused = shelf.read(where)
    if refused:
        report.count("refused until the next start")
    if shelf.answers(where):
        shelf.line.ask(m.List())
    shelf.house.kill()
    if shelf.start(f"{where}, then killed"):
        _judge(shelf, f"{where}, then killed")
        shelf.same_keys(where)


def _judge(shelf: Shelf, where: str) -> None:
    """Everything can be read: a journal is only one of two memories."""
    refused = shelf.read(where)
    shelf.report.expect(not refused, f"{where}: jobs {sorted(refused)} cannot be read")
    listed = {info.job for info in shelf.line.ask(m.List(limit=500)).jobs}
    shelf.report.expect(listed == set(shelf.told), f"{where}: listed are {sorted(listed)}")


def _damages(count: int, seed: int) -> Report:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    report = Report("journal-damage", seed)
    report.figures["served as good"] = 0
    shelf = Shelf(seed, report)
    try:
        for number in range(count):
            if number % 5 == 4:
                _under_the_daemon(shelf)
            else:
                _at_rest(shelf, number)
    finally:
        shelf.close()
    return report


def run(scale: Scale, seed: int, folder: Path) -> Report:
    """30 damages in CI, 300 in a full run; one in five under a running daemon."""
    report = Report("journal-damage", seed)
    half = -(-scale.pick(30, 300) // 2)
    for found in side_by_side(_damages, [(half, seed), (half, seed + 1)]):
        report.add(found)
    return report
