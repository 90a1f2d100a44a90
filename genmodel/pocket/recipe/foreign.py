"""Music that the recipe did not make: what the codec and a continuation make of any folder of audio files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from genmodel.audio import convert_audio
from genmodel.base import BaseGenModel
from genmodel.pocket.recipe import metrics
from genmodel.pocket.recipe.journal import mean_of
from genmodel.pocket.recipe.prompts import HOP, generate
from genmodel.pocket.recipe.render import RATE_HZ
from genmodel.pocket.recipe.spectral import SpectralLoss, mel_distance_db, si_sdr_db
from genmodel.request import AudioClip, GenerationRequest, Sampling

ENDINGS = (".wav", ".flac", ".ogg", ".aiff", ".aif", ".mp3")


def read_clips(folder: Path, seconds: float, most: int = 200) -> dict[str, np.ndarray]:
    """The middle `seconds` of every audio file under a folder, mono at pocket's rate, by relative name.

    Raises FileNotFoundError where there is none that is long enough.
    """
    import soundfile

    clips: dict[str, np.ndarray] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS):
        info = soundfile.info(path)
        wanted = int(seconds * info.samplerate)
        if info.frames < wanted:
            continue
        samples, rate = soundfile.read(
            path, frames=wanted, start=(info.frames - wanted) // 2, dtype="float32", always_2d=True
        )
        mono = convert_audio(torch.from_numpy(samples.T.mean(0, keepdims=True)), rate, RATE_HZ, 1)[0]
        clips[str(path.relative_to(folder))] = mono[: mono.shape[0] // HOP * HOP].numpy()
        if len(clips) == most:
            break
    if not clips:
        raise FileNotFoundError(f"no audio of {seconds:g} s or more in {folder} ({', '.join(ENDINGS)})")
    return clips


def judge_foreign(
    model: BaseGenModel,
    folder: Path,
    sampling: Sampling,
    prompt_s: float = 5.0,
    new_s: float = 6.0,
    slots: int = 8,
) -> dict[str, Any]:
    """The codec's distance, and continuations with the tempo that is heard in the prompt but no bar line
    known."""
    clips = read_clips(folder, prompt_s + new_s)
    cut = int(prompt_s * RATE_HZ) // HOP * HOP
    loss, core = SpectralLoss(), model.compression_model.core
    mel, sdr = [], []
    with torch.no_grad():
        for wav in clips.values():
            audio = torch.from_numpy(wav)[None]
            made = core.decode(core.encode(audio[None])[0])[0]
            mel.append(float(mel_distance_db(loss, made, audio)))
            sdr.append(float(si_sdr_db(made, audio)))
    frames = int(new_s * RATE_HZ) // HOP
    requests = [
        GenerationRequest(
            "continue",
            frames,
            AudioClip(torch.from_numpy(wav[:cut])[None], RATE_HZ),
            seed=i,
            sampling=sampling,
        )
        for i, wav in enumerate(clips.values())
    ]
    made_clips = [stems.sum(0) for stems in generate(model, requests, slots)]
    pitches = [metrics.mean_chroma(wav[:cut]) for wav in clips.values()]
    own: list[float] = []
    others: list[float] = []
    kept, levels = [], []
    for index, (wav, made) in enumerate(zip(clips.values(), made_clips, strict=True)):
        pitch = metrics.mean_chroma(made)
        own.append(float(pitch @ pitches[index]))
        others += [float(pitch @ other) for i, other in enumerate(pitches) if i != index]
        kept.append(metrics.same_tempo(metrics.tempo(made), metrics.tempo(wav[:cut])))
        levels.append(metrics.level_db(made) - metrics.level_db(wav[:cut]))
    return {
        "clips": len(clips),
        "codec_mel_db": round(mean_of(mel), 3),
        "codec_sisdr_db": round(mean_of(sdr), 3),
        "chroma_auc": round(metrics.auc(own, others), 3) if others else None,
        "prompts_tempo_kept": round(mean_of([float(hit) for hit in kept]), 3),
        "level_change_db": round(mean_of([abs(value) for value in levels]), 2),
        "with_silence": round(mean_of([float(metrics.silent_share(made) > 0) for made in made_clips]), 3),
    }
