"""Counters, gauges and histograms, and their Prometheus text. Names and sentences in one place, no labels of
jobs.
"""

from __future__ import annotations

from collections import defaultdict

_COUNTERS = {
    "requests": "Requests answered, by op and outcome.",
    "silent_refusals": "Messages dropped without an answer, by what was wrong.",
    "handshakes_refused": "Connections that were not let in, by what was wrong.",
    "jobs": "Jobs that ended, by how.",
    "chunks": "Audio chunks made durable.",
    "requeues": "Attempts that ended early, by reason.",
    "worker_exits": "Worker processes that ended, by whether they were asked to.",
    "stalls": "Workers ended because they made no progress.",
    "pushes": "Events and ticks pushed to attached clients.",
    "clock_jumps": "Times that the machine slept, the clock was set or the daemon was stopped.",
    "peers_lost": "Replies and pushes whose client was gone or did not read.",
}
_GAUGES = {
    "queued": "Jobs waiting.",
    "running": "Jobs aboard workers.",
    "workers": "Worker processes.",
    "worker_memory_bytes": "Memory of the loaded workers as they said.",
    "held": "Requests held until there is something to say.",
    "attached": "Jobs being pushed to clients.",
    "takes_bytes": "Bytes of spool and takes on the disk.",
    "step_ms": "Mean time of a step in milliseconds.",
    "uptime_seconds": "Seconds since the start.",
    "paused": "1 while paused.",
}
# Bounds sit around what a user feels: 50 ms (the front-end's promise), 1 s, 10 s, minutes.
_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "wait_seconds": ("From submit to the start of the attempt.", (0.05, 0.2, 1, 5, 20, 60, 300)),
    "load_seconds": ("Loading a model.", (0.5, 1, 2, 5, 10, 30, 120)),
    "turn_seconds": ("One turn of the front-end's loop.", (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 1)),
    "cancel_seconds": (
        "From a cancel to its worker's word that the slot is free.",
        (0.005, 0.02, 0.05, 0.1, 0.5, 2, 10),
    ),
    "job_seconds": ("From the start of the attempt to its end.", (0.5, 1, 2, 5, 10, 30, 120, 600)),
}


class Metrics:
    """Owned by the front-end's one thread."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self._gauges: dict[str, float] = {}
        self._buckets = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in _HISTOGRAMS.items()}
        self._sums = dict.fromkeys(_HISTOGRAMS, 0.0)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        if name not in _COUNTERS:
            raise KeyError(name)
        self._counts[name, tuple(sorted(labels.items()))] += by

    def gauge(self, name: str, value: float) -> None:
        if name not in _GAUGES:
            raise KeyError(name)
        self._gauges[name] = value

    def observe(self, name: str, value: float) -> None:
        bounds = _HISTOGRAMS[name][1]
        index = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
        self._buckets[name][index] += 1
        self._sums[name] += value

    def text(self) -> str:
        """Prometheus exposition format 0.0.4."""
        lines: list[str] = []
        for name, help_text in _COUNTERS.items():
            lines += [f"# HELP segue_{name}_total {help_text}", f"# TYPE segue_{name}_total counter"]
            found = {labels: value for (key, labels), value in self._counts.items() if key == name}
            for labels, value in sorted(found.items()) or [((), 0.0)]:
                lines.append(f"segue_{name}_total{_labels(labels)} {value:g}")
        for name, help_text in _GAUGES.items():
            lines += [f"# HELP segue_{name} {help_text}", f"# TYPE segue_{name} gauge"]
            lines.append(f"segue_{name} {self._gauges.get(name, 0.0):g}")
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


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    escaped = [
        (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in labels
    ]
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
