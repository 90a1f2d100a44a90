"""Counters, gauges and histograms, and their Prometheus text.

All names, labels and sentences stand here. Labels are kinds of things (an op, a code, a reason), never a job,
a session or a client's word: the number of lines has a bound that no traffic moves.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

MAX_SERIES = 512  # label sets of one name; 25 ops with 30 outcomes each are the most there can be, in theory
_OTHER = "other"


class _About(NamedTuple):
    help: str
    labels: tuple[str, ...] = ()


_COUNTERS = {
    "requests": _About("Requests answered, by op and outcome.", ("op", "outcome")),
    "refused": _About("Requests and jobs that were refused or failed, by code.", ("code",)),
    "silent_refusals": _About("Messages dropped without an answer, by what was wrong.", ("what",)),
    "handshakes_refused": _About("Connections that were not let in, by what was wrong.", ("what",)),
    "jobs": _About("Jobs that ended, by how.", ("how",)),
    "cancels": _About("Jobs that were cancelled, by what they did.", ("state",)),
    "chunks": _About("Audio chunks made durable."),
    "requeues": _About("Attempts that ended early, by reason.", ("reason",)),
    "worker_starts": _About("Worker processes that were started."),
    "worker_exits": _About("Worker processes that ended, by whether they were asked to.", ("reason",)),
    "stalls": _About("Workers ended because they made no progress."),
    "pushes": _About("Events and ticks pushed to attached clients."),
    "clock_jumps": _About("Times the machine slept, the clock was set or the daemon was stopped.", ("what",)),
    "peers_lost": _About("Answers whose client was gone (EHOSTUNREACH) or did not read (EAGAIN).", ("why",)),
    "log_lines_lost": _About("Log lines that could not be written."),
    "faults": _About("Turns and answers that met a fault of the daemon's own."),
}
_GAUGES = {
    "queued": _About("Jobs waiting, by class.", ("priority",)),
    "running": _About("Jobs aboard workers, by class.", ("priority",)),
    "workers": _About("Worker processes."),
    "worker_memory_bytes": _About("Memory of the loaded workers as they said."),
    "resident_bytes": _About("Memory of the processes as the system counts it.", ("process",)),
    "device_used_bytes": _About("Memory in use on all NVIDIA devices, by any program."),
    "held": _About("Requests held until there is something to say."),
    "attached": _About("Jobs being pushed to clients."),
    "takes_bytes": _About("Bytes of spool and takes on the disk."),
    "quota_bytes": _About("Most that spool and takes may use."),
    "journal_bytes": _About("Bytes of the journal and its log."),
    "disk_free_bytes": _About("Free on the disk of the takes."),
    "open_files": _About("Open descriptors of the front-end."),
    "step_ms": _About("Mean time of a step in milliseconds."),
    "uptime_seconds": _About("Seconds since the start."),
    "paused": _About("1 while paused."),
}
# Bounds sit around what a user feels: 50 ms (the front-end's promise), 1 s, 10 s, minutes.
_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "wait_seconds": ("From submit to the start of the attempt.", (0.05, 0.2, 1, 5, 20, 60, 300)),
    "first_audio_seconds": ("From submit to the first audio event.", (0.1, 0.2, 0.5, 1, 2, 5, 20, 60)),
    "load_seconds": ("Loading a model.", (0.5, 1, 2, 5, 10, 30, 120)),
    "turn_seconds": ("One turn of the front-end's loop.", (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 1)),
    "commit_seconds": ("One durable commit of the journal.", (0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1)),
    "cancel_seconds": (
        "From a cancel to its worker's word that the slot is free.",
        (0.005, 0.02, 0.05, 0.1, 0.5, 2, 10),
    ),
    "job_seconds": ("From the start of the attempt to its end.", (0.5, 1, 2, 5, 10, 30, 120, 600)),
}


class Metrics:
    """Owned by the front-end's one thread. Raises `KeyError` for names and labels not listed above."""

    def __init__(self) -> None:
        self._counts = {name: defaultdict[tuple[str, ...], float](float) for name in _COUNTERS}
        self._gauges = {name: dict[tuple[str, ...], float]() for name in _GAUGES}
        self._buckets = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in _HISTOGRAMS.items()}
        self._sums = dict.fromkeys(_HISTOGRAMS, 0.0)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter."""
        series, key = self._counts[name], _key(_COUNTERS[name], labels)
        if key not in series and len(series) >= MAX_SERIES:
            key = (_OTHER,) * len(key)
        series[key] += by

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._gauges[name][_key(_GAUGES[name], labels)] = value

    def counted(self, name: str) -> float:
        """A counter's total over all labels."""
        return sum(self._counts[name].values())

    def observe(self, name: str, value: float) -> None:
        """One more value in a histogram; in seconds."""
        bounds = _HISTOGRAMS[name][1]
        index = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
        self._buckets[name][index] += 1
        self._sums[name] += value

    def text(self) -> str:
        """Prometheus exposition format 0.0.4."""
        lines: list[str] = []
        for kind, table, values in (
            ("counter", _COUNTERS, self._counts),
            ("gauge", _GAUGES, self._gauges),
        ):
            for name, about in table.items():
                full = f"segue_{name}_total" if kind == "counter" else f"segue_{name}"
                lines += [f"# HELP {full} {about.help}", f"# TYPE {full} {kind}"]
                # a counter is there from the start; a gauge that nobody could read is not there
                series = values[name] or ({(): 0.0} if kind == "counter" and not about.labels else {})
                for key, value in sorted(series.items()):
                    labels = ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(about.labels, key, strict=True))
                    lines.append(f"{full}{f'{{{labels}}}' if labels else ''} {value:.15g}")
        for name, (help_text, bounds) in _HISTOGRAMS.items():
            lines += [f"# HELP segue_{name} {help_text}", f"# TYPE segue_{name} histogram"]
            total = 0
            for bound, count in zip((*bounds, None), self._buckets[name], strict=True):
                total += count
                lines.append(
                    f'segue_{name}_bucket{{le="{"+Inf" if bound is None else f"{bound:g}"}"}} {total}'
                )
            lines += [f"segue_{name}_sum {self._sums[name]:.6g}", f"segue_{name}_count {total}"]
        return "\n".join(lines) + "\n"


def _key(about: _About, labels: dict[str, str]) -> tuple[str, ...]:
    if set(labels) != set(about.labels):
        raise KeyError(f"{sorted(labels)} where {about.labels} are due")
    return tuple(labels[name] for name in about.labels)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
