"""Where the images that a table names are: paths resolved, stacks opened, numbers checked, before any other work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import MrcStackReader

_LISTED_FAULTS = 20


@dataclass(frozen=True)
class ImageLocations:
    """The stacks, each image's stack in that list (n,) and its 0-based number there (n,)."""

    stacks: list[MrcStackReader]
    file_id: NDArray[np.int64]
    index: NDArray[np.int64]

    @property
    def box_size(self) -> int:
        """Pixels along each side.

        Raises
        ------
        CryorestoreError
            If there is no stack, a box is not square, or the boxes differ.
        """
        if not self.stacks:
            raise CryorestoreError("the table has no rows, expected at least one particle image")
        rows, columns = self.stacks[0].shape2d
        for stack in self.stacks:
            if stack.shape2d != (rows, columns) or rows != columns:
                found = f"{stack.path} has images of {stack.shape2d[1]} x {stack.shape2d[0]} pixels"
                raise CryorestoreError(
                    f"{found}, expected square boxes of one size ({self.stacks[0].path}: {columns} x {rows}); extract with one box_size"
                )
        return rows


def locate_images(names: Sequence[str], *, table: Path, project_root: Path | None) -> ImageLocations:
    """Find the images `number@stack` of a table's rows.

    Raises
    ------
    CryorestoreError
        If a name cannot be understood, stacks are missing or damaged (all are listed), or a number is not one of its stack's.
    """
    first_row: dict[str, int] = {}
    file_id, numbers = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    stack_of: dict[str, int] = {}
    for row, name in enumerate(names):
        number, at, stack = name.partition("@")
        number, stack = (number, stack) if at else ("1", name)
        if not number.isdecimal() or not stack:
            raise CryorestoreError(
                f"{table}: row {row + 1}: found rlnImageName {name!r}, expected number@stack such as 000001@particles.mrcs; mend that row"
            )
        file_id[row] = stack_of.setdefault(stack, len(stack_of))
        numbers[row] = int(number)
        first_row.setdefault(stack, row + 1)
    stacks = _open_stacks(first_row, table=table, project_root=project_root)
    counts = np.array([stack.count for stack in stacks], dtype=np.int64)
    wrong = np.flatnonzero((numbers < 1) | (numbers > counts[file_id])) if len(names) else np.empty(0, np.int64)
    if wrong.size:
        row = int(wrong[0])
        raise CryorestoreError(
            f"{table}: row {row + 1}: found rlnImageName {names[row]}, expected a number from 1 to {counts[file_id[row]]}, as its stack "
            f"{stacks[file_id[row]].path} holds {counts[file_id[row]]} images and the first is 1 ({wrong.size} such rows); mend the numbers"
        )
    return ImageLocations(stacks, file_id, numbers - 1)


def _open_stacks(first_row: dict[str, int], *, table: Path, project_root: Path | None) -> list[MrcStackReader]:
    stacks, faults = [], []
    for name, row in first_row.items():
        try:
            stacks.append(MrcStackReader(resolve_path(name, table=table, row=row, project_root=project_root)))
        except CryorestoreError as fault:
            faults.append(str(fault))
    if faults:
        more = [f"... and {len(faults) - _LISTED_FAULTS} more"] if len(faults) > _LISTED_FAULTS else []
        raise CryorestoreError("\n".join([*faults[:_LISTED_FAULTS], *more]))
    return stacks


def resolve_path(name: str, *, table: Path, row: int, project_root: Path | None) -> Path:
    """Find a file that row `row` (1-based) of `table` names: from project_root, the current folder, the table's folder, then those above it.

    Raises
    ------
    CryorestoreError
        If it is in none of them; the message lists every place tried.
    """
    folder = table.absolute().parent
    roots = [*([project_root] if project_root is not None else []), Path(), folder, *folder.parents]
    tried = [Path(name)] if Path(name).is_absolute() else list(dict.fromkeys(root / name for root in roots))
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        places = ", ".join(str(path) for path in tried)
        raise CryorestoreError(f"{table}: row {row}: found {name!r}, expected a file; tried {places}; mend the name or set project_root")
    return found
