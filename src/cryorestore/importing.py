"""Take in particles that are extracted already: a RELION table or cryoSPARC's .cs files, with their stacks where they lie."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cryorestore.contrast import judge_contrast
from cryorestore.errors import CryorestoreError
from cryorestore.io.binding import BLOB_SIGN
from cryorestore.io.star import Cells
from cryorestore.logs import get_logger
from cryorestore.named_files import note_files
from cryorestore.particles import ParticleTable

_JUDGED = 500
"""images that the contrast is judged from"""


def import_particles(
    *,
    particles: str | Path | Sequence[str | Path],
    star: str | Path,
    pixel_size: float | None = None,
    box_size: int | None = None,
    project_root: str | Path | None = None,
    invert_contrast: bool | Literal["auto"] = False,
    files_record: str | Path | None = None,
    files_version: str | None = None,
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
    invert_contrast
        Multiply the images by -1, for stacks of dark particles; "auto" does it where they are seen to be dark. A cryoSPARC table's own
        blob/sign is applied in any case, before this is judged. It stands in rlnCryorestoreBlobSign and is applied when images are read.
    files_record
        Where sizes and times of the stacks are noted, by which the next run sees whether one changed; None: nowhere.
    files_version
        Noted with them; changes with the stacks.

    Raises
    ------
    CryorestoreError
        If a file cannot be read, a stack is missing, or the box is another one than the configuration says.
    """
    paths = [Path(particles)] if isinstance(particles, str | Path) else [Path(path) for path in particles]
    table = ParticleTable.read(paths, pixel_size=pixel_size, project_root=project_root)
    if box_size is not None and table.box_size != box_size:
        raise CryorestoreError(f"{paths[0]}: its images have a box of {table.box_size} px, input.box_size says {box_size}; correct the configuration")
    stacks, file_id, index = table.image_locations()
    if files_record is not None:
        note_files(files_record, stacks, version=files_version)
    names = [os.path.relpath(stack) for stack in stacks]
    columns: dict[str, Cells] = {
        "rlnImageName": [f"{number + 1:06d}@{names[file]}" for file, number in zip(file_id.tolist(), index.tolist(), strict=True)]
    }
    if "rlnImageOriginalName" not in table.particles:
        columns["rlnImageOriginalName"] = table.particles.column("rlnImageName")
    signs = table.signs * (-1 if _to_invert(table, invert_contrast) else 1)
    if (signs < 0).any() or BLOB_SIGN in table.particles:
        columns[BLOB_SIGN] = signs.astype(np.int64)
    table.with_columns(columns).write(star)
    posed = int(table.has_poses.sum())
    get_logger().info("%d particles of %d px in %d stacks; %d of them have poses", len(table), table.box_size, len(stacks), posed)
    if (signs < 0).any():
        get_logger().info("%d images are multiplied by -1 when they are read, so that particles are white", int((signs < 0).sum()))
    if not posed:
        get_logger().warning(
            "%s: no particle has a pose: the run ends with the normalized particles (input.has_poses: false), or those that the method general "
            "restores. Every other method, also one that looks at no pose, is trained on images of a map that is reconstructed from posed "
            "particles of its half; refine them first",
            paths[0],
        )


def _to_invert(table: ParticleTable, invert_contrast: bool | Literal["auto"]) -> bool:
    """Whether images are to be multiplied by -1, beyond the sign that the table gives them."""
    if invert_contrast != "auto":
        return invert_contrast
    rows = np.unique(np.linspace(0, len(table) - 1, min(_JUDGED, len(table))).round().astype(np.int64))
    contrast, score = judge_contrast(table.load_images(rows, finite=False))
    get_logger().info("contrast of %d images: %s (%.1f standard errors from neither)", len(rows), contrast, abs(score))
    if contrast == "unclear":
        get_logger().warning("%s: whether particles are white or dark cannot be told; set input.invert_contrast to true or false", table.path)
    return contrast == "dark"
