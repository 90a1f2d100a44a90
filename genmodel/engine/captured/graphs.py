"""Frame steps by bucket: captured once on CUDA and replayed, run as they are written elsewhere.

A capture is made while every lane rests, so that it changes nothing. Where a capture fails (for want of
memory, say) the same function runs uncaptured from then on, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genmodel.engine.captured.frame import FrameStep

_log = logging.getLogger(__name__)


class Graphs:
    """Steps by key. ``active`` is the mask of lanes under way, which is cleared during a capture."""

    def __init__(self, device: torch.device, active: Tensor, capture: bool | None = None) -> None:
        """``capture``: None means where the device can."""
        self._device, self._active = device, active
        self.capture = device.type == "cuda" if capture is None else capture
        self._steps: dict[tuple[int, int, bool], FrameStep] = {}
        self._graphs: dict[tuple[int, int, bool], torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None  # of memory, for all graphs
        self._aside: torch.cuda.Stream | None = None  # one for all: cuBLAS keeps room for each that it meets

    def clear(self) -> None:
        """Forget everything: the tensors that the steps work on are others now."""
        self._graphs.clear()
        self._steps.clear()

    @property
    def captured(self) -> int:
        """How many graphs there are."""
        return sum(graph is not None for graph in self._graphs.values())

    def step(self, key: tuple[int, int, bool], made: Callable[[], FrameStep]) -> FrameStep:
        """The step of a key, made where there is none yet."""
        if key not in self._steps:
            self._steps[key] = made()
        return self._steps[key]

    def run(self, key: tuple[int, int, bool]) -> None:
        """Run a step that was made; captures it first where that has not been tried."""
        step = self._steps[key]
        if not self.capture:
            step()
            return
        if key not in self._graphs:
            self._graphs[key] = self._tried(key, step)
        graph = self._graphs[key]
        if graph is None:
            step()
        else:
            graph.replay()

    def _tried(self, key: tuple[int, int, bool], step: FrameStep) -> torch.cuda.CUDAGraph | None:
        under_way = self._active.clone()
        self._active.zero_()
        try:
            return self._captured(step)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            lanes, span, _ = key
            _log.warning(
                "the step of %d lanes over %d places could not be captured and runs uncaptured: %s",
                lanes, span, error,
            )  # fmt: skip
            return None
        finally:
            self._active.copy_(under_way)

    def _captured(self, step: FrameStep) -> torch.cuda.CUDAGraph:
        """Replays of one pool's graphs never overlap and leave nothing in it, so that all may share it."""
        with torch.cuda.device(self._device):
            present, aside = torch.cuda.current_stream(), self._aside or torch.cuda.Stream()
            self._aside = aside
            aside.wait_stream(present)
            with torch.cuda.stream(aside):
                step()  # what is made once (tables of noise, workspaces) is made outside of the capture
            present.wait_stream(aside)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # other threads of the process may go on using the device meanwhile
            with torch.cuda.graph(graph, self._pool, aside, capture_error_mode="thread_local"):
                step()
            return graph
