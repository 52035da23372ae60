"""Maps of one width in boxes of different size, and masked; their transform's scale is kept, not their grey values."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.masks import soft_sphere


def resized_map(volume: Float[Tensor, "box box box"], box_size: int) -> Float[Tensor, "small small small"]:
    """Crop or fill up the transform; slices keep their scale in the orthonormal transform of images (`HalfParticles.at_box`)."""
    given = volume.shape[-1]
    if given == box_size:
        return volume
    least = min(given, box_size)
    transform = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(volume)))
    start = given // 2 - least // 2
    inner = slice(start + 1, start + least)  # without the planes at the Nyquist frequency, which have no counterpart
    whole = transform.new_zeros(box_size, box_size, box_size)
    start = box_size // 2 - least // 2
    place = slice(start + 1, start + least)
    whole[place, place, place] = transform[inner, inner, inner]
    real: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(whole)).real)
    return real * (box_size / given)


def masked_map(volume: Float[Tensor, "box box box"], *, radius_px: float) -> Float[Tensor, "box box box"]:
    """The map within a sphere, whose soft edge ends at `radius_px`."""
    edge = mask_edge(volume.shape[-1])
    return volume * soft_sphere(volume.shape[-1], radius_px - edge, edge).to(volume.device)


def mask_edge(box_size: int) -> float:
    """Width (px) of the soft edge of masks: a twentieth of the box."""
    return max(1.0, box_size / 20)
