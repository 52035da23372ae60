"""Particles and map sections as tables of small pictures, each row in one grey window."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore.fsc import read_pair
from cryorestore.io.mrc import read_map
from cryorestore.plots import grey_png

Images = NDArray[np.floating[Any]]

VERSIONS = {
    "raw": "raw",
    "wiener": "Wiener filter",
    "restored": "restored",
    "truth": "truth",
    "deviation": "posterior deviation",
}
STRIP_PARTICLES = 4


@dataclass(frozen=True)
class Tile:
    """One picture as data URI with its alternative text."""

    uri: str
    alt: str


@dataclass(frozen=True)
class TileRow:
    """Pictures in one grey window, which `window` states."""

    label: str
    window: str
    tiles: list[Tile]


@dataclass(frozen=True)
class TileTable:
    """Rows of pictures under column heads."""

    columns: list[str]
    rows: list[TileRow]


@dataclass(frozen=True)
class Strip:
    """A few particles side by side, for the sliding comparison."""

    label: str
    uri: str


def montage_table(versions: Mapping[str, Images]) -> TileTable:
    """Every version of each particle; all versions of the signal share one grey window, raw and deviation have their own."""
    names = [str(name) for name in versions["image_names"]]
    rows = []
    for key, label in VERSIONS.items():
        if key in versions:
            low, high = _window(versions, key)
            tiles = [Tile(png_uri(image, low, high), f"{label} image of particle {name}") for image, name in zip(versions[key], names, strict=True)]
            rows.append(TileRow(label, f"{low:.2g} to {high:.2g} σ", tiles))
    return TileTable([name.split("@")[0].lstrip("0") or "0" for name in names], rows)


def comparison_strips(versions: Mapping[str, Images]) -> list[Strip]:
    """The first particles, raw and restored, as one wide picture each."""
    strips = []
    for key in ("raw", "restored"):
        images = np.concatenate(list(versions[key][:STRIP_PARTICLES]), axis=1)
        strips.append(Strip(VERSIONS[key], png_uri(images, *_window(versions, key))))
    return strips


def slice_table(*, raw_maps: Sequence[str | Path], restored_maps: Sequence[str | Path], truth_map: str | Path | None) -> TileTable:
    """Central sections of the mean of both half-maps, raw and restored, and of the truth; each map in its own grey window."""
    volumes = {"raw": _mean_map(raw_maps), "restored": _mean_map(restored_maps)}
    if truth_map is not None:
        volumes["truth"] = read_map(truth_map)[0]
    rows = []
    for label, volume in volumes.items():
        middle = volume.shape[0] // 2
        sections = {"xy": volume[middle], "xz": volume[:, middle], "yz": volume[:, :, middle]}
        low, high = _percentiles(np.stack(list(sections.values())), 1.0, 99.8)
        tiles = [Tile(png_uri(section, low, high), f"central {name} section of the {label} map") for name, section in sections.items()]
        rows.append(TileRow(label, f"{low:.2g} to {high:.2g}", tiles))
    return TileTable(["x, y", "x, z", "y, z"], rows)


def png_uri(image: Images, low: float, high: float) -> str:
    """A grey picture as data URI."""
    return "data:image/png;base64," + base64.b64encode(grey_png(image, low=low, high=high)).decode("ascii")


def _window(versions: Mapping[str, Images], key: str) -> tuple[float, float]:
    if key in ("raw", "deviation"):
        low, high = _percentiles(versions[key], 1.0, 99.0)
        return (0.0 if key == "deviation" else low), high
    return _percentiles(versions["truth" if "truth" in versions else "restored"], 0.5, 99.7)


def _percentiles(values: Images, low: float, high: float) -> tuple[float, float]:
    first, last = (float(value) for value in np.percentile(values, (low, high)))
    return (0.0 if abs(first) < 1e-3 * abs(last) else first), max(last, first + 1e-6)


def _mean_map(paths: Sequence[str | Path]) -> Images:
    first, second, _ = read_pair(*paths)
    mean: Images = torch.add(first, second).mul(0.5).numpy()
    return mean
