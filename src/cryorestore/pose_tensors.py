"""The poses of a table as torch's tensors, in the units that slices and phases take."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.particles import ParticleTable


def shift_tensor(table: ParticleTable) -> Float[Tensor, "n 2"]:
    """How far each particle stands off its box's centre: px of the table's images, single precision."""
    return torch.from_numpy(-table.origins() / table.pixel_size).float()


def pose_tensors(table: ParticleTable) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
    """Rotation matrices in RELION's convention, and shifts as of `shift_tensor`; single precision."""
    return torch.from_numpy(table.rotation_matrices()).float(), shift_tensor(table)
