"""Turn rendered songs into what the language model is trained on: codes of stems and mixes, and chroma.

    python -m genmodel.pocket.recipe.tokenise --songs DIR --codec DIR/codec.pt --out DIR

Writes `<seed>.npz` per song: `codes` int16 [sources, K, F] and `chroma` uint8 [sources, F, 12] (value / 255),
with the names of the sources in `sources`. A song whose file is there already is left alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genmodel.pocket.chroma import chroma
from genmodel.pocket.recipe.crops import song_files
from genmodel.pocket.recipe.fastcodec import FastCodec
from genmodel.pocket.recipe.journal import load_state
from genmodel.pocket.recipe.song import STEMS

MIXES = {"mix": (0, 1, 2)}
PAIRS = {"drums+bass": (0, 1), "drums+other": (0, 2), "bass+other": (1, 2)}


def load_codec(checkpoint: Path, device: torch.device) -> FastCodec:
    state = load_state(checkpoint)
    codec = FastCodec(**state["settings"])
    codec.load_state_dict(state["codec"])
    return codec.to(device).eval()


def tokenise_song(
    codec: FastCodec, stems: np.ndarray, pairs: bool, device: torch.device
) -> dict[str, np.ndarray]:
    """Codes and chroma of int16 stems [3, samples], cut to whole frames."""
    samples = stems.shape[1] // codec.hop_samples * codec.hop_samples
    audio = torch.from_numpy(stems[:, :samples].astype(np.float32) / 32767)
    sums = MIXES | (PAIRS if pairs else {})
    sources = [*audio, *(audio[list(which)].sum(0) for which in sums.values())]
    with torch.autocast(device.type, torch.bfloat16):
        codes = codec.encode(torch.stack(sources).to(device))
    pitch = torch.stack([chroma(source) for source in sources])
    return {
        "sources": np.array([*STEMS, *sums]),
        "codes": codes.cpu().numpy().astype(np.int16),
        "chroma": (pitch * 255).round().byte().numpy(),
    }


def tokenise_all(
    songs: Path,
    checkpoint: Path,
    out: Path,
    device: torch.device,
    pairs_every: int = 2,
    limit: int = 10**9,
    part: int = 0,
    parts: int = 1,
) -> int:
    """Tokenise the songs of a folder that have not been; returns how many were done now.

    `limit`: how many of the training songs; before them come a twelfth as many held-out ones.
    `part` of `parts`: this process's share of the work.
    """
    out.mkdir(parents=True, exist_ok=True)
    codec = load_codec(checkpoint, device)
    done = 0
    held_out, train = (song_files(songs, held_out=held) for held in (True, False))
    files = [*held_out[: max(2, limit // 12)], *train[:limit]]
    for number, path in list(enumerate(files))[part::parts]:
        target = out / f"{path.stem}.npz"
        if target.exists():
            continue
        arrays: dict[str, Any] = tokenise_song(codec, np.load(path), number % pairs_every == 0, device)
        partial = out / f"{path.stem}.part.npz"
        np.savez(partial, **arrays)
        partial.replace(target)
        done += 1
    return done


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--songs", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True, help="checkpoint of train_codec")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs-every", type=int, default=2, help="mixes of two stems for every n-th song")
    parser.add_argument("--limit", type=int, default=10**9, help="training songs at most")
    parser.add_argument("--part", type=int, default=0, help="this process's share, of --parts")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    started = time.monotonic()
    done = tokenise_all(
        options.songs,
        options.codec,
        options.out,
        device,
        options.pairs_every,
        options.limit,
        options.part,
        options.parts,
    )
    sys.stdout.write(f"{done} songs in {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
