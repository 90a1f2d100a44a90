"""`segue job DIR` as a whole: the heartbeat, the eyes on `cancel` and on the directory itself, and `done`.

Two threads: this one never waits for anything but its own 20 ms, the other one talks with the daemon. A third
one lives for the moment of a cancel, with a connection of its own, so that it never stands behind a question
that is held.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from bridge_clients.client import Client
from bridge_clients.jobdir.folder import CANCEL, DONE, JobDir
from bridge_clients.jobdir.talk import CLIENT_NAME, Stopped, Talk
from protocol.errors import SegueError

LOOK_S = 0.02
BEAT_S = 0.5
SILENT_S = 2.0  # no progress line for so long: the last tick is told again
CANCEL_S = 20.0  # so long the end of a cancelled job is waited for
_CANCEL_PAUSE_S = 0.1


class Busy(Exception):
    """Another `segue job` works on this directory."""


class Run:
    """One run. `wait` returns the error that the directory ended with (None: done, or ended before)."""

    def __init__(self, place: JobDir, report: Callable[[BaseException], str]) -> None:
        """report: what a defect is turned into, a sentence."""
        self._place, self._report = place, report
        self._talk = Talk(place)
        self._over = threading.Event()
        self._error: SegueError | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """As if `cancel` had appeared; for a signal's handler."""
        self._interrupted = True

    def wait(self) -> SegueError | None:
        """See the job to its end and write `done`. Raises Busy, and E_DISK_FULL when not even `done` can be
        written.
        """
        if self._place.has(DONE):
            return None
        try:
            if not self._place.begin():
                raise Busy
        except SegueError as refused:
            self._place.finish(self._last_words(refused), None)
            return refused
        threading.Thread(target=self._converse, name="segue-talk", daemon=True).start()
        gone = self._watch()
        if gone:
            return SegueError("E_CANCELLED", f"{self._place.path} was removed, and the job with it.")
        error = self._error
        self._place.finish(self._last_words(error), None if error else self._talk.manifest)
        return error

    # ---- this thread ----

    def _watch(self) -> bool:
        """Until the talk is over, or need not be waited for; True when the directory is gone."""
        beat_s, asked_s = 0.0, 0.0
        while not self._over.wait(LOOK_S):
            now = time.monotonic()
            if now - beat_s >= BEAT_S:
                self._place.touch()
                beat_s = now
            gone = self._place.gone()
            if not gone:
                self._talk.keep_ticking(SILENT_S)
            if not asked_s and (gone or self._interrupted or self._place.has(CANCEL)):
                asked_s = now
                if self._talk.stop():
                    self._error = _cancelled(None)
                    return gone
                threading.Thread(target=self._cancel, name="segue-cancel", daemon=True).start()
            if asked_s and now - asked_s > CANCEL_S and not self._talk.landing:
                self._error = _cancelled("The daemon has not confirmed that the job has stopped.")
                return gone
        return self._place.gone()

    def _last_words(self, error: SegueError | None) -> dict[str, Any]:
        known = self._talk.so_far()
        if error is None:
            return {"state": "done", "takes": [], **known}
        state = "cancelled" if error.code == "E_CANCELLED" else "failed"
        return {"state": state, **error.to_map(), "takes": [], **known}

    # ---- the other threads ----

    def _converse(self) -> None:
        try:
            self._talk.converse()
        except SegueError as error:
            self._error = error
        except Stopped:
            self._error = _cancelled(None)
        except Exception as error:
            self._error = SegueError("E_INTERNAL", self._report(error), retry="never")
        finally:
            self._over.set()

    def _cancel(self) -> None:
        """Tell the daemon, over a connection of its own; if it is just away, as soon as it is back."""
        while not self._over.is_set():
            with contextlib.suppress(SegueError):
                if self._talk.job is not None:
                    with Client(autostart=False, timeout_s=2.0, name=CLIENT_NAME) as client:
                        client.cancel(self._talk.job)
                        return
            self._over.wait(_CANCEL_PAUSE_S)


def _cancelled(detail: str | None) -> SegueError:
    return SegueError("E_CANCELLED", "The job was cancelled.", detail=detail)
