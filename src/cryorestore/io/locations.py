"""Where the images that a table names are: paths resolved, stacks opened, numbers checked, before any other work."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import Images, MrcStackReader
from cryorestore.io.stored import image_hashes

_LISTED_FAULTS = 20
_NOT_KNOWN = 2**62
"""Images of a stack that could not be opened"""


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
            If there is no image, a box is not square, or the boxes differ.
        """
        if not self.stacks:
            raise CryorestoreError("a table without particles has no box size; expected at least one particle")
        rows, columns = self.stacks[0].shape2d
        for stack in self.stacks:
            if stack.shape2d != (rows, columns) or rows != columns:
                found = f"{stack.path} has images of {stack.shape2d[1]} x {stack.shape2d[0]} pixels"
                raise CryorestoreError(
                    f"{found}, expected square boxes of one size ({self.stacks[0].path}: {columns} x {rows}); extract with one box_size"
                )
        return rows

    def read(self, rows: NDArray[np.int64], *, finite: bool = True) -> Images:
        """Read the images of some rows, float32 (k, box, box), in that order; each stack is read once, in its own order.

        `finite=False` returns NaN and infinite values as they are; otherwise they are an error.
        """
        file_id, index = self.file_id[rows], self.index[rows]
        if len(rows) and (file_id == file_id[0]).all():
            return self.stacks[int(file_id[0])].read(index, finite=finite)
        images = np.empty((len(rows), self.box_size, self.box_size), np.float32)
        for number in np.unique(file_id):
            here = np.flatnonzero(file_id == number)
            images[here] = self.stacks[number].read(index[here], finite=finite)
        return images

    def hashes(self, images: Images, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """CRC-32 of the bytes that each image has in its stack, from what `read` returned for these rows.

        The modes that can be read are float32, or go to float32 and back without loss.
        """
        hashes = np.empty(len(rows), np.uint32)
        file_id = self.file_id[rows]
        for number in np.unique(file_id):
            here = np.flatnonzero(file_id == number)
            chosen = images if len(here) == len(rows) else images[here]
            hashes[here] = [int(text, 16) for text in image_hashes(np.ascontiguousarray(chosen, self.stacks[number].dtype))]
        return hashes


def locate_images(names: Iterable[str], *, table: Path, project_root: Path | None) -> ImageLocations:
    """Find the images `number@stack` of a table's rows.

    Raises
    ------
    CryorestoreError
        If a name cannot be understood, stacks are missing or damaged (all are listed), or a number is not one of its stack's.
    """
    opened = _OpenedStacks(table, project_root)
    file_ids, numbers = array("q"), array("q")
    outside: list[str] = []
    for row, name in enumerate(names, 1):
        number, at, stack = name.partition("@")
        number, stack = (number, stack) if at else ("1", name)
        if not number.isdecimal() or not stack:
            raise CryorestoreError(
                f"{table}: row {row}: found rlnImageName {name!r}, expected number@stack such as 000001@particles.mrcs; mend that row"
            )
        place = opened.place(stack, row)
        file_ids.append(place)
        numbers.append(int(number))
        if not 1 <= int(number) <= opened.counts[place]:
            outside.append(f"row {row}: found rlnImageName {name}, expected a number from 1 to {opened.counts[place]}, as its stack {stack}")
    opened.raise_faults()
    if outside:
        raise CryorestoreError(f"{table}: {outside[0]} holds so many images and the first is 1 ({len(outside)} such rows); mend the numbers")
    return ImageLocations(opened.stacks, np.array(file_ids, np.int64), np.array(numbers, np.int64) - 1)


class _OpenedStacks:
    """The stacks of a table, opened when their name comes up first; what is wrong with any is said at the end, of all together."""

    def __init__(self, table: Path, project_root: Path | None) -> None:
        self.table, self.project_root = table, project_root
        self.stacks: list[MrcStackReader] = []
        self.counts: list[int] = []
        self._place_of: dict[str, int] = {}
        self._faults: list[str] = []

    def place(self, name: str, row: int) -> int:
        """Number of a stack from 0; `row` (from 1) names it."""
        place = self._place_of.setdefault(name, len(self.counts))
        if place == len(self.counts):
            self._open(name, row)
        return place

    def _open(self, name: str, row: int) -> None:
        try:
            self.stacks.append(MrcStackReader(resolve_path(name, table=self.table, row=row, project_root=self.project_root)))
            self.counts.append(self.stacks[-1].count)
        except CryorestoreError as fault:
            self._faults.append(str(fault))
            self.counts.append(_NOT_KNOWN)

    def raise_faults(self) -> None:
        """Fail if a stack is missing or damaged."""
        if self._faults:
            more = [f"... and {len(self._faults) - _LISTED_FAULTS} more"] if len(self._faults) > _LISTED_FAULTS else []
            raise CryorestoreError("\n".join([*self._faults[:_LISTED_FAULTS], *more]))


def resolve_path(name: str, *, table: Path, row: int, project_root: Path | None) -> Path:
    """Find a file that row `row` (1-based) of `table` names: from project_root, the current folder, the table's folder, then those above it.

    Raises
    ------
    CryorestoreError
        If it is in none of them; the message lists every place tried.
    """
    tried = _places(name, table=table, project_root=project_root)
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        places = ", ".join(str(path) for path in tried)
        raise CryorestoreError(f"{table}: row {row}: found {name!r}, expected a file; tried {places}; mend the name or set project_root")
    return found


def find_path(name: str, *, table: Path, project_root: Path | None) -> Path | None:
    """As `resolve_path`; None where there is no such file."""
    return next((path for path in _places(name, table=table, project_root=project_root) if path.is_file()), None)


def _places(name: str, *, table: Path, project_root: Path | None) -> list[Path]:
    folder = table.absolute().parent
    roots = [*([project_root] if project_root is not None else []), Path(), folder, *folder.parents]
    return [Path(name)] if Path(name).is_absolute() else list(dict.fromkeys(root / name for root in roots))
