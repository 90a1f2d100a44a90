"""From a selection in Audacity and the flags of the command to a job for the daemon.

Where the takes will land travels with the job, in its `project` field: a job that outlives this process, or
Audacity, can be landed later.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Any

from bridge_clients.audacity.host import Place, Track, sound
from bridge_clients.audacity.pipe import Pipe
from bridge_clients.audacity.stopping import SESSION
from bridge_clients.cli.request import tempo_map
from bridge_clients.core import new_key
from protocol.audio import AudioBlock
from protocol.errors import SegueError
from protocol.limits import DEFAULT_CHANNELS, MAX_CONTEXT_TRACKS
from protocol.replies import JobInfo
from protocol.submit import Guidance, Sampling, Submit
from protocol.tempo import Length

DEFAULT_SECONDS = 8.0
MODES = ("continue", "vary", "fill", "generate", "accompany")
_NEEDS_TIME = ("vary", "fill", "accompany")
_PROJECT = re.compile(r"audacity ([0-9]+)@([0-9]+)")


@dataclasses.dataclass(frozen=True)
class Seam:
    """Where new audio begins in the project, in samples at its rate."""

    frame: int
    rate_hz: int

    def __str__(self) -> str:
        return f"audacity {self.frame}@{self.rate_hz}"


def seam_of(info: JobInfo) -> Seam:
    """Where a job's takes belong. Raises E_JOB for a job of another host."""
    found = _PROJECT.fullmatch(info.project or "")
    if found is None:
        raise SegueError(
            "E_JOB", f"Job {info.job} was not asked for from Audacity.", field="job", value=info.job
        )
    return Seam(int(found[1]), int(found[2]))


def ask(pipe: Pipe, place: Place, mode: str, args: Any) -> Submit:
    """The job, with its audio aboard. Leaves the selection where the audio was taken: restore it.

    Raises E_AUDIO or E_ARGUMENT where the selection or a flag does not fit.
    """
    listened = place.selected or tuple(track for track in place.tracks if track.kind == "wave")
    if mode != "generate" and not listened:
        raise SegueError("E_AUDIO", "There is no audio in this project yet.", field="selection")
    if mode in _NEEDS_TIME and place.end_frame <= place.start_frame:
        raise SegueError(
            "E_AUDIO",
            "No time is selected: drag over what is to be varied, filled or accompanied.",
            field="selection",
        )
    seam = Seam(place.end_frame if mode == "continue" else place.start_frame, place.rate_hz)
    length = _length(args, place, mode)
    submit = Submit(
        key=new_key(),
        mode=mode,
        length=length,
        session=SESSION,
        project=str(seam),
        model=args.model or None,
        text=args.text,
        negative_text=args.negative_text,
        tempo_map=tempo_map(args, Fraction(seam.frame, seam.rate_hz)),
        variations=args.variations,
        stems=None if args.stems or mode == "accompany" else ("mix",),
        seed=args.seed,
        sampling=_sampling(args),
        guidance=Guidance(cfg_coef=args.guidance),
        rate=place.rate_hz,
        channels=DEFAULT_CHANNELS if mode == "generate" else None,
        priority=args.priority,
        loop=args.loop,
        start=args.start,
        strength=args.strength,
    )
    blocks = _audio(pipe, place, mode, seam, listened, round(args.listen * place.rate_hz), args.stem or [])
    if mode != "generate":
        submit = dataclasses.replace(submit, channels=max(block.channels for block in blocks))
    submit = submit.with_audio(blocks)
    submit.check_complete()
    return submit


def _length(args: Any, place: Place, mode: str) -> Length | None:
    """As the flags say; else as long as the selection, where it is what is made anew; else 8 s."""
    if args.bars is not None:
        bars = args.bars
        return Length(bars=bars.numerator if bars.denominator == 1 else str(bars))
    if args.seconds is not None:
        return Length(seconds=args.seconds)
    selected = place.end_frame - place.start_frame
    if mode != "continue" and selected > 0:
        return Length(frames=selected)
    return Length(seconds=DEFAULT_SECONDS)


def _sampling(args: Any) -> Sampling:
    given = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    known = {name: value for name, value in given.items() if value is not None}
    return Sampling(**known, **({"use_sampling": False} if args.greedy else {}))


def _audio(
    pipe: Pipe, place: Place, mode: str, seam: Seam, listened: tuple[Track, ...], reach: int, stems: list[str]
) -> list[AudioBlock]:
    """What the daemon is to hear. reach: frames before and after, at most."""
    start, end = place.start_frame, place.end_frame
    if mode == "generate":
        return []
    if mode == "continue":
        first = max(0, end - reach) if end <= start else max(start, end - reach)
        if end <= 0:
            raise SegueError(
                "E_AUDIO", "There is nothing before the cursor to go on from.", field="selection"
            )
        return [sound(pipe, place, first, end, listened, "prompt", seam_frame=seam.frame)]
    if mode == "vary":
        return [sound(pipe, place, start, end, listened, "source", seam_frame=seam.frame)]
    if mode == "fill":
        before = []
        if start > 0:
            first = max(0, start - reach)
            before = [sound(pipe, place, first, start, listened, "prompt", seam_frame=seam.frame)]
        last = min(end + reach, max(track.end_frame(place.rate_hz) for track in listened))
        if last <= end:
            raise SegueError(
                "E_AUDIO", "Nothing comes after the gap; `segue audacity continue` goes on from the end.",
                field="selection",
            )  # fmt: skip
        return [*before, sound(pipe, place, end, last, listened, "following", seam_frame=seam.frame)]
    if len(listened) > MAX_CONTEXT_TRACKS:
        raise SegueError(
            "E_ARGUMENT", f"{len(listened)} tracks are selected.", field="selection", value=len(listened),
            allowed=f"at most {MAX_CONTEXT_TRACKS} tracks",
        )  # fmt: skip
    made = []
    for number, track in enumerate(listened):
        block = sound(pipe, place, start, end, [track], "context", number, seam.frame)
        stem = stems[number] if number < len(stems) else None
        made.append(AudioBlock(dataclasses.replace(block.format, stem=stem), block.data))
    return made


def described(settings: dict[str, Any], job: str, model: str) -> str:
    """A label's text: seed and settings in words, one line, short enough to be read under the take."""
    words = [f"segue {settings.get('mode', '')} seed {settings.get('seed', '?')}", f"job {job}", model]
    for name in ("text", "negative_text"):
        if settings.get(name):
            words.append(f"{'not ' if name == 'negative_text' else ''}“{_short(str(settings[name]))}”")
    length = settings.get("length") or {}
    words += [f"{value} {name[:-1] if value == 1 else name}" for name, value in length.items()]
    for change in (settings.get("tempo_map") or {}).get("changes", ())[:1]:
        words.append(f"{change.get('bpm')} BPM {change.get('beats', 4)}/{change.get('unit', 4)}")
    for group in ("sampling", "guidance"):
        words += [f"{name} {value}" for name, value in (settings.get(group) or {}).items()]
    for name in ("variations", "loop", "start", "strength", "level", "handle_ms", "tail_ms", "stems"):
        value = settings.get(name)
        idle = name == "strength" and settings.get("mode") != "vary"  # nothing else listens to it
        if not idle and value not in (None, False, "edge", ["mix"], ("mix",)):
            words.append(f"{name} {'+'.join(value) if isinstance(value, (list, tuple)) else value}")
    return " · ".join(word for word in words if word)


def _short(text: str, most: int = 120) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"
