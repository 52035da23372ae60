"""Particles as a table of small pictures, each row in one grey window, and as strips to compare by sliding."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorestore.plots import grey_png
from cryorestore.rescale import fourier_crop

Images = NDArray[np.floating[Any]]

VERSIONS = {
    "raw": "raw",
    "wiener": "Wiener filter",
    "restored": "restored",
    "reference": "reference projection",
    "truth": "truth",
    "deviation": "posterior deviation",
}
LARGEST_PARTICLE = 160
"""Pixels a side of a particle's picture: larger boxes are shown Fourier-cropped"""
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


def montage_table(versions: Mapping[str, Images], *, others: Mapping[str, Images]) -> TileTable:
    """Every version of each particle; all versions of the signal share one grey window, raw and deviation have their own.

    Parameters
    ----------
    versions
        Arrays (k, box, box) by the names of `VERSIONS`, and `image_names` (k).
    others
        What further methods restored, by their names: shown below `restored`.
    """
    names = [str(name) for name in versions["image_names"]]
    shown: list[tuple[str, str, Images]] = []
    for key, label in VERSIONS.items():
        if key in versions:
            shown.append((key, label, versions[key]))
        if key == "restored":
            shown += [(key, f"restored by {name}", images) for name, images in others.items()]
    rows = []
    for key, label, images in shown:
        low, high = _window(versions, key)
        pictures = zip(shrunk(images, LARGEST_PARTICLE), names, strict=True)
        tiles = [Tile(png_uri(image, low, high), f"{label} image of particle {name}") for image, name in pictures]
        rows.append(TileRow(label, f"{low:.2g} to {high:.2g} σ", tiles))
    return TileTable([name.split("@")[0].lstrip("0") or "0" for name in names], rows)


def comparison_strips(versions: Mapping[str, Images]) -> list[Strip]:
    """The first particles in every version of the signal, as one wide picture each; raw and restored first."""
    strips = []
    for key in ("raw", "restored", *(name for name in VERSIONS if name not in ("raw", "restored", "deviation"))):
        if key in versions:
            images = np.concatenate(list(shrunk(versions[key][:STRIP_PARTICLES], LARGEST_PARTICLE)), axis=1)
            strips.append(Strip(VERSIONS[key], png_uri(images, *_window(versions, key))))
    return strips


def shrunk(images: Images, largest: int) -> Images:
    """Images (..., box, box), Fourier-cropped where their box is larger than `largest` px."""
    return fourier_crop(np.ascontiguousarray(images, np.float32), largest) if images.shape[-1] > largest else images


def png_uri(image: Images, low: float, high: float) -> str:
    """A grey picture as data URI."""
    return "data:image/png;base64," + base64.b64encode(grey_png(image, low=low, high=high)).decode("ascii")


def _window(versions: Mapping[str, Images], key: str) -> tuple[float, float]:
    if key in ("raw", "deviation"):
        low, high = percentiles(versions[key], 1.0, 99.0)
        return (0.0 if key == "deviation" else low), high
    return percentiles(versions["truth" if "truth" in versions else "restored"], 0.5, 99.7)


def percentiles(values: Images, low: float, high: float) -> tuple[float, float]:
    """Two percentiles as a grey window that is not empty."""
    first, last = (float(value) for value in np.percentile(values, (low, high)))
    return (0.0 if abs(first) < 1e-3 * abs(last) else first), max(last, first + 1e-6)
