"""The byte files: they are what the code writes today, and every one of them is read as it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol import messages as m
from protocol import vectors_write as v
from protocol.errors import SegueError
from protocol.framing import Refusal, decode_push, decode_reply, decode_request

ROUTE = [b"\x00peer", b""]
WRITTEN = v.written()
MALFORMED = json.loads((v.FOLDER / "malformed.json").read_text(encoding="utf-8"))


def vectors(name: str) -> list[dict[str, Any]]:
    return json.loads((v.FOLDER / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def frames(vector: dict[str, Any]) -> list[bytes]:
    return [v.unhex(frame) for frame in vector["frames"]]


@pytest.mark.parametrize("name", WRITTEN)
def test_the_files_are_what_the_code_writes(name: str) -> None:
    assert (v.FOLDER / f"{name}.json").read_text(encoding="utf-8") == v.text_of(WRITTEN[name]), (
        "the wire has changed: a released vector may never; for new ones run python -m protocol.vectors_write"
    )


def test_every_op_and_every_event_has_a_vector() -> None:
    assert {r.op for r in v.requests().values()} == set(m.REQUESTS)
    assert {r.op for r in v.replies().values()} == set(m.REPLIES)
    assert {e.event for e in v.pushes().values() if isinstance(e, m.Event)} == set(m.EVENTS)


def test_requests_are_read_as_they_were_meant() -> None:
    for vector, request in zip(vectors("requests"), v.requests().values(), strict=True):
        incoming = decode_request(ROUTE + frames(vector), v.TOKEN)
        assert incoming.request == request and incoming.request_id == 9, vector["name"]
        assert incoming.envelope == ROUTE


def test_replies_are_read_as_they_were_meant() -> None:
    for vector, reply in zip(vectors("replies"), v.replies().values(), strict=True):
        number, found = decode_reply(frames(vector))
        assert number == 9 and type(found) is type(reply), vector["name"]
        assert found.to_header(9) == reply.to_header(9) and found.blocks == reply.blocks  # type: ignore[union-attr]
        assert decode_push(frames(vector)) is None


def test_pushes_are_read_as_they_were_meant() -> None:
    for vector, push in zip(vectors("pushes"), v.pushes().values(), strict=True):
        decoded = decode_push(frames(vector))
        assert decoded is not None
        job, found = decoded
        assert job == v.JOB and type(found) is type(push), vector["name"]
        expected, given = push.to_map(), found.to_map()
        given.pop("payload", None)
        assert given == expected


def test_errors_are_read_as_they_were_meant() -> None:
    for vector, error in zip(vectors("errors"), v.errors().values(), strict=True):
        number, found = decode_reply(frames(vector))
        assert number == 9 and isinstance(found, SegueError)
        assert found.to_map() == error.to_map()


@pytest.mark.parametrize("vector", MALFORMED, ids=[vector["name"] for vector in MALFORMED])
def test_what_is_malformed_is_refused_as_written(vector: dict[str, Any]) -> None:
    expect = vector["expect"]
    if "ok" in expect:
        incoming = decode_request(frames(vector), v.TOKEN)
        assert (incoming.op, incoming.request_id) == (expect["ok"], expect["id"])
        return
    with pytest.raises(Refusal) as caught:
        decode_request(frames(vector), v.TOKEN)
    refusal = caught.value
    assert refusal.silent == expect.get("silent")
    if refusal.silent is None:
        assert (refusal.code, refusal.request_id) == (expect["code"], expect["id"]), refusal.message
        assert refusal.field == expect.get("field", refusal.field)
        number, error = decode_reply(refusal.frames()[2:])
        assert number == expect["id"] and isinstance(error, SegueError) and error.code == expect["code"]
