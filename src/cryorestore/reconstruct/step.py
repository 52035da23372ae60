"""The step `reconstruct_map`: choose the particles, call a backend, refuse an empty or broken map."""

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together
from cryorestore.io.mrc import write_map
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.cryodrgn import reconstruct_cryodrgn
from cryorestore.reconstruct.maps import HalfMaps
from cryorestore.reconstruct.native import reconstruct_native
from cryorestore.reconstruct.relion import reconstruct_relion

HOLDOUT_COLUMN = "rlnCryorestoreHoldout"
ACCEPTED_COLUMN = "rlnCryorestoreAccepted"
MINIMUM_PARTICLES = 4
BACKENDS = {"cryodrgn": reconstruct_cryodrgn, "relion": reconstruct_relion, "native": reconstruct_native}
PROGRAMS = {"cryodrgn": "cryodrgn", "relion": "relion_reconstruct"}
"""Name of the program that a backend calls, where no other is given."""


def program_found(backend: str, program: str) -> bool:
    """Whether the program that a backend calls, if it calls one, is there."""
    return backend not in PROGRAMS or shutil.which(program or PROGRAMS[backend]) is not None


def used_rows(table: ParticleTable) -> NDArray[np.int64]:
    """Rows that enter a map: with a pose, not held out for scoring, and not refused by the evidence."""
    used = table.has_poses.copy()
    if HOLDOUT_COLUMN in table.particles:
        used &= table.particles.ints(HOLDOUT_COLUMN) == 0
    if ACCEPTED_COLUMN in table.particles:
        used &= table.particles.ints(ACCEPTED_COLUMN) == 1
    return np.flatnonzero(used)


def reconstruct_map(
    *,
    star: str | Path,
    map: str | Path,
    map_odd: str | Path,
    map_even: str | Path,
    backend: str = "native",
    symmetry: str = "C1",
    program: str = "",
    threads: int = 1,
) -> None:
    """Reconstruct a map from the particles of one half-set at their given poses.

    Parameters
    ----------
    star
        Particles of one half, with poses; held-out and refused ones are left out (`used_rows`).
    map, map_odd, map_even
        Outputs: of all used particles, and of those at odd and even places.
    backend
        `cryodrgn` (its backproject_voxel, as a program), `relion` (relion_reconstruct) or `native`.
    symmetry
        Point group, as RELION names it.
    program
        Path or name of the backend's program; not needed by `native`.
    threads
        Threads of the backend.

    Raises
    ------
    CryorestoreError
        If too few particles are left, the backend is unknown or fails, or a map is empty or not finite.
    """
    if backend not in BACKENDS:
        raise CryorestoreError(f"reconstruct backend: found {backend!r}, expected one of {sorted(BACKENDS)}; change it in the configuration")
    torch.set_num_threads(threads)
    table = ParticleTable.read(star)
    rows = used_rows(table)
    if len(rows) < MINIMUM_PARTICLES:
        raise CryorestoreError(
            f"{star}: {len(rows)} of {len(table)} particles can enter a map, expected at least {MINIMUM_PARTICLES}; "
            "look at the rejected and refused particles of the steps before"
        )
    get_logger().info("reconstructing %d of %d particles with %s, symmetry %s", len(rows), len(table), backend, symmetry)
    used = table.take(rows)
    pixel_size = used.pixel_size
    maps = BACKENDS[backend](used, symmetry=symmetry, program=program, threads=threads, scratch=Path(map).parent)
    # only here: a backend's own inputs must be on disk before its program starts
    with files_together():
        write_maps(maps, map=map, map_odd=map_odd, map_even=map_even, pixel_size=pixel_size, maker=backend)


def write_maps(maps: HalfMaps, *, map: str | Path, map_odd: str | Path, map_even: str | Path, pixel_size: float, maker: str) -> None:
    """Write the maps of a half.

    Raises
    ------
    CryorestoreError
        If one is empty or not finite; `maker` is named.
    """
    for volume, path in ((maps.full, map), (maps.odd, map_odd), (maps.even, map_even)):
        _refuse_broken(volume, path, maker)
        write_map(path, volume.numpy(), pixel_size=pixel_size)


def _refuse_broken(volume: Tensor, path: str | Path, maker: str) -> None:
    if not volume.isfinite().all():
        raise CryorestoreError(f"{path}: the map that {maker} made holds NaN or infinite values; look for missing CTF values in the particles' STAR")
    if float(volume.std()) == 0.0:
        raise CryorestoreError(f"{path}: the map that {maker} made is empty (one constant value); look at the particles' stack")
