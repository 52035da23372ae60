"""One function a figure. Pictures of the same numbers are the same bytes: fixed SVG ids, no date, and no state outside a figure."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from cryorestore.files import atomic_path

STYLE: Any = {
    "svg.hashsalt": "cryorestore",
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 11,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#39424d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.8,
    "xtick.color": "#5a6470",
    "ytick.color": "#5a6470",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.color": "#39424d",
}
LINES: Sequence[tuple[str, str]] = (
    ("#5a6470", "-"),
    ("#0f766e", "-"),
    ("#c2571a", "--"),
    ("#1d4ed8", "-."),
    ("#9333a8", ":"),
    ("#a16207", "--"),
)
SIZE = (5.6, 3.7)
"""Of a figure, inches"""
WIDE = (8.4, 4.6)
"""Of a figure with many curves, inches"""
ROUND_RESOLUTIONS = (200.0, 100.0, 50.0, 40.0, 30.0, 20.0, 15.0, 12.0, 10.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.5, 2.0, 1.8, 1.5, 1.2, 1.0)
_LABEL_CHARACTERS = 28
Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]


def plot_fsc(curves: Curves, path: str | Path, *, thresholds: Sequence[float], pixel_size: float) -> None:
    """Write FSC curves as SVG. `curves`: label -> (spatial frequency in 1/angstrom, correlation)."""
    figure = correlation_figure(curves, thresholds=thresholds, pixel_size=pixel_size, ylabel="Fourier shell correlation")
    with atomic_path(path) as temporary:
        temporary.write_bytes(svg_bytes(figure))


def correlation_figure(
    curves: Curves,
    *,
    thresholds: Sequence[float],
    pixel_size: float,
    ylabel: str,
    styles: Mapping[str, tuple[str, str]] | None = None,
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw correlation against resolution, up to Nyquist, each threshold as a thin line; `styles`: label -> (colour, line), where it has one."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure(size)
        lowest = 0.0
        for (label, (frequency, correlation)), style in zip(curves.items(), _cycle(len(curves)), strict=True):
            color, line = (styles or {}).get(label, style)
            values = np.asarray(correlation, float)
            axes.plot(np.asarray(frequency, float), values, line, color=color, label=label)
            lowest = min(lowest, float(np.nanmin(values)) if np.isfinite(values).any() else 0.0)
        for threshold in thresholds:
            axes.axhline(threshold, color="#b9c0c8", linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(f"{threshold:g}", (1.0, threshold), xycoords=("axes fraction", "data"), fontsize=9, va="bottom", ha="right")
        axes.set(xlim=(0, 0.5 / pixel_size), ylim=(max(-1.0, lowest - 0.05), 1.05), xlabel="resolution (Å)", ylabel=axis_label(ylabel))
        _set_resolution_ticks(axes, pixel_size)
        _legend_above(figure, axes)
    return figure


def training_figure(histories: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Figure:
    """Draw losses on a logarithmic scale; label -> (images seen, training loss, validation loss), a missing value as NaN."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure()
        for (label, (seen, training, validation)), (color, _) in zip(histories.items(), _cycle(len(histories)), strict=True):
            seen_values = np.asarray(seen, float)
            for values, line, name in ((training, ":", "training"), (validation, "-", "validation")):
                kept = np.isfinite(np.asarray(values, float))
                if kept.any():
                    axes.plot(seen_values[kept], np.asarray(values, float)[kept], line, color=color, label=f"{label}, {name}")
        axes.set(xlabel="images seen", ylabel="loss")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"))
        _legend_above(figure, axes)
    return figure


def orientation_figure(rotation: NDArray[np.float64], tilt: NDArray[np.float64]) -> Figure:
    """Draw how many particles look along each direction, in bins of equal area (rot and tilt in degrees)."""
    counts, _, _ = np.histogram2d(np.cos(np.radians(tilt)), (rotation + 180) % 360 - 180, bins=(18, 36), range=((-1, 1), (-180, 180)))
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure()
        axes.grid(False)
        picture = axes.imshow(counts, extent=(-180, 180, -1, 1), origin="lower", aspect="auto", cmap="Greens", vmin=0, interpolation="nearest")
        axes.set(xlabel="rot (degrees)", ylabel="cos(tilt)", xticks=(-180, -90, 0, 90, 180))
        figure.colorbar(picture, ax=axes, label="particles", pad=0.02)
    return figure


def evidence_figure(edges: ArrayLike, counts: Mapping[str, ArrayLike], *, threshold: float) -> Figure:
    """Draw histograms of the probability that a box holds the particle; label -> counts between `edges`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure()
        for (label, values), (color, _) in zip(counts.items(), _cycle(len(counts)), strict=True):
            axes.stairs(np.asarray(values, float), np.asarray(edges, float), fill=True, color=color, alpha=0.45, label=label)
        axes.axvline(threshold, color="#5a6470", linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel="probability of the particle against noise", ylabel="particles", xlim=(0, 1))
        axes.set_yscale("symlog", linthresh=1)
        _legend_above(figure, axes)
    return figure


def power_figure(curves: Curves, *, pixel_size: float, styles: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw power on a logarithmic scale against resolution, up to Nyquist; label -> (spatial frequency in 1/angstrom, power), (colour, line)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure()
        for label, (frequency, power) in curves.items():
            color, line = styles[label]
            values = np.asarray(power, float)
            axes.plot(np.asarray(frequency, float), np.where(values > 0, values, np.nan), line, color=color, label=label)
        axes.set(xlim=(0, 0.5 / pixel_size), xlabel="resolution (Å)", ylabel="power per coefficient (σ²)")
        axes.set_yscale("log")
        _set_resolution_ticks(axes, pixel_size)
        _legend_above(figure, axes)
    return figure


def local_resolution_figure(sections: Mapping[str, NDArray[np.floating[Any]]], resolutions: NDArray[np.floating[Any]]) -> Figure:
    """Draw sections of a map of local resolution (angstrom, 0 where there is none), and the histogram of its values."""
    low, high = (float(value) for value in np.percentile(resolutions, (1, 99)))
    high = max(high, low * 1.01)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=WIDE, layout="constrained")
        pictures, histogram = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.5, 1.0))[:, 0]
        row = pictures.subplots(1, len(sections))
        for axes, (label, section) in zip(row, sections.items(), strict=True):
            shown = np.ma.masked_equal(section, 0.0)
            drawn = axes.imshow(shown, origin="lower", cmap="viridis_r", vmin=low, vmax=high, interpolation="nearest")
            axes.set(title=label, xticks=[], yticks=[])
            axes.grid(False)
        pictures.colorbar(drawn, ax=list(row), label="local resolution (Å)", pad=0.02)
        axes = histogram.add_subplot()
        axes.hist(resolutions, bins=np.linspace(low, high, 41).tolist(), color=LINES[1][0])
        axes.set(xlabel="local resolution (Å)", ylabel="voxels")
    return figure


def svg_bytes(figure: Figure) -> bytes:
    """Render as SVG without a date; the ids come from the content, so the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def axis_label(text: str) -> str:
    """A y label in lines that are no longer than the axis of the smaller figures: a longer one would run into the legend."""
    return textwrap.fill(text, _LABEL_CHARACTERS)


def grey_png(image: NDArray[np.floating[Any]], *, low: float, high: float) -> bytes:
    """Render an image (y, x) as grey PNG, black at `low`, white at `high`; the first row is at the bottom, as viewers of MRC files show it."""
    buffer, metadata = io.BytesIO(), cast("dict[str, str]", {"Software": None})
    imsave(buffer, image, cmap="gray", vmin=low, vmax=high, format="png", origin="lower", metadata=metadata)
    return buffer.getvalue()


def _new_figure(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _set_resolution_ticks(axes: Axes, pixel_size: float) -> None:
    ticks = _resolution_ticks(0.5 / pixel_size)
    axes.set_xticks([0.0, *(1 / tick for tick in ticks)], ["∞", *(f"{tick:g}" for tick in ticks)])


def _resolution_ticks(highest_frequency: float) -> list[float]:
    """Round resolutions (angstrom) for the ticks of an axis up to a frequency (1/angstrom), none too near the one before."""
    ticks: list[float] = []
    for resolution in ROUND_RESOLUTIONS:
        step = 1 / resolution - (1 / ticks[-1] if ticks else 0.0)
        if 1 / resolution <= 1.001 * highest_frequency and step >= 0.09 * highest_frequency:
            ticks.append(resolution)
    return ticks


def _cycle(count: int) -> list[tuple[str, str]]:
    return [LINES[position % len(LINES)] for position in range(count)]


def _legend_above(figure: Figure, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.8, columnspacing=1.2)
