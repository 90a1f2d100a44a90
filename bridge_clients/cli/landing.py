"""Where takes land: audio is collected while it arrives, and becomes finished files only when all of it is
there.

Each variation and stem has a hidden part file of raw float32 in the folder of the job, which only takes what
follows without a gap (the protocol checks every checksum); a job that fails or is cancelled leaves nothing
behind. Finished files get their names by a link or rename that never replaces anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bridge_clients.audio_files import Subtype, WrittenFile, disk_error, write_wav
from protocol.errors import SegueError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLE_BYTES = 4


def new_folder(out: str | None, name: str, *, overwrite: bool = False) -> Folder:
    """Make the folder that a job's files go into: ``out`` itself, or a new one named after the music and the
    time.

    Refuses a folder that holds takes already (``E_ARGUMENT``, but not with `overwrite`) and one that cannot
    be written (``E_AUDIO``).
    """
    if out is not None:
        path = Path(out).expanduser()
        if path.exists() and not path.is_dir():
            raise SegueError("E_ARGUMENT", f"--out {out} is a file; name a folder.", field="out", value=out)
        if not overwrite and path.is_dir() and any(_is_ours(entry) for entry in path.iterdir()):
            raise SegueError(
                "E_ARGUMENT",
                f"--out {out} holds takes already, and Segue does not write over them; name another folder.",
                field="out",
                value=out,
            )
        return Folder.make(path)
    safe = "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ")[:60] or "take"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        path = Path("segue-takes") / f"{safe}-{stamp}{f'-{number}' if number > 1 else ''}"
        if not path.exists():
            return Folder.make(path)
    raise SegueError("E_ARGUMENT", "No free folder name was found in segue-takes.", field="out")


def _is_ours(entry: Path) -> bool:
    return entry.name in ("manifest.json", "overview.png") or (
        entry.suffix == ".wav" and entry.name[0] == "v" and entry.name[1:].split(".")[0].isdecimal()
    )


@dataclass(frozen=True)
class Folder:
    """A folder of takes, and which of its parents were made for it."""

    path: Path
    made: tuple[Path, ...]

    @classmethod
    def make(cls, path: Path) -> Folder:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".segue-probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            for folder in missing:
                if folder.is_dir():
                    folder.rmdir()
            raise disk_error(path, error) from error
        return cls(path, tuple(missing))

    def need(self, size_bytes: float) -> None:
        """Refuse (``E_DISK_FULL``) when the disk has less room than that."""
        import shutil

        free = shutil.disk_usage(self.path).free
        if free < size_bytes:
            raise SegueError(
                "E_DISK_FULL",
                f"The takes need about {size_bytes / 1e6:.0f} MB in {self.path}, "
                f"where {free / 1e6:.0f} MB are free.",
                field="out",
            )

    def remove_takes(self) -> None:
        """Take back what a landing that failed half-way has written; there were no takes here before."""
        for entry in list(self.path.iterdir()):
            if _is_ours(entry):
                entry.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        for folder in self.made:
            try:
                folder.rmdir()
            except OSError:
                return


@dataclass
class _Part:
    """One stem of one variation while it arrives; positions are in frames from the seam."""

    path: Path
    handle: BinaryIO
    start: int
    end: int


class Collector:
    """Takes audio events in, gives whole stems out. One thread only."""

    def __init__(self, folder: Path, *, rate_hz: int, channels: int) -> None:
        self._folder, self.rate_hz, self.channels = folder, rate_hz, channels
        self._parts: dict[tuple[int, str], _Part] = {}

    def add(self, variation: int, stem: str, position: int, data: bytes | memoryview | bytearray) -> None:
        """Append float32 samples, interleaved, that begin at ``position`` (frames, 0 = seam).

        Raises ``E_TAKE_DAMAGED`` on a gap; what is there already is written again as it comes.
        """
        width = self.channels * _SAMPLE_BYTES
        frames = memoryview(data).nbytes // width
        part = self._parts.get((variation, stem))
        try:
            if part is None:
                path = self._folder / f".v{variation + 1}.{stem}.part"
                part = _Part(path, path.open("w+b"), position, position)
                self._parts[variation, stem] = part
            if not part.start <= position <= part.end:
                raise SegueError(
                    "E_TAKE_DAMAGED",
                    f"Audio of take {variation + 1} ({stem}) is missing between {part.end} and {position}.",
                    field="position",
                )
            part.handle.seek((position - part.start) * width)
            part.handle.write(data)
        except OSError as error:
            raise disk_error(self._folder / "part", error) from error
        part.end = max(part.end, position + frames)

    def discard_from(self, position: int) -> None:
        """Forget what lies at and after ``position``: another attempt makes it again."""
        for part in self._parts.values():
            if part.end > position:
                part.end = max(part.start, position)
                part.handle.truncate((part.end - part.start) * self.channels * _SAMPLE_BYTES)

    @property
    def seconds(self) -> float:
        """New audio that has arrived, all variations together, counted once and not per stem."""
        ends: dict[int, int] = {}
        for (variation, _stem), part in self._parts.items():
            ends[variation] = max(ends.get(variation, 0), part.end)
        return sum(ends.values()) / self.rate_hz

    def stems(self) -> Iterator[tuple[int, str, NDArray[np.float32], NDArray[np.float32]]]:
        """(variation, stem, handle, take) of everything, the samples ``[frames, channels]`` mapped from
        disk.
        """
        import numpy as np

        for (variation, stem), part in sorted(self._parts.items(), key=_mix_first):
            part.handle.flush()
            frames = part.end - part.start
            whole: NDArray[np.float32]
            if frames:
                whole = np.memmap(part.path, "<f4", "r", shape=(frames, self.channels))
            else:
                whole = np.empty((0, self.channels), np.float32)
            seam = min(max(0, -part.start), frames)
            yield variation, stem, whole[:seam], whole[seam:]

    def close(self) -> None:
        """Remove the part files."""
        for part in self._parts.values():
            part.handle.close()
            part.path.unlink(missing_ok=True)
        self._parts.clear()


def _mix_first(item: tuple[tuple[int, str], _Part]) -> tuple[int, bool, str]:
    variation, stem = item[0]
    return variation, stem != "mix", stem


@dataclass(frozen=True)
class LandedStem:
    """The finished files of one stem of one variation (counted from 1)."""

    variation: int
    stem: str
    take: WrittenFile
    handle: WrittenFile | None
    tail: WrittenFile | None = None


def land(
    collector: Collector, folder: Path, *, frames: int, subtype: Subtype, tail_frames: int = 0
) -> list[LandedStem]:
    """Write every stem, its handle and its tail as WAV; refuses (``E_TAKE_DAMAGED``) a stem that has not
    ``frames`` frames and ``tail_frames`` after them.
    """
    landed = []
    for variation, stem, handle, take in collector.stems():
        number = variation + 1
        take, tail = take[:frames], take[frames:]
        if len(take) != frames or len(tail) != tail_frames:
            raise SegueError(
                "E_TAKE_DAMAGED",
                f"Take {number} ({stem}) has {len(take) + len(tail)} samples where {frames + tail_frames}"
                " were asked for.",
                field="frames",
            )
        name = f"v{number}.{stem}"
        written = None
        if len(handle):
            written = write_wav(folder / f"{name}.handle.wav", [handle], collector.rate_hz, subtype)
        after = None
        if len(tail):
            after = write_wav(folder / f"{name}.tail.wav", [tail], collector.rate_hz, subtype)
        landed.append(
            LandedStem(
                number,
                stem,
                write_wav(folder / f"{name}.wav", [take], collector.rate_hz, subtype),
                written,
                after,
            )
        )
    return landed


def joined(
    prompt: Any, handle: Any, take: Any, *, lead: int = 0, tail: Any = None, after: Any = None
) -> Sequence[Any]:
    """Prompt and take as pieces to be written one after the other, crossfaded at equal power over the handle;
    the same at the end with ``tail`` and the audio that comes ``after`` it.

    The handle is the model's own version of the prompt's last frames, so the fade ends exactly at the seam;
    its last ``lead`` frames lie after the seam, before the take.
    """
    before, between = handle[: len(handle) - lead], handle[len(handle) - lead :]
    fade = min(len(prompt), len(before))
    pieces = [prompt[: len(prompt) - fade]]
    if fade:
        pieces.append(_crossfaded(prompt[-fade:], before[len(before) - fade :]))
    pieces += [between, take] if lead else [take]
    if after is None:
        return pieces if fade or lead else [prompt, take]
    fade = 0 if tail is None else min(len(tail), len(after))
    if fade:
        pieces.append(_crossfaded(tail[:fade], after[:fade]))
    return [*pieces, after[fade:]]


def _crossfaded(out: Any, into: Any) -> Any:
    import numpy as np

    angle = ((np.arange(len(out), dtype=np.float64) + 0.5) / len(out) * (math.pi / 2))[:, None]
    return (out * np.cos(angle) + into * np.sin(angle)).astype(np.float32)
