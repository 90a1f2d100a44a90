"""The one exception of the wire, and its codes.

Everything that can go wrong between a client and the daemon is a `SegueError`: refused requests, failed
jobs, and (on the client's side only) a daemon that cannot be reached. The message is one sentence that a
musician can act on; the other fields are for programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Retry = Literal["never", "same", "after", "new_key", "reconnect"]

RETRY_BY_CODE: dict[str, Retry] = {
    # wire
    "E_VERSION": "never",
    "E_SIZE": "never",
    "E_HEADER": "never",
    "E_UNKNOWN_OP": "never",
    # argument
    "E_ARGUMENT": "never",
    "E_MODEL": "never",
    "E_JOB": "never",
    "E_KEY_REUSE": "new_key",
    "E_AUDIO": "never",
    "E_TOO_LONG": "never",
    # capacity
    "E_QUEUE_FULL": "after",
    "E_DISK_FULL": "after",
    "E_MEMORY": "after",
    "E_PAUSED": "after",
    "E_DRAINING": "reconnect",
    # job
    "E_DEADLINE": "new_key",
    "E_CANCELLED": "new_key",
    "E_WORKER_DIED": "new_key",
    "E_CRASH_LOOP": "never",
    "E_STALLED": "new_key",
    "E_NOT_FINITE": "new_key",
    # storage
    "E_TAKE_MISSING": "never",
    "E_TAKE_DAMAGED": "never",
    "E_DISK": "after",
    # daemon
    "E_INTERNAL": "after",
    "E_NOT_READY": "after",
    # raised by clients, never sent
    "E_UNREACHABLE": "reconnect",
    "E_TIMEOUT": "reconnect",
}
"""Every code of protocol 1 with what a client may do about it unless the error itself says otherwise."""

CLIENT_SIDE_CODES = frozenset({"E_UNREACHABLE", "E_TIMEOUT"})

_RETRIES = frozenset({"never", "same", "after", "new_key", "reconnect"})
_SHOWN_CHARACTERS = 120


def shown(value: object) -> str | int | float | bool | None:
    """A value made fit for a message: short, one line, never binary."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if abs(value) < 2**63 else str(value)[:_SHOWN_CHARACTERS]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{memoryview(value).nbytes} bytes"
    text = value if isinstance(value, str) else repr(value)
    text = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: _SHOWN_CHARACTERS + 1]
    )
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


class SegueError(Exception):
    """A refusal or a failure, typed.

    code      one of RETRY_BY_CODE; a newer daemon may send others: go by `retry` then
    message   one sentence for the musician
    field     the argument that was wrong, as a path: "length.seconds", "audio[0].rate"
    value     what was found there (shortened), allowed: what would have been accepted
    retry     "never": the same request will fail again; "same": send it again with the same key, now;
              "after": the same after `retry_ms`; "new_key": only as a new job; "reconnect": say hello again
              first
    detail    more for the log or a curious user; job: the job concerned
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        allowed: str | None = None,
        retry: Retry | None = None,
        retry_ms: int | None = None,
        detail: str | None = None,
        job: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.value = shown(value)
        self.allowed = allowed
        self.retry: Retry = retry if retry is not None else RETRY_BY_CODE.get(code, "never")
        self.retry_ms = retry_ms
        self.detail = detail
        self.job = job

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"SegueError({self.code!r}, {self.message!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (self.to_map(),))

    def to_map(self) -> dict[str, Any]:
        """The map that travels: `code`, `message`, `retry` always, the rest only when known."""
        found: dict[str, Any] = {"code": self.code, "message": self.message, "retry": self.retry}
        for name in ("field", "value", "allowed", "retry_ms", "detail", "job"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        return found

    @classmethod
    def from_map(cls, found: object) -> SegueError:
        """Read an error leniently: a client must be able to show errors of daemons newer than itself."""
        if not isinstance(found, Mapping):
            return SegueError("E_INTERNAL", "The daemon reported an error that could not be read.")
        retry = found.get("retry")
        retry_ms = found.get("retry_ms")
        code = _text(found.get("code")) or "E_INTERNAL"
        return SegueError(
            code,
            _text(found.get("message")) or f"The daemon refused without a reason ({code}).",
            field=_text(found.get("field")),
            value=found.get("value"),
            allowed=_text(found.get("allowed")),
            retry=retry if isinstance(retry, str) and retry in _RETRIES else None,  # type: ignore[arg-type]
            retry_ms=retry_ms if isinstance(retry_ms, int) and not isinstance(retry_ms, bool) else None,
            detail=_text(found.get("detail")),
            job=_text(found.get("job")),
        )

    def within(self, prefix: str) -> SegueError:
        """The same error, its field seen from the outer record: "rate" within "audio[0]" is
        "audio[0].rate".
        """
        inner = self.field or ""
        self.field = f"{prefix}.{inner}" if inner else prefix
        if inner and self.message.startswith(inner + " "):
            self.message = prefix + "." + self.message
            self.args = (self.message,)
        return self


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _rebuilt(found: dict[str, Any]) -> SegueError:
    return SegueError.from_map(found)
