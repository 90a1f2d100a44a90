"""Try to break Segue's promises and say what came of it.

    python -m tests.chaos [--ci] [--only NAME[,NAME]] [--seed N] [--scale FACTOR] [--keep FOLDER]

Each part prints its figures and its seed; the last line is one JSON object. Exit status 0 only if all hold.
A part is a module with `run(scale, seed, folder) -> Report`, named in `PARTS` and imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.chaos.report import Report, Scale

PARTS = {
    "kills": "tests.chaos.kills",
    "io": "tests.chaos.io_faults",
    "disk-full": "tests.chaos.disk_full",
    "bitflips": "tests.chaos.bitflips",
    "journal-damage": "tests.chaos.journal_damage",
    "malformed": "tests.chaos.malformed",
    "raw-sockets": "tests.chaos.raw_sockets",
    "strangers": "tests.chaos.strangers",
    "stuck": "tests.chaos.stuck",
    "leaks": "tests.chaos.leaks",
    "model": "tests.chaos.model",
}


def run_part(name: str, scale: Scale, seed: int, folder: Path) -> Report:
    """One part in a folder of its own. A part that falls over is broken, never skipped."""
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        report = importlib.import_module(PARTS[name]).run(scale, seed, own)
    except Exception as error:
        report = Report(name, seed, broken=[f"the part itself fell over: {type(error).__name__}: {error}"])
        traceback.print_exc(file=sys.stderr)
    report.wall_s = time.monotonic() - begun
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--ci", action="store_true", help="the smaller counts of continuous integration")
    parser.add_argument("--only", metavar="NAME", help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, help="repeat a run; drawn and printed otherwise")
    parser.add_argument("--scale", type=float, default=1.0, metavar="FACTOR", help="times the counts")
    parser.add_argument("--keep", metavar="FOLDER", help="leave what the parts write there")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # parts end what they started
    names = given.only.split(",") if given.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    # short: the paths of sockets are bounded
    folder = Path(given.keep or tempfile.mkdtemp(prefix="segue-c-", dir="/tmp"))
    reports: list[Report] = []
    try:
        for name in names:
            print(f"{name}: seed {seed}", flush=True)
            reports.append(run_part(name, Scale(given.ci, given.scale), seed, folder))
            print("\n".join(reports[-1].lines()), flush=True)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    holds = all(report.holds for report in reports)
    whole = {"holds": holds, "ci": given.ci, "seed": seed, "parts": [report.to_map() for report in reports]}
    print(json.dumps(whole, ensure_ascii=False, default=str), flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
