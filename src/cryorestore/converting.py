"""STAR files and cryoSPARC's .cs turned into each other, by hand."""

from pathlib import Path

import numpy as np

from cryorestore.errors import CryorestoreError
from cryorestore.io.cryosparc import MICROGRAPH_SIZE
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import micrograph_shapes, write_particles_cs
from cryorestore.project_readers import read_cryosparc_job


def convert_particles(
    *particles: Path,
    out: Path,
    pixel_size: float | None = None,
    project_root: Path | None = None,
    flip_y: bool = False,
) -> None:
    """Turn a RELION table into a .cs, or cryoSPARC's .cs into a STAR file of RELION 3.1's form.

    Images are neither read nor copied, and their names stay as they are written.

    Parameters
    ----------
    particles
        A STAR file (RELION 3.0, 3.1, 5); a .cs with its passthrough files after it; or a cryoSPARC job's folder.
    out
        Output: .cs or .star.
    pixel_size
        Angstrom per px, overriding the table's.
    project_root
        Folder that names in the table start from: there the micrographs' sizes are looked up, for a .cs has picks as fractions.
    flip_y
        Count the picks' y from the other end of the micrograph: for micrographs whose rows the other program stores in the opposite order,
        as happens with TIFF movies.

    Raises
    ------
    CryorestoreError
        If a file cannot be understood, or the micrographs' sizes are not known where flip_y needs them.
    """
    if out.suffix not in (".cs", ".star"):
        raise CryorestoreError(f"{out}: found the ending {out.suffix!r}, expected .cs or .star; name the output so")
    if not particles:
        raise CryorestoreError("convert-particles: no table is given, expected a STAR file, .cs files or a cryoSPARC job's folder")
    paths = read_cryosparc_job(particles[0]).tables if particles[0].is_dir() else list(particles)
    table = ParticleTable.read(paths, pixel_size=pixel_size, project_root=project_root)
    if flip_y:
        table = _flipped(table)
    if out.suffix == ".cs":
        write_particles_cs(out, table)
    else:
        table.write(out)
    get_logger().info("%s: %d particles, %d of them with poses", out, len(table), table.has_poses.sum())


def _flipped(table: ParticleTable) -> ParticleTable:
    particles = table.particles
    if MICROGRAPH_SIZE[1] in particles:
        heights = particles.floats(MICROGRAPH_SIZE[1])
    else:
        shapes = micrograph_shapes(table)
        if not shapes:
            raise CryorestoreError(f"{table.path}: flip_y needs the micrographs' sizes, and not all are found as MRC files; set project_root")
        heights = np.array([shapes[name][0] for name in table.micrograph_names()], float)
    return table.with_columns({"rlnCoordinateY": heights - 1 - particles.floats("rlnCoordinateY")})
