"""Audacity as Segue uses it: where the selection is, its audio, and takes put in place. All through the pipe.

What Audacity 3.2.4 does, and what follows from it (measured):

- No command tells the selection. A Nyquist program can, to a microsecond, together with the project's
  rate, and leaves no undo step; the label that others make for it leaves one and tells six digits only.
- Nyquist opens a dialog, and with it blocks the pipe, when no track or no time is selected. So the
  selection is widened by a second for the question, and a track is selected or made for it.
- Nyquist's end of the selection is its start plus a whole number of samples, and right by that.
- Export writes 32-bit float once the preference of the WAV encoding says so; it is put back afterwards.
- Export ends where the last track ends, and can be told to begin where the first one begins.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from bridge_clients import wav
from bridge_clients.audacity.pipe import ANSWER_S, Pipe, quoted
from bridge_clients.audacity.project import Strip, write_project
from protocol.audio import AudioBlock, AudioFormat
from protocol.errors import SegueError

# name, value for us, value where none was set; 6 and 2 are libsndfile's numbers of float and 16 bits
_EXPORTING = (
    ("/FileFormats/ExportFormat_SF1_Type/WAV_10000", 6, 2),
    ("/AudioFiles/SkipSilenceAtBeginning", 0, 0),
)
_TRACK = re.compile(
    r'\{ *"name":"(?P<name>.*?)", *"focused":[01], *"selected":(?P<selected>[01])(?P<more>[^{}]*)\}',
    re.DOTALL,
)
_FIELD = re.compile(r'"(\w+)": *("[^"]*"|[^"\s]+?)(?=, *"|\s*$)')  # in some languages 8.5 is 8,5
_EMPTY_BYTES = 128  # a WAV file's head, and nothing behind it
_WIDER_S = 1  # a whole number of samples at any rate
_FRAMES_A_SECOND = 2_000_000  # that many, at least, were imported and exported per second


@dataclass(frozen=True)
class Track:
    """One track. index: from 0, as the commands count."""

    index: int
    name: str
    kind: str
    channels: int
    selected: bool
    panned: bool
    end_s: float

    def end_frame(self, rate_hz: int) -> int:
        """Where its audio ends; Audacity tells it to six digits only."""
        return round(self.end_s * rate_hz)


@dataclass(frozen=True)
class Place:
    """What is selected, in seconds from the project's start as Audacity tells it, and in samples."""

    start_s: Fraction
    end_s: Fraction
    rate_hz: int
    tracks: tuple[Track, ...]

    @property
    def start_frame(self) -> int:
        return round(self.start_s * self.rate_hz)

    @property
    def end_frame(self) -> int:
        return self.start_frame + round((self.end_s - self.start_s) * self.rate_hz)

    @property
    def selected(self) -> tuple[Track, ...]:
        """The selected audio tracks."""
        return tuple(track for track in self.tracks if track.selected and track.kind == "wave")


def tracks(pipe: Pipe) -> tuple[Track, ...]:
    """All tracks, from the top."""
    return tuple(_read_tracks(pipe.do("GetInfo: Type=Tracks Format=JSON")))


def _read_tracks(text: str) -> Iterator[Track]:
    """What Audacity calls JSON: it escapes quotes in names, and neither backslashes nor line breaks."""
    for index, found in enumerate(_TRACK.finditer(text)):
        more = {name: value.strip('"').replace(",", ".") for name, value in _FIELD.findall(found["more"])}
        yield Track(
            index=index,
            name=found["name"].replace('\\"', '"'),
            kind=more.get("kind", ""),
            channels=int(more.get("channels", 1)),
            selected=found["selected"] == "1",
            panned=float(more.get("pan", 0)) != 0,
            end_s=float(more.get("end", 0)),
        )


def where(pipe: Pipe) -> Place:
    """The selection, the project's rate and its tracks. Nothing is changed, and no undo step is left."""
    found = tracks(pipe)
    waves = [track for track in found if track.kind == "wave"]
    chosen = [track for track in waves if track.selected]
    made = not waves
    if made:
        pipe.do("NewMonoTrack:")
        _select_tracks(pipe, [len(found)])
    elif not chosen:
        _select_tracks(pipe, [waves[0].index])
    pipe.do(f"SelectTime: Start=0 End={_WIDER_S} RelativeTo=Selection")
    try:
        start_s, wide_s, rate_hz = _ask_nyquist(pipe)
    finally:
        pipe.do(f"SelectTime: Start=0 End=-{_WIDER_S} RelativeTo=Selection")
        if made:
            pipe.do("Undo:")  # exactly the step that was made here
    place = Place(start_s, max(start_s, wide_s - Fraction(_WIDER_S)), rate_hz, found)
    if not chosen:
        restore(pipe, place)
    return place


def _ask_nyquist(pipe: Pipe) -> tuple[Fraction, Fraction, int]:
    """(start, end, rate) of the selection, told through a file in a folder of our own."""
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        path = Path(folder) / "selection"
        program = (
            '(setf *float-format* "%.15g")'
            f"(let ((f (open {quoted(path.as_posix())} :direction :output)))"
            " (format f \"~a ~a ~a~%\" (get '*selection* 'start) (get '*selection* 'end)"
            " (get '*project* 'rate))"
            ' (close f) "")'
        )
        if pipe.try_(f"NyquistPrompt: Command={quoted(program)} Version=4") is None:
            raise SegueError(
                "E_INTERNAL",
                "Audacity does not tell its selection: stop playing or recording, and see that Nyquist Prompt"
                " is enabled in Tools > Plugin Manager.",
                field="audacity",
                retry="never",
            )
        try:
            start, end, rate = path.read_text().split()
            return Fraction(start), Fraction(end), round(float(rate))
        except (OSError, ValueError) as error:
            raise SegueError(
                "E_INTERNAL", "Audacity did not tell its selection.", field="audacity", detail=str(error)
            ) from error


def _select_tracks(pipe: Pipe, indexes: Sequence[int]) -> None:
    for number, index in enumerate(indexes):
        mode = "Add" if number else "Set"
        pipe.do(f"SelectTracks: Track={index} TrackCount=1 Mode={mode}")
    if not indexes:
        pipe.do("SelectTracks: Track=0 TrackCount=0 Mode=Set")


def _select_time(pipe: Pipe, start_s: Fraction, end_s: Fraction) -> None:
    pipe.do(f"SelectTime: Start={float(start_s):.9f} End={float(end_s):.9f} RelativeTo=ProjectStart")


def restore(pipe: Pipe, place: Place) -> None:
    """Select what was selected."""
    _select_tracks(pipe, [track.index for track in place.tracks if track.selected])
    _select_time(pipe, place.start_s, place.end_s)


def sound(
    pipe: Pipe, place: Place, start_frame: int, end_frame: int, listened: Sequence[Track], role: str,
    track: int | None = None, seam_frame: int = 0,
) -> AudioBlock:  # fmt: skip
    """What these tracks sound like between two frames of the project: as Audacity mixes them, 32-bit float
    at the project's rate. Raises E_AUDIO when there is nothing, or when it is silent.
    """
    frames = end_frame - start_frame
    channels = 2 if any(t.channels > 1 or t.panned for t in listened) else 1
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        path = Path(folder) / "sound.wav"
        with _exporting(pipe):
            _select_tracks(pipe, [t.index for t in listened])
            _select_time(pipe, Fraction(start_frame, place.rate_hz), Fraction(end_frame, place.rate_hz))
            pipe.do(
                f"Export2: Filename={quoted(path.as_posix())} NumChannels={channels}",
                timeout_s=ANSWER_S + frames / _FRAMES_A_SECOND,
            )
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= _EMPTY_BYTES:
                raise _silent()
            info = wav.inspect(file, "the selection")
            if info.rate_hz != place.rate_hz:
                raise SegueError(
                    "E_INTERNAL",
                    f"Audacity exported at {info.rate_hz} Hz where the project has {place.rate_hz} Hz.",
                    field="audacity",
                )
            given = min(frames, info.frames)
            coding, data = wav.read(file, info, 0, given, "the selection")
    if not any(data):
        raise _silent()
    data += bytes(len(data) // given * (frames - given))  # silence behind the last track
    form = AudioFormat(
        rate=info.rate_hz, channels=info.channels, frames=frames, format=coding, role=role, track=track,
        position=start_frame - seam_frame,
    )  # fmt: skip
    return AudioBlock(form, data)


def _silent() -> SegueError:
    return SegueError(
        "E_AUDIO",
        "What is selected is silent: select a part that can be heard, on tracks that are not muted.",
        field="selection",
    )


@contextlib.contextmanager
def _exporting(pipe: Pipe) -> Iterator[None]:
    """Meanwhile exports are as they are needed here; then the user's own preferences are back."""
    known: list[tuple[str, str]] = []
    try:
        for name, value, otherwise in _EXPORTING:
            before = (pipe.try_(f"GetPreference: Name={quoted(name)}") or "").strip()
            if before != str(value):
                known.append((name, before if before.isdecimal() else str(otherwise)))
                pipe.do(f"SetPreference: Name={quoted(name)} Value={value}")
        yield
    finally:
        for name, before in known:
            pipe.do(f"SetPreference: Name={quoted(name)} Value={before}")


def shows_trimmed_clips(pipe: Pipe) -> bool:
    """Whether a clip may hold audio that is not shown: Audacity 3.1 and later."""
    numbers = [pipe.try_(f'GetPreference: Name="/Version/{part}"') for part in ("Major", "Minor")]
    try:
        major, minor = (int(str(number).strip()) for number in numbers)
    except ValueError:
        return False
    return (major, minor) >= (3, 1)


def land(
    pipe: Pipe, rate_hz: int, strips: Callable[[bool], Sequence[Strip]], label: tuple[int, int, str]
) -> None:
    """Put strips on new tracks, with a label of (first frame, last frame, text) under them: one undo step.

    strips: called with whether a handle can be kept out of sight.
    """
    before = len(tracks(pipe))
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        made = strips(shows_trimmed_clips(pipe))
        path = write_project(Path(folder), rate_hz, made, label)
        frames = sum(strip.frames for strip in made)
        pipe.do(
            f"Import2: Filename={quoted(path.as_posix())}", timeout_s=ANSWER_S + frames / _FRAMES_A_SECOND
        )
    there = [track.name for track in tracks(pipe)[before:]]
    if len(there) != len(made) + 1:
        raise SegueError(
            "E_INTERNAL",
            f"Audacity made {len(there)} tracks where {len(made) + 1} were to land.",
            field="audacity",
        )
