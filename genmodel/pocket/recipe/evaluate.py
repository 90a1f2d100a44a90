"""Judge pocket's folder on held-out songs and write evaluation.json.

    python -m genmodel.pocket.recipe.evaluate --songs DIR --model genmodel/pocket --out FILE.json

Everything that is said of a continuation is said, measured the same way, of the truth,
of the truth through the codec
(three stems coded, decoded and summed), and of another song's continuation in its place (the floor).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genmodel.base import BaseGenModel
from genmodel.checkpoints import registry
from genmodel.engine.engine import Engine
from genmodel.musicgen import MusicGen
from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.compose import SONG_SECONDS, compose
from genmodel.pocket.recipe.journal import mean_of
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.song import STEMS, Song
from genmodel.pocket.recipe.spectral import SpectralLoss, mel_distance_db, si_sdr_db
from genmodel.pocket.recipe.train_codec import song_files
from genmodel.request import AudioClip, GenerationRequest, Sampling, TempoChange, TempoMap

HOP = 640


@dataclass(frozen=True)
class Prompt:
    """A held-out song cut at a seam: audio float32 [3, n] and the seam's place in samples."""

    song: Song
    stems: np.ndarray
    seam: int
    prompt_samples: int
    new_samples: int

    @property
    def heard(self) -> np.ndarray:
        return self.stems[:, self.seam - self.prompt_samples : self.seam].sum(0)

    @property
    def truth(self) -> np.ndarray:
        """Stems of what really follows, [3, new]."""
        return self.stems[:, self.seam : self.seam + self.new_samples]

    def tempo_map(self) -> TempoMap:
        meter = self.song.meter
        changes = tuple(
            TempoChange(at, bpm, meter.beats, meter.unit) for at, bpm in self.song.timeline.changes
        )
        return TempoMap(changes, float(self.song.timeline.quarters(self.seam / RATE_HZ)))

    def grid_s(self) -> np.ndarray:
        """Times of the song's sixteenths (twelfths of a beat apart where it swings are not counted)."""
        last = self.song.bars * self.song.meter.quarters
        return np.asarray(self.song.timeline.seconds(np.arange(0.0, last, 0.25)))


def load_prompts(
    songs: Path, count: int, prompt_s: float, new_s: float, seconds: float = SONG_SECONDS
) -> list[Prompt]:
    """One prompt per held-out song: the first bar line after `prompt_s` seconds is the seam,
    rounded to frames."""
    prompts: list[Prompt] = []
    thin: list[Prompt] = []  # a stem is silent after the seam: only where there are too few others
    for path in song_files(songs, held_out=True):
        song = compose(int(path.stem), seconds)
        bars = np.asarray(song.timeline.seconds(np.arange(song.bars + 1) * song.meter.quarters))
        later = bars[bars >= prompt_s + 1.0]
        if not len(later) or len(song.timeline.changes) > 1:
            continue
        seam = round(float(later[0]) * RATE_HZ / HOP) * HOP
        stems = np.load(path, mmap_mode="r")
        new = int(new_s * RATE_HZ) // HOP * HOP
        if seam + new > stems.shape[1]:
            continue
        audio = np.asarray(stems[:, : seam + new], dtype=np.float32) / 32767
        prompt = Prompt(song, audio, seam, int(prompt_s * RATE_HZ) // HOP * HOP, new)
        (prompts if audio[:, seam:].any(1).all() else thin).append(prompt)
        if len(prompts) == count:
            break
    return (prompts + thin)[:count]


def generate(model: BaseGenModel, requests: list[GenerationRequest], slots: int) -> list[np.ndarray]:
    """Stems [3, new] of each request, several aboard at once."""
    engine = Engine(model, slots)
    jobs = {id(engine.add(request)): index for index, request in enumerate(requests)}
    parts: list[dict[str, list[np.ndarray]]] = [{name: [] for name in STEMS} for _ in requests]
    while engine.busy:
        for job, chunk in engine.step():
            if chunk is None:
                raise job.error or RuntimeError("a job failed")
            samples = chunk.samples[0].numpy()
            skip = min(len(samples), max(0, -chunk.position))
            parts[jobs[id(job)]][chunk.stem].append(samples[skip:])
    return [np.stack([np.concatenate(part[name]) for name in STEMS]) for part in parts]


def judge_clips(prompts: list[Prompt], clips: list[np.ndarray]) -> dict[str, Any]:
    """Measures of continuations [3, new], one per prompt."""
    tempi, strengths, errors, ranks, levels, silent = [], [], [], [], [], []
    drums, tonal = [], []
    own, others = [], []
    pitches = [metrics.mean_chroma(prompt.heard) for prompt in prompts]
    for index, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
        mix = clip.sum(0)
        song = prompt.song
        if any(part.drums and part.notes for part in song.parts):
            tempi.append(metrics.same_tempo(metrics.tempo(mix), song.bpm))
            lags = metrics.autocorrelation(metrics.onset_envelope(mix))
            strengths.append(float(metrics.beat_strength(lags, song.bpm)))
        if "swing" not in song.words:
            errors.append(metrics.onset_errors_ms(mix, prompt.seam / RATE_HZ, prompt.grid_s()))
        pitch = metrics.mean_chroma(mix)
        own.append(float(pitch @ pitches[index]))
        others += [float(pitch @ other) for other_index, other in enumerate(pitches) if other_index != index]
        ranks.append(metrics.scale_rank(pitch, song.root, song.mode) == 1)
        levels.append(metrics.level_db(mix) - metrics.level_db(prompt.heard))
        silent.append(metrics.silent_share(mix) > 0)
        if metrics.level_db(clip[0]) > -45:
            drums.append(metrics.percussive_share(clip[0]))
        tonal += [
            metrics.percussive_share(clip[stem]) for stem in (1, 2) if metrics.level_db(clip[stem]) > -45
        ]
    found = np.concatenate(errors) if errors else np.zeros(0)
    return {
        "tempo_kept": round(mean_of([float(hit) for hit in tempi]), 3),
        "beat_strength": round(mean_of(strengths), 3),
        "onset_error_ms": round(float(np.median(found)), 1) if len(found) else None,
        "chroma_auc": round(metrics.auc(own, others), 3),
        "scale_first": round(mean_of([float(hit) for hit in ranks]), 3),
        "level_change_db": round(mean_of([abs(value) for value in levels]), 2),
        "with_silence": round(mean_of([float(hit) for hit in silent]), 3),
        "drums_percussive": round(mean_of(drums), 3),
        "tonal_percussive": round(mean_of(tonal), 3),
    }


def judge_codec(model: BaseGenModel, prompts: list[Prompt]) -> tuple[dict[str, float], list[np.ndarray]]:
    """The codec on what follows each seam: measures, and the stems through the codec."""
    codec = model.compression_model
    loss = SpectralLoss()
    facts: dict[str, list[float]] = {}
    again = []
    index = []
    with torch.no_grad():
        for prompt in prompts:
            stems = torch.from_numpy(prompt.truth)
            codes = codec.encode(stems[None])[0]
            made = codec.decode_stems(codes)[0, :, 0]
            index.append(codes[0].view(-1, len(STEMS), codes.shape[-1]))
            again.append(made.numpy())
            for name, a, b in [*zip(STEMS, made, stems, strict=True), ("codec", made.sum(0), stems.sum(0))]:
                if float(b.square().mean()) > 1e-6:
                    facts.setdefault(f"{name}_mel_db", []).append(
                        float(mel_distance_db(loss, a[None], b[None]))
                    )
                    facts.setdefault(f"{name}_sisdr_db", []).append(float(si_sdr_db(a[None], b[None])))
            facts.setdefault("comb_ripple_db", []).append(metrics.ripple_db(made.sum(0).numpy()))
            facts.setdefault("comb_ripple_truth_db", []).append(metrics.ripple_db(prompt.truth.sum(0)))
    result = {name: round(mean_of(values), 3) for name, values in facts.items()}
    other = torch.cat([codes[:, 2] for codes in index], 1)
    for book, column in enumerate(other):
        share = torch.bincount(column, minlength=codec.cardinality).float()
        share = share[share > 0] / share.sum()
        result[f"codebook_perplexity_{book}"] = round(float(torch.exp(-(share * share.log()).sum())), 1)
    return result, again


def speed(model: BaseGenModel, prompt: Prompt, sampling: Sampling) -> dict[str, float]:
    """Seconds of audio per second of waiting, one take alone, guidance on, codec included."""
    request = request_of(prompt, sampling, 0, True)
    request = replace(request, text=" ".join(prompt.song.words))
    started = time.monotonic()
    first: float | None = None
    for _ in model.stream(request):
        first = first if first is not None else time.monotonic() - started
    wall = time.monotonic() - started
    return {"xrt": round(prompt.new_samples / RATE_HZ / wall, 2), "first_audio_s": round(first or wall, 2)}


def request_of(prompt: Prompt, sampling: Sampling, seed: int, transport: bool) -> GenerationRequest:
    clip = AudioClip(torch.from_numpy(prompt.heard)[None], RATE_HZ)
    tempo_map = prompt.tempo_map() if transport else None
    return GenerationRequest(
        "continue", prompt.new_samples // HOP, clip, seed=seed, sampling=sampling, tempo_map=tempo_map
    )


def sheet(prompts: list[Prompt], clips: list[np.ndarray], path: Path, rows: int = 6) -> None:
    """Spectrograms of prompt + continuation, truth beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = min(rows, len(prompts))
    figure, axes = pyplot.subplots(rows, 2, figsize=(16, 2.6 * rows), squeeze=False)
    for row in range(rows):
        prompt, clip = prompts[row], clips[row]
        for column, tail in enumerate((clip.sum(0), prompt.truth.sum(0))):
            audio = np.concatenate([prompt.heard, tail]) + 1e-6
            axes[row][column].specgram(audio, NFFT=1024, Fs=RATE_HZ, noverlap=512, vmin=-130, vmax=-40)
            axes[row][column].axvline(len(prompt.heard) / RATE_HZ, color="cyan")
            axes[row][column].set_ylim(0, 12_000)
        song = prompt.song
        axes[row][0].set_title(f"{song.genre} {song.meter.name} {song.bpm:.0f} bpm: pocket", fontsize=8)
        axes[row][1].set_title("truth", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    pyplot.close(figure)


def evaluate(
    songs: Path,
    model_path: Path,
    count: int,
    sampling: Sampling,
    slots: int = 8,
    prompt_s: float = 5.0,
    new_s: float = 6.0,
    picture: Path | None = None,
    clips_out: Path | None = None,
    seconds: float = SONG_SECONDS,
) -> dict[str, Any]:
    """All figures as one dictionary; keys without a suffix are pocket's own continuations."""
    codec, lm, info = registry.load(str(model_path), "cpu")
    model = MusicGen("pocket", codec, lm, info=info)
    prompts = load_prompts(songs, count, prompt_s, new_s, seconds)
    if not prompts:
        raise FileNotFoundError(f"no held-out songs in {songs} that are long enough")
    facts: dict[str, Any] = {"prompts": len(prompts), "prompt_s": prompt_s, "new_s": new_s}
    codec_facts, again = judge_codec(model, prompts)
    facts |= codec_facts
    started = time.monotonic()
    clips = generate(model, [request_of(p, sampling, i, True) for i, p in enumerate(prompts)], slots)
    facts["batched_xrt"] = round(len(prompts) * new_s / (time.monotonic() - started), 2)
    facts |= judge_clips(prompts, clips)
    truth = [prompt.truth for prompt in prompts]
    facts["truth"] = judge_clips(prompts, truth)
    facts["round_trip"] = judge_clips(prompts, again)
    facts["tempo_round_trip"] = facts["round_trip"]["tempo_kept"]
    facts["mismatched"] = judge_clips(prompts, truth[1:] + truth[:1])
    some = prompts[: max(4, count // 3)]
    blind = generate(model, [request_of(p, sampling, i, False) for i, p in enumerate(some)], slots)
    facts["without_transport"] = judge_clips(some, blind)
    facts["tempo_no_transport"] = facts["without_transport"]["tempo_kept"]
    facts |= speed(model, prompts[0], sampling)
    files = [model_path / name for name in ("lm.safetensors", "codec.safetensors")]
    facts["weights_mb"] = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    facts["sampling"] = {"temperature": sampling.temperature, "top_k": sampling.top_k}
    if picture is not None:
        sheet(prompts, clips, picture)
    if clips_out is not None:
        clips_out.mkdir(parents=True, exist_ok=True)
        for number, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
            np.save(clips_out / f"{number:03d}.npy", np.concatenate([prompt.heard, clip.sum(0)]))
    return facts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--songs", type=Path, required=True, help="folder of rendered songs with held-out ones"
    )
    parser.add_argument("--model", type=Path, required=True, help="pocket's folder")
    parser.add_argument("--out", type=Path, required=True, help="evaluation.json")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--picture", type=Path, default=None, help="PNG of spectrograms")
    parser.add_argument("--clips", type=Path, default=None, help="folder for the audio as .npy")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    sampling = Sampling(temperature=options.temperature, top_k=options.top_k)
    facts = evaluate(
        options.songs,
        options.model,
        options.count,
        sampling,
        options.slots,
        picture=options.picture,
        clips_out=options.clips,
    )
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
