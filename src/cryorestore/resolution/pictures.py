"""Figures of curves and of the Guinier plot, as SVG and PNG."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cryorestore.files import atomic_path
from cryorestore.fsc import FscCurve
from cryorestore.plots import LINES, STYLE, correlation_figure, svg_bytes

PNG_DOTS_PER_INCH = 200


def draw_curves(curves: Mapping[str, FscCurve], *, svg: str | Path, png: str | Path | None, thresholds: Sequence[float], pixel_size: float) -> None:
    """Draw FSC curves by label, `pixel_size` in angstrom; a PNG beside the SVG where one is asked for."""
    series = {label: (curve.spatial_frequency.numpy(), curve.correlation.numpy()) for label, curve in curves.items()}
    write_figure(correlation_figure(series, thresholds=thresholds, pixel_size=pixel_size, ylabel="Fourier shell correlation"), svg=svg, png=png)


def guinier_figure(squared_frequency: ArrayLike, amplitudes: Mapping[str, ArrayLike], *, line: tuple[float, float] | None) -> Figure:
    """Draw ln(amplitude) against 1/resolution^2 (1/angstrom^2); `line` is slope and intercept of the fit, None without one."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.7), layout="constrained")
        axes, x = figure.add_subplot(), np.asarray(squared_frequency, float)
        for (label, values), (color, style) in zip(amplitudes.items(), LINES, strict=False):
            axes.plot(x, np.asarray(values, float), style, color=color, label=label)
        if line is not None:
            axes.axline((0.0, line[1]), slope=line[0], color="#b9c0c8", linewidth=1.0, linestyle=(0, (4, 3)), label="fit")
        axes.set(xlabel="1 / resolution² (1/Å²)", ylabel="ln(amplitude)", xlim=(0, float(x.max())))
        axes.legend(loc="best")
    return figure


def write_figure(figure: Figure, *, svg: str | Path, png: str | Path | None = None) -> None:
    """Write a figure as SVG and, where asked for, as PNG; the same figure gives the same bytes."""
    with atomic_path(svg) as temporary:
        temporary.write_bytes(svg_bytes(figure))
    if png is not None:
        buffer, metadata = io.BytesIO(), cast("dict[str, str]", {"Software": None})
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format="png", dpi=PNG_DOTS_PER_INCH, metadata=metadata)
        with atomic_path(png) as temporary:
            temporary.write_bytes(buffer.getvalue())
