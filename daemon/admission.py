"""Which requests become jobs, and how much of their audio is kept."""

from __future__ import annotations

import dataclasses

from daemon.config import Limits
from protocol.audio import AudioBlock
from protocol.errors import SegueError
from protocol.submit import Submit

MIN_PROMPT_S = 0.1  # four token frames are made again, at least one must be left to continue from
_USUAL_VOICES = 4  # three stems and their mix, before a model has said what it has


def check(submit: Submit, limits: Limits) -> None:
    """Refuse what is too long for this daemon or gives nothing to go on from (E_TOO_LONG, E_AUDIO)."""
    rate = submit.host_rate_hz
    frames = submit.lead_frames + submit.length_frames + submit.tail_frames
    seconds = frames / rate
    if seconds > limits.length_s:
        raise SegueError(
            "E_TOO_LONG",
            f"{seconds:.6g} s of new audio is too long for this daemon; at most {limits.length_s:g} s fit in"
            " one job (limits.length_s).",
            field="length",
            value=f"{seconds:.6g} s",
            allowed=f"at most {limits.length_s:g} s",
        )
    samples = frames * submit.variations * voices(submit) * submit.host_channels
    if samples > limits.job_samples:
        raise SegueError(
            "E_TOO_LONG",
            f"{submit.variations} variations of {seconds:.6g} s at {rate} Hz are too much for one job.",
            field="variations",
            value=submit.variations,
            allowed=f"at most {limits.job_samples} samples altogether",
        )
    if submit.mode != "generate":
        _check_prompt(submit)
    for role, sentence in _SILENT.get(submit.mode, {}).items():
        if _silent([block for block in submit.audio if block.format.role == role]):
            raise SegueError(
                "E_AUDIO", sentence, field="audio", value="silence", allowed="audio with some sound in it"
            )


_SILENT = {
    "continue": {
        "prompt": "The selection is silent, so there is nothing to go on from; select sound, or generate from"
        " a text."
    },
    "accompany": {"context": "The given tracks are silent, so there is nothing to accompany."},
    "vary": {"source": "The selection is silent, so there is nothing to vary."},
    "fill": {"following": "What follows the gap is silent; continue what comes before it instead."},
}


def _silent(blocks: list[AudioBlock]) -> bool:
    return all(memoryview(block.data).tobytes().count(0) == block.format.total_bytes for block in blocks)


def _check_prompt(submit: Submit) -> None:
    """A prompt that is there, or without which nothing can be done, must be long enough."""
    prompts = [block for block in submit.audio if block.format.role == "prompt"]
    if not prompts and submit.mode != "continue":
        return
    seconds = sum(block.format.seconds for block in prompts)
    if seconds < MIN_PROMPT_S:
        raise SegueError(
            "E_AUDIO",
            f"The selection is only {1000 * seconds:.3g} ms long; to go on from it at least"
            f" {1000 * MIN_PROMPT_S:g} ms are needed.",
            field="audio",
            value=f"{seconds:.6g} s",
            allowed=f"at least {MIN_PROMPT_S} s",
        )


def voices(submit: Submit) -> int:
    """How many stems a variation may have."""
    return len(submit.stems) if submit.stems else _USUAL_VOICES


def stored_blocks(submit: Submit, limits: Limits) -> list[AudioBlock]:
    """What is kept of the audio: of the prompt only what a model might hear, counted from its end."""
    kept: list[AudioBlock] = []
    room: dict[int | None, int] = {}
    for block in reversed(submit.audio):
        audio = block.format
        if audio.role != "prompt":
            kept.append(block)
            continue
        left = room.setdefault(audio.track, round(limits.prompt_s * audio.rate))
        frames = min(left, audio.frames)
        room[audio.track] = left - frames
        if frames:
            view = memoryview(block.data).cast("B")[-frames * audio.frame_bytes :]
            kept.append(AudioBlock(dataclasses.replace(audio, frames=frames, position=None), view))
    return list(reversed(kept))
