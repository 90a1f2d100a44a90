"""The whole chain, from nothing to a folder that loads: a rehearsal of a few minutes, or the real thing.

    python -m genmodel.pocket.recipe --minutes 2 --out DIR
    python -m genmodel.pocket.recipe --minutes 24 --songs 3000 --processes 14 --codec-rows 64 --lm-rows 32 \\
        --loaders 8 --stop-after 560 --out DIR

The first shows that every step works on this machine and how fast each one is; what comes out does not play
well. The second is for a GPU that is lent for minutes at a time: it stops by itself after --stop-after
seconds, and the same command goes on where it stopped. --minutes is the time for both trainings together.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from genmodel.pocket.recipe import train_codec, train_lm
from genmodel.pocket.recipe.compose import HELD_OUT_FROM, SONG_SECONDS
from genmodel.pocket.recipe.evaluate import evaluate
from genmodel.pocket.recipe.export import export_codec, export_lm, write_manifest
from genmodel.pocket.recipe.render import FontPlayer, render_many
from genmodel.pocket.recipe.report import write_markdown
from genmodel.pocket.recipe.tokenise import tokenise_all
from genmodel.request import Sampling


@dataclass(frozen=True)
class Scale:
    """How much of everything; the defaults are a rehearsal's.

    `small`: songs of 12 s and a model of two narrow layers, so that it all ends within seconds (for tests).
    """

    minutes: float = 2.0
    songs: int = 24
    small: bool = False
    processes: int = 1
    codec_rows: int = 8
    lm_rows: int = 4
    loaders: int = 0
    judge: bool = True

    @property
    def seconds(self) -> float:
        return 12.0 if self.small else SONG_SECONDS

    def codec_plan(self) -> train_codec.Plan:
        if self.small:
            return train_codec.Plan(steps=4, free_steps=2, rows=2, filters=4)
        long = self.minutes > 10
        return train_codec.Plan(
            minutes=0.5 * self.minutes,
            free_steps=400 if long else 60,
            rows=self.codec_rows,
            coherence_weight=0.8,
            wave_weight=1.0,
            spectral_weights=(0.4, 1.0),
            shares=(0.2, 0.13, 0.5, 0.17),
        )

    def lm_plan(self) -> train_lm.Plan:
        if self.small:
            return train_lm.Plan(steps=3, rows=2, seconds=3.0, dim=32, layers=2, heads=2, warm_steps=2)
        return train_lm.Plan(
            minutes=0.5 * self.minutes, rows=self.lm_rows, warm_steps=150 if self.minutes > 10 else 30
        )


def render_part(out: Path, seeds: list[int], font: Path | None, seconds: float) -> float:
    """One process's share of the songs; returns the seconds of music that were written now."""
    return render_many(out, seeds, FontPlayer(font), seconds)


def render_all(out: Path, seeds: list[int], font: Path | None, seconds: float, processes: int) -> float:
    """All songs, in as many processes as asked; those that are there are left alone."""
    missing = [seed for seed in seeds if not (out / f"{seed:08d}.npy").exists()]
    if processes < 2 or len(missing) < 2 * processes:
        return render_part(out, missing, font, seconds) if missing else 0.0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = [
            pool.submit(render_part, out, missing[n::processes], font, seconds) for n in range(processes)
        ]
        return sum(part.result() for part in parts)


def rehearse(
    out: Path,
    scale: Scale,
    device: torch.device,
    font: Path | None = None,
    stop_after_s: float = math.inf,
) -> dict[str, Any]:
    """Every step that is not done yet, in `out`; returns what each took and measured.

    After `stop_after_s` seconds a training stops at its checkpoint, "stopped" says which, and the rest is
    left for the next call.
    """
    begun = started = time.monotonic()
    facts: dict[str, Any] = {}

    def mark(step: str, **more: Any) -> None:
        nonlocal started
        facts[step] = {"wall_s": round(time.monotonic() - started, 1), **more}
        started = time.monotonic()

    def left_s() -> float:
        return stop_after_s - (time.monotonic() - begun)

    held_out = max(2, scale.songs // 8)
    seeds = [*range(scale.songs), *range(HELD_OUT_FROM, HELD_OUT_FROM + held_out)]
    music = render_all(out / "songs", seeds, font, scale.seconds, scale.processes)
    mark("render", music_s=round(music, 1))
    codec_run = train_codec.CodecRun(out / "songs", out / "codec", scale.codec_plan(), device)
    done = codec_run.advance(left_s())
    mark("train_codec", steps=codec_run.step, **codec_run.judge())
    if not done:
        return facts | {"stopped": "train_codec"}
    tokenised = tokenise_all(out / "songs", codec_run.checkpoint, out / "tokens", device)
    mark("tokenise", songs=tokenised)
    lm_run = train_lm.LMRun(
        out / "tokens", out / "lm", scale.lm_plan(), device, scale.seconds, loaders=scale.loaders
    )
    done = lm_run.advance(left_s())
    mark("train_lm", steps=lm_run.step, **lm_run.judge())
    folder = out / "pocket"
    export_codec([codec_run.checkpoint], folder)
    export_lm(lm_run.checkpoint, folder)
    mark("export", bytes=write_manifest(folder)["bytes"])
    if not done:
        return facts | {"stopped": "train_lm"}
    if scale.judge:
        judged = evaluate(
            out / "songs",
            folder,
            2 if scale.small else 4,
            Sampling(top_k=100),
            4,
            2.0,
            1.0 if scale.small else 4.0,
            seconds=scale.seconds,
            long_takes=1 if scale.small else 2,
            long_s=6.0 if scale.small else 20.0,
            teach=scale.songs,
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
    parser.add_argument("--processes", type=int, default=1, help="processes that render")
    parser.add_argument("--codec-rows", type=int, default=8)
    parser.add_argument("--lm-rows", type=int, default=4)
    parser.add_argument("--loaders", type=int, default=0, help="processes that make the LM's batches")
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="S", help="and go on next time")
    parser.add_argument("--no-judge", action="store_true", help="leave the evaluation out")
    parser.add_argument("--font", type=Path, default=None)
    parser.add_argument("--device", default=None)
    options = parser.parse_args(argv)
    device = train_codec.pick_device(options.device)
    scale = Scale(
        minutes=options.minutes,
        songs=options.songs,
        processes=options.processes,
        codec_rows=options.codec_rows,
        lm_rows=options.lm_rows,
        loaders=options.loaders,
        judge=not options.no_judge,
    )
    facts = rehearse(options.out, scale, device, options.font, options.stop_after)
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
