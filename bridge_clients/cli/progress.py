"""What a job looks like while it runs: a live bar in a terminal, plain lines elsewhere, JSON lines for
scripts.

All reporters have the same face, so the code that runs a job does not know who is watching. JSON lines go to
stdout, everything for eyes goes to stderr, so that the last lines on stdout of a human run are the files.

The JSON lines are described in README.md beside this file.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO

# Lines for a log: at most one in five seconds and per twentieth of the job, at least one in half a minute.
_PLAIN_AT_MOST_S, _PLAIN_AT_LEAST_S, _PLAIN_PERCENT = 5.0, 30.0, 5

STATE_WORDS = {
    "queued": "waiting",
    "loading": "loading the model",
    "prefill": "listening",
    "generating": "playing on",
    "running": "playing on",
    "decoding": "decoding",
    "finishing": "writing the takes",
    "cancelling": "cancelling",
}


def clock(seconds: float) -> str:
    """4.2 s, 1:05, 2:03:04."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def state_words(tick: dict[str, Any]) -> str:
    """What the daemon is doing, in words; with the place in the queue while it waits."""
    state = str(tick.get("state", ""))
    words = STATE_WORDS.get(state, state)
    place = tick.get("position")
    if state == "queued" and place:
        words += f", {place} job{'s' if place > 1 else ''} in front"
    elif state in ("queued", "loading") and tick.get("note"):
        words = str(tick["note"])
    return words


def speed_words(tick: dict[str, Any]) -> str:
    """Speed as a multiple of real time, and the time left, as far as they are known."""
    words = []
    if tick.get("xrt"):
        words.append(f"{tick['xrt']:.2f} xrt")
    if tick.get("eta_ms") is not None:
        words.append(f"{clock(tick['eta_ms'] / 1000)} left")
    return ", ".join(words)


class Reporter:
    """The quiet one: says nothing. The others override what they have something to say about."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    def note(self, message: str) -> None:
        """Something to know that is no failure."""

    def event(self, name: str, **fields: Any) -> None:
        """A step of the job, for scripts; README.md has them all."""

    def tick(self, tick: dict[str, Any]) -> None:
        """The newest state of the job: absolute values only."""

    def writing(self) -> None:
        """The daemon is done; the files are being written."""

    def close(self) -> None:
        """Leave the terminal as it was found."""

    def summary(self, lines: list[str]) -> None:
        """The last words of a job that went well."""


class JsonReporter(Reporter):
    """One JSON object per line on stdout."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._job = stream, None

    def event(self, name: str, **fields: Any) -> None:
        self._job = fields.pop("job", self._job)
        line = {"event": name, "time_s": round(self.elapsed_s, 3)}
        if self._job:
            line["job"] = self._job
        line.update({key: value for key, value in fields.items() if value is not None})
        self._stream.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        self._stream.flush()

    def note(self, message: str) -> None:
        self.event("note", message=message)

    def tick(self, tick: dict[str, Any]) -> None:
        self.event("progress", **tick)


class PlainReporter(Reporter):
    """Lines on stderr, when the state changes or a while has passed: for logs and pipes."""

    def __init__(self, stream: TextIO, results: TextIO) -> None:
        super().__init__()
        self._stream, self._results = stream, results
        self._state, self._said, self._percent = "", 0.0, 0

    def note(self, message: str) -> None:
        self._stream.write(f"{message}\n")
        self._stream.flush()

    def tick(self, tick: dict[str, Any]) -> None:
        state, silent_s = state_words(tick), time.monotonic() - self._said
        percent = 100 * tick.get("step", 0) // tick["steps"] if tick.get("steps") else 0
        enough = percent >= self._percent + _PLAIN_PERCENT and silent_s >= _PLAIN_AT_MOST_S
        if state == self._state and not enough and silent_s < _PLAIN_AT_LEAST_S:
            return
        self._state, self._said, self._percent = state, time.monotonic(), percent
        words = [state]
        if tick.get("steps"):
            words.append(f"{percent} %")
        if speed := speed_words(tick):
            words.append(speed)
        self.note(", ".join(words))

    def summary(self, lines: list[str]) -> None:
        self._results.write("".join(f"{line}\n" for line in lines))
        self._results.flush()


class RichReporter(PlainReporter):
    """A live progress bar on a terminal."""

    def __init__(self, stream: TextIO, results: TextIO) -> None:
        super().__init__(stream, results)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._console = Console(file=stream, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=max(10, min(40, self._console.width - 75))),
            TaskProgressColumn(),
            TextColumn("{task.fields[steps]}", markup=False),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, steps="", speed="")
        self._progress.start()

    def note(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)

    def tick(self, tick: dict[str, Any]) -> None:
        steps, step = tick.get("steps"), tick.get("step", 0)
        self._progress.update(
            self._task,
            description=state_words(tick),
            total=steps or None,
            completed=step if steps else 0,
            steps=f"{step}/{steps} steps" if steps else "",
            speed=speed_words(tick),
        )

    def writing(self) -> None:
        total = self._progress.tasks[0].total or 1
        self._progress.update(
            self._task, description="writing the files", total=total, completed=total, steps="", speed=""
        )

    def close(self) -> None:
        self._progress.stop()


def reporter_for(args: Any) -> Reporter:
    """The reporter that the flags and the terminal call for."""
    if args.json:
        return JsonReporter(sys.stdout)
    if args.quiet:
        return Reporter()
    if sys.stderr.isatty():
        return RichReporter(sys.stderr, sys.stdout)
    return PlainReporter(sys.stderr, sys.stdout)
