"""Which particles have a pose."""

import numpy as np
from numpy.typing import NDArray

from cryorestore.particles import ParticleTable
from cryorestore.picks import HAS_POSE


def posed_rows(table: ParticleTable) -> NDArray[np.bool_]:
    """Rows (n,) with three finite angles, less those of picks that were given no pose: extraction writes zeros there and says so."""
    if HAS_POSE not in table.particles:
        return table.has_poses
    return np.asarray(table.has_poses & (table.particles.ints(HAS_POSE) == 1))
