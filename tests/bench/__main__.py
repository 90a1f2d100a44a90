"""``python -m tests.bench lm|batch|codec|stream|daemon|seam``: how fast, on which machine; how takes join.

Each bench is a file beside this one with ``run(args) -> dict``; with ``--json`` the last line printed is that
dictionary as one JSON object, else a table is shown.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import Any

BENCHES = ("batch", "codec", "daemon", "lm", "seam", "stream")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds after one that warms up")
    parser.add_argument(
        "--threads", type=int, default=None, help="threads for torch (default: its own choice)"
    )
    parser.add_argument("--seconds", type=float, default=None, help="seconds of audio in each round")
    parser.add_argument(
        "--precision", default=None, help="of lm and batch: float32, bfloat16, int8; several with commas"
    )
    return parser.parse_args(argv)


def rows(result: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested results as lines of a table."""
    lines: list[tuple[str, str]] = []
    for key, value in result.items():
        if isinstance(value, dict):
            lines += rows(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            lines.append((f"{prefix}{key}", f"{value:.4g}"))
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines


def show(name: str, result: dict[str, Any], bench: Any) -> None:
    if hasattr(bench, "table"):
        print(bench.table(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=f"{name} bench")
    for line in rows(result):
        table.add_row(*line)
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    args = arguments(sys.argv[1:] if argv is None else argv)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    bench = importlib.import_module(f"tests.bench.{args.bench}")
    result = bench.run(args)
    if args.json:
        print(json.dumps(result))
    else:
        show(args.bench, result, bench)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
