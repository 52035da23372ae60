"""A figure of the report with its words, and the readers that the figures share."""

import base64
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryorestore import plots

Series = NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A figure: title, data URI, alternative text, caption, the files it was made from, and whether it takes the page's whole width."""

    title: str
    uri: str
    alt: str
    caption: str
    sources: list[str]
    wide: bool = False


def svg_uri(figure: Figure) -> str:
    """A figure as data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(plots.svg_bytes(figure)).decode("ascii")


def read_columns(path: str | Path, names: Sequence[str]) -> list[Series]:
    """Columns of a CSV file as numbers; an empty cell, and a column that is not there, is NaN."""
    with Path(path).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [np.array([float(row.get(name) or "nan") for row in rows], np.float64) for name in names]
