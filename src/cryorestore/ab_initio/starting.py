"""Where a refinement starts: a given map or the map of given poses, low-passed so far that it decides little."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.ab_initio.annealing import MAX_SHELL, Region, in_box_for, scaled_to_signal
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.volumes import masked_map, resized_map
from cryorestore.errors import CryorestoreError
from cryorestore.fourier import filtered_map
from cryorestore.geometry import symmetry_matrices
from cryorestore.io.mrc import read_map
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.native import BackProjector, backproject

_BATCH = 256


def given_start(
    table: ParticleTable, particles: HalfParticles, region: Region, *, start_map: object, resolution: float, symmetry: str
) -> tuple[Float[Tensor, "small small small"], Float[Tensor, "n 2"]]:
    """The low-passed map to start from, in the box of the first level, and each particle's centre (px of the particles' box).

    Parameters
    ----------
    table, particles
        Of one half, row by row the same.
    region
        In px of the particles' box.
    start_map
        Path of a map in the table's box, or None: the table's own poses give it.
    resolution
        Angstrom, to which it is low-passed.
    symmetry
        Point group in RELION's setting.

    Raises
    ------
    CryorestoreError
        If the map's box is not the particles' or, without a map, a particle has no pose.
    """
    small, place = in_box_for(particles, region, MAX_SHELL)
    if start_map is None:
        centres = torch.from_numpy(-table.origins() / particles.pixel_size).float()
        volume = _map_of_poses(table, small, centres * (small.box_size / particles.box_size), symmetry=symmetry)
    else:
        given, _ = read_map(str(start_map))
        if given.shape[-1] != table.box_size:
            raise CryorestoreError(f"{start_map}: found a box of {given.shape[-1]} px, expected the particles' {table.box_size}; resample the map")
        centres = torch.zeros(len(table), 2)
        volume = resized_map(torch.from_numpy(given), small.box_size)
    shells = torch.arange(small.box_size // 2 + 1.0)
    last = small.box_size * small.pixel_size / resolution
    limited = masked_map(filtered_map(volume, (0.5 + (last - shells) / 2).clamp(0, 1)), radius_px=place.radius_px)
    return scaled_to_signal(limited, small), centres


def _map_of_poses(table: ParticleTable, particles: HalfParticles, shifts_px: Tensor, *, symmetry: str) -> Tensor:
    rotations = torch.from_numpy(table.rotation_matrices()).float()
    into = BackProjector(particles.box_size)
    for start in range(0, len(particles), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(particles)))
        for operator in torch.from_numpy(symmetry_matrices(symmetry)).float():
            backproject(particles.images[rows], particles.ctf(rows), rotations[rows] @ operator, shifts_px[rows], into)
    return into.volume()
