"""Whitening: images divided by the square root of the noise spectrum of their micrograph, or of their half-set and optics group."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.fourier import hermitian_weights, radial_shells_2d, to_fourier, to_real
from cryorestore.io.mrc import Images
from cryorestore.noise import estimate_noise_power
from cryorestore.whitening_groups import Groups

_COEFFICIENTS = 400
"""Fourier coefficients that a value of the spectrum is the mean of, at least: then its error is 5 % or less."""


@dataclass(frozen=True)
class NoiseSpectra:
    """One noise spectrum a group, and the group of each particle."""

    groups: Groups
    counts: NDArray[np.int64]
    """(groups,), images that a spectrum is from"""
    power: Float[Tensor, "groups shells"]
    """white noise of sigma 1 has power 1"""

    def whiten(self, images: Images, rows: NDArray[np.int64]) -> Images:
        """Divide images, those of `rows` of the table, by the square root of their group's spectrum."""
        number = self.groups.number[rows]
        whitened = np.empty_like(images)
        for group in np.unique(number).tolist():
            here = np.flatnonzero(number == group)
            whitened[here] = whiten_images(torch.from_numpy(images[here]), self.power[group]).numpy()
        return whitened


def estimate_spectra(batches: Iterable[tuple[NDArray[np.int64], Images]], groups: Groups, *, box_size: int, bg_radius: float) -> NoiseSpectra:
    """Mean noise power of each group in the background of its normalized images, smoothed.

    Parameters
    ----------
    batches
        Rows and their images; rows that do not come count for nothing.
    groups
        Of all rows.
    box_size, bg_radius
        Px.

    Raises
    ------
    CryorestoreError
        If the background is too small for a spectrum.
    """
    sums = np.zeros((len(groups.labels), box_size // 2 + 1))
    counts = np.zeros(len(groups.labels), np.int64)
    for rows, images in batches:
        number = groups.number[rows]
        for group in np.unique(number).tolist():
            here = torch.from_numpy(images[number == group])
            sums[group] += len(here) * estimate_noise_power([here], bg_radius=bg_radius).double().numpy()
            counts[group] += len(here)
    power = [smooth_spectrum(total / max(count, 1), images=count) for total, count in zip(sums, counts.tolist(), strict=True)]
    return NoiseSpectra(groups, counts, torch.from_numpy(np.array(power)).float())


def smooth_spectrum(power: NDArray[np.float64], *, images: int) -> NDArray[np.float64]:
    """Replace each shell by the mean over as many of its neighbours as hold `_COEFFICIENTS` coefficients in so many images.

    The mean is one of logarithms, for spectra fall by orders of magnitude. Shell 0 has no part in it and takes its neighbours' mean.
    """
    box_size = 2 * (len(power) - 1)
    weights = hermitian_weights(box_size).expand(box_size, -1).flatten()
    in_shell = torch.zeros(box_size // 2 + 2).index_add_(0, radial_shells_2d(box_size).flatten(), weights)[:-1].double().numpy() * images / 2
    in_shell[0] = 0
    logarithms = np.log(np.maximum(power, 1e-12))
    return np.exp([_local_mean(logarithms, in_shell, shell) for shell in range(len(power))])


def _local_mean(values: NDArray[np.float64], weights: NDArray[np.float64], shell: int) -> float:
    """Weighted mean about one shell, as far to either side as it takes to weigh `_COEFFICIENTS`, or over all."""
    for width in range(len(values)):
        near = slice(max(0, shell - width), shell + width + 1)
        if weights[near].sum() >= _COEFFICIENTS:
            return float(np.average(values[near], weights=weights[near]))
    return float(np.average(values, weights=weights)) if weights.any() else 0.0


def whiten_images(images: Float[Tensor, "n box box"], power: Float[Tensor, "shells"]) -> Float[Tensor, "n box box"]:
    """Divide by the square root of the noise power; the signal is transferred by the same."""
    whitened: Tensor = to_real(to_fourier(images) * _interpolated(power, images.shape[-1]).rsqrt())
    return whitened


def colour_images(images: Float[Tensor, "n box box"], power: Float[Tensor, "shells"]) -> Float[Tensor, "n box box"]:
    """Undo `whiten_images`."""
    coloured: Tensor = to_real(to_fourier(images) * _interpolated(power, images.shape[-1]).sqrt())
    return coloured


def _interpolated(power: Float[Tensor, "shells"], box_size: int) -> Float[Tensor, "box half"]:
    """The power at every coefficient of the half plane, linear between the shells; beyond Nyquist that of the last."""
    ky, kx = torch.fft.fftfreq(box_size, 1 / box_size), torch.fft.rfftfreq(box_size, 1 / box_size)
    radius = (ky[:, None] ** 2 + kx**2).sqrt().clamp(0, len(power) - 1)
    below = radius.floor().long().clamp_max(len(power) - 2)
    part = radius - below
    interpolated: Tensor = power[below] * (1 - part) + power[below + 1] * part
    return interpolated
