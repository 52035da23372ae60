"""What the error of a half's own map adds to the variance of a restored pixel."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.geometry import random_rotations
from cryorestore.project import FourierVolume
from cryorestore.reference import Reference
from cryorestore.rotation_vectors import rotation_vectors_to_matrices

_DIRECTIONS, _DRAWS = 48, 24
"""Slices of the map that the loss by erring poses is measured on, and erring poses of each, twice."""
_LEAST = 0.05
"""Wiener weights and losses below this count as this: what a map shows there is next to nothing."""
_EXACT = 1e-4
"""A map whose halves agree this nearly at every shell was not made of particles, and has no error."""


class MapError:
    """Variance of the pixels of restored images that comes from the map, not from the particle's own pose.

    Two errors count, shell by shell. Noise, by the half's own FSC (the Wiener weights). And what the map has lost because it was made at poses with a
    known error, which no FSC of its halves shows: the map's own slices, averaged over such poses once more, tell how much that is.
    Power spectra are of the orthonormal transform. The variance is spread over the image as the map's support is thick there; that the CTF spreads it
    further is left out.

    Parameters
    ----------
    reference
        Of the particles' own half.
    rotation_sigma
        Rms error of the poses that the map was made at, degrees over all three axes.
    shift_sigma
        Rms error of their origins, angstrom over both axes.
    """

    def __init__(self, reference: Reference, *, rotation_sigma: float, shift_sigma: float) -> None:
        volume = FourierVolume(reference.volume, max_shell=reference.max_shell)
        self._coefficients = volume.coefficients
        self.power = _error_power(volume, reference.fsc_weights, rotation_sigma=rotation_sigma, shift_sigma_px=shift_sigma / reference.pixel_size)
        """Of the error of the map's slices, shells 0 .. box // 2."""
        thickness = (reference.volume != 0).float().sum(0)
        self._profile = thickness / thickness.mean().clamp_min(1e-6)

    def variance(self, ctf: Float[Tensor, "b box half"]) -> Float[Tensor, "b box box"]:
        """Variance of each pixel for particles with this CTF, in the grey scale of the map."""
        weighted = self._coefficients.select(ctf).square() * (self._coefficients.weight * self.power[self._coefficients.shell])
        return weighted.sum(-1)[:, None, None] / self._coefficients.box_size**2 * self._profile


def _error_power(volume: FourierVolume, weights: Float[Tensor, "shells"], *, rotation_sigma: float, shift_sigma_px: float) -> Float[Tensor, "shells"]:
    """Power of true slice minus slice of the map w (B S + N): w the Wiener weights, B the loss by erring poses, N noise.

    With D = <S, B S> / <S, S> and D2 = <B S, B S> / <S, S>, and w = D2 S^2 / (D2 S^2 + N^2) by the FSC, it is S^2 (1 - 2 w D + w D2).
    """
    if float((1 - weights[1 : volume.coefficients.max_shell + 1]).abs().max()) < _EXACT:
        return torch.zeros_like(weights)
    coefficients = volume.coefficients
    rotations = torch.from_numpy(random_rotations(_DIRECTIONS, np.random.default_rng(1))).float()
    slices, generator = volume.slices(rotations), torch.Generator().manual_seed(1)
    deviation = math.radians(rotation_sigma) / math.sqrt(3)
    damped = torch.exp(-(math.pi * shift_sigma_px * coefficients.radius / coefficients.box_size).square())
    blurred = []
    for _ in range(2):  # two sets of draws, so that their product has no bias
        vectors = deviation * torch.randn(_DIRECTIONS, _DRAWS, 3, generator=generator)
        blurred.append(volume.slices(rotation_vectors_to_matrices(vectors) @ rotations[:, None]).mean(1) * damped)

    def power(values: Tensor) -> Tensor:
        return torch.zeros_like(weights).index_add_(0, coefficients.shell, values.mean(0) * coefficients.weight)

    whole = power(slices.abs().square())
    loss = power((slices.conj() * (blurred[0] + blurred[1]) / 2).real) / whole.clamp_min(1e-30)
    squared = (power((blurred[0].conj() * blurred[1]).real) / whole.clamp_min(1e-30)).clamp_min(_LEAST)
    wiener = weights.clamp_min(_LEAST)
    counts = torch.zeros_like(weights).index_add_(0, coefficients.shell, coefficients.weight)
    signal = whole / counts.clamp_min(1.0) / (wiener * squared)
    return (signal * (1 - 2 * wiener * loss + wiener * squared)).clamp_min(0.0)
