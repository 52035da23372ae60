"""Images in the form in which a stack holds them, with the statistics of its header and a hash of every image."""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError

_SAMPLED = 8
"""Every so many rows and columns are enough to know about where an image's mean is."""
_CACHED_VALUES = 1 << 16
"""values measured at a time: a quarter of a MB stays in the processor's cache"""


@dataclass(frozen=True)
class Statistics:
    """Number of values, minimum, maximum, mean, and the sum of squared deviations from the mean."""

    count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0

    def merged(self, other: "Statistics") -> "Statistics":
        """Of the values of both (Chan, Golub and LeVeque 1979)."""
        if not self.count or not other.count:
            return other if not self.count else self
        count, shift = self.count + other.count, other.mean - self.mean
        return Statistics(
            count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.mean + shift * other.count / count,
            self.squares + other.squares + shift**2 * self.count * other.count / count,
        )

    @property
    def rms(self) -> float:
        """Deviation from the mean."""
        return math.sqrt(self.squares / max(self.count, 1))


@dataclass(frozen=True)
class StoredImages:
    """Images (n, box, box) of the stack's type, little-endian and contiguous, with what is known of each."""

    values: NDArray[np.generic]
    statistics: list[Statistics]
    """one an image, computed from it alone: merged in the stack's order, they do not depend on how the images were cut into batches"""
    finite: NDArray[np.bool_]
    """(n,), whether an image holds neither NaN nor an infinite value"""

    def hashes(self) -> list[str]:
        """zlib.crc32 of each image's bytes as 8 hexadecimal digits."""
        return image_hashes(self.values)


def stored_images(images: NDArray[np.generic], dtype: np.dtype[np.generic]) -> StoredImages:
    """Convert images (n, rows, columns) to a stack's type and measure them; values too large for it become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(images, dtype)
        step = max(1, _CACHED_VALUES // math.prod(values.shape[1:]))
        scratch = np.empty((min(step, len(values)), *values.shape[1:]), np.float32)
        statistics = [row for begin in range(0, len(values), step) for row in _measured(values[begin : begin + step], scratch)]
    finite = [math.isfinite(row.minimum) and math.isfinite(row.maximum) for row in statistics]
    return StoredImages(values, statistics, np.array(finite, bool))


def _measured(values: NDArray[np.generic], scratch: NDArray[np.float32]) -> list[Statistics]:
    """Statistics of each image: rows are summed in single precision, about a number near the image's mean, and their sums in double precision."""
    images, count = np.asarray(values, np.float32), math.prod(values.shape[1:])
    ones = np.ones(images.shape[-1], np.float32)
    levels = images[:, ::_SAMPLED, ::_SAMPLED].mean((1, 2))
    deviations = np.subtract(images, levels[:, None, None], out=scratch[: len(images)])
    shifts = np.vecdot(deviations, ones).sum(1, dtype=np.float64) / count
    squares = np.vecdot(deviations, deviations).sum(1, dtype=np.float64) - count * shifts**2
    flat = images.reshape(len(images), count)
    columns = flat.min(1), flat.max(1), levels + shifts, np.maximum(squares, 0.0)
    return [Statistics(count, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def image_hashes(values: NDArray[np.generic]) -> list[str]:
    """zlib.crc32 of the bytes of each image of a contiguous stack (n, ...), as 8 hexadecimal digits."""
    return [f"{zlib.crc32(image):08x}" for image in values]


def merged(statistics: Iterable[Statistics]) -> Statistics:
    """Merge in the order given."""
    return reduce(Statistics.merged, statistics, Statistics())


def refuse_not_finite(path: Path, stored: StoredImages) -> None:
    """Raise if a value is not finite in the stack's type.

    Raises
    ------
    CryorestoreError
        If there is one.
    """
    if not stored.finite.all():
        raise CryorestoreError(
            f"{path}: a value to be written is NaN, infinite or too large for {stored.values.dtype.name}; expected finite ones; nothing is kept"
        )
