"""Particle picks of one micrograph: STAR, EMAN .box or plain text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.file_form import require_regular_file
from cryorestore.io.star import StarBlock, read_star

FIGURE_OF_MERIT = "rlnAutopickFigureOfMerit"


@dataclass(frozen=True)
class Coordinates:
    """Centres of n picks, px of the micrograph: x = column and y = row, counted from 0 at the first row of the file."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    figure_of_merit: NDArray[np.float64] | None
    """rlnAutopickFigureOfMerit, None where the file has none"""
    columns: StarBlock | None
    """the whole table, where the file is a STAR file"""

    def __len__(self) -> int:
        return len(self.x)


def read_coordinates(path: str | Path) -> Coordinates:
    """Read picks; the ending tells the form: `.star`, `.box` (corner and size: the centre is corner + size / 2), else text `x y`.

    A file without picks is no error.

    Raises
    ------
    CryorestoreError
        If the file is missing or a row cannot be understood.
    """
    path = Path(path)
    if path.suffix == ".star":
        return _read_star_picks(path)
    needed = 4 if path.suffix == ".box" else 2
    rows = _read_numbers(path, needed)
    centres = rows[:, :2] + rows[:, 2:4] / 2 if path.suffix == ".box" else rows
    return Coordinates(centres[:, 0], centres[:, 1], None, None)


def _read_star_picks(path: Path) -> Coordinates:
    blocks = list(read_star(path).blocks.values())
    block = next((block for block in blocks if "rlnCoordinateX" in block), blocks[0])
    if not len(block):
        return Coordinates(np.zeros(0), np.zeros(0), None, block if "rlnCoordinateX" in block else None)
    merit = block.floats(FIGURE_OF_MERIT) if FIGURE_OF_MERIT in block else None
    x, y = block.floats("rlnCoordinateX"), block.floats("rlnCoordinateY")
    wrong = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    if wrong.size:
        raise CryorestoreError(f"{path}: row {int(wrong[0]) + 1}: found a coordinate that is not finite, expected pixels; mend that row")
    return Coordinates(x, y, merit, block)


def _read_numbers(path: Path, needed: int) -> NDArray[np.float64]:
    require_regular_file(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CryorestoreError(f"{path}: cannot be read as text ({error}); check the path") from error
    rows = []
    for number, line in enumerate(lines, 1):
        cells = line.replace(",", " ").split()
        if not cells or cells[0].startswith("#") or (number == 1 and _is_heading(cells[:needed])):
            continue
        try:
            row = [float(cell) for cell in cells[:needed]]
        except ValueError:
            row = []
        if len(row) < needed or not np.isfinite(row).all():
            raise CryorestoreError(f"{path}: line {number}: found {line[:60]!r}, expected {needed} numbers; mend that line")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, needed)


def _is_heading(cells: list[str]) -> bool:
    """Whether no cell is a number, as in `x y`: the first line may name the columns, in RELION too."""
    for cell in cells:
        try:
            float(cell)
        except ValueError:
            continue
        return False
    return True
