"""Which boxes are to be cut: the picks of each micrograph, with the poses and the CTF that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io.binding import BLOB_SIGN, IMAGE_HASH
from cryorestore.io.packed import LinePacker
from cryorestore.io.relion import ANGLES
from cryorestore.io.star import StarBlock
from cryorestore.logs import get_logger
from cryorestore.micrographs import MicrographTable
from cryorestore.particles import ParticleTable
from cryorestore.pick_files import listed_files, match_files, read_picks, with_every_digit

HAS_POSE = "rlnCryorestoreHasPose"
MATCH_TOLERANCE = 0.01
"""px, along each axis, between a pick and its row in the particle table"""
_SORTED_ROWS = 1 << 16
_X, _Y = "rlnCoordinateX", "rlnCoordinateY"
_OF_THE_PICK = ("rlnImageName", "rlnMicrographName", _X, _Y, IMAGE_HASH, BLOB_SIGN)
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
_POSES = (*ANGLES, *_ORIGINS)
_CTF = (
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"),
    *("rlnCtfMaxResolution", "rlnCtfFigureOfMerit"),
)
_NEUTRAL_CTF = {"rlnCtfBfactor": "0.0", "rlnCtfScalefactor": "1.0"}
"""what RELION writes where the micrographs have a CTF and not these"""


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
    reasons: dict[int, str]
    """why a pick is rejected, by its row; the others are not"""
    pixel_sizes: NDArray[np.float64]
    """of the micrographs, angstrom, one a row of `optics`"""

    def micrograph_name(self, row: int) -> str:
        """Of one pick, as written."""
        return self.rows.take([row]).column("rlnMicrographName")[0]

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
    files = {} if coordinates is None else match_files(listed_files(coordinates), table)
    joiner = _Joiner(table, particles, rows_by_stem)
    parts: list[_Part] = []
    for number, micrograph in enumerate(table.micrographs):
        candidates = rows_by_stem.get(micrograph.stem, np.empty(0, np.int64))
        if coordinates is None:
            parts.append(_Part(number, None, joiner.places[candidates], candidates, candidates + 1))
        elif micrograph.stem in files:
            picks, places, numbers = read_picks(files[micrograph.stem], figure_of_merit_threshold)
            parts.append(_Part(number, picks, places, joiner.match(places, candidates), numbers))
    _say_empty(table, parts)
    return joiner.finish([part for part in parts if len(part.matches)], recentre)


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
    filled = {part.micrograph_number for part in parts if len(part.matches)}
    empty = [micrograph.stem for number, micrograph in enumerate(table.micrographs) if number not in filled]
    if empty:
        listed = [*empty[:10], "..."] if len(empty) > 10 else empty
        verb = "has" if len(empty) == 1 else "have"
        get_logger().warning("%d of %d micrographs %s no picks: %s", len(empty), len(table.micrographs), verb, ", ".join(listed))


@dataclass(frozen=True)
class _Part:
    """The picks of one micrograph; `matches` (n,) are rows of the particle table, -1 where there is none."""

    micrograph_number: int
    picks: StarBlock | None
    """None: the rows of the particle table"""
    places: NDArray[np.float64]
    """(n, 2), x and y, px"""
    matches: NDArray[np.int64]
    row_numbers: NDArray[np.int64]


class _Joiner:
    """Writes the rows of picks: cells of the particle table where a pick has a row there, else of the micrograph and of the pick."""

    def __init__(self, table: MicrographTable, particles: ParticleTable | None, rows_by_stem: dict[str, NDArray[np.int64]]) -> None:
        self._table, self._particles = table, particles
        # RELION leaves the micrographs' pixel size out of particles that are cut for the first time, and keeps it with those cut anew
        self._optics = table.optics.without_columns(["rlnMicrographPixelSize"]) if particles is None else particles.optics
        self._names: list[str] = []
        self._fillers: dict[str, str] = {}
        if particles is not None:
            rows = particles.particles
            self._names = [name for name in rows.columns if name not in _OF_THE_PICK]
            self._renamed = {"rlnImageName": "rlnImageOriginalName"} if "rlnImageName" in rows and "rlnImageOriginalName" not in rows else {}
            self.places = np.stack([rows.floats(name) for name in (_X, _Y)], 1)
            self._has_pose = particles.has_poses
            order = np.concatenate([rows_by_stem[micrograph.stem] for micrograph in table.micrographs if micrograph.stem in rows_by_stem])
            self._sorted, self._sorted_row = _in_order(rows, order), np.full(len(rows), -1)
            self._sorted_row[order] = np.arange(len(order))
            self._fillers = {name: _filler(cells) for name, cells in self._cells(order[:1]).items()}
        self._micrograph_cells = {name: table.rows.column(name) for name in (*_CTF, "rlnOpticsGroup") if name in table.rows}
        if "rlnDefocusU" in table.rows:
            self._micrograph_cells = {name: [cell] * len(table.rows) for name, cell in _NEUTRAL_CTF.items()} | self._micrograph_cells

    def _cells(self, rows: NDArray[np.int64]) -> dict[str, Sequence[str]]:
        """What some rows of the particle table, which are on one micrograph, say in every column that is taken over."""
        names = [*self._names, *self._renamed]
        cells = list(self._sorted.take(self._sorted_row[rows]).cells(*names))
        return {self._renamed.get(name, name): column for name, column in zip(names, zip(*cells, strict=True), strict=True)} if cells else {}

    def match(self, places: NDArray[np.float64], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """The particle row of each pick: the nearest, if within the tolerance; -1 without."""
        if not len(candidates) or not len(places):
            return np.full(len(places), -1)
        from scipy.spatial import cKDTree  # imported here: most data sets have nothing to join, and it takes long

        distance, nearest = cKDTree(self.places[candidates]).query(places, p=np.inf)
        return np.where(distance <= MATCH_TOLERANCE, candidates[nearest], -1)

    def finish(self, parts: Sequence[_Part], recentre: bool) -> PickTable:
        """Put the parts together."""
        if not parts:
            raise CryorestoreError(f"{self._table.path}: 0 particles to extract, expected picks on at least one micrograph; check coordinates")
        groups = self._optics.column("rlnOpticsGroup")
        pixel_sizes = self._table.pixel_sizes(groups, None if self._particles is None else self._optics)
        tables = [part.picks for part in parts if part.picks is not None]
        shared = [name for name in (tables[0].columns if tables else ()) if all(name in picks for picks in tables)]
        taken_over = [name for name in shared if name not in _OF_THE_PICK]
        lines, centres, columns, pixel_of = (
            LinePacker(),
            list[NDArray[np.float64]](),
            list[str](),
            dict(zip(groups, pixel_sizes.tolist(), strict=True)),
        )
        for part in parts:
            block = self._rows(part, taken_over, groups)
            if recentre:
                block = _recentred(block, pixel_of)
            centres.append(np.stack([block.floats(_X), block.floats(_Y)], 1) if recentre else part.places)
            columns = block.columns
            for line in block.lines:
                lines.append(line)
        matches = np.concatenate([part.matches for part in parts])
        if self._particles is not None:
            get_logger().info("%d of %d picks have a row in %s", int((matches >= 0).sum()), len(matches), self._particles.path)
        return PickTable(
            rows=StarBlock(columns, lines.lines(), str(self._table.path)),
            optics=self._optics,
            centres=np.concatenate(centres),
            micrograph_numbers=np.repeat([part.micrograph_number for part in parts], [len(part.matches) for part in parts]),
            row_numbers=np.concatenate([part.row_numbers for part in parts]),
            reasons=self._reasons(matches),
            pixel_sizes=pixel_sizes,
        )

    def _check_groups(self, found: Sequence[str], groups: list[str]) -> None:
        unknown = sorted(set(found) - set(groups))
        if unknown:
            raise CryorestoreError(
                f"{self._table.path}: found rlnOpticsGroup {unknown[0]}, expected one of the particle table's {groups}; add that group there"
            )

    def _reasons(self, matches: NDArray[np.int64]) -> dict[int, str]:
        if "rlnDefocusU" not in self._names or "rlnDefocusU" in self._micrograph_cells:
            return {}
        return dict.fromkeys(
            np.flatnonzero(matches < 0).tolist(), "no CTF: no row in the particle table, and the micrograph table has no rlnDefocusU"
        )

    def _rows(self, part: _Part, pick_names: Sequence[str], groups: list[str]) -> StarBlock:
        count, found = len(part.matches), part.matches >= 0
        micrograph = self._table.micrographs[part.micrograph_number].name
        columns: dict[str, Sequence[str] | NDArray[np.generic]] = {"rlnMicrographName": [micrograph] * count}
        source = part.picks if part.picks is not None else self._sorted.take(self._sorted_row[part.matches])
        names = (_X, _Y, *pick_names)
        columns |= dict(zip(names, zip(*source.cells(*names), strict=True), strict=True))
        columns |= {name: [cells[part.micrograph_number]] * count for name, cells in self._micrograph_cells.items()}
        given = self._cells(part.matches[found]) if self._fillers else {}
        for name, filler in self._fillers.items():
            if found.all():
                columns[name] = given[name]
                continue
            values = np.array(["0.0"] * count if name in _POSES else columns.get(name, [filler] * count), dtype=object)
            values[found] = given.get(name, ())
            columns[name] = values.tolist()
        posed = np.full(count, self._particles is None and all(name in columns for name in ANGLES))
        if self._particles is not None:
            posed[found] = self._has_pose[part.matches[found]]
        self._check_groups([str(group) for group in columns["rlnOpticsGroup"]], groups)
        return StarBlock.from_columns(columns | {HAS_POSE: posed.astype(np.int64)})


def _in_order(block: StarBlock, order: NDArray[np.int64]) -> StarBlock:
    """Some rows in another order, some thousand at a time: to take all of them at once would unpack the whole table."""
    if len(order) < 2 or bool((np.diff(order) > 0).all()):
        return block.take(order)
    lines = LinePacker()
    for begin in range(0, len(order), _SORTED_ROWS):
        for line in block.take(order[begin : begin + _SORTED_ROWS]).lines:
            lines.append(line)
    return replace(block, lines=lines.lines())


def _filler(cells: Sequence[str]) -> str:
    """What a column of the particle table says where a pick has no row there; `cells` is the beginning of the column."""
    try:
        float(cells[0])
    except ValueError:
        return "None"
    return "0"


def _recentred(rows: StarBlock, pixel_of: dict[str, float]) -> StarBlock:
    """Move the nearest whole pixels (halves away from zero, as RELION) from the origin to the coordinate; a cell that is not moved keeps its text."""
    if not all(name in rows for name in _ORIGINS):
        raise CryorestoreError(f"{rows.source}: recentre is set and there are no origins, expected {', '.join(_ORIGINS)}; give particles_star")
    pixels = np.array([pixel_of[group] for group in rows.column("rlnOpticsGroup")])
    moved: dict[str, list[str]] = {}
    for coordinate, origin in zip((_X, _Y), _ORIGINS, strict=True):
        shift = rows.floats(origin) / pixels
        whole = np.trunc(shift + np.copysign(0.5, shift))
        for name, values in ((coordinate, rows.floats(coordinate) - whole), (origin, rows.floats(origin) - whole * pixels)):
            moved[name] = np.where(whole == 0, rows.column(name), with_every_digit(values)).tolist()
    return rows.with_columns(moved)
