"""What an OSC message asks for, as the request of a job directory and the sounds that belong to it.

    /segue/continue PATH LENGTH  key value  key value …

LENGTH is a number of seconds, or a number followed by "bars" (or "4bars"), or left to the keys. Pure Data
knows no whole numbers and OSC's floats have 24 bits: 7.0 is taken for 7 where a whole number is wanted, and
120.1 for 120.1.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge_clients.osc.packets import Value
from protocol.errors import SegueError

# mode -> the roles of the paths that stand first
PATHS = {
    "continue": ("prompt",),
    "generate": (),
    "accompany": ("context",),
    "vary": ("source",),
    "fill": ("prompt", "following"),
}
_UNITS = {"s": "seconds", "sec": "seconds", "second": "seconds", "seconds": "seconds", "bar": "bars"} | {
    "bars": "bars", "frames": "frames", "samples": "frames",
}  # fmt: skip
_LENGTH = re.compile(r"(\d+(?:\.\d+)?(?:/\d+)?)\s*([a-z]+)")
_METER = re.compile(r"(\d{1,2})/(\d{1,2})")


@dataclass(frozen=True)
class Sound:
    """A part of a file: from_s and to_s in the file's own seconds (None: its beginning, its end)."""

    path: Path
    role: str
    stem: str | None = None
    from_s: float | None = None
    to_s: float | None = None


@dataclass
class Wanted:
    """tag: how the sender calls the job (None: a number is given); request: fields of `request.json`."""

    mode: str
    tag: int | str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    sounds: list[Sound] = field(default_factory=list)
    folder: Path | None = None


def wrong(name: str, value: object, allowed: str) -> SegueError:
    """The refusal of one argument."""
    shown = value if isinstance(value, int | float) else str(value)[:80]
    return SegueError(
        "E_ARGUMENT", f"{name} must be {allowed}, not {shown}.", field=name, value=shown, allowed=allowed
    )


def tag_of(value: Value) -> int | str | None:
    """How a sender may call a job: 7.0 is 7; None for what is no name."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else f"{value:g}"
    return value[:64] if isinstance(value, str) else value


def parse(mode: str, given: Sequence[Value]) -> Wanted:
    """The request of `/segue/<mode>`. Raises E_ARGUMENT with the name of the argument that is wrong."""
    wanted = Wanted(mode)
    words = list(given)
    for role in PATHS[mode]:
        name = "path" if role != "following" else "following"
        if not words or not isinstance(words[0], str) or not words[0]:
            raise wrong(name, words[0] if words else "absent", "the path of an audio file")
        wanted.sounds.append(Sound(_path(name, words.pop(0)), role))
    length = _length(words)
    if len(words) % 2:
        raise wrong("arguments", " ".join(map(str, words)), "pairs of key and value after the length")
    keys = _Keys(wanted)
    for key, value in zip(words[::2], words[1::2], strict=True):
        keys.take(key, value)
    keys.finish(length)
    return wanted


def _length(words: list[Value]) -> dict[str, Any]:
    """Take the length off the front; what remains are pairs."""
    if not words:
        return {}
    first = words[0]
    if isinstance(first, str):
        found = _LENGTH.fullmatch(first.strip().lower())
        if found is None or found[2] not in _UNITS:
            return {}
        words.pop(0)
        return _counted(found[1], _UNITS[found[2]])
    if isinstance(first, bool) or not isinstance(first, int | float):
        raise wrong("length", first, "a number of seconds, or a number of bars followed by bars")
    words.pop(0)
    unit = "seconds"
    if len(words) % 2 and isinstance(words[0], str) and words[0].lower() in _UNITS:
        unit = _UNITS[str(words.pop(0)).lower()]
    return _counted(first, unit)


def _counted(value: Value, unit: str) -> dict[str, Any]:
    if unit == "frames":
        return {"frames": _whole("frames", value)}
    if isinstance(value, str) and "/" in value and unit == "bars":
        return {"bars": value}
    number = _number(unit, value)
    return {unit: int(number) if unit == "bars" and number == int(number) else number}


def _number(name: str, value: Value) -> float:
    """A finite number, of OSC's 24 bits the shortest that is meant."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise wrong(name, value, "a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong(name, value, "a number")
    if isinstance(value, float):
        short = float(f"{value:.7g}")
        with_bits = struct.pack(">d", value), struct.pack(">d", _float32(short))
        return short if with_bits[0] == with_bits[1] else value
    return value


def _float32(value: float) -> float:
    try:
        return struct.unpack(">f", struct.pack(">f", value))[0]
    except OverflowError:
        return value


def _whole(name: str, value: Value) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else _number(name, value)
    if number != int(number):
        raise wrong(name, value, "a whole number")
    return int(number)


def _text(name: str, value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"  # Pure Data makes a float of whatever looks like one
    raise wrong(name, value, "a text")


def _flag(name: str, value: Value) -> bool:
    if value in (0, 1, True, False) and not isinstance(value, str):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("yes", "no", "true", "false", "on", "off"):
        return value.lower() in ("yes", "true", "on")
    raise wrong(name, value, "1 or 0")


def _path(name: str, value: Value) -> Path:
    text = _text(name, value)
    path = Path(text).expanduser()
    if not path.is_absolute() or "\0" in text:
        raise wrong(name, text, "an absolute path")
    return path


_PLAIN: dict[str, Callable[[str, Value], Any]] = {
    "text": _text, "negative_text": _text, "model": _text, "level": _text, "start": _text, "priority": _text,
    "project": _text, "seed": _whole, "variations": _whole, "rate": _whole, "channels": _whole,
    "handle_ms": _whole, "tail_ms": _whole, "deadline_ms": _whole, "strength": _number, "loop": _flag,
}  # fmt: skip
_SAMPLING: dict[str, Callable[[str, Value], Any]] = {
    "temperature": _number, "top_k": _whole, "top_p": _number,
}  # fmt: skip
_OTHERS = (
    "seconds bars frames bpm meter at stems id folder name from to track stem guidance".split()
)  # how long, where, which
KEYS = tuple(sorted([*_PLAIN, *_SAMPLING, *_OTHERS]))


class _Keys:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._length: dict[str, Any] = {}
        self._tempo: dict[str, Any] = {}
        self._cut: dict[str, float] = {}

    def take(self, key: Value, value: Value) -> None:
        wanted, request = self._wanted, self._wanted.request
        name = key.lower() if isinstance(key, str) else str(key)
        if name in _PLAIN:
            request[name] = _PLAIN[name](name, value)
        elif name in _SAMPLING:
            request.setdefault("sampling", {})[name] = _SAMPLING[name](name, value)
        elif name in ("seconds", "bars", "frames"):
            self._length = _counted(value, name)
        elif name == "guidance":
            request["guidance"] = {"cfg_coef": _number(name, value)}
        elif name == "bpm":
            self._tempo["bpm"] = _number(name, value)
        elif name == "meter":
            found = _METER.fullmatch(_text(name, value))
            if found is None:
                raise wrong(name, value, "a meter such as 4/4 or 6/8")
            self._tempo |= {"beats": int(found[1]), "unit": int(found[2])}
        elif name == "at":
            self._tempo["start"] = _number(name, value)
        elif name == "stems":
            request["stems"] = [stem for stem in re.split(r"[,\s]+", _text(name, value)) if stem]
        elif name == "id":
            wanted.tag = tag_of(value)
            if wanted.tag is None:
                raise wrong(name, value, "a number or a word")
        elif name == "folder":
            wanted.folder = _path(name, value)
        elif name == "name":
            request["takes_name"] = _text(name, value)
        elif name in ("from", "to"):
            self._cut[name] = _number(name, value)
        elif name == "track":
            wanted.sounds.append(Sound(_path(name, value), "context"))
        elif name == "stem":
            if not wanted.sounds or wanted.sounds[-1].role != "context":
                raise wrong(name, value, "given after the path of a track")
            last = wanted.sounds[-1]
            wanted.sounds[-1] = Sound(last.path, last.role, _text(name, value))
        else:
            raise SegueError(
                "E_ARGUMENT",
                f"{name[:40]} is no key that Segue knows.",
                field=name[:40],
                value=name[:40],
                allowed=", ".join(KEYS),
            )

    def finish(self, length: dict[str, Any]) -> None:
        wanted, request = self._wanted, self._wanted.request
        length = self._length or length
        if length:
            request["length"] = length
        elif wanted.mode != "vary":
            raise wrong("length", "absent", "a number of seconds, or bars N with bpm N")
        if self._tempo:
            if "bpm" not in self._tempo:
                raise wrong("bpm", "absent", "given with meter and at")
            change = {"at": 0} | {k: v for k, v in self._tempo.items() if k != "start"}
            request["tempo_map"] = {"changes": [change], "start": self._tempo.get("start", 0)}
        if self._cut:
            if not wanted.sounds:
                raise wrong(next(iter(self._cut)), "given", "given with a file only")
            first = wanted.sounds[0]
            wanted.sounds[0] = Sound(
                first.path, first.role, first.stem, self._cut.get("from"), self._cut.get("to")
            )
        request["mode"] = wanted.mode
