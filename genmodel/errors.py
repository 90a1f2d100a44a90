"""Typed refusals of the model layer.

Every error a caller can cause is one of these: it names the field, the value that was given and what is
allowed, in one sentence that a musician can act on. The daemon turns them into wire errors by their code.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

ErrorCode = Literal["E_ARGUMENT", "E_AUDIO", "E_MODEL", "E_TOO_LONG", "E_NOT_FINITE", "E_MEMORY"]
CODES: tuple[str, ...] = get_args(ErrorCode)

_VALUE_CHARACTERS = 120


def _shown(value: Any) -> str:
    """A short, printable form of a refused value; long ones are cut, never dropped."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"


class GenModelError(ValueError):
    """A refusal with a machine-readable code.

    ``str(error)`` is ``message``, completed by the value and what is allowed where these were given.
    ``value`` keeps the offending value itself (short values only: pass a count or a shape rather than a
    tensor).
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = "E_ARGUMENT",
        field: str | None = None,
        value: Any = None,
        allowed: str | None = None,
    ) -> None:
        self.code: str = code
        self.field = field
        self.value = value
        self.allowed = allowed
        self.message = message
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [self.message.rstrip(".")]
        if self.field is not None and self.field not in self.message:
            parts.append(f"field {self.field}")
        if self.value is not None and _shown(self.value) not in self.message:
            parts.append(f"got {_shown(self.value)}")
        if self.allowed is not None and self.allowed not in self.message:
            parts.append(f"allowed: {self.allowed}")
        return parts[0] + (" (" + "; ".join(parts[1:]) + ")" if parts[1:] else "") + "."

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments cannot be rebuilt from ``args``, and errors cross process borders.
        state = {"code": self.code, "field": self.field, "value": self.value, "allowed": self.allowed}
        return _rebuild, (type(self), self.message, state)


class ModelNotFound(GenModelError):
    """No model of that name is on this machine; the message says how to get it."""

    def __init__(
        self, message: str, *, field: str | None = "model", value: Any = None, allowed: str | None = None
    ) -> None:
        super().__init__(message, code="E_MODEL", field=field, value=value, allowed=allowed)


class CheckpointError(GenModelError):
    """A model's files are there but cannot be used: wrong or missing tensors, unsafe or broken files."""

    def __init__(
        self, message: str, *, field: str | None = None, value: Any = None, allowed: str | None = None
    ) -> None:
        super().__init__(message, code="E_MODEL", field=field, value=value, allowed=allowed)


def _rebuild(kind: type[GenModelError], message: str, state: dict[str, Any]) -> GenModelError:
    error = kind.__new__(kind)
    GenModelError.__init__(error, message, **state)
    return error


class ContractError(GenModelError, AssertionError):
    """A refusal where AudioCraft asserts: code written for it may still catch ``AssertionError``."""
