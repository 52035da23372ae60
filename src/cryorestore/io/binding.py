"""What binds a row of a table to its image: a hash of the stored bytes, and the sign that they are read with."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.locations import ImageLocations
from cryorestore.io.mrc import Images
from cryorestore.io.star import StarBlock

IMAGE_HASH = "rlnCryorestoreImageHash"
"""CRC-32 of each image's bytes in its stack, 8 hexadecimal digits"""
BLOB_SIGN = "rlnCryorestoreBlobSign"
"""-1: the stored image is multiplied by it when it is read (cryoSPARC's blob/sign); absent: 1"""
_HASH = re.compile(r"[0-9a-f]{8}")


def stored_hashes(particles: StarBlock, *, table: Path) -> NDArray[np.uint32] | None:
    """The hashes that the rows were written with, shape (n,); None where there are none.

    Raises
    ------
    CryorestoreError
        If a cell is no hash.
    """
    if IMAGE_HASH not in particles:
        return None
    hashes = np.empty(len(particles), np.uint32)
    for row, (cell,) in enumerate(particles.cells(IMAGE_HASH)):
        if not _HASH.fullmatch(cell):
            raise CryorestoreError(
                f"{table}: row {row + 1}: found {IMAGE_HASH} {cell!r}, expected 8 hexadecimal digits; run the step that wrote it again"
            )
        hashes[row] = int(cell, 16)
    return hashes


def check_hashes(images: Images, rows: NDArray[np.int64], *, expected: NDArray[np.uint32], locations: ImageLocations, table: Path) -> None:
    """Compare images that were just read, those of `rows`, with the hashes of all rows.

    Raises
    ------
    CryorestoreError
        If an image is not the one that its row was written with.
    """
    found = locations.hashes(images, rows)
    wrong = np.flatnonzero(found != expected[rows])
    if not wrong.size:
        return
    first = int(wrong[0])
    row = int(rows[first])
    stack, number = locations.stacks[locations.file_id[row]].path, int(locations.index[row]) + 1
    raise CryorestoreError(
        f"{table}: row {row + 1}: image {number} of {stack} has the hash {found[first]:08x}, expected {expected[row]:08x} "
        f"({IMAGE_HASH}; {wrong.size} of {len(rows)} images read differ): the stack was replaced or rows were exchanged; "
        f"run the step that wrote them again, or take that column out if the change is meant"
    )


def blob_signs(particles: StarBlock, *, table: Path) -> NDArray[np.float32]:
    """What each stored image is multiplied by when it is read, 1 or -1, shape (n,).

    Raises
    ------
    CryorestoreError
        If a value is another one.
    """
    if BLOB_SIGN not in particles:
        return np.ones(len(particles), np.float32)
    signs = particles.floats(BLOB_SIGN)
    wrong = np.flatnonzero(np.abs(signs) != 1)
    if wrong.size:
        raise CryorestoreError(f"{table}: row {int(wrong[0]) + 1}: found {BLOB_SIGN} {signs[wrong[0]]:g}, expected 1 or -1; mend that row")
    return signs.astype(np.float32)
