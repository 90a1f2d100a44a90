"""The whole chain as a rehearsal: a few minutes from nothing to a folder that loads.

    python -m genmodel.pocket.recipe --minutes 2 --out DIR

What comes out does not play well; it shows that every step works on this machine, and how fast each one is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from genmodel.pocket.recipe import train_codec, train_lm
from genmodel.pocket.recipe.compose import HELD_OUT_FROM
from genmodel.pocket.recipe.evaluate import evaluate
from genmodel.pocket.recipe.export import export_codec, export_lm, write_manifest
from genmodel.pocket.recipe.render import FontPlayer, render_many
from genmodel.pocket.recipe.report import write_markdown
from genmodel.pocket.recipe.tokenise import tokenise_all
from genmodel.request import Sampling


def rehearse(
    out: Path,
    minutes: float,
    device: torch.device,
    songs: int = 24,
    font: Path | None = None,
    small: bool = False,
) -> dict[str, Any]:
    """Every step once, in `out`; returns what each step took and measured.

    `small`: songs of 12 s and a model of two narrow layers, so that it all ends within seconds (for tests).
    """
    started = time.monotonic()
    facts: dict[str, Any] = {}

    def mark(step: str, **more: Any) -> None:
        nonlocal started
        facts[step] = {"wall_s": round(time.monotonic() - started, 1), **more}
        started = time.monotonic()

    seconds = 12.0 if small else 22.0
    held_out = max(2, songs // 8)
    player = FontPlayer(font)
    music = render_many(out / "songs", range(songs), player, seconds)
    music += render_many(out / "songs", range(HELD_OUT_FROM, HELD_OUT_FROM + held_out), player, seconds)
    mark("render", music_s=round(music, 1))
    codec_plan = train_codec.Plan(
        minutes=0.5 * minutes,
        steps=4 if small else 0,
        free_steps=2 if small else 60,
        rows=2 if small else 8,
        filters=4 if small else 24,
    )
    codec_run = train_codec.CodecRun(out / "songs", out / "codec", codec_plan, device)
    codec_run.advance()
    mark("train_codec", steps=codec_run.step, **codec_run.judge())
    done = tokenise_all(out / "songs", codec_run.checkpoint, out / "tokens", device)
    mark("tokenise", songs=done)
    lm_plan = train_lm.Plan(minutes=0.35 * minutes, warm_steps=30)
    if small:
        lm_plan = train_lm.Plan(steps=3, rows=2, seconds=3.0, dim=32, layers=2, heads=2, warm_steps=2)
    lm_run = train_lm.LMRun(out / "tokens", out / "lm", lm_plan, device, seconds)
    lm_run.advance()
    mark("train_lm", steps=lm_run.step, **lm_run.judge())
    folder = out / "pocket"
    export_codec(codec_run.checkpoint, folder)
    export_lm(lm_run.checkpoint, folder)
    mark("export", bytes=write_manifest(folder)["bytes"])
    length = 1.0 if small else 4.0
    judged = evaluate(
        out / "songs",
        folder,
        2 if small else 4,
        Sampling(top_k=100),
        4,
        2.0,
        length,
        seconds=seconds,
        long_takes=1 if small else 2,
        long_s=6.0 if small else 20.0,
        teach=songs,
    )
    write_markdown(judged, folder / "EVALUATION.md")
    (folder / "evaluation.json").write_text(json.dumps(judged, indent=2) + "\n", encoding="utf-8")
    mark("evaluate", tempo_kept=judged["tempo_kept"], xrt=judged["xrt_two_cores"])
    return facts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=2.0, help="time for both trainings")
    parser.add_argument("--songs", type=int, default=24)
    parser.add_argument("--font", type=Path, default=None)
    parser.add_argument("--device", default=None)
    options = parser.parse_args(argv)
    device = train_codec.pick_device(options.device)
    facts = rehearse(options.out, options.minutes, device, options.songs, options.font)
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
