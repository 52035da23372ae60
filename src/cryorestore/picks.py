"""Which boxes are to be cut: the picks of each micrograph, with the poses and the CTF that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryorestore.errors import CryorestoreError
from cryorestore.io.coordinates import read_coordinates
from cryorestore.io.relion import ANGLES
from cryorestore.io.star import StarBlock
from cryorestore.logs import get_logger
from cryorestore.micrographs import MicrographTable
from cryorestore.particles import ParticleTable

HAS_POSE = "rlnCryorestoreHasPose"
COORDINATE_SUFFIXES = (".star", ".box", ".txt")
MATCH_TOLERANCE = 0.01
"""px, along each axis, between a pick and its row in the particle table"""
_X, _Y = "rlnCoordinateX", "rlnCoordinateY"
_OF_THE_PICK = ("rlnImageName", "rlnMicrographName", _X, _Y)
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
_POSES = (*ANGLES, *_ORIGINS)
_CTF = (
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"),
    *("rlnCtfMaxResolution", "rlnCtfFigureOfMerit"),
)


@dataclass(frozen=True)
class PickTable:
    """One row a pick, grouped by micrograph."""

    rows: StarBlock
    """all that is to be written but the image's name"""
    optics: StarBlock
    centres: NDArray[np.float64]
    """(n, 2), x and y, px"""
    micrograph_numbers: NDArray[np.int64]
    """(n,), rising"""
    row_numbers: NDArray[np.int64]
    """(n,), row in its coordinate file (or in the particle table), from 1"""
    reasons: list[str]
    """why a pick is rejected; "" where it is not"""
    pixel_sizes: NDArray[np.float64]
    """of the micrographs, angstrom, one a row of `optics`"""

    @property
    def pixel_size(self) -> float:
        """The first optics group's, for the header of the stack."""
        return float(self.pixel_sizes[0])

    def rows_of(self, micrograph_number: int) -> NDArray[np.int64]:
        """Rows of one micrograph."""
        begin, end = np.searchsorted(self.micrograph_numbers, [micrograph_number, micrograph_number + 1])
        return np.arange(begin, end)


def join_picks(
    table: MicrographTable,
    *,
    coordinates: str | Path | Sequence[str | Path] | None,
    particles_star: str | Path | None,
    figure_of_merit_threshold: float | None,
    recentre: bool,
) -> PickTable:
    """Gather the picks of every micrograph with their CTF and, where the particle table has them, poses; see `extract.extract_particles`.

    Raises
    ------
    CryorestoreError
        If neither coordinates nor particles are given, or a file does not fit the micrographs.
    """
    particles = None if particles_star is None else ParticleTable.read(particles_star)
    if coordinates is None and particles is None:
        raise CryorestoreError("neither coordinates nor particles_star is given, expected at least one; set coordinates to a folder of picks")
    rows_by_stem = _rows_by_stem(table, particles)
    files = {} if coordinates is None else match_files(_listed(coordinates), table)
    joiner = _Joiner(table, particles)
    parts: list[_Part] = []
    for number, micrograph in enumerate(table.micrographs):
        candidates = rows_by_stem.get(micrograph.stem, np.empty(0, np.int64))
        if coordinates is None:
            assert particles is not None
            parts.append(_Part(number, particles.particles.take(candidates), candidates, candidates + 1))
        elif micrograph.stem in files:
            picks, numbers = _read_picks(files[micrograph.stem], figure_of_merit_threshold)
            parts.append(_Part(number, picks, joiner.match(picks, candidates), numbers))
    _say_empty(table, parts)
    return joiner.finish([part for part in parts if len(part.picks)], recentre)


def _listed(coordinates: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(coordinates, str | Path):
        folder = Path(coordinates)
        if not folder.is_dir():
            return [folder]
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


def _read_picks(path: Path, threshold: float | None) -> tuple[StarBlock, NDArray[np.int64]]:
    """The picks above the threshold as a table, and their rows in the file, from 1."""
    found = read_coordinates(path)
    keep = np.ones(len(found.x), bool)
    if threshold is not None and len(found):
        if found.figure_of_merit is None:
            raise CryorestoreError(f"{path}: has no figure of merit, expected one as figure_of_merit_threshold is set; set it to null")
        keep = found.figure_of_merit > threshold
    rows = found.columns if found.columns is not None else StarBlock.from_columns({_X: _digits(found.x), _Y: _digits(found.y)}, source=str(path))
    return rows.take(keep), np.flatnonzero(keep) + 1


def _rows_by_stem(table: MicrographTable, particles: ParticleTable | None) -> dict[str, NDArray[np.int64]]:
    if particles is None:
        return {}
    stems = np.array([Path(name).stem for name in particles.micrograph_names()])
    known = np.isin(stems, [micrograph.stem for micrograph in table.micrographs])
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        first = f"first: row {row + 1}, {stems[row]}"
        message = f"{particles.path}: {int((~known).sum())} of {len(known)} particles are on micrographs that {table.path} lacks ({first})"
        if not known.any():
            raise CryorestoreError(f"{message}; expected at least some on its micrographs; check that the two tables belong together")
        get_logger().warning("%s; they are left out", message)
    order = np.argsort(stems, kind="stable")
    names, begins = np.unique(stems[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, begins[1:]), strict=True))


def _say_empty(table: MicrographTable, parts: Sequence["_Part"]) -> None:
    filled = {part.micrograph_number for part in parts if len(part.picks)}
    empty = [micrograph.stem for number, micrograph in enumerate(table.micrographs) if number not in filled]
    if empty:
        listed = [*empty[:10], "..."] if len(empty) > 10 else empty
        verb = "has" if len(empty) == 1 else "have"
        get_logger().warning("%d of %d micrographs %s no picks: %s", len(empty), len(table.micrographs), verb, ", ".join(listed))


@dataclass(frozen=True)
class _Part:
    """The picks of one micrograph; `matches` (n,) are rows of the particle table, -1 where there is none."""

    micrograph_number: int
    picks: StarBlock
    matches: NDArray[np.int64]
    row_numbers: NDArray[np.int64]


class _Joiner:
    """Writes the rows of picks: cells of the particle table where a pick has a row there, else of the micrograph and of the pick."""

    def __init__(self, table: MicrographTable, particles: ParticleTable | None) -> None:
        self._table, self._particles = table, particles
        self._optics = table.optics if particles is None else particles.optics
        self._cells: dict[str, NDArray[np.object_]] = {}
        if particles is not None:
            rows = particles.particles
            self._cells = {name: np.array(rows.column(name), dtype=object) for name in rows.columns if name not in _OF_THE_PICK}
            if "rlnImageName" in rows:
                self._cells.setdefault("rlnImageOriginalName", np.array(rows.column("rlnImageName"), dtype=object))
            self._places = np.stack([particles.particles.floats(name) for name in (_X, _Y)], 1)
            self._has_pose = particles.has_poses
        self._micrograph_cells = {name: table.rows.column(name) for name in (*_CTF, "rlnOpticsGroup") if name in table.rows}

    def match(self, picks: StarBlock, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """The particle row of each pick: the nearest, if within the tolerance; -1 without."""
        if not len(candidates) or not len(picks):
            return np.full(len(picks), -1)
        places = np.stack([picks.floats(name) for name in (_X, _Y)], 1)
        distance, nearest = cKDTree(self._places[candidates]).query(places, p=np.inf)
        return np.where(distance <= MATCH_TOLERANCE, candidates[nearest], -1)

    def finish(self, parts: Sequence[_Part], recentre: bool) -> PickTable:
        """Put the parts together."""
        if not parts:
            raise CryorestoreError(f"{self._table.path}: 0 particles to extract, expected picks on at least one micrograph; check coordinates")
        groups = self._optics.column("rlnOpticsGroup")
        pixel_sizes = self._table.pixel_sizes(groups, None if self._particles is None else self._optics)
        shared = [name for name in parts[0].picks.columns if all(name in part.picks for part in parts)]
        blocks = [self._rows(part, [name for name in shared if name not in _OF_THE_PICK]) for part in parts]
        rows = StarBlock(blocks[0].columns, [line for block in blocks for line in block.lines], str(self._table.path))
        matches = np.concatenate([part.matches for part in parts])
        if self._particles is not None:
            get_logger().info("%d of %d picks have a row in %s", int((matches >= 0).sum()), len(matches), self._particles.path)
        unknown = sorted(set(rows.column("rlnOpticsGroup")) - set(groups))
        if unknown:
            raise CryorestoreError(
                f"{self._table.path}: found rlnOpticsGroup {unknown[0]}, expected one of the particle table's {groups}; add that group there"
            )
        if recentre:
            rows = _recentred(rows, dict(zip(groups, pixel_sizes.tolist(), strict=True)))
        return PickTable(
            rows=rows,
            optics=self._optics,
            centres=np.stack([rows.floats(_X), rows.floats(_Y)], 1),
            micrograph_numbers=np.repeat([part.micrograph_number for part in parts], [len(part.picks) for part in parts]),
            row_numbers=np.concatenate([part.row_numbers for part in parts]),
            reasons=self._reasons(matches),
            pixel_sizes=pixel_sizes,
        )

    def _reasons(self, matches: NDArray[np.int64]) -> list[str]:
        lacking = "rlnDefocusU" in self._cells and "rlnDefocusU" not in self._micrograph_cells
        reason = "no CTF: no row in the particle table, and the micrograph table has no rlnDefocusU"
        return [reason if lacking and match < 0 else "" for match in matches.tolist()]

    def _rows(self, part: _Part, pick_names: Sequence[str]) -> StarBlock:
        micrograph, count = self._table.micrographs[part.micrograph_number], len(part.picks)
        columns: dict[str, Sequence[str] | NDArray[np.generic]] = {"rlnMicrographName": [micrograph.name] * count}
        columns |= {name: part.picks.column(name) for name in (_X, _Y, *pick_names)}
        columns |= {name: [cells[part.micrograph_number]] * count for name, cells in self._micrograph_cells.items()}
        found = part.matches >= 0
        for name in self._cells:
            values = np.array(columns.get(name, [self._filler(name)] * count), dtype=object)
            if name in _POSES:
                values[:] = "0.0"
            values[found] = self._cells[name][part.matches[found]]
            columns[name] = values.tolist()
        posed = np.full(count, self._particles is None and all(name in columns for name in ANGLES))
        if self._particles is not None:
            posed[found] = self._has_pose[part.matches[found]]
        return StarBlock.from_columns(columns | {HAS_POSE: posed.astype(np.int64)})

    def _filler(self, name: str) -> str:
        """What a column of the particle table says where a pick has no row there."""
        try:
            float(self._cells[name][0])
        except (ValueError, IndexError):
            return "None"
        return "0"


def _recentred(rows: StarBlock, pixel_of: dict[str, float]) -> StarBlock:
    """Move whole pixels from the origin to the coordinate; a cell from which nothing is moved keeps its text."""
    if not all(name in rows for name in _ORIGINS):
        raise CryorestoreError(f"{rows.source}: recentre is set and there are no origins, expected {', '.join(_ORIGINS)}; give particles_star")
    pixels = np.array([pixel_of[group] for group in rows.column("rlnOpticsGroup")])
    moved: dict[str, list[str]] = {}
    for coordinate, origin in zip((_X, _Y), _ORIGINS, strict=True):
        whole = np.trunc(rows.floats(origin) / pixels)
        for name, values in ((coordinate, rows.floats(coordinate) - whole), (origin, rows.floats(origin) - whole * pixels)):
            moved[name] = np.where(whole == 0, rows.column(name), _digits(values)).tolist()
    return rows.with_columns(moved)


def _digits(values: NDArray[np.float64]) -> list[str]:
    """Every digit: places a millionth of a pixel apart stay apart."""
    return [repr(value) for value in values.tolist()]
