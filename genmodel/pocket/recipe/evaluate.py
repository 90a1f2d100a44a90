"""Judge pocket's folder on held-out songs and write evaluation.json, EVALUATION.md and spectrogram sheets.

    python -m genmodel.pocket.recipe.evaluate --songs DIR --model genmodel/pocket --out FILE.json

Everything that is said of a continuation is said, measured the same way, of the truth, of the truth through
the codec (three stems coded, decoded and summed), and of another song's continuation in its place (the
floor). --foreign adds music that the recipe did not make. A hundred prompts take about twenty minutes on two
cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genmodel.base import BaseGenModel
from genmodel.checkpoints import registry
from genmodel.musicgen import MusicGen
from genmodel.pocket.recipe.accompany import judge_accompaniment
from genmodel.pocket.recipe.compose import SONG_SECONDS
from genmodel.pocket.recipe.endurance import judge_endurance
from genmodel.pocket.recipe.foreign import judge_foreign
from genmodel.pocket.recipe.genres import judge_genres
from genmodel.pocket.recipe.journal import numbers
from genmodel.pocket.recipe.judging import judge_clips, judge_codec
from genmodel.pocket.recipe.prompts import Prompt, generate, load_prompts, request_of
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.report import sheets, write_markdown
from genmodel.request import Sampling

PARTS = ("codec", "continue", "accompany", "genre", "long", "speed")


def speed(model: BaseGenModel, prompt: Prompt, sampling: Sampling, threads: int = 2) -> dict[str, float]:
    """Seconds of audio per second of waiting on `threads` cores, one take alone, guidance on, codec
    included."""
    request = replace(request_of(prompt, sampling, 0), text=" ".join(prompt.song.words))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        started = time.monotonic()
        first: float | None = None
        for _ in model.stream(request):
            first = first if first is not None else time.monotonic() - started
        wall = time.monotonic() - started
    finally:
        torch.set_num_threads(before)
    return {
        "xrt_two_cores": round(prompt.new_samples / RATE_HZ / wall, 2),
        "first_audio_s": round(first or wall, 2),
    }


def judge_continuing(
    model: BaseGenModel,
    prompts: list[Prompt],
    again: list[np.ndarray],
    sampling: Sampling,
    slots: int,
    picture: Path | None,
) -> dict[str, Any]:
    """Continuations with and without tempo map and with the song's chords; `again`: the truth, coded."""
    facts: dict[str, Any] = {}
    started = time.monotonic()
    clips = generate(model, [request_of(p, sampling, i) for i, p in enumerate(prompts)], slots)
    new_s = sum(prompt.new_samples for prompt in prompts) / RATE_HZ
    facts["batched_xrt"] = round(new_s / (time.monotonic() - started), 2)
    facts |= judge_clips(prompts, clips)
    truth = [prompt.truth for prompt in prompts]
    facts["truth"] = judge_clips(prompts, truth)
    facts["round_trip"] = judge_clips(prompts, again)
    facts["tempo_round_trip"] = facts["round_trip"]["tempo_kept"]
    facts["mismatched"] = judge_clips(prompts, truth[1:] + truth[:1])
    chords = generate(model, [request_of(p, sampling, i, harmony=True) for i, p in enumerate(prompts)], slots)
    facts["with_chords"] = judge_clips(prompts, chords)
    facts["scale_first_prompt_only"] = facts["scale_first"]
    facts["scale_first"] = facts["with_chords"]["scale_first"]
    some = prompts[: max(4, len(prompts) // 3)]
    blind = generate(model, [request_of(p, sampling, i, transport=False) for i, p in enumerate(some)], slots)
    facts["without_transport"] = judge_clips(some, blind)
    facts["tempo_no_transport"] = facts["without_transport"]["tempo_kept"]
    if picture is not None:
        sheets(prompts, clips, picture)
    return facts


def evaluate(
    songs: Path,
    model_path: Path,
    count: int,
    sampling: Sampling,
    slots: int = 8,
    prompt_s: float = 5.0,
    new_s: float = 6.0,
    picture: Path | None = None,
    seconds: float = SONG_SECONDS,
    parts: tuple[str, ...] = PARTS,
    foreign: Path | None = None,
    long_takes: int = 20,
    long_s: float = 60.0,
    teach: int = 500,
    precision: str = "float32",
) -> dict[str, Any]:
    """All figures as one dictionary; keys without a suffix are pocket's own continuations."""
    codec, lm, info = registry.load(str(model_path), "cpu")
    model = MusicGen("pocket", codec, lm, info=info)
    model.precision = precision
    prompts = load_prompts(songs, count, prompt_s, new_s, seconds)
    if not prompts:
        raise FileNotFoundError(f"no held-out songs in {songs} that are long enough")
    facts: dict[str, Any] = {"prompts": len(prompts), "prompt_s": prompt_s, "new_s": new_s}
    if "codec" in parts or "continue" in parts:
        codec_facts, again = judge_codec(model, prompts)
        facts |= codec_facts
    if "continue" in parts:
        facts |= judge_continuing(model, prompts, again, sampling, slots, picture)
    if "accompany" in parts:
        facts |= judge_accompaniment(model, prompts, sampling, slots)
    if "genre" in parts:
        facts |= judge_genres(model, songs, prompts, sampling, slots, teach, seconds)
    if "long" in parts:
        facts |= judge_endurance(model, prompts[:long_takes], sampling, slots, long_s)
    if "speed" in parts:
        facts |= speed(model, prompts[0], sampling)
    if foreign is not None:
        facts["foreign"] = judge_foreign(model, foreign, sampling, prompt_s, new_s, slots)
    files = [model_path / name for name in ("lm.safetensors", "codec.safetensors")]
    facts["weights_mb"] = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    facts["sampling"] = {"temperature": sampling.temperature, "top_k": sampling.top_k}
    facts["precision"] = precision
    return numbers(facts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--songs", type=Path, required=True, help="folder of rendered songs with held-out ones"
    )
    parser.add_argument("--model", type=Path, required=True, help="pocket's folder")
    parser.add_argument(
        "--out", type=Path, required=True, help="evaluation.json; EVALUATION.md goes beside it"
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only some of the table")
    parser.add_argument("--foreign", type=Path, default=None, help="folder of any audio, judged as well")
    parser.add_argument("--long-takes", type=int, default=20, help="how many takes of a minute")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=250)
    parser.add_argument("--precision", default="float32", help="of the engine, as worker.precision")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--picture", type=Path, default=None, help="PNG of spectrograms; more get -2, -3 …")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = evaluate(
        options.songs,
        options.model,
        options.count,
        Sampling(temperature=options.temperature, top_k=options.top_k),
        options.slots,
        picture=options.picture,
        parts=tuple(options.parts),
        foreign=options.foreign,
        long_takes=options.long_takes,
        precision=options.precision,
    )
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    write_markdown(facts, options.out.with_name("EVALUATION.md"))
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
