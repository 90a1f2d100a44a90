"""What a host asks for in `request.json`, as the wire's own request.

The fields are those of the protocol's `Submit` and `AudioFormat` under their own names: what a later minor
adds there can be said here without a change. Only what JSON cannot carry is translated: keys are 32 hex
digits, and audio is the name of a WAV file in the directory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge_clients import wav
from bridge_clients.jobdir.folder import KEY, MAX_REQUEST_BYTES, REQUEST, JobDir
from protocol.audio import AudioBlock, AudioFormat
from protocol.errors import SegueError
from protocol.fields import Record, wrong
from protocol.limits import KEY_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from protocol.submit import Retake, Submit

VERSION = 1
HEARD_S = 60.0
"""So much of a prompt's end, of what follows and of other tracks around the seam is read and sent: more than
models hear, and little enough for one message."""
_BUDGET_BYTES = MAX_MESSAGE_BYTES - MAX_FRAME_BYTES  # the rest is the header's
_FROM_THE_FILE = frozenset({"rate", "channels", "frames", "format", "layout", "variation"})
_OWN_FIELDS = frozenset(
    {"version", "host", "audio", "takes_folder", "takes_name", "chunks", "chunk_s", "retake"}
)
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", re.ASCII)
_NAME = re.compile(r"[^\W.][\w .()+=,-]{0,99}")
_CHUNK_S = (0.05, 60.0)


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """A request as read: what goes to the daemon, where takes go, and how much is told on the way.

    settings: all that was asked, as plain JSON, for a host that wants to ask for it again.
    """

    submit: Submit | Retake
    takes_folder: Path | None
    takes_name: str
    chunks: bool
    chunk_s: float
    settings: dict[str, Any]
    unknown: tuple[str, ...] = ()

    @property
    def key(self) -> bytes:
        return self.submit.key


def read_request(place: JobDir) -> JobRequest:
    """Read and check the whole request, audio included. Raises a SegueError that names the field."""
    found = _parsed(place.read(REQUEST, REQUEST, MAX_REQUEST_BYTES))
    version = found.get("version")
    if version != VERSION:
        raise wrong("version", version, f"{VERSION}: the job directory's contract that this Segue knows")
    cls: type[Submit] | type[Retake] = Retake if found.get("retake") is not None else Submit
    given = {"job": found.get("retake"), **found} if cls is Retake else dict(found)
    given["key"] = _key(place, found.get("key"))
    fields = {name: _plain(cls, name, value) for name, value in given.items() if name in cls.WIRE}
    # audio first checks nothing that the request itself would say better: so the request comes first
    request = cls.from_map({name: value for name, value in fields.items() if value is not None})
    audio, listed = _audio(place, found.get("audio"), request)
    if isinstance(request, Submit):
        request = request.with_audio(audio)
        request.check_complete()
    settings = _settings(request, listed)
    return JobRequest(
        submit=request,
        takes_folder=_takes_folder(found.get("takes_folder")),
        takes_name=_takes_name(found.get("takes_name")),
        chunks=_flag("chunks", found.get("chunks")),
        chunk_s=_number("chunk_s", found.get("chunk_s"), *_CHUNK_S, 0.5),
        settings=settings,
        unknown=tuple(sorted(name for name in found if name not in _OWN_FIELDS and name not in cls.WIRE)),
    )


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        # 48000.0 is how a language with one kind of number writes 48000
        found = json.loads(raw.decode("utf-8"), parse_float=_float, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SegueError(
            "E_ARGUMENT",
            f"{REQUEST} is not JSON ({str(error)[:80]}).",
            field=REQUEST,
            allowed="one JSON object in UTF-8, renamed into place when it is whole",
        ) from None
    if not isinstance(found, dict):
        raise wrong(REQUEST, found, "one JSON object")
    return found


def _float(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def _plain(cls: type[Record], name: str, value: Any) -> Any:
    """A field's value as the wire wants it: binaries are hex digits in JSON."""
    field = cls.WIRE[name]
    if field.check.kind != "bin" or value is None or isinstance(value, bytes):
        return value
    return _hex(name, value)


def _hex(name: str, value: Any) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) and " " not in value else b""
    except ValueError:
        found = b""
    if len(found) != KEY_BYTES:
        raise wrong(name, value, f"{2 * KEY_BYTES} hex digits")
    return found


def _key(place: JobDir, given: Any) -> bytes:
    """The key of the request, or of an earlier run of the same directory, or a new one."""
    if given is not None:
        return _hex("key", given)
    if not place.has(KEY):
        return os.urandom(KEY_BYTES)
    return _hex("key", place.read(KEY, KEY, 200).decode("ascii", "replace").strip())


# ---- audio ----


def _audio(
    place: JobDir, listed: Any, request: Submit | Retake
) -> tuple[list[AudioBlock], list[dict[str, Any]]]:
    """(blocks, what was listed with what the files say) of the request's audio."""
    if listed is None:
        return [], []
    if not isinstance(listed, list) or not isinstance(request, Submit):
        raise wrong(
            "audio", listed, "a list of files" if isinstance(request, Submit) else "absent in a retake"
        )
    blocks, told = [], []
    left_bytes = _BUDGET_BYTES
    for index, entry in enumerate(listed):
        name = f"audio[{index}]"
        if not isinstance(entry, Mapping):
            raise wrong(name, entry, 'an object such as {"file": "prompt.wav", "role": "prompt"}')
        file_name = entry.get("file")
        if not isinstance(file_name, str) or not _FILE.fullmatch(file_name):
            allowed = "the plain name of a file in the job directory: letters, digits, . _ -"
            raise wrong(f"{name}.file", file_name, allowed)
        block, said = _block(place, name, file_name, entry, request, left_bytes)
        left_bytes -= len(block.data)
        blocks.append(block)
        told.append(said)
    return blocks, told


def _block(
    place: JobDir, name: str, file_name: str, entry: Mapping[str, Any], request: Submit, left_bytes: int
) -> tuple[AudioBlock, dict[str, Any]]:
    words = {
        key: value
        for key, value in entry.items()
        if key in AudioFormat.WIRE and key not in _FROM_THE_FILE and value is not None
    }
    with place.open(file_name, f"{name}.file") as file:
        info = wav.inspect(file, file_name)
        try:
            whole = AudioFormat(rate=info.rate_hz, channels=info.channels, frames=info.frames, **words)
        except SegueError as error:
            raise error.within(name) from None
        start, frames = _heard(whole, request)
        if frames * info.frame_bytes > left_bytes:
            raise SegueError(
                "E_SIZE",
                f"{file_name} has {frames / info.rate_hz:.0f} s of audio, which is more than one request "
                "carries: give less, or a mix of the tracks.",
                field=name,
                value=f"{frames * info.frame_bytes} bytes",
                allowed=f"at most {_BUDGET_BYTES >> 20} MiB of audio in all",
            )
        coding, data = wav.read(file, info, start, frames, file_name)
    position = None if whole.position is None else whole.position + start
    made = dataclasses.replace(whole, format=coding, frames=frames, position=position)
    told = {
        "file": file_name,
        **words,
        "rate": info.rate_hz,
        "channels": info.channels,
        "frames": info.frames,
    }
    return AudioBlock(made, data), told


def _heard(whole: AudioFormat, request: Submit) -> tuple[int, int]:
    """(first frame, frames) of a sound that are sent: what no model hears stays in the file."""
    most = round(HEARD_S * whole.rate)
    if whole.role == "prompt":
        start = max(0, whole.frames - most)
        return start, whole.frames - start
    if whole.role == "following":
        return 0, min(whole.frames, most)
    if whole.role == "context" and whole.position is not None and request.length is not None:
        end_at = most + round(_new_s(request, whole.rate) * whole.rate)
        start = min(max(0, -most - whole.position), whole.frames - 1)
        end = min(max(start + 1, end_at - whole.position), whole.frames)
        return start, end - start
    return 0, whole.frames


def _new_s(request: Submit, rate: int) -> float:
    """About how long the new audio is, its way to the bar line included; `rate` where the request names
    none.
    """
    if request.length is not None and request.length.frames is not None:
        return request.length.frames / (request.rate or rate)
    return (request.length_frames + request.lead_frames) / request.host_rate_hz


# ---- the directory's own fields ----


def _takes_folder(given: Any) -> Path | None:
    if given is None:
        return None
    allowed = "the absolute path of a folder that is there"
    if not isinstance(given, str) or "\0" in given or not os.path.isabs(given) or not os.path.isdir(given):
        raise wrong("takes_folder", given, allowed)
    return Path(given)


def _takes_name(given: Any) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not _NAME.fullmatch(given) or len(given.encode()) > 120:
        raise wrong("takes_name", given, "the beginning of a file's name: letters, digits, space . _ - ( )")
    return given


def _flag(name: str, given: Any) -> bool:
    if given is not None and not isinstance(given, bool):
        raise wrong(name, given, "true or false")
    return bool(given)


def _number(name: str, given: Any, low: float, high: float, usual: float) -> float:
    if given is None:
        return usual
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not low <= given <= high:
        raise wrong(name, given, f"a number of seconds from {low:g} to {high:g}")
    return float(given)


def _settings(request: Submit | Retake, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """The request as plain JSON, under the names it was read by, without its key."""
    told = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in request.to_map().items()
        if name not in ("op", "id", "key", "audio", "job")
    }
    if isinstance(request, Retake):
        told["retake"] = request.job
    return {"version": VERSION, **told, **({"audio": listed} if listed else {})}
