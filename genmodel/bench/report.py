"""The result for reading: a table with a column for each precision, and sentences under it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from genmodel.measured import MIN_TOKENS

Found = Mapping[str, Any]
Row = tuple[str, Callable[[Found], str]]


def rows(result: Found) -> list[Row]:
    """(words, value of a precision's figures) for each line of the table."""
    first: Found = next(iter(result["precisions"].values()))

    def of(group: str, key: str, form: str, scale: float = 1.0) -> Callable[[Found], str]:
        def shown(found: Found) -> str:
            value = found[group].get(key)
            return "–" if value is None else form.format(scale * value)

        return shown

    lines: list[Row] = [(f"step at {key} s, ms", of("step_ms", key, "{:.1f}")) for key in first["step_ms"]]
    lines += [(f"hearing {key} s, s", of("prefill_s", key, "{:.2f}")) for key in first["prefill_s"]]
    lines += [
        (f"{key} at once, frames/s", of("together_frames_per_s", key, "{:.0f}"))
        for key in first["together_frames_per_s"]
    ]
    lines += [
        ("whole take, xrt", lambda found: f"{found['xrt']:.2f}"),
        ("first audio, ms", lambda found: f"{found['first_audio_ms']:.0f}"),
        ("memory, MB", lambda found: f"{found['memory_bytes'] / 1e6:.0f}"),
        ("KL from float32, nats", of("quality", "kl", "{:.1e}")),
        ("KL, 99th percentile", of("quality", "kl_p99", "{:.1e}")),
        ("same likeliest token", of("quality", "top1", "{:.1f} %", 100)),
        ("same token drawn", of("quality", "same_draw", "{:.1f} %", 100)),
        ("safe for this model", _safe),
    ]
    return lines


def _safe(found: Found) -> str:
    if found["quality"]["tokens"] < MIN_TOKENS:
        return "?"
    return "no" if found["unsafe"] else "yes"


def sentences(result: Found) -> list[str]:
    """What the table does not say."""
    codec = result["codec"]
    said = [
        f"Codec: decodes {codec['decode_xrt']:.0f} s of audio in a second, {codec['stream_xrt']:.0f} s in"
        f" pieces of 0.2 s; encodes {codec['encode_xrt']:.0f} s."
    ]
    said += [
        f"{name}: {one['unsafe']}." for name, one in result["precisions"].items() if one["unsafe"] is not None
    ]
    said += [f"{name}: not measured, {why.rstrip('.')}." for name, why in result["absent"].items()]
    for name, one in result["precisions"].items():
        said += [f"{name}, {n} at once: {why}." for n, why in one.get("together_skipped", {}).items()]
    if result["stored"]:
        said.append(
            f"worker.precision=auto takes {result['auto']} for this model from its next loading on"
            f" ({result['auto_why'].removeprefix('auto: ')}). worker.precision=float32 keeps float32;"
            " segue bench --forget forgets these figures."
        )
    else:
        said.append("Nothing was stored: worker.precision=auto stays as it is.")
    if max(result["load"]) > 1.5 * result["threads"]:
        said.append("Other programs were at work: on an idle machine the figures are better.")
    return said


def show(result: Found, console: Console) -> None:
    """Print table and sentences."""
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    title = f"{result['model']} on {result['processor']}, {threads}, torch {result['torch']}"
    if result["device"].startswith("cuda"):
        title = f"{result['model']} on {result['processor']}, torch {result['torch']}"
    table = Table("", title=title, title_justify="left")
    for name in result["precisions"]:
        table.add_column(name, justify="right")
    for words, value in rows(result):
        table.add_row(words, *(value(found) for found in result["precisions"].values()))
    console.print(table)
    for sentence in sentences(result):
        console.print(sentence, highlight=False)
