"""Exact streaming decode: tokens in, final audio out, equal to the decode of the whole.

The codec is not causal, yet nothing has to be approximated: each stage of the decoder keeps its own few
columns of left context, the LSTM its state, and right context is waited for (4 frames for the published
codecs). See ``stages.py`` for how, ``EncodecModel.decode`` with ``kernels="reference"`` for the slow twin.

Threading model: a stream belongs to one thread at a time. The codec behind it is shared by any number of
streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genmodel.errors import GenModelError

if TYPE_CHECKING:
    from genmodel.codec.encodec import CompressionModel


@dataclass(frozen=True)
class CodecStreamState:
    """Everything a stream knows, as a value: keep it, restore it into any stream of the same codec and rows.

    Its tensors are never written to. ``frames_in`` token frames were pushed, ``samples_out`` samples per
    channel given.
    """

    rows: int
    frames_in: int
    samples_out: int
    finished: bool
    held_codes: (
        Tensor  # [B, K, m] frames that do not fill a frame of the core yet (stereo interleaved in time)
    )
    held_audio: Tensor  # [rows of the core, n, c] samples of a frame that is not complete yet
    stages: tuple[Any, ...]

    def to(self, device: torch.device | str) -> CodecStreamState:
        """The same state with its tensors on another device."""
        return _mapped(lambda t: t.to(device), self)

    @property
    def nbytes(self) -> int:
        """Memory held by the state's tensors."""
        return sum(t.nbytes for t in _tensors(self))

    def _shape(self) -> Any:
        """Equal for states that can be joined row by row, whatever their positions."""
        parts = (self.held_codes, self.held_audio, self.stages)
        return _mapped(lambda t: (tuple(t.shape[1:]), t.dtype), parts), self.finished, self.frames_in > 0


def _mapped(change: Callable[..., Any], first: Any, *others: Any) -> Any:
    """``first`` with every tensor replaced by ``change(tensor, *those in the same place of the others)``."""
    if isinstance(first, Tensor):
        return change(first, *others)
    if isinstance(first, tuple):
        return tuple(_mapped(change, *values) for values in zip(first, *others, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in fields(first)]
        return replace(
            first, **{n: _mapped(change, getattr(first, n), *(getattr(o, n) for o in others)) for n in names}
        )
    return first


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(found.append, value)
    return found


class CodecStream:
    """``rows`` takes decoded side by side, piece by piece.

    Whatever the pieces, the concatenation of all that ``push`` and ``finish`` give equals ``decode_stems`` of
    all the codes, to float32 rounding, and has exactly ``frames * hop`` samples. ``push`` gives whole frames
    only.
    """

    def __init__(self, codec: CompressionModel, rows: int) -> None:
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise GenModelError(
                "A stream needs at least one row",
                field="rows",
                value=rows,
                allowed="a whole number of at least 1",
            )
        self._codec = codec
        self._core = codec.core
        self._chain = self._core.chain("decoder")
        self._state = self._fresh(rows)

    def _fresh(self, rows: int) -> CodecStreamState:
        chain = self._chain
        codes = torch.zeros(rows, 1, 0, dtype=torch.long, device=chain.device)
        audio = torch.zeros(
            rows * self._rows_per_row(), 0, self._core.channels, device=chain.device, dtype=chain.dtype
        )
        return CodecStreamState(rows, 0, 0, False, codes, audio, chain.start(audio.shape[0]))

    def _rows_per_row(self) -> int:
        """Rows of the core that one row of the model's codes becomes."""
        model = self._codec
        probe = torch.zeros(1, model.num_codebooks, model.frames_per_step, dtype=torch.long)
        return model.inner_codes(probe).shape[0]

    @property
    def rows(self) -> int:
        return self._state.rows

    @property
    def frames_in(self) -> int:
        return self._state.frames_in

    @property
    def samples_out(self) -> int:
        return self._state.samples_out

    def snapshot(self) -> CodecStreamState:
        return self._state

    def restore(self, state: CodecStreamState) -> None:
        """Go on from ``state``, which came from a stream of this codec with as many rows."""
        if not isinstance(state, CodecStreamState) or len(state.stages) != len(self._state.stages):
            raise GenModelError(
                "This is not a state of this codec's streams",
                field="state",
                value=type(state).__name__,
                allowed="what snapshot() of a stream of the same codec gave",
            )
        if state.rows != self._state.rows:
            raise GenModelError(
                "The state has another number of rows than the stream",
                field="state.rows",
                value=state.rows,
                allowed=str(self._state.rows),
            )
        self._state = state.to(self._chain.device)

    def push(self, codes: Tensor) -> Tensor:
        """Add frames ``[B, K, n]`` (n may be 0); the samples that are now final, ``[B, S, C, m]``, m >= 0."""
        codes = self._checked(codes)
        self._state, audio = self._advanced(self._state, codes, last=False)
        return audio

    def _checked(self, codes: Any) -> Tensor:
        """Codes that this stream can take next, on the codec's device."""
        codes = self._codec.check_codes(codes, empty=True)
        if codes.shape[0] != self.rows:
            raise GenModelError(
                "The codes have another number of rows than the stream",
                field="codes.batch",
                value=codes.shape[0],
                allowed=str(self.rows),
            )
        self._refuse_finished()
        held = self._state.held_codes
        if self._state.frames_in and codes.shape[1] != held.shape[1]:
            raise GenModelError(
                "The number of codebooks may not change within a stream",
                field="codes.codebooks",
                value=codes.shape[1],
                allowed=str(held.shape[1]),
            )
        return codes.to(self._chain.device)

    def finish(self) -> Tensor:
        """The rest, ``[B, S, C, m]``. The stream takes no more codes after that."""
        self._refuse_finished()
        held = self._state.held_codes
        if held.shape[2]:
            raise GenModelError(
                "The stream ends inside a pair of interleaved frames",
                field="codes.frames",
                value=self._state.frames_in,
                allowed=f"multiples of {self._codec.frames_per_step}",
            )
        self._state, audio = self._advanced(self._state, held[:, :, :0], last=True)
        return audio

    def _refuse_finished(self) -> None:
        if self._state.finished:
            raise GenModelError(
                "The stream is finished; restore an earlier snapshot or open another",
                field="stream",
                value="finished",
                allowed="an open stream",
            )

    @torch.no_grad()
    def _advanced(
        self, state: CodecStreamState, codes: Tensor, last: bool
    ) -> tuple[CodecStreamState, Tensor]:
        """The state after ``codes``, and the audio that this makes final. Changes nothing."""
        core, step = self._core, self._codec.frames_per_step
        frames_in = state.frames_in + codes.shape[2]
        if codes.shape[1] == state.held_codes.shape[1]:
            codes = torch.cat([state.held_codes, codes], 2)
        whole = codes.shape[2] - codes.shape[2] % step
        stages, audio = state.stages, state.held_audio
        if frames_in and (whole or last):
            latent = audio.new_empty(audio.shape[0], 0, core.config.dimension)
            if whole:
                latent = core.quantizer.decode(self._codec.inner_codes(codes[:, :, :whole]))
            stages, fresh = self._chain.step(stages, latent, last)
            audio = torch.cat([audio, fresh], 1) if audio.shape[1] else fresh
        ready = audio.shape[1] if last else audio.shape[1] - audio.shape[1] % core.config.hop_samples
        out = self._codec.outer_audio(audio[:, :ready].transpose(1, 2).contiguous())
        held = codes[:, :, whole:].clone()
        samples_out = state.samples_out + ready
        after = CodecStreamState(
            state.rows, frames_in, samples_out, last, held, audio[:, ready:].clone(), stages
        )
        return after, out


def push_together(streams: Sequence[CodecStream], codes: Sequence[Tensor]) -> list[Tensor]:
    """``[s.push(c) for s, c in zip(streams, codes)]``, but as one batch where that is possible.

    Streams of one codec that take equally many frames are decoded side by side, wherever each of them stands:
    on a CPU, eight rows cost about as much as three, since the LSTM's weights are read once. Streams that
    have just begun (within the look-ahead) are joined with others at the same point only. Results agree to
    float32 rounding. Everything is checked before any stream moves; a stream may be named once.
    """
    if len(streams) != len(codes) or len({id(s) for s in streams}) != len(streams):
        raise GenModelError(
            "Each stream needs its own codes, once",
            field="streams",
            value=(len(streams), len(codes)),
            allowed="as many different streams as codes",
        )
    checked = [stream._checked(piece) for stream, piece in zip(streams, codes, strict=True)]
    groups: dict[Any, list[int]] = {}
    for i, (stream, piece) in enumerate(zip(streams, checked, strict=True)):
        key = (id(stream._codec), id(stream._chain), tuple(piece.shape[1:]), stream._state._shape())
        groups.setdefault(key, []).append(i)
    results: dict[int, tuple[CodecStreamState, Tensor]] = {}
    for members in groups.values():
        lead, states = streams[members[0]], [streams[i]._state for i in members]
        joined = _mapped(lambda *t: torch.cat(t), *states) if len(members) > 1 else states[0]
        rows = [state.rows for state in states]
        after, audio = lead._advanced(
            replace(joined, rows=sum(rows)), torch.cat([checked[i] for i in members]), last=False
        )
        parted = _parted(after, rows) if len(members) > 1 else [after]
        for i, state, own, out in zip(members, parted, states, audio.split(rows), strict=True):
            frames_in, samples_out = own.frames_in + checked[i].shape[2], own.samples_out + out.shape[3]
            results[i] = replace(state, rows=own.rows, frames_in=frames_in, samples_out=samples_out), out
    for i, stream in enumerate(streams):
        stream._state = results[i][0]
    return [results[i][1] for i in range(len(streams))]


def _parted(state: CodecStreamState, rows: Sequence[int]) -> list[CodecStreamState]:
    """A joined state as one per stream. Clones, so that one stream does not keep the others' memory."""

    def part(begin: int, end: int) -> CodecStreamState:
        def cut(t: Tensor) -> Tensor:
            per_row = t.shape[0] // state.rows
            return t[begin * per_row : end * per_row].clone()

        return _mapped(cut, state)

    ends = list(accumulate(rows))
    return [part(end - n, end) for n, end in zip(rows, ends, strict=True)]
