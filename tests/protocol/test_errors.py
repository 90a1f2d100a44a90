"""The one exception: its way over the wire, and that it shows nothing that hurts a terminal or a log."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from protocol.errors import CLIENT_SIDE_CODES, RETRY_BY_CODE, SegueError, shown


def test_all_fields_travel() -> None:
    error = SegueError(
        "E_QUEUE_FULL", "Full.", field="queue", value=64, allowed="63", retry_ms=100, detail="d", job="7"
    )
    assert SegueError.from_map(error.to_map()).to_map() == error.to_map()
    assert error.retry == "after" and str(error) == "Full." and "E_QUEUE_FULL" in repr(error)
    assert copy.copy(error).to_map() == error.to_map()
    assert SegueError("E_TOMORROW", "?").retry == "never"
    assert SegueError("E_MODEL", "?", retry="same").retry == "same"


@pytest.mark.parametrize(
    "found",
    [
        None,
        5,
        [],
        {},
        {"code": 5, "message": [], "retry": "maybe", "retry_ms": "soon", "job": 7, "value": {1: 2}},
    ],
)
def test_errors_of_strangers_are_read_leniently(found: Any) -> None:
    error = SegueError.from_map(found)
    assert error.code == "E_INTERNAL" and error.message and error.retry == "after"


def test_codes_have_a_retry_each_and_two_never_travel() -> None:
    assert set(RETRY_BY_CODE.values()) == {"never", "same", "after", "new_key", "reconnect"} - {"same"}
    assert CLIENT_SIDE_CODES < set(RETRY_BY_CODE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**70, str(2**70)),
        (b"\0" * 9, "9 bytes"),
        ("\x1b[31mred\r\n", "\ufffd[31mred\ufffd\ufffd"),
        ("\u202eright to left", "\ufffdright to left"),
    ],
)
def test_values_are_shown_harmlessly(value: object, expected: object) -> None:
    assert shown(value) == expected


def test_long_values_are_cut() -> None:
    assert len(str(shown("x" * 10_000))) == 120
    assert len(str(shown(list(range(10_000))))) == 120


def test_a_prefix_is_put_before_field_and_message() -> None:
    error = SegueError("E_AUDIO", "rate must be …", field="rate").within("audio[0]").within("request")
    assert error.field == "request.audio[0].rate" and error.message.startswith("request.audio[0].rate must")


def test_it_can_cross_processes() -> None:
    error = SegueError("E_AUDIO", "m", field="f", value=1)
    assert pickle.loads(pickle.dumps(error)).to_map() == error.to_map()
