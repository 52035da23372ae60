"""Rotation vectors, for what turns orientations a little."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def rotation_vectors_to_matrices(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Exponential map (Rodrigues): rotation vectors in radians to matrices."""
    angle = vectors.norm(dim=-1, keepdim=True)
    half_sinc = 0.5 * torch.sinc(angle / (2 * math.pi))
    w, (x, y, z) = torch.cos(angle / 2)[..., 0], (vectors * half_sinc).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).reshape(*vectors.shape[:-1], 3, 3)
