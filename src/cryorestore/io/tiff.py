"""TIFF images of grey values, turned over as RELION reads them. Imported where there is one: tifffile is not in every environment."""

import math
from pathlib import Path
from struct import error as StructError

import numpy as np
import tifffile
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.file_form import require_regular_file

_FAULTS = (tifffile.TiffFileError, ValueError, TypeError, LookupError, ArithmeticError, StructError, OSError, RuntimeError)
"""What tifffile raises where tags are damaged"""
MOST_PACKED = 1500
"""Bytes that one packed byte may stand for: deflate reaches 1032 at most, and a micrograph packs to about half"""


def read_tiff_shape(path: Path) -> tuple[int, tuple[int, int]]:
    """Number of images, and rows and columns of the first.

    Raises
    ------
    CryorestoreError
        If the file is damaged or cut short, or holds colours.
    """
    require_regular_file(path)
    try:
        with tifffile.TiffFile(path) as file:
            count, page = len(file.pages), file.pages.first
            shape, kind, size = tuple(map(int, page.shape)), page.dtype, file.filehandle.size
            end = max(offset + length for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True))
    except _FAULTS as error:
        raise CryorestoreError(f"{path}: cannot be read as TIFF ({error}); check the path, copy the file again") from error
    if kind is None or kind.kind not in "iuf" or len(shape) != 2:
        raise CryorestoreError(f"{path}: found a TIFF of {kind} values and shape {shape}, expected grey values (rows, columns); write it so")
    if end > size:
        raise CryorestoreError(f"{path}: found {size} bytes, expected {end} from its tags; the file is cut short, copy it again")
    pixels = math.prod(shape) * kind.itemsize
    if pixels > MOST_PACKED * size:
        raise CryorestoreError(
            f"{path}: found {size} bytes, which cannot hold the {pixels} of an image of shape {shape}; its tags are damaged, copy it again"
        )
    return count, (shape[0], shape[1])


def read_tiff_pixels(path: Path, shape: tuple[int, int]) -> NDArray[np.generic]:
    """The image (y, x) in the file's own type. RELION takes the last row of a TIFF for its first; coordinates and poses count on it.

    Raises
    ------
    CryorestoreError
        If it cannot be decompressed, or has another shape.
    """
    try:
        values = np.asarray(tifffile.imread(path, key=0))
    except _FAULTS as error:
        raise CryorestoreError(f"{path}: cannot be read ({error}); convert it to .mrc with relion_image_handler") from error
    if values.shape != shape:
        raise CryorestoreError(f"{path}: found an image of shape {values.shape}, expected {shape}; the file was changed meanwhile")
    return values[::-1]
