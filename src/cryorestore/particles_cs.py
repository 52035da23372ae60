"""A .cs beside a STAR file: what cryoSPARC needs beyond the table's columns, uids and the micrographs' sizes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.identity import identity_hash, iter_identities
from cryorestore.io.cryosparc_write import write_cs
from cryorestore.io.locations import find_path
from cryorestore.io.mrc import read_layout
from cryorestore.io.relion import ANGLES
from cryorestore.io.star import StarBlock
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable


def particle_uids(table: ParticleTable) -> NDArray[np.uint64]:
    """A number of 64 bits a particle, from its identity alone, shape (n,); a particle that stands there twice gets two."""
    hashes = (identity_hash(identity, seed=0, purpose="uid") for identity in iter_identities(table))
    uids = np.fromiter(hashes, np.uint64, len(table))
    _, first = np.unique(uids, return_index=True)
    times: dict[int, int] = {}
    for row in np.setdiff1d(np.arange(len(uids)), first).tolist():
        uid = int(uids[row])
        times[uid] = times.get(uid, 0) + 1
        uids[row] = identity_hash(f"{uid}#{times[uid]}", seed=0, purpose="uid")
    return uids


def write_particles_cs(path: str | Path, table: ParticleTable, *, uids: NDArray[np.uint64] | None = None) -> None:
    """Write a table as cryoSPARC's .cs.

    Parameters
    ----------
    path
        Output.
    table
        Particles with images; where some have no pose, the poses are left out.
    uids
        Of the particles; None: `particle_uids`.
    """
    particles = table.particles
    if not table.has_poses.all():
        particles = particles.without_columns(ANGLES)
        get_logger().info("%s: no poses, as %d of %d particles have none", path, int((~table.has_poses).sum()), len(table))
    uids = particle_uids(table) if uids is None else uids
    write_cs(path, particles=particles, optics=_sized_optics(table), uids=uids, micrograph_shapes=micrograph_shapes(table))


def _sized_optics(table: ParticleTable) -> StarBlock:
    optics = table.optics
    if "rlnImageSize" in optics or "rlnImageName" not in table.particles or not len(table):
        return optics
    return optics.with_columns({"rlnImageSize": np.full(len(optics), table.box_size)})


def micrograph_shapes(table: ParticleTable) -> dict[str, tuple[int, int]]:
    """Rows and columns of the micrographs, by name; nothing where one is not found or is no whole MRC file."""
    shapes = {}
    names = dict.fromkeys(table.micrograph_names()) if "rlnMicrographName" in table.particles else {}
    for name in names:
        path = find_path(name, table=table.path, project_root=table.project_root)
        if path is None or path.suffix not in (".mrc", ".mrcs"):
            return {}
        try:
            _, rows, columns = read_layout(path).shape
        except CryorestoreError as fault:
            get_logger().info("picks are left out of the .cs: %s", fault)
            return {}
        shapes[name] = rows, columns
    return shapes
