"""Which models fit on a device together: what each needs, what is free, and who may be asked to go.

A need is measured at load and at its highest and remembered over restarts, per model, precision and kind of
device; before that it is guessed from the size of the model's files. The budget is what the user allows
(`worker.memory_gib`) or what is measured, less max(1 GB, 8 %): the DAW and the desktop draw on it too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from daemon import ram, vram
from daemon.config import Worker as Limits
from daemon.workers.local import LocalWorker

GIB = 1 << 30
UNKNOWN_BYTES = GIB  # a model that nobody has measured and whose files nobody knows
_BESIDE_FILES_BYTES, _FILES_SHARE = 600 << 20, 1.2  # libraries and caches beside the weights
_KEEP_FREE_BYTES, _KEEP_FREE_SHARE = 10**9, 0.08
_HEAL = 0.9  # one run with an unusual peak is not held against a model for ever
_LOG = logging.getLogger("segue.memory")
Meter = Callable[[str], tuple[int, int] | None]


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes at its highest. `source`: "measured", "files" (a guess from the sizes of its
    files) or "nothing" (nobody knows).
    """

    total_bytes: int
    source: str


def kind(device: str) -> str:
    """The memory that a device of this name draws on: "cuda:0", "cuda:1" … or "cpu"."""
    if device.startswith("cuda"):
        number = device.split(" ")[0].partition(":")[2]
        return f"cuda:{number or 0}"
    if device == "auto" and vram.free_and_total(0) is not None:
        return "cuda:0"
    return "cpu"


def measure(device: str) -> tuple[int, int] | None:
    """(free, all) bytes of the memory behind a device's name, or None where that cannot be asked."""
    found = kind(device)
    return vram.free_and_total(int(found[5:])) if found.startswith("cuda:") else ram.free_and_total()


class Memory:
    """Owned by the front-end's one thread. `recall` and `remember` keep needs over a restart; `files_bytes`
    says how large a model's files are, if anybody knows.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        recall: Callable[[str], str] = lambda name: "",
        remember: Callable[[str, str], None] = lambda name, value: None,
        files_bytes: Callable[[str], int | None] = lambda model: None,
        meter: Meter = measure,
    ) -> None:
        self._limits, self._recall, self._remember = limits, recall, remember
        self._files_bytes, self._meter = files_bytes, meter
        self._known: dict[str, int] = {}
        self._really: dict[str, str] = {}  # what a device's name turned out to be

    # ---- needs ----

    def _name(self, model: str, device: str) -> str:
        where = kind(self._really.get(device, device)).partition(":")[0]
        return f"memory/{model}/{self._limits.precision}/{where}"

    def _measured(self, name: str) -> int:
        if name not in self._known:
            text = self._recall(name)
            self._known[name] = int(text) if text.isdigit() else 0
        return self._known[name]

    def need(self, model: str, device: str) -> Need:
        """What a model will take there."""
        measured = self._measured(self._name(model, device))
        if measured:
            return Need(measured, "measured")
        size = self._files_bytes(model)
        if size:
            return Need(round(_FILES_SHARE * size) + _BESIDE_FILES_BYTES, "files")
        return Need(UNKNOWN_BYTES, "nothing")

    def measured_bytes(self, model: str) -> int | None:
        """What a model needed at most when it was last loaded here, on whichever device; None: never seen."""
        found = [self._measured(self._name(model, device)) for device in self._limits.devices]
        return max(found) or None

    def loaded(self, worker: LocalWorker) -> None:
        """A worker said where it really is and what it holds."""
        really = str(worker.facts.get("device", worker.device))
        if kind(worker.device) != "cpu" and kind(really) == "cpu":
            _LOG.warning("a GPU is there, and the model runs on the CPU", extra={"model": worker.model})
        self._really[worker.device] = really
        self.grew(worker)

    def grew(self, worker: LocalWorker) -> None:
        """A worker holds more than ever: remembered when it is worth a write."""
        name = self._name(worker.model, worker.device)
        if worker.peak_bytes > 1.05 * self._measured(name):
            self._write(name, worker.peak_bytes)

    def ended(self, worker: LocalWorker) -> None:
        """Its peak is final: what was remembered moves towards it if it was less."""
        name = self._name(worker.model, worker.device)
        before = self._measured(name)
        if worker.loaded_s and 0 < worker.peak_bytes < _HEAL * before:
            self._write(name, max(worker.peak_bytes, round(_HEAL * before)))

    def _write(self, name: str, total_bytes: int) -> None:
        self._known[name] = total_bytes
        self._remember(name, str(total_bytes))

    def pinned(self, device: str) -> str:
        """The name to start a further worker with: who was on a GPU once is never moved to the CPU without a
        word, even if the driver lost the GPU meanwhile.
        """
        really = self._really.get(device, "")
        return "cuda" if device == "auto" and really.startswith("cuda") else device

    # ---- room ----

    def capacity_bytes(self, device: str) -> int | None:
        """What all our models together may take there; None: nobody can tell."""
        if self._limits.memory_gib:
            return round(self._limits.memory_gib * GIB)
        found = self._meter(self._really.get(device, device))
        return None if found is None else max(0, found[1] - _reserve(found[1]))

    def room_bytes(self, device: str, workers: Sequence[LocalWorker]) -> int | None:
        """What one more model may take there now. `workers`: those on this device."""
        growth = sum(self._growth(worker) for worker in workers)
        if self._limits.memory_gib:
            held = sum(worker.memory_bytes for worker in workers)
            return round(self._limits.memory_gib * GIB) - held - growth
        found = self._meter(self._really.get(device, device))
        return None if found is None else found[0] - _reserve(found[1]) - growth

    def weight_bytes(self, worker: LocalWorker) -> int:
        """What a worker's end gives to others: what it holds and what is kept for it."""
        return worker.memory_bytes + self._growth(worker)

    def _growth(self, worker: LocalWorker) -> int:
        """What a worker will still take beyond what it holds."""
        if worker.state == "ending":
            return 0
        return max(0, self.need(worker.model, worker.device).total_bytes - worker.memory_bytes)

    # ---- who may go ----

    def may_go(
        self, workers: Sequence[LocalWorker], now_s: float, *, live: bool, spared: Collection[str]
    ) -> list[LocalWorker]:
        """Idle workers that may be ended for another model, the first to go first: the longest idle, measured
        by how long each was to be kept. `live`: a live job needs the room; `spared`: models that live jobs
        wait for.
        """
        idle = [
            worker
            for worker in workers
            if worker.state == "loaded" and not worker.aboard and worker.model not in spared
        ]
        if not live:
            idle = [worker for worker in idle if now_s - worker.loaded_s >= self._limits.stay_s]
        return sorted(idle, key=lambda worker: -_weariness(worker, now_s))


def enough(
    candidates: Sequence[LocalWorker], missing_bytes: int, weight_bytes: Callable[[LocalWorker], int]
) -> list[LocalWorker] | None:
    """As many of the first as give back so much; None: all together do not."""
    chosen: list[LocalWorker] = []
    for worker in candidates:
        if missing_bytes <= 0:
            break
        chosen.append(worker)
        missing_bytes -= weight_bytes(worker)
    return chosen if missing_bytes <= 0 else None


def _weariness(worker: LocalWorker, now_s: float) -> float:
    """Idle time in units of the keep-alive; one that is to be kept for ever goes last."""
    idle_s = max(0.0, now_s - worker.idle_since_s)
    return idle_s / max(1.0, worker.keep_alive_s) if worker.keep_alive_s >= 0 else idle_s * 1e-9


def _reserve(all_bytes: int) -> int:
    return max(_KEEP_FREE_BYTES, round(_KEEP_FREE_SHARE * all_bytes))
