"""The talk with the daemon about one job directory: hand the job in, tell what happens, land the takes.

Runs on a thread of its own, because a daemon that starts or hangs may keep it for seconds; whoever watches
the directory (`run`) goes on meanwhile.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from bridge_clients.client import Client
from bridge_clients.jobdir.folder import KEY, JobDir
from bridge_clients.jobdir.request import JobRequest, read_request
from bridge_clients.jobdir.takes import Chunks, Landing, takes_of
from protocol.errors import SegueError
from protocol.events import Audio, Cancelled, Done, Failed, Requeued, Started, Tick
from protocol.replies import JobInfo
from protocol.submit import Submit

CLIENT_NAME = "segue-job"
TICK_S = 0.2
SAME_TICK_S = 1.0
HELD_MS = 1000
FULL_PAUSE_S = 2.0
LOST_S = 300.0
"""So long a daemon that cannot be reached is tried again before the directory is given up for now."""
_MOMENT_S = 0.1
_AGAIN = frozenset({"E_QUEUE_FULL", "E_PAUSED", "E_DRAINING", "E_NOT_READY"})
_WORDS = {
    "queued": "Waiting for its turn.",
    "loading": "Loading the model.",
    "prefill": "Listening to what is there.",
    "generating": "Playing on.",
    "running": "Playing on.",
    "decoding": "Decoding.",
    "finishing": "Writing the takes.",
    "cancelling": "Stopping.",
    "starting": "Looking for the daemon.",
    "landing": "Bringing the takes.",
}


class Stopped(Exception):
    """Nobody wants the job any more, and it was never sent."""


class Talk:
    """One job's conversation. `run` gives what `done` will say; nothing else is returned or raised."""

    def __init__(self, place: JobDir) -> None:
        self.place = place
        self.job: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.asked = threading.Event()
        self.landing = False  # all is made: what is asked now comes too late
        self._gate = threading.Lock()
        self._sent = place.has(KEY)  # by an earlier run, as far as anybody can tell
        self._done: dict[str, Any] = {}
        self._requeues = 0
        self._tick: dict[str, Any] = {"state": "starting"}
        self._ticked_s = 0.0

    # ---- for the thread that watches ----

    def stop(self) -> bool:
        """Ask for the end. True when the job never went out, so that nothing has to be waited for."""
        with self._gate:
            self.asked.set()
            return not self._sent

    def keep_ticking(self, every_s: float) -> None:
        """Repeat the newest tick when nothing new was told for so long."""
        if time.monotonic() - self._ticked_s >= every_s:
            self._tell_tick(self._tick)

    def so_far(self) -> dict[str, Any]:
        """What is known of the job by now."""
        return {"job": self.job, **self._done}

    # ---- the conversation ----

    def converse(self) -> None:
        """All of it. Raises SegueError (E_CANCELLED when the job was cancelled), or Stopped."""
        self._tell_tick(self._tick)
        request = read_request(self.place)
        self.place.reserve(65_536 + 4 * len(repr(request.settings)))
        self._done = {"key": request.key.hex(), "settings": request.settings}
        for name in request.unknown:
            self.place.tell("note", message=f"{name[:64]} in request.json means nothing to this Segue.")
        self._check_room(request)
        with self._until_there(lambda: Client(name=CLIENT_NAME, on_wait=self._note)) as client:
            reply = self._submit(client, request)
            self.job = reply.job
            info = self._until_there(lambda: client.status(reply.job))
            lead = info.lead_frames
            self._accepted(reply, info, lead)
            self._follow(client, request, info, lead)

    def _check_room(self, request: JobRequest) -> None:
        """Refuse before anything is made, when not even the mixes would fit."""
        if not isinstance(request.submit, Submit):
            return
        submit = request.submit
        need_bytes = submit.length_frames * submit.host_channels * 4 * submit.variations
        folder = request.takes_folder or self.place.path
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < need_bytes:
            raise SegueError(
                "E_DISK_FULL",
                f"The takes need about {need_bytes / 1e6:.0f} MB in {folder}, where {free_bytes / 1e6:.0f} MB"
                " are free.",
                field="takes_folder",
                value=str(folder),
            )

    def _submit(self, client: Client, request: JobRequest) -> Any:
        with self._gate:
            if self.asked.is_set() and not self._sent:
                raise Stopped
            self._sent = True
            self.place.put(KEY, f"{request.key.hex()}\n".encode())
        while True:
            try:
                return self._until_there(lambda: client.request(request.submit))
            except SegueError as error:
                if error.code not in _AGAIN or self.asked.is_set():
                    raise
                self._note(error.message)
                self._pause((error.retry_ms or 1000 * FULL_PAUSE_S) / 1000)

    def _until_there(self, ask: Callable[[], Any]) -> Any:
        """Ask again while the daemon is away; it keeps jobs through everything."""
        by = time.monotonic() + LOST_S
        while True:
            try:
                return ask()
            except SegueError as error:
                lost = error.code in ("E_TIMEOUT", "E_UNREACHABLE") and error.retry == "reconnect"
                if not lost or time.monotonic() >= by:
                    raise
                self._note(f"{error.message.rstrip('.')}; trying again.")
                self._pause(1.0)

    def _accepted(self, reply: Any, info: JobInfo, lead: int) -> None:
        seed = reply.seed
        self._done["settings"] = {**self._done["settings"], "seed": seed}
        self._done |= {
            "seed": seed, "model": info.model or None, "frames": info.frames, "rate": info.rate,
            "channels": info.channels, "lead_frames": lead, "variations": info.variations,
        }  # fmt: skip
        self.place.tell(
            "accepted", job=reply.job, seed=seed, lead_frames=lead, frames=info.frames, rate=info.rate,
            channels=info.channels, variations=info.variations, model=info.model or None,
        )  # fmt: skip

    def _follow(self, client: Client, request: JobRequest, info: JobInfo, lead: int) -> None:
        chunks = Chunks(self.place, request.chunk_s) if request.chunks else None
        after = 0
        while True:
            try:
                for event in client.events(info.job, after, audio=request.chunks, wait_ms=HELD_MS):
                    after = getattr(event, "seq", after)
                    self._one(event, chunks)
                    if isinstance(event, Done):
                        self._land(client, request, info, lead, dict(event.manifest))
                        return
            except SegueError as error:
                if error.retry != "reconnect":
                    raise
                self._pause(_MOMENT_S)
                self._until_there(client.ping)

    def _one(self, event: Any, chunks: Chunks | None) -> None:
        if isinstance(event, Tick):
            self._take_tick(event)
        elif isinstance(event, Audio) and chunks is not None:
            chunks.add(event)
        elif isinstance(event, Started):
            self._done["model"] = event.model or self._done.get("model")
            if event.attempt > 1:
                self.place.tell("note", message=f"Attempt {event.attempt} has begun.")
        elif isinstance(event, Requeued):
            if chunks is not None:
                chunks.flush()
            kept = event.discard_from is None
            goes_on = "It goes on where it stopped" if kept else "It starts again"
            self.place.tell(
                "note", message=f"{event.why.rstrip('.') or 'The work was cut short'}. {goes_on}."
            )
            if not kept:
                self._requeues += 1
                self.place.tell("discard", position=event.discard_from, times=self._requeues)
        elif isinstance(event, (Done, Failed, Cancelled)):
            if chunks is not None:
                chunks.flush()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Cancelled):
                raise SegueError(
                    "E_CANCELLED", "The job was cancelled.", detail=event.why or None, job=self.job
                )

    def _land(
        self, client: Client, request: JobRequest, info: JobInfo, lead: int, manifest: dict[str, Any]
    ) -> None:
        rate, channels, frames = int(manifest["rate"]), int(manifest["channels"]), int(manifest["frames"])
        lead = int(manifest.get("lead_frames", lead))
        landing = Landing(client, info.job, self.place, request.takes_folder, request.takes_name)
        self.landing = True
        self._tell_tick({"state": "landing", "message": _WORDS["landing"]})
        told = []
        for take in takes_of(manifest):
            tail_frames = take.frames - take.handle_frames - frames
            if tail_frames < 0:
                raise SegueError(
                    "E_TAKE_DAMAGED",
                    f"Take {take.variation + 1} ({take.stem}) is {-tail_frames} samples too short.",
                )
            line = {
                "variation": take.variation + 1,
                "stem": take.stem,
                "file": landing.land(take, rate, channels),
                "frames": frames,
                "rate": rate,
                "channels": channels,
                "position": lead,
                "handle_frames": take.handle_frames,
                "tail_frames": tail_frames,
                "seed": manifest.get("seed"),
            }
            self.place.tell("take", **line)
            told.append(line)
        self._done |= {"takes": told, "ignored": manifest.get("ignored") or None}
        self._done["remarks"] = manifest.get("remarks") or None
        self.manifest = {"job": info.job, "takes": told, **self._done, "daemon": manifest}

    # ---- telling ----

    def _note(self, message: str) -> None:
        self.place.tell("note", message=message)

    def _take_tick(self, tick: Tick) -> None:
        now = time.monotonic()
        if tick.state == self._tick.get("state") and now - self._ticked_s < TICK_S:
            return
        words = f"{tick.note[0].upper()}{tick.note[1:]}" if tick.note else _WORDS.get(tick.state)
        if tick.state == "queued" and tick.position:
            words = f"Waiting: {tick.position} job{'s' if tick.position > 1 else ''} ahead."
        told = {
            "state": tick.state,
            "position": tick.position,
            "done": tick.step,
            "total": tick.steps,
            "eta_s": None if tick.eta_ms is None else tick.eta_ms / 1000,
            "message": words,
        }
        if told != self._tick or now - self._ticked_s >= SAME_TICK_S:
            self._tell_tick(told)

    def _tell_tick(self, tick: dict[str, Any]) -> None:
        if "message" not in tick:
            tick = {**tick, "message": _WORDS.get(str(tick["state"]))}
        self._tick, self._ticked_s = tick, time.monotonic()
        self.place.tell("tick", **tick)

    def _pause(self, seconds: float) -> None:
        if self.asked.wait(seconds):
            time.sleep(_MOMENT_S)  # somebody wants the end: ask again soon, but not without a breath
