"""Entries of a dataset file that need a thought: background circle, mask and symmetry."""

import re
from pathlib import Path

import numpy as np

from cryorestore.dataset_file import Entries, Sourced
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import read_map
from cryorestore.project_readers import Job

_BACKGROUND = 0.375
"""Background radius as a share of the box where no diameter is known: RELION's default is a circle of 75 % of it."""


def particle_sizes(job: Job, *, box_size: int | None, pixel_size: float | None) -> Entries:
    """Background circle and mask, from the mask or the diameter or, failing both, from the box."""
    diameter = job.particle_diameter
    if box_size is None or pixel_size is None:
        return {}
    limit = box_size * pixel_size / 2
    if diameter is not None:
        radius, said = diameter.value / 2, f"particle diameter in {diameter.source}"
        bg_radius = min(round(radius / pixel_size), int(0.475 * box_size))
    else:
        radius, said = 2 * _BACKGROUND * limit, f"{2 * _BACKGROUND:.0%} of the box as a diameter: a guess"
        bg_radius = int(_BACKGROUND * box_size)
    background = Sourced(bg_radius, f"{said}, px")
    if job.mask is not None:
        radius, said = _mask_radius(job.mask.value, pixel_size), f"reach of {job.mask.value.name} ({job.mask.source})"
    return {"normalize.bg_radius": background, "mask.radius": Sourced(float(np.floor(10 * min(radius, limit)) / 10), f"{said}, angstrom")}


def _mask_radius(path: Path, pixel_size: float) -> float:
    """Distance (angstrom) of the farthest voxel in the mask from the box's centre."""
    mask, stated = read_map(path)
    inside = np.argwhere(mask > 0.5)
    if not len(inside):
        raise CryorestoreError(f"{path}: found no voxel above 0.5, expected a mask; remove it from the job's folder or make it again")
    return float(np.sqrt(((inside - np.array(mask.shape) // 2) ** 2).sum(1).max())) * (stated or pixel_size)


def symmetry_entries(known: Sourced | None, symmetry: str | None, missing: list[str]) -> Entries:
    """The point group; what is wrong or unknown goes to `missing`."""
    found = Sourced(symmetry, "--symmetry") if symmetry is not None else known
    if found is None:
        missing.append("symmetry: C1 is taken; set symmetry if it is another")
        return {}
    group = {"I2": "I"}.get(str(found.value).upper(), str(found.value).upper())
    if not re.fullmatch(r"C[1-9][0-9]?|D[1-9][0-9]?|T|O|I", group):
        missing.append(f"symmetry: {found.value} ({found.source}) is none of Cn, Dn, T, O, I (= I2); bring the poses into one of these settings")
        return {}
    return {"symmetry": Sourced(group, found.source)}
