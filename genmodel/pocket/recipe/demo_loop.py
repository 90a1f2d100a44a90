"""Render the loop that `segue demo` continues: a held-out song, whole bars, stereo, at a host's rate.

python -m genmodel.pocket.recipe.demo_loop --out bridge_clients/cli/demo
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from genmodel.pocket.recipe.compose import HELD_OUT_FROM, compose
from genmodel.pocket.recipe.render import FontPlayer, render
from genmodel.pocket.recipe.song import Song

SEED = HELD_OUT_FROM + 1_000_000
RATE_HZ = 44_100
BARS = 4
EDGE_S = 0.003


def find_song(bpm: float, genres: tuple[str, ...], first_seed: int = SEED) -> Song:
    """The first held-out song in 4/4 at this tempo, of these genres, with everybody playing all the way."""
    for seed in range(first_seed, first_seed + 100_000):
        song = compose(seed)
        steady = song.sections == (("groove", song.bars),) and len(song.timeline.changes) == 1
        full = {part.stem for part in song.parts if part.notes} == {"drums", "bass", "other"}
        if song.genre in genres and song.bpm == bpm and song.meter.name == "4/4" and steady and full:
            if len(song.parts) == 4 and song.bars >= 3 * BARS:
                return song
    raise LookupError(f"no song at {bpm} bpm among 100000 seeds")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bpm", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=SEED, help="where the search for a fitting song begins")
    parser.add_argument("--genres", default="house,disco,pop,funk")
    parser.add_argument("--font", type=Path, default=None)
    options = parser.parse_args(argv)
    import soundfile

    song = find_song(options.bpm, tuple(options.genres.split(",")), options.seed)
    stems = render(song, FontPlayer(options.font, RATE_HZ), stereo=True)
    start, stop = (
        round(float(song.timeline.seconds(bars * song.meter.quarters)) * RATE_HZ) for bars in (BARS, 2 * BARS)
    )
    loop = stems.sum(0)[:, start:stop].T.copy()
    edge = np.linspace(0, 1, int(EDGE_S * RATE_HZ), dtype=np.float32)[:, None]
    loop[: len(edge)] *= edge
    loop[-len(edge) :] *= edge[::-1]
    options.out.mkdir(parents=True, exist_ok=True)
    soundfile.write(options.out / "loop.flac", loop, RATE_HZ, subtype="PCM_16")
    facts = {
        "bpm": song.bpm,
        "beats": song.meter.beats,
        "unit": song.meter.unit,
        "bars": BARS,
        "seconds": len(loop) / RATE_HZ,
        "rate_hz": RATE_HZ,
        "text": f"{song.genre}, {song.bpm:.0f} bpm",
        "licence": "MIT; composed by the recipe, rendered with FluidR3Mono_GM (MIT)",
        "made_by": f"python -m genmodel.pocket.recipe.demo_loop, seed {song.seed}",
    }
    (options.out / "loop.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(facts | {"words": song.words}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
