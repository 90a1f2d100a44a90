"""Finished takes are written in a thread of their own, so that a long one holds up no step and no cancel.

Measured: WAV files, their sync and the loudness of one minute in four stems take over a second; as one piece
that was a second in which the worker heard nothing and its other jobs stood still.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.workers.interface import Progress
from daemon.workers.rendering import Rendering, Stopped


@dataclass
class Finishing:
    """A take that is being written. `result` is its manifest, or why there is none; it counts once `over`."""

    rendering: Rendering
    progress: Progress  # as it was when the last token was made
    result: dict[str, Any] | Exception | None = None
    over: bool = False
    dropped: bool = False


class Finisher:
    """Owned by the worker's thread. Takes are written one at a time; `wake` is called from their threads."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._one = threading.Lock()
        self.aboard: list[Finishing] = []

    def begin(self, rendering: Rendering, progress: Progress) -> None:
        """Write a take whose audio is complete; nobody else may touch it until it is over."""
        entry = Finishing(rendering, progress)
        self.aboard.append(entry)
        # it must not keep a process alive whose front-end is gone
        threading.Thread(target=self._write, args=(entry,), name="finish", daemon=True).start()

    def _write(self, entry: Finishing) -> None:
        try:
            with self._one:
                entry.result = entry.rendering.finish()
        except Exception as error:
            entry.result = error
        entry.over = True
        self._wake()

    def drop(self, job: int, attempt: int) -> bool:
        """Stop writing at the next piece; True: the job is here, and `ended` will bring it."""
        for entry in self.aboard:
            if (entry.rendering.job, entry.rendering.attempt) == (job, attempt):
                entry.dropped = entry.rendering.stopped = True
                return True
        return False

    def ended(self) -> list[Finishing]:
        """Takes that are over, each once. What a dropped one had written is gone."""
        over = [entry for entry in self.aboard if entry.over]
        for entry in over:
            self.aboard.remove(entry)
            entry.rendering.close()
            if isinstance(entry.result, Stopped):
                shutil.rmtree(entry.rendering.take_folder, ignore_errors=True)
        return over
