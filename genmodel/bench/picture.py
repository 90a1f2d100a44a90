"""The result as one PNG: steps by position, company, quality. Drawn with matplotlib's Agg canvas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genmodel.measured import MAX_KL

# Okabe and Ito's palette: told apart with every kind of colour blindness
COLOURS = {"float32": "#0072B2", "float16": "#CC79A7", "bfloat16": "#E69F00", "int8": "#009E73"}
_KL_FLOOR = 1e-8  # float32 itself is 0, which a logarithmic axis does not have


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Render to a PNG file. Raises OSError from the disk."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = result["precisions"]
    figure = Figure(figsize=(12, 4.2), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.06, 0.93, f"{result['model']}: {result['processor']}, {result['threads']} threads",
        fontsize=12, fontweight="bold", parse_math=False,
    )  # fmt: skip
    grid = figure.add_gridspec(1, 4, left=0.06, right=0.98, top=0.8, bottom=0.15, wspace=0.32)
    _steps(figure.add_subplot(grid[0]), found)
    _company(figure.add_subplot(grid[1]), found)
    _takes(figure.add_subplot(grid[2]), found)
    _quality(figure.add_subplot(grid[3]), found)
    for axes in figure.axes:
        axes.title.set_fontsize(10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _steps(axes: Any, found: Mapping[str, Any]) -> None:
    for name, one in found.items():
        points = sorted((float(at), ms) for at, ms in one["step_ms"].items())
        axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS.get(name), label=name)
    axes.set(title="A step, ms", xlabel="seconds into the take")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def _company(axes: Any, found: Mapping[str, Any]) -> None:
    for name, one in found.items():
        points = sorted((int(count), speed) for count, speed in one["together_frames_per_s"].items())
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS.get(name))
    axes.set(title="Frames/s, all together", xlabel="takes at once")
    axes.set_ylim(bottom=0)


def _takes(axes: Any, found: Mapping[str, Any]) -> None:
    names = list(found)
    bars = axes.bar(names, [found[name]["xrt"] for name in names], color=[COLOURS.get(n) for n in names])
    axes.bar_label(bars, labels=[f"{found[n]['first_audio_ms']:.0f} ms" for n in names], fontsize=8)
    axes.axhline(1.0, color="#555555", linewidth=1, linestyle="--")
    axes.set(title="xrt of a take; its first audio")
    axes.margins(y=0.12)


def _quality(axes: Any, found: Mapping[str, Any]) -> None:
    names = [name for name in found if name != "float32"]
    axes.bar(names, [max(_KL_FLOOR, found[n]["quality"]["kl"]) for n in names],
             color=[COLOURS.get(n) for n in names])  # fmt: skip
    axes.axhline(MAX_KL, color="#555555", linewidth=1, linestyle="--")
    axes.set(title="KL from float32 (line: allowed)", yscale="log")
    axes.set_ylim(_KL_FLOOR, 1.0)
