"""SPEC.md against the code: what stands in one and not in the other is an error."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import protocol
from protocol import limits
from protocol import messages as m
from protocol.errors import CLIENT_SIDE_CODES, RETRY_BY_CODE
from protocol.events import TICK_STATES
from protocol.fields import Check, Record
from protocol.replies import MODEL_STATES
from protocol.requests import JOB_STATES
from protocol.submit import Guidance, Sampling

SPEC = (Path(protocol.__file__).parent / "SPEC.md").read_text(encoding="utf-8")

TABLES: dict[str, type[Record]] = {
    **{f"request {op}": cls for op, cls in m.REQUESTS.items() if cls.WIRE},
    **{f"reply {op}": cls for op, cls in m.REPLIES.items() if cls.WIRE and op != "retake"},
    **{f"event {name}": cls for name, cls in m.EVENTS.items()},
    "tick": m.Tick,
    "AudioFormat": m.AudioFormat,
    "Length": m.Length,
    "TempoMap": m.TempoMap,
    "TempoChange": m.TempoChange,
    "Chord": m.Chord,
    "Sampling": Sampling,
    "Guidance": Guidance,
    "Limits": m.Limits,
    "ModelInfo": m.ModelInfo,
    "JobInfo": m.JobInfo,
}


def short(check: Check) -> str:
    """A rule as the tables say it."""
    said = check.allowed
    if check.kind in ("int", "float", "rational"):
        found = re.fullmatch(
            r'a (?:whole number|number or "n/d"|number)(?: of (.*?))? (from|above) (\S+) (?:up )?to (\S+)',
            said,
        )
        assert found, said
        unit, start, low, high = found.groups()
        low, high = (
            x.replace("9007199254740991", "2^53+1" if x.startswith("-") else "2^53-1") for x in (low, high)
        )
        words = f"{check.kind} {'>' if start == 'above' else ''}{low}…{high}"
        return f"{words} {unit}" if unit else words
    found = re.fullmatch(r"text of (at least 1 and )?at most (\d+) bytes of UTF-8", said)
    if found:
        return f"str {1 if found[1] else 0}…{found[2]} bytes"
    found = re.fullmatch(r"a list of (\d+) to (\d+) items, each .*", said)
    if found:
        return f"list of {found[1]}…{found[2]} {check.kind.strip('[]')}"
    if said.startswith("one of "):
        return said.removeprefix("one of ").replace(", ", " ").replace('"', "`")
    return {"true or false": "bool", "exactly 16 bytes": "bin 16 bytes"}.get(said, check.kind)


def default(field: object) -> str:
    """A default as the tables say it."""
    if field.required:  # type: ignore[attr-defined]
        return "required"
    value = field.default if field.default is not dataclasses.MISSING else {}  # type: ignore[attr-defined]
    if value is None:
        return "—"
    if isinstance(value, Record):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return {(): "`[]`", "": '`""`'}.get(value, f"`{value}`") if not isinstance(value, dict) else "`{}`"


def expected(cls: type[Record]) -> list[tuple[str, str, str]]:
    """Name, type and default of every field that a table must have, in order."""
    shared = set(m.Event.WIRE) if issubclass(cls, m.Event) else set()
    return [(f"`{f.key}`", short(f.check), default(f)) for name, f in cls.WIRE.items() if name not in shared]


def table(name: str) -> list[tuple[str, str, str]]:
    """The first three columns of a table in SPEC.md."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", SPEC)
    assert found, f"SPEC.md has no table <!-- {name} -->"
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in found[1].splitlines()]
    assert all(len(row) == 4 and row[3] for row in rows), f"{name}: every field needs its meaning"
    return [(row[0], row[1], row[2]) for row in rows]


@pytest.mark.parametrize("name", [n for n, cls in TABLES.items() if expected(cls)])
def test_every_field_is_told_as_it_is(name: str) -> None:
    assert table(name) == expected(TABLES[name])


def test_every_op_event_state_and_code_is_told() -> None:
    for op in m.REQUESTS:
        assert f"### `{op}`" in SPEC or f"`{op}`, " in SPEC or f", `{op}`" in SPEC, op
    for word in (*m.EVENTS, *JOB_STATES, *TICK_STATES, *MODEL_STATES):
        assert f"`{word}`" in SPEC, word
    for code, retry in RETRY_BY_CODE.items():
        if code not in CLIENT_SIDE_CODES:
            assert re.search(rf"\| `{code}` \| {retry} \|", SPEC), code
    assert set(re.findall(r"\bE_[A-Z_]+\b", SPEC)) <= set(RETRY_BY_CODE)


def test_limits_are_told_as_they_are() -> None:
    names = """
        MAX_FRAMES MAX_ENVELOPE_FRAMES MAX_PAYLOADS MAX_HEADER_BYTES MAX_FRAME_BYTES MAX_MESSAGE_BYTES
        MAX_DEPTH MAX_STRING_BYTES MAX_BINARY_BYTES MAX_ARRAY_ITEMS MAX_MAP_ITEMS
        MAX_WAIT_MS MAX_CREDIT_BYTES MAX_LENGTH_S
    """
    for name in names.split():
        assert f"{getattr(limits, name):,}" in SPEC, name
    assert limits.PREAMBLE_BYTES == 36 and "36 bytes" in SPEC
