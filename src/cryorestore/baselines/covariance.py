"""Covariance Wiener filtering (CWF): the best linear estimate under the second moments of the particles themselves.

After Bhamre, Zhang and Singer (J Struct Biol 2016), whose idea is that clean particles have the same covariance however they are turned in the plane:
angular frequencies then do not mix, and each has a small covariance between rings of its own. Here the basis of a ring of Fourier coefficients is
exp(i m angle), made orthonormal, instead of Fourier-Bessel functions: noise and CTF (its mean along the ring) are then diagonal, and the
least-squares estimate of the covariance has a closed form, entry by entry. Eigenvalues are shrunk as there (Donoho, Gavish and Johnstone 2018).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_average

_REACH = 0.8
"""Radius over half the box beyond which particles are taken to be empty: it bounds the angular frequencies of a ring."""


@dataclass(frozen=True)
class _Ring:
    """Pixels of one ring of an unshifted fft2, and an orthonormal basis of it: columns are the frequencies -top .. top."""

    pixels: Tensor
    vectors: Complex[Tensor, "pixels frequencies"]
    top: int


@lru_cache(maxsize=4)
def _rings(box_size: int) -> tuple[_Ring, ...]:
    """Rings 1 .. box // 2 - 1. Löwdin's orthonormal vectors keep a_(-m) = (-1)^m conj(a_m), which makes images real."""
    frequency = torch.fft.fftfreq(box_size, 1 / box_size, dtype=torch.float64)
    ky, kx = torch.meshgrid(frequency, frequency, indexing="ij")
    shells, angle = (kx.square() + ky.square()).sqrt().add(0.5).floor().long().flatten(), torch.atan2(ky, kx).flatten()
    rings = []
    for radius in range(1, box_size // 2):
        pixels = torch.nonzero(shells == radius)[:, 0]
        top = min(math.ceil(math.pi * radius * _REACH), (len(pixels) - 1) // 2 - 1)
        columns = torch.exp(1j * angle[pixels][:, None] * torch.arange(-top, top + 1))
        left, _, right = torch.linalg.svd(columns, full_matrices=False)
        rings.append(_Ring(pixels, (left @ right).to(torch.complex64), top))
    return tuple(rings)


def ring_amplitudes(images: Float[Tensor, "n box box"]) -> list[Complex[Tensor, "n _"]]:
    """Amplitudes of frequency m = 0, 1, ... on the rings that have it, from the innermost of these to the outermost (orthonormal transform)."""
    box_size = images.shape[-1]
    coefficients: Tensor = torch.fft.fft2(torch.fft.ifftshift(images, dim=(-2, -1)), norm="ortho").flatten(1)
    rings = _rings(box_size)
    by_ring = [coefficients[:, ring.pixels] @ ring.vectors.conj() for ring in rings]
    return [
        torch.stack([amplitude[:, ring.top + m] for ring, amplitude in zip(rings, by_ring, strict=True) if ring.top >= m], 1)
        for m in range(max(ring.top for ring in rings) + 1)
    ]


def from_ring_amplitudes(amplitudes: list[Complex[Tensor, "n _"]], box_size: int) -> Float[Tensor, "n box box"]:
    """Inverse of `ring_amplitudes`; what the basis does not hold is zero."""
    coefficients = torch.zeros(len(amplitudes[0]), box_size**2, dtype=torch.complex64)
    rings = _rings(box_size)
    for number, ring in enumerate(rings):
        positive = torch.stack([amplitudes[m][:, number - (len(rings) - amplitudes[m].shape[1])] for m in range(ring.top + 1)], 1)
        signs = (-1.0) ** torch.arange(ring.top, 0, -1)
        coefficients[:, ring.pixels] = torch.cat([signs * positive[:, 1:].flip(1).conj(), positive], 1) @ ring.vectors.T
    images: Tensor = torch.fft.ifft2(coefficients.unflatten(1, (box_size, box_size)), norm="ortho").real
    centred: Tensor = torch.fft.fftshift(images, dim=(-2, -1))
    return centred


class CovarianceFilter:
    """The covariance Wiener filter of one half-set.

    Parameters
    ----------
    batches
        Pairs of normalized images and their CTF on the half plane of rfft2: the half's own particles that may be learned from.
    noise_power
        Per shell 0 .. box // 2, orthonormal transform.

    Raises
    ------
    CryorestoreError
        If there are no images.
    """

    def __init__(self, batches: Iterable[tuple[Float[Tensor, "n box box"], Float[Tensor, "n box half"]]], *, noise_power: Tensor) -> None:
        self._noise = noise_power.double()
        moments: list[_Moments] = []
        for images, ctf in batches:
            contrast = radial_average(ctf)[:, 1:-1].double()
            amplitudes = ring_amplitudes(images)
            moments = moments or [_Moments(values.shape[1]) for values in amplitudes]
            for moment, values in zip(moments, amplitudes, strict=True):
                moment.add(values.to(torch.complex128), contrast[:, -values.shape[1] :], self._noise[1:-1][-values.shape[1] :])
        if not moments:
            raise CryorestoreError("no image to measure the covariance on: the half-set is empty")
        self._mean = moments[0].mean()
        self._covariances = [
            moment.covariance(self._noise[1:-1][-moment.rings :], self._mean if m == 0 else None) for m, moment in enumerate(moments)
        ]

    def __call__(self, images: Float[Tensor, "n box box"], ctf: Float[Tensor, "n box half"]) -> Float[Tensor, "n box box"]:
        """Estimate the clean images, CTF applied."""
        contrast = radial_average(ctf)[:, 1:-1].double()
        restored = []
        for m, (values, covariance) in enumerate(zip(ring_amplitudes(images), self._covariances, strict=True)):
            own, noise = contrast[:, -values.shape[1] :], self._noise[1:-1][-values.shape[1] :]
            mean = own * self._mean if m == 0 else torch.zeros_like(own)
            signal = own[:, :, None] * covariance * own[:, None, :]
            gain = torch.linalg.solve(signal + torch.diag(noise).to(signal.dtype), (values - mean).to(signal.dtype))
            restored.append(((signal @ gain[..., None])[..., 0] + mean).to(torch.complex64))
        return from_ring_amplitudes(restored, images.shape[-1])


class _Moments:
    """Sums from which mean and covariance of one angular frequency follow."""

    def __init__(self, rings: int) -> None:
        self.rings, self._count = rings, 0
        self._products = torch.zeros(rings, rings, dtype=torch.complex128)
        self._weights = torch.zeros(rings, rings, dtype=torch.float64)
        self._power = torch.zeros(rings, dtype=torch.float64)
        self._sums = torch.zeros(rings, dtype=torch.complex128)

    def add(self, values: Complex[Tensor, "n rings"], contrast: Float[Tensor, "n rings"], noise: Float[Tensor, "rings"]) -> None:
        """Count images: the noise is taken off the diagonal, each entry weighted with its CTFs."""
        seen = values * contrast
        self._products += seen.T @ seen.conj() - torch.diag((contrast.square() * noise).sum(0))
        self._weights += contrast.square().T @ contrast.square()
        self._power += contrast.square().sum(0)
        self._sums += seen.sum(0)
        self._count += len(values)

    def mean(self) -> Float[Tensor, "rings"]:
        """Least-squares mean before the CTF; real, for the mean of turned images is round."""
        return self._sums.real / self._power.clamp_min(1e-6 * self._count)

    def covariance(self, noise: Float[Tensor, "rings"], mean: Float[Tensor, "rings"] | None) -> Complex[Tensor, "rings rings"]:
        """Least-squares covariance before the CTF, its eigenvalues shrunk in units of the noise."""
        estimate = self._products / self._weights.clamp_min(1e-6 * self._count)
        if mean is not None:
            estimate = estimate - torch.outer(mean, mean)
        whitening = (self._power / self._count / noise).sqrt().clamp_min(1e-6)
        values, vectors = torch.linalg.eigh(whitening[:, None] * (estimate + estimate.mH) / 2 * whitening)
        shrunk = (vectors * shrunk_eigenvalues(values, self.rings / self._count)) @ vectors.mH
        covariance: Tensor = shrunk / whitening[:, None] / whitening
        return covariance


def shrunk_eigenvalues(values: Float[Tensor, "n"], aspect: float) -> Float[Tensor, "n"]:
    """Eigenvalues of the signal's covariance, in units of the noise, from those of the sample covariance less one.

    Those within the noise's own spread are zero; the others are put right for it, optimally in the Frobenius norm (Donoho, Gavish and Johnstone
    2018).

    Parameters
    ----------
    values
        Eigenvalues after one, the noise's, was taken off.
    aspect
        Rings over images.
    """
    sample = values + 1
    above = sample > (1 + math.sqrt(aspect)) ** 2
    half = (sample + 1 - aspect) / 2
    spike = half + (half.square() - sample).clamp_min(0).sqrt()
    squared_cosine = (1 - aspect / (spike - 1).square().clamp_min(1e-12)) / (1 + aspect / (spike - 1).clamp_min(1e-12))
    return torch.where(above, (spike - 1) * squared_cosine.clamp(0, 1), 0.0)
