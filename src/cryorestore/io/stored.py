"""Images in the form in which a stack holds them, with the statistics of its header and a hash of every image."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from cryorestore.compiled import compiled
from cryorestore.errors import CryorestoreError


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

    hashes: list[str]
    """CRC-32 (zlib's) of each image's bytes as 8 hexadecimal digits"""


def stored_images(images: NDArray[np.generic], dtype: np.dtype[np.generic]) -> StoredImages:
    """Convert images (n, rows, columns) to a stack's type and measure them; values too large for it become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(images, dtype)
    single = np.asarray(values, np.float32).reshape(len(values), math.prod(values.shape[1:]))
    measured = np.empty((len(values), 4))
    _measure(single, measured)
    statistics = [Statistics(single.shape[1], *row) for row in measured.tolist()]
    finite = [math.isfinite(row.minimum) and math.isfinite(row.maximum) for row in statistics]
    return StoredImages(values, statistics, np.array(finite, bool), image_hashes(values))


@compiled
def _measure(images: NDArray[np.float32], measured: NDArray[np.float64]) -> None:
    """Minimum, maximum, mean and sum of squared deviations of each image (n, pixels); minimum and maximum are NaN where a value is not finite."""
    count = images.shape[1]
    for number in range(images.shape[0]):
        image = images[number]
        first = np.float64(image[0])
        smallest, largest = image[0], image[0]
        total, squares = 0.0, 0.0
        for place in range(count):
            value = image[place]
            smallest, largest = min(smallest, value), max(largest, value)
            deviation = np.float64(value) - first
            total += deviation
            squares += deviation * deviation
        shift = total / count
        measured[number, 0], measured[number, 1] = smallest, largest
        measured[number, 2], measured[number, 3] = first + shift, max(squares - count * shift * shift, 0.0)
        if not np.isfinite(total):
            measured[number, 0], measured[number, 1] = np.nan, np.nan


def image_hashes(values: NDArray[np.generic]) -> list[str]:
    """The CRC-32 (zlib's) of the bytes of each image of a contiguous stack (n, ...), as 8 hexadecimal digits."""
    return [f"{zlib_ng.crc32(image):08x}" for image in values]


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
