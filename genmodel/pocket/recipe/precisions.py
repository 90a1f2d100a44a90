"""Measure pocket's precisions and keep the record beside its weights, for ``worker.precision=auto``.

python -m genmodel.pocket.recipe.precisions --model genmodel/pocket

On an idle machine: the gain in speed is part of the record. See ``genmodel/measured.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from genmodel import measured
from genmodel.base import BaseGenModel
from genmodel.bench import measuring, speed


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m genmodel.pocket.recipe.precisions", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("genmodel/pocket"))
    args = parser.parse_args(argv)
    model = BaseGenModel.get_pretrained(str(args.model), "cpu")
    result = measuring.measure(model, None, speed.FULL, print, save=False)
    record = measuring.record_of(model, result["precisions"])
    file = args.model / measured.BROUGHT
    file.unlink(missing_ok=True)
    measured.save(record, file)
    file.chmod(0o644)
    for name, one in record.precisions.items():
        print(f"{name}: xrt {one.xrt:.2f}, KL {one.kl:.1e}, {one.unsafe or 'safe'}")
    print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
