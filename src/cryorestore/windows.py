"""Boxes about picks: where they lie in a micrograph, which are kept, and their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorestore.io.micrograph_file import MicrographFile
from cryorestore.io.mrc import Images
from cryorestore.micrographs import Micrograph
from cryorestore.picks import PickTable

EDGE_POLICIES = ("replicate", "drop", "mean")


@dataclass(frozen=True)
class Windows:
    """The boxes of one micrograph that are kept."""

    file: MicrographFile
    corners: NDArray[np.int64]
    """(n, 2), x and y of the first pixel, px"""
    picks: NDArray[np.int64]
    """(n,), rows of the pick table, rising"""
    first: int
    """place of the first box among those of all micrographs"""


def place_windows(micrographs: Sequence[Micrograph], picks: PickTable, *, box_size: int, edge_policy: str) -> tuple[list[Windows], dict[int, str]]:
    """The boxes that are kept, for every micrograph that has some, and the reasons of those that are not, by their rows of the pick table.

    The centre is truncated toward zero; the box spans centre - box_size / 2 to centre + box_size / 2 - 1.
    """
    windows, reasons, first = list[Windows](), dict(picks.reasons), 0
    for number, micrograph in enumerate(micrographs):
        rows = picks.rows_of(number)
        corners = np.trunc(picks.centres[rows]).astype(np.int64) - box_size // 2
        ny, nx = micrograph.shape
        beyond = np.any((corners >= (nx, ny)) | (corners + box_size <= 0), axis=1)
        partly = np.any((corners < 0) | (corners + box_size > (nx, ny)), axis=1)
        for row in rows[beyond].tolist():
            x, y = picks.centres[row]
            reasons.setdefault(row, f"wholly outside the micrograph: centre ({x:g}, {y:g}), micrograph {nx} x {ny}")
        for row in rows[partly & ~beyond].tolist() if edge_policy == "drop" else ():
            reasons.setdefault(row, "partly outside the micrograph")
        inside = np.fromiter((row not in reasons for row in rows.tolist()), bool, len(rows))
        if inside.any():
            windows.append(Windows(micrograph.file, corners[inside], rows[inside], first))
            first += int(inside.sum())
    return windows, reasons


def cut_boxes(image: NDArray[np.generic], corners: NDArray[np.int64], *, box_size: int, edge_policy: str, out: Images | None = None) -> Images:
    """Copy the boxes (n, box, box), as float32, whose first pixels are at `corners` (n, 2; x, y); into `out`, if it is given.

    What lies outside the image gets its nearest pixel, or with "mean" the mean of the box's inside.
    """
    ny, nx = image.shape
    boxes = np.empty((len(corners), box_size, box_size), np.float32) if out is None else out
    for box, (x, y) in zip(boxes, corners.tolist(), strict=True):
        if x >= 0 and y >= 0 and x + box_size <= nx and y + box_size <= ny:
            box[:] = image[y : y + box_size, x : x + box_size]
        else:
            _cut_over_the_edge(image, x, y, box, edge_policy)
    return boxes


def _cut_over_the_edge(image: NDArray[np.generic], x: int, y: int, box: Images, edge_policy: str) -> None:
    (ny, nx), size = image.shape, len(box)
    left, top, right, bottom = (min(max(edge, 0), size) for edge in (-x, -y, nx - x, ny - y))
    if left >= right or top >= bottom:  # wholly outside
        columns, rows = x + np.arange(size), y + np.arange(size)
        box[:] = image[np.clip(rows, 0, ny - 1)[:, None], np.clip(columns, 0, nx - 1)]
        return
    box[top:bottom, left:right] = image[y + top : y + bottom, x + left : x + right]
    known = box[top:bottom, left:right]
    if edge_policy == "mean":
        mean = known.mean(dtype=np.float64)
        box[:top], box[bottom:], box[top:bottom, :left], box[top:bottom, right:] = mean, mean, mean, mean
        return
    box[top:bottom, :left], box[top:bottom, right:] = known[:, :1], known[:, -1:]
    box[:top], box[bottom:] = box[top], box[bottom - 1]
