"""Round masks with a raised-cosine edge, and the background of a particle box."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def _radius(box_size: int, dimensions: int) -> Tensor:
    axis = torch.arange(box_size) - box_size // 2
    return sum((a.double() ** 2 for a in torch.meshgrid(*[axis] * dimensions, indexing="ij")), torch.zeros(())).sqrt()


def _raised_cosine(radius: Tensor, inner: float, edge: float) -> Tensor:
    ramp = ((radius - inner) / max(edge, 1e-6)).clamp(0, 1)
    return (0.5 * (1 + torch.cos(torch.pi * ramp))).float()


def soft_disc(box_size: int, radius_px: float, edge_px: float) -> Float[Tensor, "box box"]:
    """One inside `radius_px` of the pixel box // 2, zero beyond `radius_px + edge_px`."""
    return _raised_cosine(_radius(box_size, 2), radius_px, edge_px)


def soft_sphere(box_size: int, radius_px: float, edge_px: float) -> Float[Tensor, "box box box"]:
    """One inside `radius_px` of the voxel box // 2, zero beyond `radius_px + edge_px`."""
    return _raised_cosine(_radius(box_size, 3), radius_px, edge_px)


def background_mask(box_size: int, bg_radius: float) -> Bool[Tensor, "box box"]:
    """RELION's background: pixels with i^2 + j^2 > bg_radius^2 about the pixel box // 2."""
    return _radius(box_size, 2) > bg_radius
