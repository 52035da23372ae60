"""The coordinate files of micrographs: which belongs to which, and the picks in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.coordinates import read_coordinates
from cryorestore.io.star import StarBlock
from cryorestore.logs import get_logger
from cryorestore.micrographs import MicrographTable

COORDINATE_SUFFIXES = (".star", ".box", ".txt")


def listed_files(coordinates: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files in a folder, those that a pattern finds, or those given."""
    if isinstance(coordinates, str | Path):
        folder = Path(coordinates)
        if not folder.is_dir():
            return sorted(folder.parent.glob(folder.name)) or [folder]
        return sorted(path for path in folder.iterdir() if path.suffix in COORDINATE_SUFFIXES and not path.name.startswith("."))
    return [Path(path) for path in coordinates]


def match_files(paths: Sequence[Path], table: MicrographTable) -> dict[str, Path]:
    """Give each coordinate file to the micrograph whose stem its name begins with (the longest such stem, up to a sign that is no letter or digit).

    Raises
    ------
    CryorestoreError
        If two files belong to one micrograph, or no file to any.
    """
    stems, found = {micrograph.stem for micrograph in table.micrographs}, dict[str, Path]()
    strange = list[Path]()
    for path in paths:
        ends = (end for end in range(len(path.name), 0, -1) if end == len(path.name) or not path.name[end].isalnum())
        stem = next((path.name[:end] for end in ends if path.name[:end] in stems), None)
        if stem is None:
            strange.append(path)
        elif stem in found:
            raise CryorestoreError(f"{path}: belongs to micrograph {stem}, as does {found[stem]}; expected one coordinate file each; remove one")
        else:
            found[stem] = path
    if not found:
        listed = ", ".join(str(path) for path in paths[:3]) or "none"
        raise CryorestoreError(
            f"{table.path}: no coordinate file belongs to its micrographs (found {listed}), so there are 0 particles to extract; "
            f"expected names like {table.micrographs[0].stem}_picks.star; check coordinates"
        )
    if strange:
        get_logger().warning("%d of %d coordinate files belong to no micrograph of %s (first: %s)", len(strange), len(paths), table.path, strange[0])
    return found


def read_picks(path: Path, threshold: float | None) -> tuple[StarBlock, NDArray[np.float64], NDArray[np.int64]]:
    """The picks above the threshold as a table, their places (n, 2), px, and their rows in the file, from 1."""
    found = read_coordinates(path)
    keep = np.ones(len(found.x), bool)
    if threshold is not None and len(found):
        if found.figure_of_merit is None:
            raise CryorestoreError(f"{path}: has no figure of merit, expected one as figure_of_merit_threshold is set; set it to null")
        keep = found.figure_of_merit > threshold
    rows = found.columns
    if rows is None:
        columns = {"rlnCoordinateX": with_every_digit(found.x), "rlnCoordinateY": with_every_digit(found.y)}
        rows = StarBlock.from_columns(columns, source=str(path))
    return rows if keep.all() else rows.take(keep), np.stack([found.x, found.y], 1)[keep], np.flatnonzero(keep) + 1


def with_every_digit(values: NDArray[np.float64]) -> list[str]:
    """Numbers as text with every digit: places a millionth of a pixel apart stay apart."""
    return [repr(value) for value in values.tolist()]
