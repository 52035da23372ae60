"""Both halves' restored particles as one table, in the order that they came in."""

from heapq import merge
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together
from cryorestore.io.packed import PackedLines, pack_lines
from cryorestore.io.star import StarBlock
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import particle_uids, write_particles_cs
from cryorestore.restore import ROW_COLUMN

_IDENTITY = (
    *("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnDefocusU"),
    *("rlnImageOriginalName", "rlnCryorestoreUid", "rlnOpticsGroup"),
)
"""Columns that say which particle a row is"""


@files_together()
def join_particles(
    *,
    half1_star: str | Path,
    half2_star: str | Path,
    source_star: str | Path,
    joined_star: str | Path,
    joined_cs: str | Path | None = None,
) -> None:
    """Join the restored particles of both halves in the order of the table they came from.

    Parameters
    ----------
    half1_star, half2_star
        Restored particles, each with rlnCryorestoreRow, its row in `source_star`.
    source_star
        The table that was split.
    joined_star
        Output: what RELION reads.
    joined_cs
        Output, where given: the same for cryoSPARC.

    Raises
    ------
    CryorestoreError
        If a row stands in both halves or in none of the source's rows, the halves' columns or optics groups differ, or an image's name or
        micrograph does not agree with the row it claims.
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
    if halves[0].particles.columns != halves[1].particles.columns or halves[0].optics.columns != halves[1].optics.columns:
        raise CryorestoreError(f"{half1_star} and {half2_star} have different columns; restore both halves with the same configuration")
    if halves[0].optics.lines != halves[1].optics.lines:
        raise CryorestoreError(f"{half1_star} and {half2_star} have different optics groups, expected those of {source_star}; restore both again")
    block = StarBlock(halves[0].particles.columns, _in_order(halves, rows), str(joined_star))
    joined = ParticleTable(block, halves[0].optics, Path(joined_star))
    joined.write(joined_star)
    if joined_cs is not None:
        write_particles_cs(joined_cs, joined, uids=particle_uids(source)[np.sort(together)])


def _in_order(halves: list[ParticleTable], rows: list[NDArray[np.int64]]) -> PackedLines:
    """The lines of both tables by their row in the source, with little memory where each half is in order already."""
    sorted_lines = []
    for half, here in zip(halves, rows, strict=True):
        order = np.argsort(here, kind="stable")
        sorted_lines.append(zip(here[order].tolist(), half.particles.take(order).lines, strict=True))
    return pack_lines(line for _, line in merge(*sorted_lines))


def _check_identity(path: str | Path, half: ParticleTable, rows: NDArray[np.int64], source: ParticleTable, source_star: str | Path) -> None:
    wrong = rows[(rows < 0) | (rows >= len(source))]
    if wrong.size:
        raise CryorestoreError(f"{path}: found {ROW_COLUMN} {wrong[0]}, expected 0 to {len(source) - 1}, the rows of {source_star}; split again")
    names = [name for name in _IDENTITY if name in half.particles and name in source.particles]
    claimed = source.take(rows).particles.cells(*names)
    for place, (found, expected) in enumerate(zip(half.particles.cells(*names), claimed, strict=True)):
        if found != expected:
            name, cell, other = next(trio for trio in zip(names, found, expected, strict=True) if trio[1] != trio[2])
            raise CryorestoreError(
                f"{path}: row {place + 1}: found {name} {cell}, expected {other} (row {rows[place] + 1} of {source_star}); "
                "the two tables do not belong together: run the split and the restoration again"
            )
