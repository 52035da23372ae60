"""Micrographs: their table, files, shapes and pixel size."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.locations import resolve_path
from cryorestore.io.micrograph_file import MICROGRAPH_SUFFIXES, MicrographFile, inspect_micrograph
from cryorestore.io.relion import to_relion_31
from cryorestore.io.star import StarBlock, read_star

_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize")
_LISTED_FAULTS = 20
_READERS = 8
"""headers looked at together: on a shared file system it is the waiting that takes the time"""


@dataclass(frozen=True)
class Micrograph:
    """One micrograph: its name as written, and its file."""

    name: str
    file: MicrographFile

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, px."""
        return self.file.shape

    @property
    def stem(self) -> str:
        """The name without folder and suffix: how coordinate files and particles refer to it."""
        return Path(self.name).stem


@dataclass(frozen=True)
class MicrographTable:
    """All micrographs, their columns (one row each) and optics groups."""

    micrographs: list[Micrograph]
    rows: StarBlock
    optics: StarBlock
    path: Path
    pixel_size: float | None
    """angstrom, as set by the user; None: as the optics table says"""

    def pixel_sizes(self, groups: Sequence[str], particle_optics: StarBlock | None) -> NDArray[np.float64]:
        """The micrographs' pixel size (angstrom) for each optics group: as set, else from this table, else from the particles'.

        Raises
        ------
        CryorestoreError
            If none of them has it.
        """
        if self.pixel_size is not None:
            return np.full(len(groups), float(self.pixel_size))
        for optics, names in ((self.optics, _PIXEL_SIZES), (particle_optics, _PIXEL_SIZES[:2])):
            name = next((name for name in names if optics is not None and name in optics), None)
            if optics is None or name is None:
                continue
            values = dict(zip(optics.column("rlnOpticsGroup"), optics.floats(name).tolist(), strict=True))
            only = next(iter(values.values())) if len(set(values.values())) == 1 else None
            found = [values.get(group, only) for group in groups]
            if None not in found:
                return np.array(found, float)
        raise CryorestoreError(
            f"{self.path}: no pixel size of the micrographs, expected column _{_PIXEL_SIZES[0]} in data_optics; add it or set pixel_size (angstrom)"
        )


def read_micrographs(path: str | Path, *, pixel_size: float | None) -> MicrographTable:
    """Read a micrograph table (RELION 3.0 or newer), or make one of a micrograph (.mrc, .tif) or a folder of them; every header is looked at.

    Raises
    ------
    CryorestoreError
        If the table is wrong, two micrographs have one name, or files are missing or damaged (all are listed).
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in MICROGRAPH_SUFFIXES:
        files = sorted(file for file in path.glob("[!.]*") if file.suffix.lower() in MICROGRAPH_SUFFIXES) if path.is_dir() else [path]
        names = [file.as_posix() for file in files]
        rows = StarBlock.from_columns({"rlnMicrographName": names, "rlnOpticsGroup": ["1"] * len(names)}, source=str(path))
        optics = StarBlock.from_columns({"rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": ["1"]}, source=str(path))
    else:
        rows, optics = to_relion_31(read_star(path), pixel_size=None)
        names = rows.column("rlnMicrographName")
    with ThreadPoolExecutor(_READERS) as pool:
        inspected = list(pool.map(lambda row: _inspected(path, row, names[row - 1]), range(1, len(names) + 1)))
    micrographs = [found for found in inspected if isinstance(found, Micrograph)]
    faults = [str(found) for found in inspected if isinstance(found, CryorestoreError)]
    stems = [micrograph.stem for micrograph in micrographs]
    twice = sorted(stem for stem, count in Counter(stems).items() if count > 1)
    faults += [f"{path}: two micrographs are called {stem}, expected different names; rename one" for stem in twice]
    if faults or not names:
        raise CryorestoreError("\n".join(faults[:_LISTED_FAULTS]) or f"{path}: found no micrograph, expected at least one; check the path")
    return MicrographTable(micrographs, rows, optics, path, pixel_size)


def _inspected(table: Path, row: int, name: str) -> Micrograph | CryorestoreError:
    try:
        return Micrograph(name, inspect_micrograph(resolve_path(name, table=table, row=row, project_root=None)))
    except CryorestoreError as fault:
        return fault
