"""`submit` and `retake`: asking for audio."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from .audio import STEM, AudioBlock, check_pieces, joined_blocks
from .errors import SegueError
from .fields import Record, array, binary, boolean, choice, integer, nested, number, record, text, wire
from .harmony import Chord
from .limits import (
    DEFAULT_CHANNELS,
    DEFAULT_RATE_HZ,
    KEY_BYTES,
    MAX_CHANNELS,
    MAX_INTEGER,
    MAX_PAYLOADS,
    MAX_RATE_HZ,
    MAX_STRING_BYTES,
    MAX_VARIATIONS,
    MIN_RATE_HZ,
)
from .requests import JOB_ID, MODEL, Request
from .tempo import Length, TempoMap

PRIORITIES = ("live", "interactive", "batch")
_KEY = binary(KEY_BYTES)
_PROJECT = text(512)
_TEXT = text(MAX_STRING_BYTES)
_SEED = integer(0, MAX_INTEGER)


@record
class Sampling(Record):
    """How tokens are drawn; absent values are the model's own.

    top_p > 0 takes the place of top_k, and top_k alone switches a model's own top_p off. temperature 0 or
    use_sampling false is greedy.
    """

    use_sampling: bool | None = wire(boolean(), default=None)
    temperature: float | None = wire(number(0, 10), default=None)
    top_k: int | None = wire(integer(0, 65536), default=None)
    top_p: float | None = wire(number(0, 1), default=None)


@record
class Guidance(Record):
    """Classifier-free guidance; absent values are the model's own."""

    cfg_coef: float | None = wire(number(0, 100), default=None)
    cfg_coef_beta: float | None = wire(number(0, 100), default=None)


@record
class Submit(Request):
    """One job. The same key and body give the same job again, however often it is sent.

    `audio` holds the blocks that travel beside the header, by role: "prompt" ends at the seam, "following"
    begins where the new audio ends, "context" (other tracks) lies where its `position` says, by default
    beginning with the prompt. Several blocks of one role and track are pieces of one sound, in order.
    """

    op: ClassVar[str] = "submit"
    key: bytes = wire(_KEY)
    mode: str = wire(choice("continue", "generate"))
    length: Length = wire(nested(Length))
    session: bytes | None = wire(_KEY, default=None)
    project: str | None = wire(_PROJECT, default=None)
    model: str | None = wire(MODEL, default=None)
    text: str | None = wire(_TEXT, default=None)
    negative_text: str | None = wire(_TEXT, default=None)
    tempo_map: TempoMap | None = wire(nested(TempoMap), default=None)
    harmony: tuple[Chord, ...] | None = wire(array(nested(Chord), 1, 4096), default=None)
    variations: int = wire(integer(1, MAX_VARIATIONS), default=1)
    stems: tuple[str, ...] | None = wire(array(STEM, 1, 16), default=None)
    seed: int | None = wire(_SEED, default=None)
    sampling: Sampling = wire(nested(Sampling), default=Sampling())
    guidance: Guidance = wire(nested(Guidance), default=Guidance())
    rate: int | None = wire(integer(MIN_RATE_HZ, MAX_RATE_HZ, "Hz"), default=None)
    channels: int | None = wire(integer(1, MAX_CHANNELS), default=None)
    handle_ms: int = wire(integer(0, 1000, "ms"), default=80)
    level: str = wire(choice("match", "off"), default="match")
    priority: str = wire(choice(*PRIORITIES), default="interactive")
    deadline_ms: int | None = wire(integer(1, 86_400_000, "ms"), default=None)
    audio: tuple[AudioBlock, ...] = ()

    @property
    def blocks(self) -> tuple[AudioBlock, ...]:
        return self.audio

    def with_audio(self, blocks: Iterable[AudioBlock]) -> Submit:
        """The same request with this audio, cut into pieces that fit into frames."""
        return dataclasses.replace(self, audio=tuple(part for block in blocks for part in block.parts()))

    def check(self) -> None:
        if self.harmony is not None and self.tempo_map is None:
            raise SegueError(
                "E_ARGUMENT", "Harmony counts in quarter notes and needs a tempo map.", field="tempo_map",
                allowed="a tempo map",
            )  # fmt: skip
        if len(self.audio) > MAX_PAYLOADS:
            raise SegueError(
                "E_SIZE", f"{len(self.audio)} pieces of audio are too many for one message.", field="audio",
                value=len(self.audio), allowed=f"at most {MAX_PAYLOADS}",
            )  # fmt: skip

    def check_complete(self) -> None:
        """What can only be judged with the audio aboard. Raises E_ARGUMENT, E_AUDIO or E_TOO_LONG."""
        for i, block in enumerate(self.audio):
            if block.format.role is None:
                raise SegueError(
                    "E_AUDIO", f"audio[{i}].role is missing.", field=f"audio[{i}].role",
                    allowed='"prompt", "following" or "context"',
                )  # fmt: skip
            block.check_finite(f"audio[{i}]")
        if self.mode == "continue" and not any(b.format.role == "prompt" for b in self.audio):
            raise SegueError(
                "E_AUDIO", "To continue, give the audio to continue from.", field="audio",
                allowed='audio with role "prompt"',
            )  # fmt: skip
        for role, track in {(b.format.role, b.format.track): None for b in self.audio}:
            check_pieces(self._pieces(str(role), track))
        self.length.in_frames(self.host_rate_hz, self.tempo_map)

    def tracks(self, role: str) -> tuple[int | None, ...]:
        """The tracks given under a role, in order of appearance."""
        return tuple({b.format.track: None for b in self.audio if b.format.role == role})

    def sound(self, role: str, track: int | None = None) -> AudioBlock | None:
        """The whole sound of a role (and track), its pieces put together, or None."""
        found = self._pieces(role, track)
        return joined_blocks(found) if found else None

    def _pieces(self, role: str, track: int | None) -> list[AudioBlock]:
        return [b for b in self.audio if b.format.role == role and b.format.track == track]

    @property
    def host_rate_hz(self) -> int:
        """The rate of the answer: as asked, else the prompt's, else 48000."""
        return self.rate or next(
            (b.format.rate for b in self.audio if b.format.role == "prompt"), DEFAULT_RATE_HZ
        )

    @property
    def host_channels(self) -> int:
        """The channels of the answer: as asked, else the prompt's, else 2."""
        prompt = (b.format.channels for b in self.audio if b.format.role == "prompt")
        return self.channels or next(prompt, DEFAULT_CHANNELS)

    @property
    def length_frames(self) -> int:
        """New samples per channel at the host's rate, exactly."""
        return self.length.in_frames(self.host_rate_hz, self.tempo_map)

    def digest(self) -> bytes:
        """SHA-256 over everything but op, id and key: equal digests are equal jobs (E_KEY_REUSE
        otherwise).
        """
        import hashlib

        import msgpack

        body: dict[str, Any] = self.to_header()
        for name in ("op", "id", "key"):
            body.pop(name, None)
        made = hashlib.sha256(msgpack.packb(_sorted(body), use_bin_type=True))
        for block in self.audio:
            made.update(block.data)
        return made.digest()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return [[k, _sorted(value[k])] for k in sorted(value)]
    return [_sorted(v) for v in value] if isinstance(value, (list, tuple)) else value


@record
class Retake(Request):
    """The same job with another seed (drawn if absent), as a new job with its own key."""

    op: ClassVar[str] = "retake"
    job: str = wire(JOB_ID)
    key: bytes = wire(_KEY)
    seed: int | None = wire(_SEED, default=None)
    variations: int | None = wire(integer(1, MAX_VARIATIONS), default=None)
