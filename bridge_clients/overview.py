"""The picture of a job: prompt and takes, waveform above spectrogram, with the seam and the bar lines marked.

One file, drawn with matplotlib's Agg canvas (no display, no global state). Colours are from Okabe and Ito's
palette and the perceptually uniform map "magma", both readable with every kind of colour blindness.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]  # [frames, channels]

PROMPT_COLOUR, TAKE_COLOUR, SEAM_COLOUR, BAR_COLOUR = "#0072B2", "#D55E00", "#009E73", "#555555"
MAX_TAKES = 8  # more rows than this cannot be read at one look
_WIDTH_IN, _TAKE_HEIGHT_IN, _MARGIN_IN, _DPI = 12.0, 2.9, 1.35, 110
_COLUMNS = 1500  # of the waveform and the spectrogram: about one per pixel
_BANDS, _LOW_HZ, _HIGH_HZ, _RANGE_DB = 180, 40.0, 16_000.0, 80.0


@dataclass(frozen=True)
class TakePicture:
    """One row: a label and the samples after the seam, float ``[frames, channels]``."""

    label: str
    samples: Samples


@dataclass(frozen=True)
class Overview:
    """All that the picture shows. ``bar_lines_s`` are in seconds from the seam, negative in the prompt."""

    title: str
    subtitle: str
    rate_hz: int
    takes: Sequence[TakePicture]
    prompt: Samples | None = None
    bar_lines_s: Sequence[float] = field(default_factory=tuple)


def draw(overview: Overview, path: Path) -> None:
    """Render to a PNG file at ``path``. Raises ``ValueError`` without takes or samples, ``OSError`` from the
    disk.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    takes = list(overview.takes[:MAX_TAKES])
    if not takes or not any(len(take.samples) for take in takes):
        raise ValueError("there is nothing to draw: no take has samples")
    rate = overview.rate_hz
    prompt = None if overview.prompt is None else np.asarray(overview.prompt, np.float32)
    longest = max(len(take.samples) for take in takes)
    if prompt is not None:  # never more prompt than take, or the take would be squeezed to the edge
        prompt = prompt[-max(longest, 4 * rate) :]
    before = 0 if prompt is None else len(prompt)
    start_s, end_s = -before / rate, longest / rate

    height = _MARGIN_IN + _TAKE_HEIGHT_IN * len(takes)
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    plain: dict[str, Any] = {"va": "center", "parse_math": False}  # a prompt text may hold "$"
    figure.text(0.065, 1 - 0.32 / height, overview.title, fontsize=13, fontweight="bold", **plain)
    figure.text(0.065, 1 - 0.58 / height, overview.subtitle, fontsize=9, color="#444444", **plain)
    grid = figure.add_gridspec(
        2 * len(takes),
        1,
        height_ratios=[1, 2] * len(takes),
        left=0.065,
        right=0.925,
        top=1 - 0.85 / height,
        bottom=0.45 / height,
        hspace=0.22,
    )
    wholes = [
        _mono(take.samples) if prompt is None else np.concatenate([_mono(prompt), _mono(take.samples)])
        for take in takes
    ]
    loudest = max(max(float(np.max(np.abs(whole))) for whole in wholes), 1e-4)
    image: Any = None
    for row, (take, whole) in enumerate(zip(takes, wholes, strict=True)):
        wave = figure.add_subplot(grid[2 * row])
        picture = figure.add_subplot(grid[2 * row + 1], sharex=wave)
        _draw_wave(wave, whole, before, rate, loudest)
        image = _draw_spectrogram(picture, whole, before, rate)
        wave.set_ylabel(take.label, fontsize=10, fontweight="bold")
        wave.set_xlim(start_s, end_s)
        _mark(wave, overview.bar_lines_s, start_s, end_s, before > 0, BAR_COLOUR)
        _mark(picture, overview.bar_lines_s, start_s, end_s, before > 0, "white")
        if row == 0 and before:
            wave.annotate(
                "seam",
                (0, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=SEAM_COLOUR,
                fontweight="bold",
            )
            for colour, text, middle in (
                (PROMPT_COLOUR, "prompt", start_s / 2),
                (TAKE_COLOUR, "take", end_s / 2),
            ):
                wave.annotate(
                    text,
                    (middle, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    color=colour,
                )
        if row < len(takes) - 1:
            picture.tick_params(labelbottom=False)
        else:
            picture.set_xlabel("seconds from the seam" if before else "seconds", fontsize=9)
    if image is not None:
        bar_axes = figure.add_axes((0.94, 0.45 / height, 0.011, 0.55 * (_TAKE_HEIGHT_IN / height)))
        bar = figure.colorbar(image, cax=bar_axes)
        bar.set_label("dB", fontsize=8, labelpad=1)
        bar_axes.tick_params(labelsize=7)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a glyph that the font lacks is drawn as a box: nothing to tell the musician
        figure.savefig(path, format="png")


def _mono(samples: Any) -> Any:
    import numpy as np

    return np.asarray(samples, np.float32).mean(axis=1)


def _draw_wave(axes: Any, whole: Any, before: int, rate_hz: int, loudest: float) -> None:
    """The lowest and highest sample of each column, so that no peak is lost however long the audio is."""
    import numpy as np

    for begin, stop, colour in ((0, before, PROMPT_COLOUR), (before, len(whole), TAKE_COLOUR)):
        if stop <= begin:
            continue
        columns = min(_COLUMNS, stop - begin)
        edges = np.linspace(begin, stop, columns + 1).astype(np.int64)[:-1]
        part = whole[:stop]
        low, high = np.minimum.reduceat(part, edges), np.maximum.reduceat(part, edges)
        axes.fill_between((edges - before) / rate_hz, low, high, color=colour, linewidth=0.4)
    axes.set_ylim(-1.05 * loudest, 1.05 * loudest)
    axes.set_yticks([-loudest, 0, loudest], [f"{-loudest:.1g}", "0", f"{loudest:.1g}"])
    axes.tick_params(labelsize=7, labelbottom=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_spectrogram(axes: Any, whole: Any, before: int, rate_hz: int) -> Any:
    levels, low_hz, high_hz = _band_levels_db(whole, rate_hz)
    start_s = -before / rate_hz
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-_RANGE_DB,
        vmax=0,
        extent=(start_s, start_s + len(whole) / rate_hz, 0.0, 1.0),
        interpolation="nearest",
    )
    ticks = [hz for hz in (50, 100, 200, 500, 1000, 2000, 5000, 10_000) if low_hz <= hz <= high_hz]
    places = [math.log(hz / low_hz) / math.log(high_hz / low_hz) for hz in ticks]
    axes.set_yticks(places, [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks])
    axes.set_ylabel("Hz", fontsize=8)
    axes.tick_params(labelsize=7)
    return image


def _band_levels_db(whole: Any, rate_hz: int) -> tuple[Any, float, float]:
    """Levels ``[bands, columns]`` in dB below the loudest, on a logarithmic axis of frequency; and its two
    ends.
    """
    import numpy as np

    size = 1 << max(
        8, round(math.log2(rate_hz * 0.064))
    )  # about 64 ms: notes apart in pitch, beats apart in time
    padded = np.pad(whole, (size // 2, size // 2))
    columns = min(_COLUMNS, max(1, len(whole) // 64))
    starts = np.linspace(0, max(0, len(padded) - size), columns).astype(np.int64)
    window = np.hanning(size).astype(np.float32)
    high_hz = min(_HIGH_HZ, rate_hz / 2)
    edges_hz = np.geomspace(_LOW_HZ, high_hz, _BANDS + 1)
    centres = np.sqrt(edges_hz[:-1] * edges_hz[1:]) * size / rate_hz
    below = np.clip(np.floor(centres).astype(np.int64), 0, size // 2 - 1)
    share = (centres - below).clip(0, 1).astype(np.float32)[:, None]
    levels = np.empty((_BANDS, columns), np.float32)
    for first in range(0, columns, 128):  # in parts, so that a long take does not take gigabytes
        frames = padded[starts[first : first + 128, None] + np.arange(size)] * window
        power = np.abs(np.fft.rfft(frames, axis=1)).astype(np.float32).T ** 2
        levels[:, first : first + 128] = power[below] * (1 - share) + power[below + 1] * share
        # Above the point where bands are wider than bins, the strongest bin of the band speaks for it.
        tops = np.clip((edges_hz[1:] * size / rate_hz).astype(np.int64), 1, size // 2)
        for band in np.flatnonzero(tops - below > 2):
            levels[band, first : first + 128] = power[below[band] : tops[band] + 1].max(axis=0)
    reference = max(float(levels.max()), 1e-12)
    return 10 * np.log10(np.maximum(levels / reference, 1e-12)), _LOW_HZ, high_hz


def _mark(axes: Any, bars_s: Sequence[float], start_s: float, end_s: float, seam: bool, colour: str) -> None:
    for at in bars_s:
        if start_s < at < end_s:
            axes.axvline(at, color=colour, linewidth=0.7, alpha=0.45)
    if seam:
        axes.axvline(0.0, color=SEAM_COLOUR, linewidth=1.8)
