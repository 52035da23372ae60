"""The background of a particle box: its grey level, plane and sigma, and images brought to mean 0 and sigma 1 of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import Images
from cryorestore.masks import background_mask

SMALLEST_SIGMA = 1e-10
_BLOCK_PIXELS = 2**17
"""Of the images that are worked on at a time, so that they stay in the processor's cache."""

_PROBES = 9
"""Background pixels whose median is taken off first: single precision then holds what is left, whatever the grey level."""


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
        self.mask = np.asarray(background_mask(box_size, bg_radius).numpy(), bool)
        self._weights = self.mask.astype(np.float32)
        self._count = int(self.mask.sum())
        self._axis = np.arange(box_size, dtype=np.float32) - box_size // 2
        y, x = (axis.astype(np.float64) for axis in np.indices((box_size, box_size)) - box_size // 2)
        self._plane = self._least_squares(np.stack([np.ones_like(x), x, y]))
        self._level = self._least_squares(np.ones((1, box_size, box_size)))
        inside = np.flatnonzero(self.mask)
        self._probes = inside[np.linspace(0, len(inside) - 1, _PROBES).astype(int)]

    def _least_squares(self, design: NDArray[np.float64]) -> list[Images]:
        """Weights (box, box), 0 off the background, whose products with an image are the coefficients of the fit to its background."""
        weights = np.zeros_like(design)
        weights[:, self.mask] = np.linalg.pinv(design[:, self.mask]).T
        return list(weights.astype(np.float32))

    def normalize(self, images: NDArray[np.generic], *, remove_ramp: bool, in_place: bool = False) -> Normalized:
        """Subtract the background's plane (or its mean) and divide by its population sigma.

        An image's result does not depend on the others, nor on how many threads the linear algebra library takes.

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
        count, box_size = len(values), values.shape[-1]
        mean, sigma, ramp = np.empty(count), np.empty(count), np.zeros((count, 2))
        step = max(1, _BLOCK_PIXELS // box_size**2)
        squares = np.empty((min(step, count), box_size, box_size), np.float32)
        with np.errstate(all="ignore"):
            for begin in range(0, count, step):
                block = slice(begin, min(begin + step, count))
                here = values[block]
                rough = np.median(here.reshape(len(here), -1)[:, self._probes], axis=1)
                here -= rough[:, None, None]
                level, *slopes = (_products(here, weights) for weights in (self._plane if remove_ramp else self._level))
                if remove_ramp:
                    ramp[block] = np.stack(slopes, 1)
                    here -= (slopes[0].astype(np.float32)[:, None] * self._axis)[:, None, :]
                    here -= (level[:, None] + slopes[1][:, None] * self._axis).astype(np.float32)[:, :, None]
                else:
                    here -= level.astype(np.float32)[:, None, None]
                squared = np.square(here, out=squares[: len(here)])
                mean[block] = rough + level
                sigma[block] = np.sqrt(_products(squared, self._weights) / self._count)
                here *= (1 / sigma[block]).astype(np.float32)[:, None, None]
        return Normalized(values, mean, sigma, ramp)


def _products(images: Images, weights: Images) -> NDArray[np.float64]:
    """Sum of each image times the weights, (n,): row by row in single precision, the rows in double, so that it is exact and quick."""
    return np.asarray(np.vecdot(images, weights).sum(axis=1, dtype=np.float64))
