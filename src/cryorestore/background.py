"""The background of a particle box: its grey level, plane and sigma, and images brought to mean 0 and sigma 1 of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorestore.compiled import compiled
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import Images

SMALLEST_SIGMA = 1e-10


@dataclass(frozen=True)
class Normalized:
    """Images (n, box, box) and what was taken from them; the grey level was mean + ramp_x (x - box // 2) + ramp_y (y - box // 2)."""

    images: Images
    """(raw - grey level) / sigma; not finite where sigma is 0 or not finite"""
    mean: NDArray[np.float64]
    """(n,)"""
    sigma: NDArray[np.float64]
    """(n,), population sigma of the background; NaN or infinite where any pixel of the image is"""
    ramp: NDArray[np.float64]
    """(n, 2), grey levels a px along x and y"""


class Background:
    """The pixels of a box with i^2 + j^2 > bg_radius^2 about box // 2, as in RELION.

    Parameters
    ----------
    box_size
        Px.
    bg_radius
        Px of these images.

    Raises
    ------
    CryorestoreError
        If the circle does not fit the box.
    """

    def __init__(self, box_size: int, bg_radius: float) -> None:
        if bg_radius <= 0 or 2 * bg_radius > box_size:
            raise CryorestoreError(
                f"bg_radius: found {bg_radius:g} px, expected more than 0 and at most half of the box of {box_size} px; "
                f"choose about {int(0.75 * box_size / 2)}"
            )
        axis = np.arange(box_size) - box_size // 2
        self.mask: NDArray[np.bool_] = axis[:, None] ** 2 + axis**2 > bg_radius**2
        inside = ~self.mask
        first = np.where(inside.any(1), inside.argmax(1), box_size)
        self._circle = np.stack([first, first + inside.sum(1)], 1)
        y, x = np.nonzero(self.mask)
        design = np.stack([np.ones(len(x)), x - box_size // 2, y - box_size // 2])
        self._count = len(x)
        self._inverse = np.asarray(np.linalg.inv(design @ design.T), np.float64)

    def normalize(self, images: NDArray[np.generic], *, remove_ramp: bool, in_place: bool = False) -> Normalized:
        """Subtract the background's plane (or its mean) and divide by its population sigma.

        An image's result does not depend on the others.

        Parameters
        ----------
        images
            (n, box, box), real space, of any numeric type.
        remove_ramp
            Subtract the least-squares plane, not only the mean.
        in_place
            Overwrite `images`, if they are of single precision and contiguous.
        """
        values: Images = np.array(images, np.float32, order="C", copy=None if in_place else True)
        fitted = np.empty((len(values), 4))
        _normalize(values, self._circle, self._count, self._inverse, remove_ramp, fitted)
        return Normalized(values, fitted[:, 0], fitted[:, 1], fitted[:, 2:])


@compiled
def _normalize(
    images: Images, circle: NDArray[np.int64], count: int, inverse: NDArray[np.float64], remove_ramp: bool, fitted: NDArray[np.float64]
) -> None:
    """Normalize images (n, box, box) in place, and write mean, sigma and the two slopes of each into `fitted` (n, 4).

    `circle` (box, 2) has the first column inside the circle of each row and the one after the last, `inverse` (3, 3) is of the normal
    equations of (1, x, y) over the `count` pixels of the background. Sums are in double precision.
    """
    box_size = images.shape[1]
    middle = box_size // 2
    for number in range(images.shape[0]):
        image = images[number]
        total, along_x, along_y = 0.0, 0.0, 0.0
        for y in range(box_size):
            row, row_total, row_along = image[y], 0.0, 0.0
            for x in range(circle[y, 0]):
                row_total += row[x]
                row_along += row[x] * np.float64(x - middle)
            for x in range(circle[y, 1], box_size):
                row_total += row[x]
                row_along += row[x] * np.float64(x - middle)
            total += row_total
            along_x += row_along
            along_y += row_total * (y - middle)
        level, slope_x, slope_y = total / count, 0.0, 0.0
        if remove_ramp:
            level = inverse[0, 0] * total + inverse[0, 1] * along_x + inverse[0, 2] * along_y
            slope_x = inverse[1, 0] * total + inverse[1, 1] * along_x + inverse[1, 2] * along_y
            slope_y = inverse[2, 0] * total + inverse[2, 1] * along_x + inverse[2, 2] * along_y
        squares, everything = 0.0, 0.0
        for y in range(box_size):
            row, start = image[y], level + slope_y * (y - middle)
            for x in range(box_size):
                row[x] = np.float32(row[x] - (start + slope_x * np.float64(x - middle)))
                everything += row[x]
            for x in range(circle[y, 0]):
                squares += np.float64(row[x]) * np.float64(row[x])
            for x in range(circle[y, 1], box_size):
                squares += np.float64(row[x]) * np.float64(row[x])
        sigma = np.sqrt(squares / count)
        scale = np.float32(1 / sigma)
        for y in range(box_size):
            row = image[y]
            for x in range(box_size):
                row[x] *= scale
        fitted[number, 0], fitted[number, 2], fitted[number, 3] = level, slope_x, slope_y
        # infinite or NaN pixels inside the circle, too
        fitted[number, 1] = sigma if np.isfinite(everything) else np.nan
