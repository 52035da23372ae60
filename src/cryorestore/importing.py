"""Take in particles that are extracted already: a RELION table or cryoSPARC's .cs files, with their stacks where they lie."""

import os
from collections.abc import Sequence
from pathlib import Path

from cryorestore.errors import CryorestoreError
from cryorestore.io.cryosparc import read_cs
from cryorestore.io.relion import to_relion_31
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable


def import_particles(
    *,
    particles: str | Path | Sequence[str | Path],
    star: str | Path,
    pixel_size: float | None = None,
    box_size: int | None = None,
    project_root: str | Path | None = None,
) -> None:
    """Write a table of RELION 3.1's form that names the stacks by their paths from the current folder.

    Images are not copied. The names that they had are kept in rlnImageOriginalName.

    Parameters
    ----------
    particles
        A STAR file (RELION 3.0, 3.1, 5), or a .cs file with its passthrough files after it.
    star
        Output.
    pixel_size
        Angstrom per px, overriding the table's.
    box_size
        What the configuration was checked with, px; None accepts any.
    project_root
        Folder that the stack names start from.

    Raises
    ------
    CryorestoreError
        If a file cannot be read, a stack is missing, or the box is another one than the configuration says.
    """
    paths = [Path(particles)] if isinstance(particles, str | Path) else [Path(path) for path in particles]
    if paths[0].suffix == ".cs":
        blocks = to_relion_31(read_cs(paths), pixel_size=pixel_size)
        table = ParticleTable(*blocks, paths[0], None if project_root is None else Path(project_root))
    else:
        table = ParticleTable.read(paths[0], pixel_size=pixel_size, project_root=project_root)
    if box_size is not None and table.box_size != box_size:
        raise CryorestoreError(f"{paths[0]}: its images have a box of {table.box_size} px, input.box_size says {box_size}; correct the configuration")
    stacks, file_id, index = table.image_locations()
    names = [os.path.relpath(stack) for stack in stacks]
    columns = {"rlnImageName": [f"{number + 1:06d}@{names[file]}" for file, number in zip(file_id.tolist(), index.tolist(), strict=True)]}
    if "rlnImageOriginalName" not in table.particles:
        columns["rlnImageOriginalName"] = table.particles.column("rlnImageName")
    table.with_columns(columns).write(star)
    get_logger().info("%d particles of %d px in %d stacks; %d of them have poses", len(table), table.box_size, len(stacks), table.has_poses.sum())
