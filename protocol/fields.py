"""How a message says what its fields may be, and how that is checked.

A message is a frozen dataclass whose fields are declared with `wire(check, default=…)`. The same declaration
checks a value when the object is built, reads it from a header (`from_map`) and writes it (`to_map`), and is
what the tables of SPEC.md are held against. Absent and nil mean the same: the default. Unknown keys are
ignored.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from .errors import SegueError
from .limits import MAX_INTEGER

Plain = Any  # None | bool | int | float | str | bytes | list | dict: what msgpack can carry
_MISSING = dataclasses.MISSING
T = TypeVar("T")


def _as_it_is(value: Any) -> Plain:
    return value


class Check:
    """One field's rule: `run(name, value)` gives the value in its normal form or raises SegueError; `dump`
    turns it plain. `kind` and `allowed` are for people.
    """

    __slots__ = ("allowed", "dump", "kind", "run")

    def __init__(
        self,
        kind: str,
        allowed: str,
        run: Callable[[str, Any], Any],
        dump: Callable[[Any], Plain] = _as_it_is,
    ) -> None:
        self.kind, self.allowed, self.run, self.dump = kind, allowed, run, dump


def wrong(name: str, value: object, allowed: str, code: str = "E_ARGUMENT") -> SegueError:
    """The error for a field that is not what it should be."""
    error = SegueError(code, "", field=name, value=value, allowed=allowed)
    given = f'"{error.value}"' if isinstance(value, str) else error.value
    problem = "is missing; it must be" if value is None else "must be"
    ending = "" if value is None else f", not {given}"
    error.message = f"{name or 'The message'} {problem} {allowed}{ending}."
    error.args = (error.message,)
    return error


def wire(check: Check, *, default: Any = _MISSING, later: bool = False) -> Any:
    """Declare a field. Without a default it must be given.

    `later`: it came after minor 0, so it is written only where it says something else than its default: a
    request that knows nothing of it keeps its bytes and its digest.
    """
    about = {"check": check, "later": later}
    if isinstance(default, (dict, list)):
        kept = default
        return dataclasses.field(default_factory=lambda: type(kept)(kept), metadata=about)
    return dataclasses.field(default=default, metadata=about)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(wire,))
def record(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass.

    `Record` has the methods that `dataclasses` would write for each class: making them fifty times over
    costs a client 60 ms at every start.
    """
    made = dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False)(cls)
    made.FIELDS = {f.name: _Field(f) for f in dataclasses.fields(made)}  # type: ignore[attr-defined,arg-type]
    made.WIRE = {k: f for k, f in made.FIELDS.items() if f.check is not None}  # type: ignore[attr-defined]
    return made


class _Field:
    """What `Record` needs to know of a field."""

    __slots__ = ("check", "default", "factory", "key", "later", "required")

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        self.check: Check = field.metadata.get("check")  # type: ignore[assignment]
        self.key = field.name.rstrip("_")
        self.later: bool = field.metadata.get("later", False)
        self.default, self.factory = field.default, field.default_factory
        self.required = self.default is _MISSING and self.factory is _MISSING


def _brief(value: object) -> str:
    """For `repr`: payloads by their size."""
    if isinstance(value, (bytes, bytearray, memoryview)) and memoryview(value).nbytes > 64:
        return f"<{memoryview(value).nbytes} bytes>"
    return repr(value)


class Record:
    """A map with a schema. Python names equal wire names, but for a trailing underscore (`as_` is `as`)."""

    FIELDS: ClassVar[dict[str, _Field]] = {}
    WIRE: ClassVar[dict[str, _Field]] = {}
    CODE: ClassVar[str] = "E_ARGUMENT"  # what a wrong field is called in this record

    def __init__(self, **given: Any) -> None:
        values = self.__dict__
        try:
            for name, field in self.FIELDS.items():
                if name in given:
                    value = given.pop(name)
                elif field.required:
                    raise wrong(field.key, None, field.check.allowed)
                else:
                    value = field.default if field.default is not _MISSING else field.factory()  # type: ignore[operator]
                if field.check is not None and not (value is None and field.default is None):
                    value = field.check.run(field.key, value)
                values[name] = value
            if given:
                raise TypeError(f"{type(self).__name__} has no field {', '.join(given)}")
            self.check()
        except SegueError as error:
            if error.code == "E_ARGUMENT":
                error.code = self.CODE
            raise

    def check(self) -> None:
        """Rules between fields; raises `SegueError`."""

    def __setattr__(self, name: str, value: object) -> None:
        raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} cannot be removed")

    def _values(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self.FIELDS)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __repr__(self) -> str:
        said = (
            f"{k}={_brief(self.__dict__[k])}" for k, f in self.FIELDS.items() if self.__dict__[k] != f.default
        )
        return f"{type(self).__name__}({', '.join(said)})"

    @classmethod
    def from_map(cls, found: object) -> Self:
        """Read a map; raises `SegueError` naming the first field that is wrong or missing."""
        if not isinstance(found, Mapping):
            raise wrong("", found, "a map", cls.CODE)
        return cls(**{k: v for k, f in cls.WIRE.items() if (v := found.get(f.key)) is not None})

    def to_map(self) -> dict[str, Plain]:
        """The plain map; fields that are None are left out, and later ones that have their default."""
        return {
            f.key: f.check.dump(v)
            for k, f in self.WIRE.items()
            if (v := getattr(self, k)) is not None and not (f.later and v == f.default)
        }


def integer(low: int = 0, high: int = MAX_INTEGER, unit: str = "") -> Check:
    """A whole number within [low, high]; booleans and floats are refused."""
    top = "2^53-1" if high == MAX_INTEGER else str(high)
    allowed = f"a whole number{' of ' + unit if unit else ''} from {low} to {top}"

    def run(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, value, allowed)
        return int(value)

    return Check("int", allowed, run)


def number(low: float, high: float, unit: str = "", above: bool = False) -> Check:
    """A finite number within [low, high], or (low, high] with `above`."""
    kind = f"a number of {unit}" if unit else "a number"
    allowed = f"{kind} above {low:g} up to {high:g}" if above else f"{kind} from {low:g} to {high:g}"

    def run(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong(name, value, allowed)
        if not low <= value <= high or (above and value == low):  # NaN fails the comparison as well
            raise wrong(name, value, allowed)
        return float(value)

    return Check("float", allowed, run)


_FRACTION = re.compile(r"-?[0-9]{1,12}/[1-9][0-9]{0,8}", re.ASCII)


def rational(low: int, high: int, unit: str = "", above: bool = False) -> Check:
    """A number or an exact fraction "n/d"; kept as int, float or string. `fraction()` turns it into a
    Fraction.
    """
    kind = f'a number or "n/d" of {unit}' if unit else 'a number or "n/d"'
    allowed = f"{kind} above {low} up to {high}" if above else f"{kind} from {low} to {high}"

    def run(name: str, value: Any) -> int | float | str:
        if isinstance(value, Fraction):
            value = int(value) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
        if isinstance(value, str):
            if not _FRACTION.fullmatch(value):
                raise wrong(name, value, allowed)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise wrong(name, value, allowed)
        exact = Fraction(value) if isinstance(value, str) else value  # numbers compare exactly as they are
        if not low <= exact <= high or (above and exact == low):
            raise wrong(name, value, allowed)
        return value

    return Check("rational", allowed, run)


def fraction(value: int | float | str) -> Fraction:
    """The exact value of a `rational` field."""
    return Fraction(value)


def text(max_bytes: int, min_bytes: int = 0) -> Check:
    """UTF-8 text; the limit counts bytes. NUL is refused."""
    allowed = f"text of {'at least 1 and ' if min_bytes else ''}at most {max_bytes} bytes of UTF-8"

    def run(name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > max_bytes:
            raise wrong(name, value, allowed)
        try:
            size = len(value.encode("utf-8"))
        except UnicodeEncodeError:
            raise wrong(name, value, allowed) from None
        if not min_bytes <= size <= max_bytes or "\0" in value:
            raise wrong(name, value, allowed)
        return value

    return Check("str", allowed, run)


def matching(pattern: str, allowed: str) -> Check:
    """Text that fits a pattern (ASCII) entirely."""
    compiled = re.compile(pattern, re.ASCII)

    def run(name: str, value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise wrong(name, value, allowed)
        return value

    return Check("str", allowed, run)


def choice(*values: str) -> Check:
    """One of a few words."""
    allowed = "one of " + ", ".join(f'"{v}"' for v in values)

    def run(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise wrong(name, value, allowed)
        return value

    return Check("str", allowed, run)


def boolean() -> Check:
    """True or false, nothing that merely looks like it."""

    def run(name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false")
        return value

    return Check("bool", "true or false", run)


def binary(size: int) -> Check:
    """Exactly `size` bytes."""
    allowed = f"exactly {size} bytes"

    def run(name: str, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)) or memoryview(value).nbytes != size:
            raise wrong(name, value, allowed)
        return bytes(value)

    return Check("bin", allowed, run)


def array(item: Check, low: int = 0, high: int = 4096) -> Check:
    """A list of `low` to `high` items, each of which passes `item`; a tuple in Python."""
    allowed = f"a list of {low} to {high} items, each {item.allowed}"

    def run(name: str, value: Any) -> tuple[Any, ...]:
        if (
            isinstance(value, (str, bytes))
            or not isinstance(value, Sequence)
            or not low <= len(value) <= high
        ):
            raise wrong(name, value, allowed)
        return tuple(item.run(f"{name}[{i}]", v) for i, v in enumerate(value))

    return Check(f"[{item.kind}]", allowed, run, lambda values: [item.dump(v) for v in values])


def nested(cls: type[Any], kind: str | None = None) -> Check:
    """A map read by a `Record` class; an instance of it is taken as it is."""
    allowed = f"a {kind or cls.__name__} map"

    def run(name: str, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise wrong(name, value, allowed)
        try:
            return cls.from_map(value)
        except SegueError as error:
            raise error.within(name) from None

    return Check(kind or cls.__name__, allowed, run, lambda value: value.to_map())


def mapping() -> Check:
    """An open map with string keys, its contents described in words."""

    def run(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise wrong(name, value, "a map with text keys")
        return dict(value)

    return Check("map", "a map with text keys", run)


def error_map() -> Check:
    """A `SegueError` as it travels."""

    def run(name: str, value: Any) -> SegueError:
        if isinstance(value, SegueError):
            return value
        if not isinstance(value, Mapping):
            raise wrong(name, value, "an error map")
        return SegueError.from_map(value)

    return Check("error", "an error map", run, lambda value: value.to_map())


def joined(names: Iterable[str]) -> str:
    """Names for a sentence: `"a", "b"`."""
    return ", ".join(f'"{n}"' for n in names)
