"""``python -m genmodel.bench``: what ``segue bench`` runs, because measuring needs torch.

Exit status: 0 done, 2 wrong usage, 3 the picture cannot be written, 4 the model or a precision cannot be
had, 6 not enough memory (one sentence on standard error says why), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from genmodel.errors import GenModelError

_STATUS = {"E_MODEL": 4, "E_MEMORY": 6, "E_NOT_FINITE": 4, "E_ARGUMENT": 2}


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="segue bench", allow_abbrev=False)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--forget", action="store_true")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    args = arguments(words)
    warnings.simplefilter("ignore")
    try:
        return _forget(args) if args.forget else _bench(args)
    except GenModelError as error:
        return _refuse(args, _STATUS.get(error.code, 4), error.code, str(error))
    except OSError as error:
        return _refuse(
            args, 3, "E_DISK", f"{error.filename or 'a file'} cannot be written ({error.strerror})"
        )
    except KeyboardInterrupt:
        sys.stderr.write("segue: stopped; nothing was stored.\n")
        return 130


def _refuse(args: argparse.Namespace, status: int, code: str, sentence: str) -> int:
    sentence = f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."
    if args.json:
        line = {"event": "error", "status": status, "code": code, "message": sentence}
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stderr.write(f"segue: {sentence}\n")
    return status


def _loaded(args: argparse.Namespace) -> Any:
    import torch

    from genmodel.base import BaseGenModel

    if args.threads:
        torch.set_num_threads(args.threads)
    return BaseGenModel.get_pretrained(args.model, None if args.device == "auto" else args.device)


def _forget(args: argparse.Namespace) -> int:
    from genmodel import measured

    sha256 = getattr(_loaded(args).checkpoint, "sha256", None)
    count = measured.forget(sha256) if sha256 else 0
    if args.json:
        sys.stdout.write(json.dumps({"event": "bench", "model": args.model, "forgotten": count}) + "\n")
    else:
        words = "was nothing to forget" if not count else "is forgotten what was measured"
        sys.stdout.write(f"There {words} of {args.model}.\n")
    return 0


def _bench(args: argparse.Namespace) -> int:
    if args.picture is not None and args.picture.is_dir():
        raise IsADirectoryError(21, "it is a folder", str(args.picture))
    begun = time.monotonic()
    console = Console(stderr=True)
    with console.status("loading torch") as status:
        result = _measured(args, status)
    result["took_s"] = time.monotonic() - begun
    if args.picture is not None:
        from genmodel.bench.picture import draw

        draw(result, args.picture)
    if args.json:
        sys.stdout.write(json.dumps({"event": "bench", **result}) + "\n")
    else:
        from genmodel.bench.report import show

        show(result, Console())
        if args.picture is not None:
            sys.stdout.write(f"{args.picture}\n")
    return 0


def _measured(args: argparse.Namespace, status: Status) -> dict[str, Any]:
    from genmodel.bench import measuring, speed
    from genmodel.engine.kernels import PRECISIONS

    asked = None if args.precision == "auto" else args.precision.split(",")
    for name in asked or ():
        if name not in PRECISIONS:
            raise GenModelError(
                "there is no such precision", field="precision", value=name, allowed=", ".join(PRECISIONS)
            )
    status.update(f"loading {args.model}")
    model = _loaded(args)
    plan = speed.QUICK if args.quick else speed.FULL

    begun = time.monotonic()

    def tell(what: str) -> None:
        status.update(f"measuring {model.name}, {time.monotonic() - begun:.0f} s: {what}")

    return measuring.measure(model, asked, plan, tell, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
