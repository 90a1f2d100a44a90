"""From flags to a job: the words of the command line as a checked :class:`protocol.submit.Submit`."""

from __future__ import annotations

import secrets
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from protocol.audio import AudioBlock, AudioFormat
from protocol.errors import SegueError
from protocol.limits import KEY_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from protocol.submit import Guidance, Sampling, Submit
from protocol.tempo import Length, TempoChange, TempoMap

if TYPE_CHECKING:
    from bridge_clients.audio_files import AudioFileInfo, Excerpt

_DEFAULT_SECONDS = 8.0
_MAX_PROMPT_BYTES = (
    MAX_MESSAGE_BYTES - MAX_FRAME_BYTES
)  # the rest is for the header and what may come beside it


def seam_frame(args: Any, info: AudioFileInfo) -> int:
    """The frame of the file at which new audio begins: ``--start-at``, or the end of the file."""
    if args.start_at is None:
        return info.frames
    frame = round(args.start_at * info.rate_hz)
    if not 0 < frame <= info.frames:
        raise SegueError(
            "E_ARGUMENT",
            f"--start-at {float(args.start_at):g} lies outside {info.path.name}.",
            field="start_at",
            value=float(args.start_at),
            allowed=f"above 0 to {info.seconds:.3f} s",
        )
    return frame


def prompt_frames(args: Any, info: AudioFileInfo) -> int:
    """How many frames before the seam are read and sent: ``--listen`` seconds, within one message."""
    return min(round(args.listen * info.rate_hz), _MAX_PROMPT_BYTES // (4 * info.channels))


def tempo_map(args: Any, seam_s: Fraction) -> TempoMap | None:
    """The map that the flags say, with the seam in it; None without ``--tempo``, which is never guessed."""
    if args.tempo is None:
        for flag, value in (("--bars", args.bars), ("--meter", args.meter), ("--downbeat", args.downbeat)):
            if value is not None:
                raise SegueError(
                    "E_ARGUMENT",
                    f"{flag} needs the tempo: add --tempo BPM, for example --tempo 120.",
                    field="tempo",
                )
        return None
    beats, unit = args.meter or (4, 4)
    start = (seam_s - (args.downbeat or 0)) * args.tempo / 60
    change = TempoChange(at=0, bpm=_rational(args.tempo), beats=beats, unit=unit)
    return TempoMap(changes=(change,), start=_rational(start))


def _rational(value: Fraction) -> int | str:
    """A fraction as the wire takes it: at most nine digits below the line, which is exact for every audio
    rate.
    """
    value = value.limit_denominator(10**9 - 1)
    return value.numerator if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def submit_from(args: Any, excerpt: Excerpt | None) -> Submit:
    """The job that the flags of ``continue``, ``generate`` or ``demo`` ask for, with the prompt aboard if
    there is one.

    Raises ``E_ARGUMENT`` or ``E_TOO_LONG``; what only the daemon can judge (model, queue) it judges itself.
    """
    seam_s = Fraction(excerpt.end_frame, excerpt.info.rate_hz) if excerpt else Fraction(0)
    tempo = tempo_map(args, seam_s)
    if args.bars is not None:
        length = Length(bars=_rational(args.bars))
    else:
        length = Length(seconds=args.seconds if args.seconds is not None else _DEFAULT_SECONDS)
    sampling = {
        name: value
        for name in ("temperature", "top_k", "top_p")
        if (value := getattr(args, name)) is not None
    }
    if args.greedy:
        sampling["use_sampling"] = False
    rate, channels = (excerpt.info.rate_hz, excerpt.info.channels) if excerpt else (args.rate, args.channels)
    submit = Submit(
        key=secrets.token_bytes(KEY_BYTES),
        mode="continue" if excerpt else "generate",
        length=length,
        model=args.model or None,
        text=args.text,
        negative_text=args.negative_text,
        tempo_map=tempo,
        variations=args.variations,
        stems=None if args.stems else ("mix",),
        seed=args.seed,
        sampling=Sampling(**sampling),
        guidance=Guidance(cfg_coef=args.guidance),
        rate=rate,
        channels=channels,
        priority=args.priority,
    )
    if excerpt:
        submit = submit.with_audio([_block(excerpt)])
    submit.check_complete()
    return submit


def _block(excerpt: Excerpt) -> AudioBlock:
    frames, channels = excerpt.samples.shape
    form = AudioFormat(
        rate=excerpt.info.rate_hz, channels=channels, frames=frames, role="prompt", position=-frames
    )
    return AudioBlock(form, excerpt.samples.astype("<f4", copy=False).tobytes())


def bar_lines_s(submit: Submit, before_s: float, after_s: float) -> list[float]:
    """Seconds from the seam of each bar line between ``before_s`` in front of it and ``after_s`` behind
    it.
    """
    tempo = submit.tempo_map
    if tempo is None:
        return []
    start = Fraction(tempo.start)
    origin_s = float(tempo.seconds_at(start))
    lines: list[float] = []
    bar = Fraction(int(tempo.bars_at(start)))
    while bar >= 0 and (at := float(tempo.seconds_at(tempo.quarters_at_bars(bar))) - origin_s) > -before_s:
        lines.append(at)
        bar -= 1
    bar = Fraction(int(tempo.bars_at(start)) + 1)
    while (at := float(tempo.seconds_at(tempo.quarters_at_bars(bar))) - origin_s) < after_s:
        lines.append(at)
        bar += 1
    return sorted(lines)
