"""The maps of the report: central sections, projections, local resolution and the Guinier plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore import plots
from cryorestore.files import read_json
from cryorestore.fsc import read_pair
from cryorestore.io.mrc import read_map
from cryorestore.report.pictures import Picture, read_columns, svg_uri
from cryorestore.report.tiles import Tile, TileRow, TileTable, percentiles, png_uri, shrunk
from cryorestore.resolution.pictures import guinier_figure

Volume = NDArray[np.float32]

LARGEST_SECTION = 256
"""Pixels a side of a picture of a map: larger boxes are shown Fourier-cropped"""
FILTERED_AWAY = 3.0
"""Logarithmic amplitudes so far below the map's own lowest are not drawn: the low-pass filter left nothing there"""
AMPLITUDES = {"ln_amplitude": "as it is", "ln_amplitude_weighted": "weighted by the FSC", "ln_amplitude_sharpened": "sharpened"}


@dataclass(frozen=True)
class MapFiles:
    """Maps by label, each one file or two halves whose mean is shown, in the order of the report."""

    files: Mapping[str, Sequence[str | Path]]

    @property
    def sources(self) -> list[str]:
        """All files."""
        return [str(path) for paths in self.files.values() for path in paths]

    def read(self) -> dict[str, Volume]:
        """Every map, axes z, y, x."""
        return {label: _mean_map(paths) if len(paths) == 2 else read_map(paths[0])[0] for label, paths in self.files.items()}


def section_table(volumes: Mapping[str, Volume]) -> TileTable:
    """Central sections, each map in its own grey window."""
    return _table(volumes, {"x, y": 0, "x, z": 1, "y, z": 2}, lambda volume, axis: volume.take(volume.shape[axis] // 2, axis), "central section")


def projection_table(volumes: Mapping[str, Volume]) -> TileTable:
    """Sums along the axes, each map in its own grey window."""
    return _table(volumes, {"along z": 0, "along y": 1, "along x": 2}, lambda volume, axis: volume.sum(axis), "projection")


def local_resolution_picture(path: str | Path | None, figures: str | Path | None) -> Picture | None:
    """Sections of the local resolution of the raw half-maps, and its histogram."""
    if path is None or figures is None:
        return None
    volume, _ = read_map(path)
    content, middle = read_json(figures), volume.shape[0] // 2
    sections = {"x, y": volume[middle], "x, z": volume[:, middle], "y, z": volume[:, :, middle]}
    levels = content["quantiles"]
    told = f"{levels['0.05']:.2f} to {levels['0.95']:.2f} Å in 90 % of the mask, median {levels['0.5']:.2f} Å"
    return Picture(
        "Local resolution of the raw half-maps",
        svg_uri(plots.local_resolution_figure(sections, volume[volume > 0])),
        f"Central sections of the local resolution and a histogram: {told}.",
        f"{told}; where the FSC in a moving sphere first falls below {content['threshold']:g}.",
        [str(path), str(figures)],
        wide=True,
    )


def guinier_picture(guinier: str | Path | None, sharpening: str | Path | None) -> Picture | None:
    """The Guinier plot of the raw half-maps' mean."""
    if guinier is None or sharpening is None:
        return None
    squared, *series = (column[1:] for column in read_columns(guinier, ("squared_frequency", *AMPLITUDES)))
    floor = np.nanmin(series[0]) - FILTERED_AWAY
    shown = [np.where(values < floor, np.nan, values) for values in series]
    amplitudes = {label: values for label, values in zip(AMPLITUDES.values(), shown, strict=True) if np.isfinite(values).any()}
    content: dict[str, Any] = read_json(sharpening)
    fit = content["fit"]
    line = None if fit is None else (fit["slope"], fit["intercept"])
    told = "no B-factor was applied" if content["bfactor"] is None else f"B-factor {content['bfactor']:.1f} Å² ({content['bfactor_from']})"
    return Picture(
        "Guinier plot of the raw map",
        svg_uri(guinier_figure(squared, amplitudes, line=line)),
        f"Logarithm of the mean amplitude against the inverse square of the resolution; {told}.",
        f"{told[0].upper()}{told[1:]}; the raw half-maps' mean alone is sharpened.",
        [str(guinier), str(sharpening)],
    )


def _table(volumes: Mapping[str, Volume], axes: Mapping[str, int], reduce: Any, kind: str) -> TileTable:
    rows = []
    for label, volume in volumes.items():
        images = [shrunk(reduce(volume, axis), LARGEST_SECTION) for axis in axes.values()]
        low, high = percentiles(np.stack(images), 1.0, 99.8)
        tiles = [Tile(png_uri(image, low, high), f"{kind} {name} of the {label} map") for image, name in zip(images, axes, strict=True)]
        rows.append(TileRow(label, f"{low:.2g} to {high:.2g}", tiles))
    return TileTable(list(axes), rows)


def _mean_map(paths: Sequence[str | Path]) -> Volume:
    first, second, _ = read_pair(*paths)
    mean: Volume = torch.add(first, second).mul(0.5).numpy()
    return mean
