"""``python -m tests.bench NAME|all|results``: how fast, on which machine; how takes join.

Each bench is a file beside this one (see ``tests/bench/__init__.py``). With ``--json`` the last line printed
is its result as one JSON object, else a table is shown. Every result is appended to ``log.jsonl``. ``all``
runs one after the other, each in a process of its own; ``--results`` (or the word ``results``) writes
``RESULTS.md`` from the newest run of each.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import subprocess
import sys
import time
from typing import Any

from tests.bench import log, results

LIMIT_S = 900  # of one bench in `all`


def benches() -> tuple[str, ...]:
    """The names of all benches: files here that define ``run``. Nothing is imported for it."""
    found = []
    for path in sorted(log.FOLDER.glob("*.py")):
        if not path.name.startswith(("_", "test_")):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in body):
                found.append(path.stem)
    return tuple(found)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=(*benches(), "all", "results"))
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds after one that warms up")
    parser.add_argument(
        "--threads", type=int, default=None, help="threads for torch (default: its own choice)"
    )
    parser.add_argument("--seconds", type=float, default=None, help="seconds of audio in each round")
    parser.add_argument(
        "--precision", default=None, help="of lm, batch, soak: float32, bfloat16, int8; several with commas"
    )
    parser.add_argument("--count", type=int, default=None, help="of soak: how many requests")
    parser.add_argument("--seed", type=int, default=1, help="of soak: what the dice begin with")
    parser.add_argument("--device", default=None, help="of gpu: cpu rehearses the same code")
    parser.add_argument("--shapes", default=None, help="of gpu: tiny, small, medium, large")
    parser.add_argument("--captured", action="store_true", help="of soak: captured steps, too")
    parser.add_argument("--only", default=None, help="of all: these benches, with commas between")
    parser.add_argument("--results", action="store_true", help="write RESULTS.md afterwards")
    parser.add_argument("--no-log", action="store_true", help="do not append to log.jsonl")
    return parser.parse_args(argv)


def show(name: str, result: dict[str, Any], bench: Any) -> None:
    if hasattr(bench, "table"):
        print(bench.table(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=f"{name} bench")
    for line in results.flat(result):
        table.add_row(*line)
    Console().print(table)


def run_one(args: argparse.Namespace) -> int:
    """One bench in this process."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    bench = importlib.import_module(f"tests.bench.{args.bench}")
    why = bench.absent() if hasattr(bench, "absent") and args.device is None else None
    if why is not None:
        print(json.dumps({"absent": why}) if args.json else f"{args.bench} cannot run here: {why}.")
        return 0
    begun = time.perf_counter()
    result = bench.run(args)
    took_s = time.perf_counter() - begun
    if not args.no_log:
        log.append(args.bench, result, took_s)
    if args.json:
        print(json.dumps(result))
    else:
        show(args.bench, result, bench)
    return 1 if result.get("failed") else 0


def run_all(args: argparse.Namespace) -> int:
    """Every bench in a process of its own; one that fails does not keep the others from running."""
    names = args.only.split(",") if args.only else benches()
    failed = []
    for name in names:
        bench = importlib.import_module(f"tests.bench.{name}")
        if not getattr(bench, "OF_ALL", True) and not args.only:
            continue
        words = ["--json", "--rounds", str(args.rounds), *getattr(bench, "ALL_ARGUMENTS", ())]
        words += ["--threads", str(args.threads)] if args.threads else []
        words += ["--no-log"] if args.no_log else []
        begun = time.perf_counter()
        print(f"{name} …", end=" ", flush=True)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench", name, *words], cwd=log.FOLDER.parents[1],
                stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=LIMIT_S, check=False,
            )  # fmt: skip
            status: str | int = done.returncode
            told = json.loads(done.stdout.splitlines()[-1]) if status == 0 else {}  # its last line
        except subprocess.TimeoutExpired:
            status, told = f"took more than {LIMIT_S} s", {}
        said = f"failed ({status})" if status else told.get("absent") or "done"
        print(f"{said}, {time.perf_counter() - begun:.0f} s", flush=True)
        failed += [name] if status else []
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    args = arguments(sys.argv[1:] if argv is None else argv)
    status = 0
    if args.bench != "results":
        status = run_all(args) if args.bench == "all" else run_one(args)
    if args.results or args.bench == "results":
        print(f"written: {results.write(names=benches())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
