"""The FSC under a mask, and what of it the mask itself makes: phase randomisation (Chen et al. 2013), as relion_postprocess does it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.fsc import FscCurve, fourier_shell_correlation
from cryorestore.resolution.filters import squared_radius
from cryorestore.seeds import derived_seeds

SHELLS_LEFT_OUT = 2
"""The correction begins so many shells above the first randomised one, where the two maps still share an edge (RELION does the same)."""
_MOST_NOISE = 0.999
"""Least that 1 - FSC of the randomised maps is taken for, subtracted from 1: a mask so tight leaves nothing to correct with"""


@dataclass(frozen=True)
class MaskedCurves:
    """The curves of two maps. Without a mask only `unmasked` is there; to a reference `masked` is there without a correction."""

    unmasked: FscCurve
    masked: FscCurve | None = None
    randomised: FscCurve | None = None
    """None too where the unmasked curve never falls below the value at which phases are randomised"""
    corrected: FscCurve | None = None
    randomised_from: int | None = None
    """shell"""

    @property
    def headline_name(self) -> str:
        """Name of the curve that a resolution is read from: the most cautious one there is under a mask, or without a mask the only one."""
        return "corrected" if self.corrected is not None else "masked" if self.masked is not None else "unmasked"

    @property
    def headline(self) -> FscCurve:
        """The curve of that name."""
        return self.named()[self.headline_name]

    def named(self) -> dict[str, FscCurve]:
        """Those that are there, by name."""
        names = ("unmasked", "masked", "randomised", "corrected")
        return {name: curve for name in names if isinstance(curve := getattr(self, name), FscCurve)}


def masked_curves(
    map_1: Float[Tensor, "box box box"],
    map_2: Float[Tensor, "box box box"],
    mask: Float[Tensor, "box box box"] | None,
    *,
    pixel_size: float,
    randomise_below: float = 0.8,
    randomisations: int = 5,
    seed: int,
) -> MaskedCurves:
    """Correlate two half-maps without a mask, under it, and corrected for it.

    Parameters
    ----------
    map_1, map_2
        Half-maps, not masked.
    mask
        0 to 1, of the same box; None leaves the unmasked curve alone.
    pixel_size
        Angstrom per pixel.
    randomise_below
        Phases are randomised from the first shell on whose unmasked correlation is less than this.
    randomisations
        Draws of random phases whose correlations are averaged; relion_postprocess has one, which leaves its scatter in the corrected curve.
    seed
        Of the random phases; the two maps have different ones.
    """
    unmasked = fourier_shell_correlation(map_1, map_2, pixel_size=pixel_size)
    if mask is None:
        return MaskedCurves(unmasked)
    masked = _with_origin(fourier_shell_correlation(map_1 * mask, map_2 * mask, pixel_size=pixel_size))
    below = torch.nonzero(unmasked.correlation[1:] < randomise_below).flatten()
    if below.numel() == 0:
        return MaskedCurves(unmasked, masked, None, masked, None)
    shell = int(below[0]) + 1
    noise = FscCurve(masked.spatial_frequency, torch.zeros_like(masked.correlation))
    for draw in range(randomisations):
        seeds = derived_seeds(seed, [f"{draw} of half 1", f"{draw} of half 2"], purpose="phase randomisation")
        randomised = [randomise_phases(volume, from_shell=shell, seed=own) * mask for volume, own in zip((map_1, map_2), seeds, strict=True)]
        noise = replace(
            noise, correlation=noise.correlation + fourier_shell_correlation(*randomised, pixel_size=pixel_size).correlation / randomisations
        )
    noise = _with_origin(noise)
    return MaskedCurves(unmasked, masked, noise, corrected_curve(masked, noise, randomised_from=shell), shell)


def randomise_phases(volume: Float[Tensor, "box box box"], *, from_shell: int, seed: int) -> Float[Tensor, "box box box"]:
    """Give every coefficient at a radius of `from_shell` shells or more the phase of white noise; amplitudes stay."""
    coefficients = torch.fft.rfftn(volume.double())
    white = torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    phases = torch.fft.rfftn(white)
    phases /= phases.abs().clamp_min(1e-30)
    beyond = squared_radius(volume.shape[-1]) >= from_shell**2
    mixed: Tensor = torch.fft.irfftn(torch.where(beyond, coefficients.abs() * phases, coefficients), s=volume.shape)
    return mixed.to(volume.dtype)


def corrected_curve(masked: FscCurve, randomised: FscCurve, *, randomised_from: int) -> FscCurve:
    """(FSC masked - FSC randomised) / (1 - FSC randomised) from two shells above `randomised_from` on, the masked FSC before."""
    values, noise = masked.correlation, randomised.correlation
    corrected = (values - noise) / (1 - noise.clamp_max(_MOST_NOISE))
    first = randomised_from + SHELLS_LEFT_OUT
    return FscCurve(masked.spatial_frequency, torch.cat([values[:first], corrected[first:]]))


def _with_origin(curve: FscCurve) -> FscCurve:
    """Take a negative correlation of the two means, shell 0, for 1 as relion_postprocess does: a map's mean is arbitrary."""
    values = curve.correlation.clone()
    values[0] = 1.0 if values[0] <= 0 else values[0]
    return replace(curve, correlation=values)
