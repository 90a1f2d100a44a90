"""The file that lands takes: a project in Audacity's old text format, which every Audacity 3 imports.

One import is one undo step, whatever is in the file. So all takes, their names, places and the label come
in one: four takes were 8 steps by importing and moving audio files. A clip can be told to begin later
than its audio, so that the handle before the seam is there and not heard: pull the clip's edge to the left.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

_FLOAT_SAMPLES = 0x0004000F  # Audacity's number for 32-bit float
_BLOCK_FRAMES = 1 << 18  # 1 MiB of float: its own largest block
_DATA = "takes_data"
_ALIGNED = 3  # with 1 the two channels' clips move one without the other (seen in 3.2.4)
_HEAD = (
    '<?xml version="1.0" standalone="no" ?>\n'
    '<project xmlns="http://audacity.sourceforge.net/xml/" projname="{data}" version="1.3.0"'
    ' audacityversion="2.4.2" rate="{rate}">\n'
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a float32 WAV file."""

    path: Path
    start: int
    frames: int


@dataclass(frozen=True)
class Strip:
    """One new track with one clip. at_frame: where its first heard sample lies in the project.

    before, after: so many frames of the pieces are there and not heard, at either end.
    """

    name: str
    channels: int
    at_frame: int
    pieces: tuple[Piece, ...]
    before: int = 0
    after: int = 0
    mute: bool = False

    @property
    def frames(self) -> int:
        """All of them, heard or not."""
        return sum(piece.frames for piece in self.pieces)


def write_project(folder: Path, rate_hz: int, strips: Sequence[Strip], label: tuple[int, int, str]) -> Path:
    """Write it, and the data folder that it must have. label: first frame, last frame, text."""
    (folder / _DATA).mkdir()
    first, last, text = label
    lines = [_HEAD.format(data=_DATA, rate=rate_hz)]
    for number, strip in enumerate(strips):
        for channel in range(strip.channels):
            lines.append(_track(number, strip, channel, rate_hz))
    lines.append(
        f'<labeltrack name="segue" numlabels="1" height="73" minimized="0">'
        f'<label t="{_seconds(first, rate_hz)}" t1="{_seconds(last, rate_hz)}" title={_attribute(text)}/>'
        "</labeltrack>\n</project>\n"
    )
    path = folder / "takes.aup"
    path.write_text("".join(lines), "utf-8")
    return path


def _track(number: int, strip: Strip, channel: int, rate_hz: int) -> str:
    name = _attribute(strip.name)
    linked = _ALIGNED if strip.channels == 2 and channel == 0 else 0
    blocks = []
    at = 0
    for piece in strip.pieces:
        for start in range(0, piece.frames, _BLOCK_FRAMES):
            frames = min(_BLOCK_FRAMES, piece.frames - start)
            blocks.append(
                f'<waveblock start="{at}"><pcmaliasblockfile summaryfile="s{number}c{channel}at{at}.auf"'
                f' aliasfile={_attribute(os.fspath(piece.path))} aliasstart="{piece.start + start}"'
                f' aliaslen="{frames}" aliaschannel="{channel}"/></waveblock>\n'
            )
            at += frames
    offset = _seconds(strip.at_frame - strip.before, rate_hz)
    return (
        f'<wavetrack name={name} channel="{channel}" linked="{linked}" mute="{int(strip.mute)}" solo="0"'
        f' rate="{rate_hz}" gain="1.0" pan="0.0">\n'
        f'<waveclip offset="{offset}" trimLeft="{_seconds(strip.before, rate_hz)}"'
        f' trimRight="{_seconds(strip.after, rate_hz)}" name={name}>\n'
        f'<sequence maxsamples="{_BLOCK_FRAMES}" sampleformat="{_FLOAT_SAMPLES}"'
        f' numsamples="{strip.frames}">\n'
        f"{''.join(blocks)}</sequence></waveclip></wavetrack>\n"
    )


def _seconds(frames: int, rate_hz: int) -> str:
    """Enough digits that Audacity finds the same sample again."""
    return f"{frames / rate_hz:.15f}"


def _attribute(text: str) -> str:
    """Quoted for XML; what XML cannot hold (control characters, halves of a character) becomes a space."""
    plain = "".join(
        " " if ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF or c in "\x7f\ufffe\uffff" else c for c in text
    )
    return quoteattr(plain)
