"""From flags to a job: the words of the command line as a checked :class:`protocol.submit.Submit`."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.audio import AudioBlock, AudioFormat
from protocol.errors import SegueError
from protocol.limits import KEY_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from protocol.submit import Guidance, Sampling, Submit
from protocol.tempo import Length, TempoChange, TempoMap

if TYPE_CHECKING:
    from bridge_clients.audio_files import AudioFileInfo, Excerpt

_DEFAULT_SECONDS = 8.0
_LONG_S = 600.0
_BEYOND_S = 1.0  # other tracks are heard half a second ahead
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


def stretch(args: Any, info: AudioFileInfo) -> tuple[int, int]:
    """The frames of the file between ``--from`` and ``--to`` (its end, where that is not said)."""
    begin = round(args.from_s * info.rate_hz)
    end = info.frames if args.to_s is None else round(args.to_s * info.rate_hz)
    if not 0 <= begin < end <= info.frames:
        raise SegueError(
            "E_ARGUMENT",
            f"From {float(args.from_s):g} s to {end / info.rate_hz:g} s is no stretch of {info.path.name}.",
            field="from",
            value=float(args.from_s),
            allowed=f"0 to {info.seconds:.3f} s, the end after the beginning",
        )
    return begin, end


def tempo_map(args: Any, seam_s: Fraction) -> TempoMap | None:
    """The map that the flags say, with the seam in it; None without ``--tempo``, which is never guessed."""
    if getattr(args, "tempo_map", None):
        return map_from_file(args, seam_s)
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


def map_from_file(args: Any, seam_s: Fraction) -> TempoMap:
    """``--tempo-map``: the protocol's `tempo_map` as JSON, its `start` being the file's first sample; the
    seam lies `seam_s` seconds after it. Raises ``E_ARGUMENT``.
    """
    import json

    if args.tempo is not None or args.meter is not None or args.downbeat is not None:
        raise SegueError(
            "E_ARGUMENT", "--tempo-map says it all; leave --tempo, --meter and --downbeat out.",
            field="tempo_map",
        )  # fmt: skip
    try:
        found = json.loads(Path(args.tempo_map).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SegueError(
            "E_ARGUMENT", f"--tempo-map {args.tempo_map} cannot be read as JSON ({error}).", field="tempo_map"
        ) from None
    try:
        whole = TempoMap.from_map(found)
    except SegueError as error:
        raise error.within("tempo_map") from None
    return dataclasses.replace(whole, start=_rational(whole.quarters_after(seam_s)))


def _rational(value: Fraction) -> int | str:
    """A fraction as the wire takes it: at most nine digits below the line, which is exact for every audio
    rate.
    """
    value = value.limit_denominator(10**9 - 1)
    return value.numerator if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


@dataclasses.dataclass(frozen=True)
class Given:
    """What a job is given besides its prompt. ``seam_s``: where in the files it begins; ``frames``: how long
    it has to be, where that is given.
    """

    mode: str
    blocks: tuple[AudioBlock, ...] = ()
    rate_hz: int = 0
    channels: int = 0
    seam_s: Fraction = Fraction(0)
    frames: int | None = None


def submit_from(args: Any, excerpt: Excerpt | None, given: Given | None = None) -> Submit:
    """The job that the flags ask for, with the prompt aboard if there is one, and what else is given.

    Raises ``E_ARGUMENT`` or ``E_TOO_LONG``; what only the daemon can judge (model, queue) it judges itself.
    """
    if given is None:
        seam_s = Fraction(excerpt.end_frame, excerpt.info.rate_hz) if excerpt else Fraction(0)
        given = Given("continue" if excerpt else "generate", seam_s=seam_s)
        if excerpt:
            given = dataclasses.replace(given, rate_hz=excerpt.info.rate_hz, channels=excerpt.info.channels)
        else:
            given = dataclasses.replace(given, rate_hz=args.rate, channels=args.channels)
        if context := getattr(args, "context", None):
            tracks = context_blocks(context, given.seam_s, _listen_s(args), _seconds(args))
            given = dataclasses.replace(given, blocks=tracks)
    sampling = {
        name: value
        for name in ("temperature", "top_k", "top_p")
        if (value := getattr(args, name)) is not None
    }
    if args.greedy:
        sampling["use_sampling"] = False
    submit = Submit(
        key=secrets.token_bytes(KEY_BYTES),
        mode=given.mode,
        length=_length(args, given),
        model=args.model or None,
        text=args.text,
        negative_text=args.negative_text,
        tempo_map=tempo_map(args, given.seam_s),
        variations=args.variations,
        stems=None if args.stems else ("mix",),
        seed=args.seed,
        sampling=Sampling(**sampling),
        guidance=Guidance(cfg_coef=args.guidance),
        rate=given.rate_hz,
        channels=given.channels,
        priority=args.priority,
        loop=getattr(args, "loop", False),
        start=getattr(args, "start", "edge"),
        strength=getattr(args, "strength", 0.5),
        tail_ms=getattr(args, "tail_ms", None),
    )
    blocks = [*([block_of(excerpt, "prompt", -len(excerpt.samples))] if excerpt else []), *given.blocks]
    if blocks:
        submit = submit.with_audio(blocks)
    submit.check_complete()
    return submit


def _length(args: Any, given: Given) -> Length:
    if args.bars is not None:
        return Length(bars=_rational(args.bars))
    if args.seconds is None and given.frames is not None:
        return Length(frames=given.frames)
    return Length(seconds=args.seconds if args.seconds is not None else _DEFAULT_SECONDS)


def _seconds(args: Any) -> float:
    """About how long the new audio is, for how much of the other tracks is sent."""
    if args.bars is not None and args.tempo is not None:
        return float(args.bars * 16 * 60 / args.tempo)
    return float(args.seconds or (_LONG_S if args.bars is not None else _DEFAULT_SECONDS))


def _listen_s(args: Any) -> float:
    return float(getattr(args, "listen", 0.0))


def block_of(excerpt: Excerpt, role: str, position: int, **more: Any) -> AudioBlock:
    """A stretch of a file under a role; ``position`` in frames of the file from the seam."""
    frames, channels = excerpt.samples.shape
    form = AudioFormat(
        rate=excerpt.info.rate_hz, channels=channels, frames=frames, role=role, position=position, **more
    )
    return AudioBlock(form, excerpt.samples.astype("<f4", copy=False).tobytes())


def context_blocks(
    words: Sequence[str], seam_s: Fraction, before_s: float, after_s: float
) -> tuple[AudioBlock, ...]:
    """Tracks ``FILE[:STEM]`` that begin together, each from ``before_s`` seconds before the seam to
    ``after_s`` and a little after it. Refuses a file that cannot be read (``E_AUDIO``).
    """
    from bridge_clients.audio_files import inspect, read_between

    blocks = []
    for number, word in enumerate(words):
        path, stem = track_of(word)
        info = inspect(path)
        seam = round(seam_s * info.rate_hz)
        begin = max(0, seam - round(before_s * info.rate_hz))
        end = min(info.frames, seam + round((after_s + _BEYOND_S) * info.rate_hz))
        if end <= begin:
            continue
        excerpt = read_between(info, begin, end)
        blocks.append(block_of(excerpt, "context", begin - seam, track=number, stem=stem))
    return tuple(blocks)


def track_of(word: str) -> tuple[Path, str | None]:
    """``FILE[:STEM]``; a file of that whole name comes first."""
    path = Path(word).expanduser()
    name, colon, stem = word.rpartition(":")
    if not colon or path.exists():
        return path, None
    return Path(name).expanduser(), stem


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
