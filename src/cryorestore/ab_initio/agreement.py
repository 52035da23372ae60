"""How far two maps that were found apart agree, once one is laid onto the other."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.ab_initio.alignment import align_maps, moved_map
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.masks import soft_sphere

THRESHOLD = 0.5


def agreed_shell(first: Float[Tensor, "box box box"], second: Float[Tensor, "box box box"], *, symmetry: str, max_shell: int) -> int:
    """The last shell, up to `max_shell`, before their correlation first falls below 0.5; of either hand."""
    move = align_maps(first, second, symmetry=symmetry, max_shell=max_shell)
    curve = correlation_in_sphere(first, moved_map(second, move), radius_px=0.45 * first.shape[-1])
    return min(max_shell, last_shell_above(curve))


def correlation_in_sphere(first: Float[Tensor, "box box box"], second: Float[Tensor, "box box box"], *, radius_px: float) -> Float[Tensor, "shells"]:
    """FSC of two maps within a soft sphere."""
    box_size = first.shape[-1]
    sphere = soft_sphere(box_size, radius_px - 2, 2.0)
    return fourier_shell_correlation(first * sphere, second * sphere, pixel_size=1.0).correlation


def last_shell_above(correlation: Float[Tensor, "shells"], threshold: float = THRESHOLD) -> int:
    """The last shell before the curve first falls below a threshold; 0 if it is below from the start."""
    below = torch.nonzero(correlation[1:] < threshold).flatten()
    return int(below[0]) if below.numel() else len(correlation) - 1
