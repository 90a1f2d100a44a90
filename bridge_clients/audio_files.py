"""Audio files in and out: what a musician's folder holds, read safely, and what Segue leaves there.

Reading takes only the stretch that is needed (a file may be hours long) and refuses by name whatever cannot
be continued. Writing makes WAV files of an exact length, never replaces a file, and says when samples had to
be clipped. numpy and soundfile are imported inside the functions, so that importing this module costs
nothing.

Errors are :class:`protocol.errors.SegueError` with the code ``E_AUDIO`` (the file) or ``E_DISK_FULL`` (the
disk).
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from protocol.errors import SegueError
from protocol.limits import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]  # [frames, channels], full scale is ±1

Subtype = Literal["float", "pcm24", "pcm16"]

# The last four frames of the codec (80 ms) are made again, and one must be left to go on from.
MIN_PROMPT_S = 0.1
# Below one step of a 16-bit recording there is nothing to hear and nothing to continue.
SILENCE_PEAK = 2.0**-15

_SUBTYPES: dict[Subtype, str] = {"float": "FLOAT", "pcm24": "PCM_24", "pcm16": "PCM_16"}
_INTEGER_STEPS: dict[str, float] = {"pcm24": 2.0**23, "pcm16": 2.0**15}
_SAME_SUBTYPE: dict[str, Subtype] = {
    "FLOAT": "float",
    "DOUBLE": "float",
    "PCM_32": "float",  # 32-bit integers hold more than float32 samples can say: keep the headroom instead
    "PCM_24": "pcm24",
    "PCM_16": "pcm16",
    "PCM_S8": "pcm16",
    "PCM_U8": "pcm16",
}
_BLOCK_FRAMES = 1 << 17
_UNCOMPRESSED = {"WAV", "WAVEX", "AIFF", "W64", "RF64", "CAF", "AU"}


@dataclass(frozen=True)
class AudioFileInfo:
    """What a file's header says, checked."""

    path: Path
    rate_hz: int
    channels: int
    frames: int
    container: str
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.rate_hz

    @property
    def matching_subtype(self) -> Subtype:
        """The WAV subtype that loses nothing a listener could miss: the file's own, 24 bits for compressed
        files.
        """
        if self.container in _UNCOMPRESSED:
            return _SAME_SUBTYPE.get(self.subtype, "pcm24")
        return "pcm24"


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a file: ``samples`` float32 ``[frames, channels]``, beginning at ``start_frame`` of the
    file.
    """

    info: AudioFileInfo
    start_frame: int
    samples: Samples

    @property
    def end_frame(self) -> int:
        return self.start_frame + len(self.samples)


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written: its length in frames, highest sample before clipping, and how many were
    clipped.
    """

    path: Path
    frames: int
    rate_hz: int
    channels: int
    subtype: Subtype
    peak: float
    clipped_samples: int
    sha256: str


def _refused(path: Path, what: str, allowed: str | None = None) -> SegueError:
    return SegueError(
        "E_AUDIO", f"{path.name or path} {what}.", field="input", value=str(path), allowed=allowed
    )


def _native(path: Path) -> str | bytes:
    """The name as libsndfile takes it; on POSIX that is bytes, which need not be text."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def inspect(path: Path) -> AudioFileInfo:
    """Read the header. Raises ``E_AUDIO`` for anything that is not one or two channels of audio at a usable
    rate.
    """
    if not path.exists():
        raise _refused(path, "is not there: check the name and the folder")
    if path.is_dir():
        raise _refused(path, "is a folder; name one audio file in it")
    if not path.is_file():
        raise _refused(path, "is not an ordinary file")
    try:
        with path.open("rb") as handle:
            head = handle.read(4096)
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror or error})") from error
    if not head:
        raise _refused(path, "is empty (0 bytes)")
    if _wav_header_rate(head) == 0:
        raise _refused(path, "says that its sample rate is 0 Hz", f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    import soundfile

    try:
        raw = soundfile.info(_native(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _refused(
            path, "is not audio that can be read here", "WAV, FLAC, OGG, AIFF or MP3, undamaged"
        ) from error
    if not MIN_RATE_HZ <= raw.samplerate <= MAX_RATE_HZ:
        raise _refused(
            path, f"has a sample rate of {raw.samplerate} Hz", f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
        )
    if not 1 <= raw.channels <= MAX_CHANNELS:
        raise _refused(
            path, f"has {raw.channels} channels: bounce it to mono or stereo first", "1 or 2 channels"
        )
    if raw.frames <= 0:
        raise _refused(path, "holds no audio (0 samples)")
    return AudioFileInfo(path, raw.samplerate, raw.channels, raw.frames, raw.format, raw.subtype)


def read_before(info: AudioFileInfo, end_frame: int, max_frames: int) -> Excerpt:
    """The last ``max_frames`` before ``end_frame``, and only those, from disk.

    Refuses (``E_AUDIO``) a stretch that is too short, silent, damaged, or holds NaN or
    infinity.
    """
    end_frame = min(end_frame, info.frames)
    excerpt = read_between(info, max(0, end_frame - max_frames), end_frame)
    samples = excerpt.samples
    if len(samples) < MIN_PROMPT_S * info.rate_hz:
        raise _refused(
            info.path,
            f"gives only {len(samples)} sample{'s' if len(samples) > 1 else ''} to continue from, too few "
            "for the frames of the codec",
            f"at least {MIN_PROMPT_S * 1000:.0f} ms",
        )
    if is_silent(excerpt):
        raise _refused(
            info.path,
            f"is silent from {excerpt.start_frame / info.rate_hz:.2f} to {end_frame / info.rate_hz:.2f} s,"
            " where it would go on; choose another place with --start-at, or use `segue generate`",
        )
    return excerpt


def is_silent(excerpt: Excerpt) -> bool:
    """Whether there is nothing to be heard in it."""
    import numpy as np

    return not len(excerpt.samples) or float(np.max(np.abs(excerpt.samples))) < SILENCE_PEAK


def read_between(info: AudioFileInfo, start_frame: int, end_frame: int) -> Excerpt:
    """A stretch of a file, and only that, from disk. Refuses (``E_AUDIO``) one that is empty, damaged, or
    holds NaN or infinity.
    """
    import numpy as np
    import soundfile

    try:
        with soundfile.SoundFile(_native(info.path)) as handle:
            handle.seek(start_frame)
            samples = handle.read(end_frame - start_frame, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise _refused(
            info.path, f"is damaged: it cannot be read at {start_frame / info.rate_hz:.3f} s"
        ) from error
    if not len(samples):
        raise _refused(info.path, f"is cut short: there is no audio at {start_frame / info.rate_hz:.3f} s")
    finite = np.isfinite(samples)
    if not finite.all():
        bad = int(finite.size - np.count_nonzero(finite))
        first = start_frame + int(np.argmin(finite.all(axis=1)))
        raise _refused(
            info.path,
            f"holds {bad} sample{'s that are' if bad > 1 else ' that is'} not a number (NaN or infinity), "
            f"the first at sample {first} ({first / info.rate_hz:.3f} s)",
            "finite samples",
        )
    return Excerpt(info, start_frame, samples)


def write_wav(path: Path, pieces: Sequence[Any], rate_hz: int, subtype: Subtype) -> WrittenFile:
    """Write ``pieces`` (float ``[frames, channels]`` each, one after the other) as WAV: whole or not at all.

    Integer subtypes are rounded to the nearest step; samples beyond full scale are clipped and counted. Works
    in blocks, so that pieces may be memory maps longer than the memory. Raises ``FileExistsError`` rather
    than replace a file, ``E_DISK_FULL`` when the disk is full, ``E_AUDIO`` when the folder cannot be written.
    """
    import numpy as np
    import soundfile

    channels = {piece.shape[1] for piece in pieces if piece.ndim == 2}
    if len(channels) != 1 or any(piece.ndim != 2 for piece in pieces):
        raise ValueError(
            f"pieces of shape [frames, channels] expected, got {[piece.shape for piece in pieces]}"
        )
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    (width,) = channels
    temporary = path.with_name(f".{path.name}.writing")
    peak, clipped = 0.0, 0
    try:
        with soundfile.SoundFile(
            _native(temporary),
            "w",
            samplerate=rate_hz,
            channels=width,
            format="WAV",
            subtype=_SUBTYPES[subtype],
        ) as handle:
            for piece in pieces:
                for at in range(0, len(piece), _BLOCK_FRAMES):
                    block = np.ascontiguousarray(piece[at : at + _BLOCK_FRAMES], dtype=np.float32)
                    peak = max(peak, float(np.max(np.abs(block))))
                    data, over = _quantized(block, subtype)
                    clipped += over
                    handle.write(data)
        digest = sha256_of(temporary)
        publish(temporary, path)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        meaning = disk_error(path, error)  # judged while the disk is still as full as it was
        temporary.unlink(missing_ok=True)
        raise meaning from error
    frames = sum(len(piece) for piece in pieces)
    return WrittenFile(path, frames, rate_hz, width, subtype, peak, clipped, digest)


def _quantized(block: Any, subtype: Subtype) -> tuple[Any, int]:
    """What libsndfile is given, and how many samples were clipped. Rounded here, because libsndfile
    truncates.
    """
    import numpy as np

    steps = _INTEGER_STEPS.get(subtype)
    if steps is None:
        return block, 0
    scaled = np.rint(block.astype(np.float64) * steps)
    clipped = int(np.count_nonzero((scaled > steps) | (scaled < -steps)))
    whole = np.clip(scaled, -steps, steps - 1).astype(np.int32)
    return (whole << 8 if subtype == "pcm24" else whole.astype(np.int16)), clipped


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, after it reached the disk; ``FileExistsError`` if the name is taken."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    try:
        os.link(temporary, path)  # unlike a rename, a link never replaces what is there
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)
        return
    temporary.unlink()


def disk_error(path: Path, error: Exception) -> Exception:
    """What a failed write means to the person who asked for it."""
    if isinstance(error, FileExistsError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    # libsndfile only says "system error": then the disk itself is asked.
    if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and _disk_is_full(path.parent)):
        return SegueError(
            "E_DISK_FULL",
            f"The disk of {path.parent} is full; make room and try again.",
            field="out",
            retry="after",
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SegueError("E_AUDIO", f"{path} cannot be written ({reason}).", field="out", value=str(path))


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _disk_is_full(folder: Path) -> bool:
    import shutil

    try:
        return shutil.disk_usage(folder).free < 1 << 16
    except OSError:
        return False


def _wav_header_rate(head: bytes) -> int | None:
    """The rate in a RIFF header's fmt chunk; None if this is no WAV. libsndfile gives no reason for a rate of
    0.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at = head.find(b"fmt ", 12)
    if at < 0 or at + 16 > len(head):
        return None
    return int(struct.unpack_from("<I", head, at + 12)[0])
