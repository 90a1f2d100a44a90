"""A codec stream's window on CUDA: captured once for each shape, replayed for every piece of that shape.

A stream that takes equal pieces comes, after the first few, to a state of constant shape; from there on a
push is the same kernels on other numbers, and launching them one by one is what takes the time. The state's
tensors are copied into the graph's own, and what comes out is copied from it, so that states stay values.
Everything else (the first pieces, the last, other devices) runs as ``CodecStream.push`` does.

Threading model: one thread owns a ``CodecWindows``.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genmodel.codec.stream import CodecStream, CodecStreamState, _mapped, _tensors

_log = logging.getLogger(__name__)
_MOST = 8  # windows that are kept: chunks of a request have one length, and few lengths are asked for


def _form(value: Any) -> Hashable:
    """Equal for values of one structure whose tensors have equal shapes; all else in them is equal too."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, tuple):
        return tuple(_form(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(_form(getattr(value, f.name)) for f in fields(value))
    return value


@dataclass
class _Window:
    """One push with tensors of its own: ``before`` and ``codes`` go in, ``after`` and ``audio`` come out."""

    stream: CodecStream
    before: CodecStreamState
    codes: Tensor
    after: CodecStreamState | None = None
    audio: Tensor | None = None
    graph: torch.cuda.CUDAGraph | None = None

    def run(self) -> None:
        self.after, self.audio = self.stream._advanced(self.before, self.codes, last=False)

    def pushed(self, state: CodecStreamState, codes: Tensor) -> tuple[CodecStreamState, Tensor]:
        """The state after ``codes`` and the audio, in tensors of their own."""
        for into, value in zip(_tensors(self.before), _tensors(state), strict=True):
            into.copy_(value)
        self.codes.copy_(codes)
        if self.graph is None:
            self.run()
        else:
            self.graph.replay()
        if self.after is None or self.audio is None:
            raise RuntimeError("this window has not been run")
        audio = self.audio.clone()
        after = _mapped(torch.clone, self.after)
        return replace(
            after,
            frames_in=state.frames_in + codes.shape[2],
            samples_out=state.samples_out + audio.shape[3],
        ), audio


class CodecWindows:
    """Captured windows of one codec's streams. ``capture``: whether windows are captured, None where the
    device can; ``always`` uses windows also where nothing is captured, which rehearses them.
    """

    def __init__(self, device: torch.device, capture: bool | None = None, *, always: bool = False) -> None:
        self._device = device
        self._capture = device.type == "cuda" if capture is None else capture
        self._used = self._capture or always
        self._met: dict[Hashable, _Window | None] = {}  # None: met once, or not to be had
        self._failed = False
        self._aside: torch.cuda.Stream | None = None

    @property
    def kept(self) -> int:
        """How many windows there are."""
        return sum(window is not None for window in self._met.values())

    @torch.no_grad()
    def push(self, stream: CodecStream, codes: Tensor) -> Tensor:
        """``stream.push(codes)``."""
        state = stream.snapshot()
        if not self._used or self._failed or not state.frames_in or stream._chain.device != self._device:
            return stream.push(codes)
        codes = stream._checked(codes)
        still = (state.held_codes, state.held_audio, state.stages)
        key = (id(stream._chain), id(stream._codec), state.rows, _form(still), tuple(codes.shape))
        window = self._met.get(key)
        if window is None and key in self._met:
            window = self._met[key] = self._made(stream, state, codes)
        if window is None:
            audio = stream.push(codes)
            after = stream.snapshot()
            if _form((after.held_codes, after.held_audio, after.stages)) == _form(still):
                if len(self._met) >= _MOST:
                    self._met.pop(next(iter(self._met)))
                self._met[key] = None  # the shape repeats itself: captured when it is met again
            return audio
        stream._state, audio = window.pushed(state, codes)
        return audio

    def _made(self, stream: CodecStream, state: CodecStreamState, codes: Tensor) -> _Window | None:
        """A window for pushes like this one; None where it cannot be captured, which the log says once."""
        twin = CodecStream(stream._codec, state.rows)  # the window outlives the stream
        window = _Window(twin, _mapped(torch.clone, state), codes.clone())
        if not self._capture:
            return window
        try:
            self._captured(window)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            self._failed = True
            _log.warning("the codec's window could not be captured and runs uncaptured: %s", error)
            return None
        return window

    def _captured(self, window: _Window) -> None:
        with torch.cuda.device(self._device):
            present = torch.cuda.current_stream()
            if self._aside is None:
                self._aside = torch.cuda.Stream()
            self._aside.wait_stream(present)
            with torch.cuda.stream(self._aside):
                window.run()
            present.wait_stream(self._aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, None, self._aside, capture_error_mode="thread_local"):
                window.run()
            window.graph = graph
