"""Every message of protocol 1, and how a header becomes one.

    request                     reply             request                     reply
    Hello                       HelloReply        Retake                      RetakeReply
    Ping                        PingReply         Status                      StatusReply(info: JobInfo)
    Models                      ModelsReply       List                        ListReply(jobs: [JobInfo])
    Load, Unload                LoadReply …       Fetch                       FetchReply(path | data)
    Submit                      SubmitReply       Forget                      ForgetReply
    Next                        NextReply         Pause, Resume               PauseReply …
    Attach, Credit              AttachReply …     Drain                       DrainReply
    Cancel                      CancelReply       Metrics                     MetricsReply(data)

`parse_request(header, payloads)` is the daemon's way in, `parse_reply` and `parse_push` the client's;
`to_header(id)` is the way out of both. All are frozen dataclasses that check themselves when built. SPEC.md
has the fields in words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from . import replies as _replies
from . import requests as _requests
from .audio import AudioBlock, AudioFormat, Buffer
from .errors import SegueError
from .events import (
    EVENTS,
    Accepted,
    Audio,
    Cancelled,
    Done,
    Event,
    Failed,
    Requeued,
    Started,
    Tick,
    UnknownEvent,
    parse_event,
)  # fmt: skip
from .fields import wrong
from .harmony import Chord
from .replies import (
    AttachReply,
    CancelReply,
    CreditReply,
    DrainReply,
    FetchReply,
    ForgetReply,
    HelloReply,
    JobInfo,
    Limits,
    ListReply,
    LoadReply,
    MetricsReply,
    ModelInfo,
    ModelsReply,
    NextReply,
    PauseReply,
    PingReply,
    Reply,
    ResumeReply,
    RetakeReply,
    StatusReply,
    SubmitReply,
    UnloadReply,
)  # fmt: skip
from .requests import (
    FINAL_STATES,
    JOB_STATES,
    Attach,
    Cancel,
    Credit,
    Drain,
    Fetch,
    Forget,
    Hello,
    List,
    Load,
    Metrics,
    Models,
    Next,
    Pause,
    Ping,
    Request,
    Resume,
    Status,
    Unload,
)  # fmt: skip
from .submit import Guidance, Retake, Sampling, Submit
from .tempo import Length, TempoChange, TempoMap

__all__ = [
    "EVENTS", "FINAL_STATES", "FROZEN_OPS", "JOB_STATES", "REPLIES", "REQUESTS", "Accepted", "Attach",
    "AttachReply", "Audio", "AudioBlock", "AudioFormat", "Cancel", "CancelReply", "Cancelled", "Chord",
    "Credit", "CreditReply", "Done", "Drain", "DrainReply", "Event", "Failed", "Fetch", "FetchReply",
    "Forget", "ForgetReply", "Guidance", "Hello", "HelloReply", "JobInfo", "Length", "Limits", "List",
    "ListReply", "Load", "LoadReply", "Metrics", "MetricsReply", "ModelInfo", "Models", "ModelsReply",
    "Next", "NextReply", "Pause", "PauseReply", "Ping", "PingReply", "Reply", "Request", "Requeued",
    "Resume", "ResumeReply", "Retake", "RetakeReply", "Sampling", "SegueError", "Started", "Status",
    "StatusReply", "Submit", "SubmitReply", "TempoChange", "TempoMap", "Tick", "UnknownEvent", "Unload",
    "UnloadReply", "error_header", "parse_event", "parse_push", "parse_reply", "parse_request",
    "push_header",
]  # fmt: skip

REQUESTS: dict[str, type[Request]] = {
    **{cls.op: cls for cls in (getattr(_requests, n) for n in _requests.__all__) if cls.op},
    Submit.op: Submit,
    Retake.op: Retake,
}
REPLIES: dict[str, type[Reply]] = {
    cls.op: cls
    for cls in vars(_replies).values()
    if isinstance(cls, type) and issubclass(cls, Reply) and cls.op
}
FROZEN_OPS = frozenset({"hello", "ping"})
"""Ops that every major understands, so that two versions can always tell each other what they are."""


def described_blocks(
    header: Mapping[str, Any], payloads: Sequence[Buffer]
) -> tuple[tuple[AudioBlock, ...], Buffer | None]:
    """Match payload frames with the header's "audio" and "data": (audio blocks, other data or None).

    E_AUDIO or E_HEADER when counts, lengths or the checksum do not agree. Samples are not looked at here.
    """
    listed = header.get("audio")
    listed = [] if listed is None else listed
    if not isinstance(listed, list):
        raise wrong("audio", listed, "a list of audio descriptions", "E_HEADER")
    data = header.get("data")
    expected = len(listed) + (data is not None)
    if expected != len(payloads):
        raise SegueError(
            "E_HEADER", f"The header describes {expected} payloads, but {len(payloads)} came.", field="audio",
            value=len(payloads), allowed=f"exactly {expected}",
        )  # fmt: skip
    blocks = []
    for i, found in enumerate(listed):
        try:
            blocks.append(AudioBlock(AudioFormat.from_map(found), payloads[i]))
        except SegueError as error:
            error.field = None if error.field == "audio" else error.field
            raise error.within(f"audio[{i}]") from None
    if data is None:
        return tuple(blocks), None
    import zlib

    raw = payloads[-1]
    if not isinstance(data, Mapping) or data.get("bytes") != len(raw) or data.get("crc") != zlib.crc32(raw):
        raise SegueError(
            "E_HEADER", "The data that came does not fit its description.", field="data", retry="same"
        )
    return tuple(blocks), raw


def parse_request(header: Mapping[str, Any], payloads: Sequence[Buffer] = ()) -> Request:
    """A request from its header and payload frames, fully checked. Raises SegueError naming what is wrong."""
    op = header.get("op")
    if not isinstance(op, str):
        raise wrong("op", op, "the name of an operation", "E_HEADER")
    cls = REQUESTS.get(op)
    if cls is None:
        raise SegueError(
            "E_UNKNOWN_OP", "This daemon does not know that operation; it may be older than the client.",
            field="op", value=op,
        )  # fmt: skip
    blocks, _ = described_blocks(header, payloads)
    if blocks and cls is not Submit:
        raise SegueError(
            "E_HEADER", f"{op} takes no audio.", field="audio", value=len(blocks), allowed="no payload"
        )
    if "data" in header and header["data"] is not None:
        raise SegueError("E_HEADER", f"{op} takes no data.", field="data", allowed="no payload")
    request = cls.from_map(header)
    if isinstance(request, Submit):
        request = request.with_audio(blocks)
        request.check_complete()
    return request


def parse_reply(header: Mapping[str, Any], payloads: Sequence[Buffer] = ()) -> Reply:
    """A reply from its header and payload frames. Raises the daemon's SegueError, or E_HEADER for what is
    not a reply.
    """
    op, ok = header.get("op"), header.get("ok")
    if ok is False:
        raise SegueError.from_map(header.get("error"))
    cls = REPLIES.get(op) if isinstance(op, str) else None
    if ok is not True or cls is None:
        raise wrong("op", op, "the op of a reply", "E_HEADER")
    try:
        blocks, data = described_blocks(header, payloads)
        if cls is NextReply:
            events = header.get("events") or []
            if not isinstance(events, list):
                raise wrong("events", events, "a list of events")
            return NextReply.from_map({**header, "events": [parse_event(e, blocks) for e in events]})
        reply = cls.from_map(header)
        if data is not None and isinstance(reply, (FetchReply, MetricsReply)):
            reply = dataclasses.replace(reply, data=data)
        return reply
    except SegueError as error:
        if error.code in ("E_ARGUMENT", "E_AUDIO"):
            error.code = "E_HEADER"
        raise


def parse_push(header: Mapping[str, Any], payloads: Sequence[Buffer] = ()) -> tuple[str, Event | Tick]:
    """(job, event or tick) from a pushed message. Raises E_HEADER or E_TAKE_DAMAGED."""
    op, job = header.get("op"), header.get("job")
    if op not in ("event", "tick") or not isinstance(job, str):
        raise wrong("op", op, '"event" or "tick"', "E_HEADER")
    try:
        if op == "tick":
            return job, Tick.from_map(header)
        return job, parse_event(dict(header), described_blocks(header, payloads)[0])
    except SegueError as error:
        if error.code in ("E_ARGUMENT", "E_AUDIO"):
            error.code = "E_HEADER"
        raise


def push_header(job: str, what: Event | Tick) -> dict[str, Any]:
    """The header of a pushed event or tick; an audio event's samples go into the one payload frame."""
    if isinstance(what, Tick):
        return {"op": "tick", "job": job, **what.to_map()}
    header = {"op": "event", "job": job, **what.to_map()}
    if isinstance(what, Audio) and what.block is not None:
        header["payload"] = 0
        header["audio"] = [what.block.format.to_map()]
    return header


def error_header(error: SegueError, op: str = "", request_id: int = 0) -> dict[str, Any]:
    """The header of a refusal."""
    return {"op": op, "id": request_id, "ok": False, "error": error.to_map()}
