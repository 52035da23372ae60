"""Both halves' restored particles as one table, in the order that they came in."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.particles import ParticleTable
from cryorestore.restore import ROW_COLUMN


def join_particles(*, half1_star: str | Path, half2_star: str | Path, source_star: str | Path, joined_star: str | Path) -> None:
    """Join the restored particles of both halves in the order of the table they came from.

    Parameters
    ----------
    half1_star, half2_star
        Restored particles, each with rlnCryorestoreRow, its row in `source_star`.
    source_star
        The table that was split.
    joined_star
        Output: what RELION or cryoSPARC reads.

    Raises
    ------
    CryorestoreError
        If a row stands in both halves, or an image's name or micrograph does not agree with the row it claims.
    """
    halves = [ParticleTable.read(path) for path in (half1_star, half2_star)]
    source = ParticleTable.read(source_star)
    rows = [half.particles.ints(ROW_COLUMN) for half in halves]
    together = np.concatenate(rows)
    if len(np.unique(together)) != len(together):
        raise CryorestoreError(
            f"{half1_star} and {half2_star} share rows of {source_star}, expected each particle in one half; split the particles again"
        )
    for path, half, here in zip((half1_star, half2_star), halves, rows, strict=True):
        _check_identity(path, half, here, source, source_star)
    if halves[0].particles.columns != halves[1].particles.columns:
        raise CryorestoreError(f"{half1_star} and {half2_star} have different columns; restore both halves with the same configuration")
    order = np.argsort(together, kind="stable")
    lines = [line for half in halves for line in half.particles.lines]
    block = type(source.particles)(halves[0].particles.columns, [lines[place] for place in order])
    joined = ParticleTable(block, halves[0].optics, Path(joined_star))
    joined.write(joined_star)


def _check_identity(path: str | Path, half: ParticleTable, rows: NDArray[np.int64], source: ParticleTable, source_star: str | Path) -> None:
    for name in ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnDefocusU"):
        if name not in half.particles or name not in source.particles:
            continue
        expected = source.particles.column(name)
        for place, (row, found) in enumerate(zip(rows.tolist(), half.particles.column(name), strict=True)):
            if expected[row] != found:
                raise CryorestoreError(
                    f"{path}: row {place + 1}: found {name} {found}, expected {expected[row]} (row {row + 1} of {source_star}); "
                    "the two tables do not belong together: run the split and the restoration again"
                )
