"""Single images as files: .mrc of every mode in use, and .tif, whose rows RELION turns over."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import MrcLayout, read_layout

TIFF_SUFFIXES = (".tif", ".tiff")
MICROGRAPH_SUFFIXES = (".mrc", *TIFF_SUFFIXES)


@dataclass(frozen=True)
class MicrographFile:
    """A file with one image of `shape` (rows, columns)."""

    path: Path
    shape: tuple[int, int]
    layout: MrcLayout | None
    """None: a TIFF file"""

    def pixels(self) -> NDArray[np.generic]:
        """The image (y, x) in the file's own type, read in one go; row 0 is the one at which coordinates count from 0.

        Raises
        ------
        CryorestoreError
            If it cannot be read whole.
        """
        if self.layout is None:
            from cryorestore.io.tiff import read_tiff_pixels

            return read_tiff_pixels(self.path, self.shape)
        rows, columns = self.shape
        values = np.fromfile(self.path, self.layout.dtype, rows * columns, offset=self.layout.offset)
        if len(values) != rows * columns:
            raise CryorestoreError(f"{self.path}: found {len(values)} pixels, expected {columns} x {rows}; the file was changed meanwhile")
        return values.reshape(self.shape)


def inspect_micrograph(path: str | Path) -> MicrographFile:
    """Look at a file's header.

    Raises
    ------
    CryorestoreError
        If it is damaged, or holds a movie, a volume or colours instead of one image.
    """
    path = Path(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        from cryorestore.io.tiff import read_tiff_shape

        count, shape = read_tiff_shape(path)
        _refuse_several(path, count)
        return MicrographFile(path, shape, None)
    layout = read_layout(path)
    _refuse_several(path, layout.shape[0])
    return MicrographFile(path, layout.shape[1:], layout)


def _refuse_several(path: Path, count: int) -> None:
    if count != 1:
        raise CryorestoreError(f"{path}: found {count} images, expected one micrograph, no movie, volume or stack; sum the movie first")
