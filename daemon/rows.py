"""What the journal and the records keep of a job: its row, its events, and the checksum of each.

A checksum goes over every column, so that a row that was damaged on the disk is never taken for a good one.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

QUEUED, RUNNING, DONE, FAILED, CANCELLED, FORGOTTEN = (
    "queued",
    "running",
    "done",
    "failed",
    "cancelled",
    "forgotten",
)
FINAL = frozenset({DONE, FAILED, CANCELLED, FORGOTTEN})


class RowDamaged(ValueError):
    """A row does not fit its checksum, or rows are missing."""


def pack(value: Any) -> bytes:
    """msgpack as the journal stores it."""
    return msgpack.packb(value, use_bin_type=True)


def unpack(data: bytes) -> Any:
    """Inverse of `pack`."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


@dataclass(frozen=True)
class JobRow:
    """One job as journaled. `spec` is the whole request as accepted, with everything resolved. Audio events
    up to `void_seq` belong to attempts that were given up. `strikes` are the attempts that count against it.
    """

    id: int
    key: bytes
    digest: bytes
    session: bytes
    project: str
    priority: str
    model: str
    spec: dict[str, Any]
    state: str
    attempt: int
    strikes: int
    last_seq: int
    void_seq: int
    need_bytes: int
    created_ns: int
    started_ns: int | None = None
    finished_ns: int | None = None
    spec_crc: int = 0  # of the packed spec; set by `sealed`

    def sealed(self) -> JobRow:
        """With `spec_crc` computed."""
        return dataclasses.replace(self, spec_crc=zlib.crc32(pack(self.spec)))

    @property
    def crc(self) -> int:
        """Over everything; the spec counts by `spec_crc`."""
        return zlib.crc32(
            pack([getattr(self, name) for name in JOB_COLUMNS if name != "spec"] + [self.spec_crc])
        )


@dataclass(frozen=True)
class EventRow:
    """One durable event. For audio, `place` and `bytes` say where in the attempt's spool its chunk lies."""

    job: int
    seq: int
    type: str
    at_ns: int
    data: dict[str, Any]
    place: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class NewEvent:
    type: str
    data: dict[str, Any]
    place: int | None = None
    bytes: int | None = None


JOB_COLUMNS = tuple(field.name for field in dataclasses.fields(JobRow) if field.name != "spec_crc")
EVENT_COLUMNS = tuple(field.name for field in dataclasses.fields(EventRow))


def event_crc(job: int, seq: int, kind: str, at_ns: int, data: bytes, place: Any, size: Any) -> int:
    """Checksum of an event as stored; `data` is packed."""
    return zlib.crc32(data, zlib.crc32(pack([job, seq, kind, at_ns, place, size])))


def job_values(row: JobRow) -> tuple[Any, ...]:
    """What is stored of a sealed row: its columns, the spec's checksum, the row's."""
    values = [pack(row.spec) if name == "spec" else getattr(row, name) for name in JOB_COLUMNS]
    return (*values, row.spec_crc, row.crc)


def job_from(values: Sequence[Any]) -> JobRow:
    """Inverse of `job_values`; raises `RowDamaged`."""
    *columns, spec_crc, crc = values
    stored = dict(zip(JOB_COLUMNS, columns, strict=True))
    try:
        if zlib.crc32(stored["spec"]) == spec_crc:
            row = JobRow(**{**stored, "spec": {}}, spec_crc=spec_crc)
            if row.crc == crc:
                return dataclasses.replace(row, spec=unpack(stored["spec"]))
    except (TypeError, ValueError, OverflowError):  # a damaged column may have any type
        pass
    raise RowDamaged(f"job {stored['id']!r}")


def event_values(event: EventRow) -> tuple[Any, ...]:
    """What is stored of an event: its columns and the checksum."""
    data = pack(event.data)
    crc = event_crc(event.job, event.seq, event.type, event.at_ns, data, event.place, event.bytes)
    return (event.job, event.seq, event.type, event.at_ns, data, event.place, event.bytes, crc)


def event_from(values: Sequence[Any]) -> EventRow:
    """Inverse of `event_values`; raises `RowDamaged`."""
    *columns, crc = values
    job, seq, kind, at_ns, data, place, size = columns
    try:
        if event_crc(job, seq, kind, at_ns, data, place, size) == crc:
            return EventRow(job, seq, kind, at_ns, unpack(data), place, size)
    except (TypeError, ValueError, OverflowError):
        pass
    raise RowDamaged(f"event {seq!r} of job {job!r}")
