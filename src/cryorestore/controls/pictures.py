"""Pictures of controls: curves over shells, and curves over anything else."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cryorestore.plots import LINES, STYLE, axis_label, correlation_figure
from cryorestore.resolution.pictures import write_figure

Points = tuple[Sequence[float], Sequence[float]]


def draw_shells(curves: Mapping[str, Sequence[float]], picture: str | Path, *, pixel_size: float, ylabel: str, line: float | None = None) -> None:
    """Draw curves with one value a shell, from 0; `line` is a resolution (angstrom) to mark."""
    series = {label: (np.arange(len(values)) / (2 * (len(values) - 1) * pixel_size), values) for label, values in curves.items()}
    figure = correlation_figure(series, thresholds=(0.143,), pixel_size=pixel_size, ylabel=ylabel)
    if line is not None:
        with matplotlib.rc_context(STYLE):
            figure.axes[0].axvline(1 / line, color="#c2571a", linewidth=1.2, linestyle=(0, (4, 3)))
    write_figure(figure, svg=picture)


def draw_points(curves: Mapping[str, Points], picture: str | Path, *, xlabel: str, ylabel: str, threshold: float | None = None) -> None:
    """Draw points joined by lines; label -> (x, y)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.7), layout="constrained")
        axes = figure.add_subplot()
        for (label, (x, y)), (color, style) in zip(curves.items(), LINES, strict=False):
            axes.plot(np.asarray(x, float), np.asarray(y, float), style, color=color, marker="o", markersize=4, label=label)
        if threshold is not None:
            axes.axhline(threshold, color="#b9c0c8", linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set(xlabel=xlabel, ylabel=axis_label(ylabel))
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.8, columnspacing=1.2)
    write_figure(figure, svg=picture)
