"""The particle table: one row a particle in RELION 3.1's form, whatever the file's form was."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.ctf_parameters import CtfParameters
from cryorestore.errors import CryorestoreError
from cryorestore.geometry import euler_to_matrices
from cryorestore.io.binding import BLOB_SIGN, IMAGE_HASH, blob_signs, check_hashes, stored_hashes
from cryorestore.io.cryosparc import read_cs
from cryorestore.io.locations import ImageLocations, locate_images
from cryorestore.io.mrc import Images
from cryorestore.io.relion import ANGLES, PREMULTIPLIED, to_relion_31, unmodelled_columns
from cryorestore.io.star import Cells, Rows, StarBlock, read_star, write_star
from cryorestore.logs import warn_once

REASON = "rlnCryorestoreRejectReason"
"""The column of rejects that says why"""
PIXEL_SIZE_COLUMNS = ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")


@dataclass(frozen=True)
class ParticleTable:
    """Particles and their optics groups, with RELION 3.1's columns; cells keep the text they were read with."""

    particles: StarBlock
    optics: StarBlock
    path: Path
    """the file it was read from: image names are looked for from its folder, and messages name it"""
    project_root: Path | None = None

    @classmethod
    def read(
        cls, path: str | Path | Sequence[str | Path], *, pixel_size: float | None = None, project_root: str | Path | None = None
    ) -> "ParticleTable":
        """Read a STAR file of RELION 3.0, 3.1 or 5, or a cryoSPARC `.cs`.

        RELION 3.0 is converted here: optics groups are made, the pixel size is 1e4 rlnDetectorPixelSize / rlnMagnification, origins
        become angstrom. A missing rlnPhaseShift becomes 0. The voxel size in a stack's header is never used.

        Parameters
        ----------
        path
            The table; a .cs may be followed by its passthrough files.
        pixel_size
            Angstrom per pixel of the images; overrides the table's.
        project_root
            Folder that image names are relative to; searched before the current one, the table's and those above it.

        Raises
        ------
        CryorestoreError
            If the file cannot be understood, or images are listed without a pixel size.
        """
        path, *passthrough = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]
        if passthrough and path.suffix != ".cs":
            raise CryorestoreError(f"{path}: found {1 + len(passthrough)} tables, expected one STAR file, or a .cs with its passthrough files")
        file = read_cs([path, *passthrough]) if path.suffix == ".cs" else read_star(path)
        particles, optics = to_relion_31(file, pixel_size=pixel_size)
        table = cls(particles, optics, path, None if project_root is None else Path(project_root))
        table._check_groups()
        if "rlnImageName" in particles:
            table.pixel_sizes()
        return table

    def __len__(self) -> int:
        return len(self.particles)

    def _check_groups(self) -> None:
        known = self.optics.ints("rlnOpticsGroup").tolist()
        if len(set(known)) != len(known):
            raise CryorestoreError(f"{self.optics.source}: an rlnOpticsGroup number stands there twice ({known}), expected each once; renumber them")
        unknown = np.flatnonzero(~np.isin(self.optics_groups(), known))
        if unknown.size:
            row = int(unknown[0])
            found = int(self.optics_groups()[row])
            raise CryorestoreError(
                f"{self.path}: row {row + 1}: found rlnOpticsGroup {found}, expected one of the optics table's {known}; add that group"
            )

    def optics_groups(self) -> NDArray[np.int64]:
        """Number of each particle's optics group, shape (n,)."""
        return self._groups

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        return self.particles.ints("rlnOpticsGroup")

    def _from_optics(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Spread one value an optics group over the particles."""
        of_group = dict(zip(self.optics.ints("rlnOpticsGroup").tolist(), values.tolist(), strict=True))
        return np.array([of_group[group] for group in self.optics_groups().tolist()], dtype=np.float64)

    def _group_pixel_sizes(self) -> NDArray[np.float64]:
        candidates = PIXEL_SIZE_COLUMNS[: 1 if "rlnImageName" in self.particles else None]
        name = next((name for name in candidates if name in self.optics), None)
        if name is None:
            raise CryorestoreError(f"{self.path}: no pixel size, expected _{candidates[0]} in its optics table; add it or set pixel_size (angstrom)")
        values = self.optics.floats(name)
        if not (np.isfinite(values) & (values > 0)).all():
            raise CryorestoreError(
                f"{self.optics.source}: found {name} {values.tolist()}, expected positive numbers; mend it, or set pixel_size (angstrom)"
            )
        return values

    def pixel_sizes(self) -> NDArray[np.float64]:
        """Pixel size of each particle, angstrom, shape (n,)."""
        return self._from_optics(self._group_pixel_sizes())

    @property
    def pixel_size(self) -> float:
        """The pixel size of all particles, angstrom.

        Raises
        ------
        CryorestoreError
            If the particles' optics groups differ in it, or there is none.
        """
        values = self._group_pixel_sizes()
        groups = self.optics.ints("rlnOpticsGroup")
        if not len(groups):
            raise CryorestoreError(f"{self.path}: no rows and so no pixel size, expected at least one particle; check the step that wrote it")
        used = np.isin(groups, self.optics_groups()) if len(self) else np.ones(len(groups), bool)
        if np.ptp(values[used]) > 1e-4 * values[used].max():
            names = self.optics.column("rlnOpticsGroupName") if "rlnOpticsGroupName" in self.optics else [str(group) for group in groups]
            listed = ", ".join(f"{name} (group {group}) {value:g}" for name, group, value in zip(names, groups, values, strict=True))
            raise CryorestoreError(
                f"{self.path}: its optics groups have different pixel sizes: {listed} angstrom; expected one size; "
                "resample to one or run each group by itself"
            )
        return float(values[used][0])

    @property
    def ctf_premultiplied(self) -> bool:
        """Whether the images of any used optics group are multiplied by their CTF already."""
        return PREMULTIPLIED in self.optics and bool(self._from_optics(self.optics.floats(PREMULTIPLIED)).any())

    @cached_property
    def _locations(self) -> ImageLocations:
        if "rlnImageName" not in self.particles:
            raise CryorestoreError(f"{self.path}: column _rlnImageName is missing, expected a table of particle images; extract the particles first")
        return locate_images((name for (name,) in self.particles.cells("rlnImageName")), table=self.path, project_root=self.project_root)

    @cached_property
    def _hashes(self) -> NDArray[np.uint32] | None:
        return stored_hashes(self.particles, table=self.path)

    @cached_property
    def signs(self) -> NDArray[np.float32]:
        """What each stored image is multiplied by when it is read, 1 or -1, shape (n,)."""
        return blob_signs(self.particles, table=self.path)

    @property
    def box_size(self) -> int:
        """Pixels along each side of the images, from the stacks' headers.

        Raises
        ------
        CryorestoreError
            If there is no row, an image cannot be found (see `image_locations`), is not square, or the boxes differ.
        """
        if not len(self):
            raise CryorestoreError(f"{self.path}: the table has no rows, expected at least one particle image; check the step that wrote it")
        return self._locations.box_size

    def image_locations(self) -> tuple[list[Path], NDArray[np.int64], NDArray[np.int64]]:
        """Find every image: the stacks, each particle's stack in that list (n,), and its 0-based number there (n,).

        Raises
        ------
        CryorestoreError
            If stacks are missing or damaged (all are listed, with the places tried), or an image number is not one of its stack's.
        """
        found = self._locations
        return [stack.path for stack in found.stacks], found.file_id, found.index

    def load_images(self, rows: Rows | None = None, *, finite: bool = True) -> Images:
        """Read images, float32 (n, box, box), in the order of `rows` (all without it), multiplied by their sign (`signs`).

        Where the table has rlnCryorestoreImageHash, every image that is read is compared with it.

        Parameters
        ----------
        rows
            0-based numbers, a mask or a slice.
        finite
            Whether NaN and infinite values are an error; otherwise they are returned.

        Raises
        ------
        CryorestoreError
            If an image is not the one that its row was written with, or cannot be read.
        """
        found, chosen = self._locations, self._row_numbers(rows)
        images = found.read(chosen, finite=finite)
        if self._hashes is not None:
            check_hashes(images, chosen, expected=self._hashes, locations=found, table=self.path)
        signs = self.signs[chosen]
        if (signs < 0).any():
            images *= signs[:, None, None]
        return images

    def iter_images(self, batch_size: int) -> Iterator[Images]:
        """Read all images in row order, at most `batch_size` at a time."""
        for begin in range(0, len(self), batch_size):
            yield self.load_images(slice(begin, begin + batch_size))

    def _row_numbers(self, rows: Rows | None) -> NDArray[np.int64]:
        everything = np.arange(len(self))
        if rows is None:
            return everything
        return np.asarray(everything[rows if isinstance(rows, slice) else np.asarray(rows, None if len(rows) else np.int64)])

    @cached_property
    def _angles(self) -> NDArray[np.float64]:
        if not all(name in self.particles for name in ANGLES):
            return np.full((len(self), 3), np.nan)
        return np.stack([_floats_or_nan(self.particles, name) for name in ANGLES], axis=1)

    @property
    def has_poses(self) -> NDArray[np.bool_]:
        """Which particles have all three angles as finite numbers, shape (n,)."""
        return np.asarray(np.isfinite(self._angles).all(axis=1))

    def rotation_matrices(self) -> NDArray[np.float64]:
        """RELION's Euler matrices, shape (n, 3, 3); see `cryorestore.geometry`.

        Raises
        ------
        CryorestoreError
            If a particle has no pose.
        """
        missing = np.flatnonzero(~self.has_poses)
        if missing.size:
            raise CryorestoreError(
                f"{self.path}: {missing.size} of {len(self)} particles have no pose (first: row {int(missing[0]) + 1}), "
                f"expected {', '.join(ANGLES)}; refine them first or leave them out"
            )
        return euler_to_matrices(self._angles)

    def origins(self) -> NDArray[np.float64]:
        """Origins (x, y), angstrom, shape (n, 2); 0 where absent. The particle's centre is the box's centre minus this."""
        names = ("rlnOriginXAngst", "rlnOriginYAngst")
        return np.stack([self.particles.floats(name) if name in self.particles else np.zeros(len(self)) for name in names], axis=1)

    def ctf_parameters(self) -> CtfParameters:
        """What `ctf.ctf_2d` needs, each of shape (n,).

        Raises
        ------
        CryorestoreError
            If a needed column is missing or a value is not finite.
        """
        unmodelled = self.unmodelled_columns()
        if unmodelled:
            warn_once(f"{self.path}: the CTF here does not model {', '.join(unmodelled)}; these columns are kept and otherwise ignored")
        defocus_u = self._ctf_column("rlnDefocusU")
        return CtfParameters(
            defocus_u=defocus_u,
            defocus_v=self._ctf_column("rlnDefocusV", defocus_u),
            defocus_angle=self._ctf_column("rlnDefocusAngle", np.zeros(len(self))),
            voltage=self._ctf_column("rlnVoltage"),
            spherical_aberration=self._ctf_column("rlnSphericalAberration"),
            amplitude_contrast=self._ctf_column("rlnAmplitudeContrast"),
            phase_shift=self._ctf_column("rlnPhaseShift", np.zeros(len(self))),
            b_factor=self._ctf_column("rlnCtfBfactor", np.zeros(len(self))),
            scale=self._ctf_column("rlnCtfScalefactor", np.ones(len(self))),
        )

    def _ctf_column(self, name: str, default: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        if name in self.particles:
            values = self.particles.floats(name)
        elif name in self.optics:
            values = self._from_optics(self.optics.floats(name))
        elif default is not None:
            return default
        else:
            raise CryorestoreError(
                f"{self.path}: column _{name} is missing, expected it for the CTF; estimate the CTF first (or join it by micrograph)"
            )
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            raise CryorestoreError(f"{self.path}: row {int(wrong[0]) + 1}: found {name} {values[wrong[0]]}, expected a finite number; mend that row")
        return values

    def unmodelled_columns(self) -> list[str]:
        """Columns of aberrations that are set, which the CTF here does not model."""
        return unmodelled_columns(self.optics, self.particles)

    def halves(self) -> NDArray[np.int64]:
        """rlnRandomSubset, 1 or 2, shape (n,); 0 where absent.

        Raises
        ------
        CryorestoreError
            If a value is none of 0, 1, 2.
        """
        if "rlnRandomSubset" not in self.particles:
            return np.zeros(len(self), np.int64)
        halves = self.particles.ints("rlnRandomSubset")
        wrong = np.flatnonzero((halves < 0) | (halves > 2))
        if wrong.size:
            raise CryorestoreError(f"{self.path}: row {int(wrong[0]) + 1}: found rlnRandomSubset {halves[wrong[0]]}, expected 1 or 2; mend that row")
        return halves

    def micrograph_names(self) -> list[str]:
        """Micrograph of each particle, as written."""
        return self.particles.column("rlnMicrographName")

    def take(self, rows: Rows) -> "ParticleTable":
        """Some particles, in the order of `rows` (0-based numbers, a mask or a slice); all optics groups stay."""
        return replace(self, particles=self.particles.take(rows))

    def with_columns(self, values: Mapping[str, Cells]) -> "ParticleTable":
        """Replace or append columns of the particles; see `StarBlock.with_columns`."""
        return replace(self, particles=self.particles.with_columns(values))

    def with_images(
        self, stack: str | Path, *, box_size: int, pixel_size: float | None = None, hashes: Sequence[str] | None = None
    ) -> "ParticleTable":
        """Name the images 000001@stack.. in row order, as a stack written in that order needs it.

        The earlier name is kept as rlnImageOriginalName, unless there is one already; the optics table gets the box, and the pixel size if given.

        Parameters
        ----------
        stack
            The stack, as it is to be named.
        box_size, pixel_size
            Px; angstrom.
        hashes
            Of the images in the stack's order (`MrcStackWriter.hashes`): they bind the rows to them.

        Raises
        ------
        CryorestoreError
            If there are more or fewer hashes than rows.
        """
        if hashes is not None and len(hashes) != len(self):
            raise CryorestoreError(f"{stack}: found {len(hashes)} images written, expected {len(self)}, one a row of {self.path}; run the step again")
        columns: dict[str, Cells] = {"rlnImageName": [f"{number:06d}@{stack}" for number in range(1, len(self) + 1)]}
        if "rlnImageName" in self.particles and "rlnImageOriginalName" not in self.particles:
            columns["rlnImageOriginalName"] = self.particles.column("rlnImageName")
        if hashes is not None:
            columns[IMAGE_HASH] = hashes
        particles = self.particles.without_columns([BLOB_SIGN, *([IMAGE_HASH] if hashes is None else [])])
        groups = len(self.optics)
        optics: dict[str, Cells] = {"rlnImageSize": np.full(groups, box_size), "rlnImageDimensionality": np.full(groups, 2)}
        if pixel_size is not None:
            optics["rlnImagePixelSize"] = np.full(groups, float(pixel_size))
        return replace(self, particles=particles.with_columns(columns), optics=self.optics.with_columns(optics))

    def write(self, path: str | Path) -> None:
        """Write RELION 3.1's form: data_optics and data_particles."""
        write_star(path, {"optics": self.optics, "particles": self.particles})


def _floats_or_nan(block: StarBlock, name: str) -> NDArray[np.float64]:
    absent = {"none", "<na>", "null", "", "nan"}
    cells = block.column(name)
    if not any(cell.lower() in absent for cell in cells):
        return block.floats(name)
    return np.array([np.nan if cell.lower() in absent else float(cell) for cell in cells])
