"""RELION's soft low-pass filter of a map."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

EDGE_SHELLS = 2
"""Width of the filter's cosine edge, in shells of the map's transform."""


def squared_radius(box_size: int) -> Float[Tensor, "box box half"]:
    """Squared distance from the origin, in shells, of every coefficient of an rfftn."""
    full, half = torch.fft.fftfreq(box_size, 1 / box_size), torch.fft.rfftfreq(box_size, 1 / box_size)
    squared: Tensor = full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2
    return squared


def low_pass_coefficients(coefficients: Complex[Tensor, "box box half"], *, resolution: float, pixel_size: float) -> Complex[Tensor, "box box half"]:
    """Filter the rfftn of a map: all of it to a shell below `resolution` (angstrom), nothing from a shell above, a cosine between.

    The edge stands round the whole shell nearest to the resolution (RELION 3.1, lowPassFilterMap).
    """
    box_size = coefficients.shape[0]
    low = max(0.0, int(box_size * pixel_size / resolution + 0.5) - EDGE_SHELLS / 2)
    ramp = ((squared_radius(box_size).sqrt() - low) / EDGE_SHELLS).clamp(0, 1)
    return coefficients * (0.5 + 0.5 * torch.cos(torch.pi * ramp))


def low_pass(volume: Float[Tensor, "box box box"], *, resolution: float, pixel_size: float) -> Float[Tensor, "box box box"]:
    """As `low_pass_coefficients`, of a map in real space."""
    filtered: Tensor = torch.fft.irfftn(low_pass_coefficients(torch.fft.rfftn(volume), resolution=resolution, pixel_size=pixel_size), s=volume.shape)
    return filtered
