"""A table of data sets: one row a data set, its columns the keys that differ from row to row."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cryorestore.config.problems import refuse
from cryorestore.errors import CryorestoreError

NAME, LIKE = "dataset", "like"


@dataclass(frozen=True)
class Row:
    """One data set of the table: where it stands, whose dataset file it starts from, and what it changes."""

    place: str
    like: str
    changes: dict[str, Any]


def read_table(path: Path, *, shown: str) -> dict[str, Row]:
    """Read the data sets of a tab-separated table, in its order.

    Parameters
    ----------
    path
        Its columns: `dataset` (the name); `like` (a dataset file to start from; empty or absent: the one of that name); any other is a key with
        dots, such as `input.particles_star`. Cells are read as YAML, an empty one changes nothing. Lines that begin with # are left out.
    shown
        The name that messages call it by.

    Raises
    ------
    CryorestoreError
        If it cannot be read, has no row, no column `dataset`, a column twice, a row of another length, or a name twice or missing: each with its row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = [
                (number, cells) for number, cells in enumerate(csv.reader(stream, delimiter="\t"), start=1) if cells and not cells[0].startswith("#")
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CryorestoreError(f"datasets_table = {shown}: cannot be read as a tab-separated table ({error}); mend the file") from error
    if len(lines) < 2:
        raise CryorestoreError(f"{shown}: found {len(lines)} rows, expected names of columns and below them one row a data set; see docs/datasets.md")
    columns = [name.strip() for name in lines[0][1]]
    _check_columns(columns, shown)
    rows: dict[str, Row] = {}
    refused: list[str] = []
    for number, cells in lines[1:]:
        place = f"{shown}, row {number}"
        name = cells[columns.index(NAME)].strip() if len(cells) == len(columns) else ""
        if len(cells) != len(columns):
            refused.append(
                f"{place}: {len(cells)} cells: as many as there are columns, {len(columns)}, parted by tabs; an empty cell changes nothing"
            )
        elif not name:
            refused.append(f"{place}: dataset is empty: the name of a data set")
        elif name in rows:
            refused.append(f"{place}: dataset = {name!r}: each name once; it stands in {rows[name].place.rpartition(', ')[2]}, too")
        else:
            try:
                rows[name] = _row(place, dict(zip(columns, (cell.strip() for cell in cells), strict=True)))
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                refused.append(f"{place}: a cell cannot be read as YAML ({error})")
    refuse(refused)
    return rows


def _check_columns(columns: list[str], shown: str) -> None:
    if NAME not in columns:
        raise CryorestoreError(
            f"{shown}: found the columns {', '.join(columns)}, expected {NAME} among them, parted by tabs; name the first row's columns"
        )
    for name in columns:
        if not name or columns.count(name) > 1:
            raise CryorestoreError(f"{shown}: column {name!r}: expected a name, and each once; remove or rename one")
        inside = next((other for other in columns if other.startswith(f"{name}.")), None)
        if inside:
            raise CryorestoreError(f"{shown}: columns {name} and {inside}: the second is part of the first, expected one of them; remove one")


def _row(place: str, cells: dict[str, str]) -> Row:
    name = cells.pop(NAME)
    like = cells.pop(LIKE, "") or name
    changes: dict[str, Any] = {}
    for key, cell in cells.items():
        if cell:
            *parents, last = key.split(".")
            level = changes
            for parent in parents:
                level = level.setdefault(parent, {})
            level[last] = yaml.safe_load(cell)
    return Row(place, like, changes)
