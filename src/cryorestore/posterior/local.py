"""Posterior mean of a particle over poses near a given one: importance sampling of the rotation, quadrature over the shift.

For an image X, its CTF C and a slice S of the map at a rotation and a shift t, the log likelihood against "no particle" is
sum w [Re(conj(X) C S phase(t)) - |C S|^2 / 2] / v, with w the Hermitian weights and v the noise power plus C^2 times the map's own error.
Rotations are drawn in three rounds: from the prior at a low band limit, then twice from a Gaussian fitted to the round before, mixed with the
prior so that the weights stay bounded. Each round sums over a grid of shifts, which one matrix product evaluates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.project import FourierVolume
from cryorestore.rotation_vectors import rotation_vectors_to_matrices

_PRIOR_SHARE = 0.15
"""Part of the rotations of rounds two and three that is drawn from the prior."""
_WIDENING = 1.4
"""Factor on the fitted deviation of the rotation before it is drawn from."""
_SHIFTS = 13
"""Grid points a shift axis; the grid spans three deviations to each side."""
_DRAWS = 24
"""Poses a particle that the deviation is taken over."""


@dataclass(frozen=True)
class PosteriorPoses:
    """Poses of b particles after the search: equally likely draws, and their mean."""

    rotations: Float[Tensor, "b draws 3 3"]
    """in order of the rotation's number in the last round; every k-th is a systematic sample too"""
    shifts_px: Float[Tensor, "b draws 2"]
    mean_rotations: Float[Tensor, "b 3 3"]
    """at the mean of the rotation vectors from the given pose"""
    mean_shifts_px: Float[Tensor, "b 2"]


@dataclass(frozen=True)
class PosteriorResult:
    """What is known of b particles after marginalising the pose."""

    mean: Float[Tensor, "b box box"]
    """posterior mean image, CTF applied, grey scale of the input"""
    deviation: Float[Tensor, "b box box"]
    """posterior standard deviation of each pixel"""
    log_evidence: Float[Tensor, "b"]
    """log of p(image | particle near this pose) / p(image | noise only)"""
    effective_samples: Float[Tensor, "b"]
    """effective number of rotations in the last round"""
    poses: PosteriorPoses


@dataclass(frozen=True)
class _Round:
    vectors: Float[Tensor, "b n 3"]
    log_weights: Float[Tensor, "b n shifts"]
    slices: Complex[Tensor, "b n m"]
    shift_centre: Float[Tensor, "b 2"]
    shift_offsets: Float[Tensor, "b shifts 2"]


@dataclass(frozen=True)
class _Proposal:
    """Mixture of the prior and a Gaussian: mean and Cholesky factor of the rotation vector, centre and deviation of the shift."""

    mean: Float[Tensor, "b 3"]
    factor: Float[Tensor, "b 3 3"]
    shift_mean: Float[Tensor, "b 2"]
    shift_deviation: Float[Tensor, "b"]


class LocalPosterior:
    """Marginalise the pose of particles whose pose is given up to a known error.

    Parameters
    ----------
    volume
        Map of the particles' own half, in their grey scale, FSC-weighted.
    noise_power, map_error_power
        Per shell, orthonormal transform: of the noise, and of the error of the map's slices.
    rotation_sigma
        Rms error of the given rotations, degrees, over all three axes.
    shift_sigma
        Rms error of the given shifts, px, over both axes.
    rotations
        Rotations drawn in each of the three rounds.
    """

    def __init__(
        self,
        volume: FourierVolume,
        *,
        noise_power: Float[Tensor, "shells"],
        map_error_power: Float[Tensor, "shells"],
        rotation_sigma: float,
        shift_sigma: float,
        rotations: Sequence[int] = (96, 64, 64),
    ) -> None:
        self.volume, self.coefficients = volume, volume.coefficients
        self._noise = noise_power[self.coefficients.shell]
        self._map_error = map_error_power[self.coefficients.shell]
        self._rotation_deviation = math.radians(rotation_sigma) / math.sqrt(3)
        self._shift_deviation = shift_sigma / math.sqrt(2)
        self._rotations = tuple(rotations)
        top = self.coefficients.max_shell
        self._bands = [self.coefficients.count(round(top * share)) for share in (0.6, 0.85, 1.0)]

    def __call__(
        self,
        images: Float[Tensor, "b box box"],
        ctf: Float[Tensor, "b box half"],
        rotations: Float[Tensor, "b 3 3"],
        shifts_px: Float[Tensor, "b 2"],
        seeds: Sequence[int],
    ) -> PosteriorResult:
        """Restore normalized particles; the random draws of each depend on its own seed only."""
        data, contrast = self.coefficients.from_images(images), self.coefficients.select(ctf)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        proposal = self._first_proposal(len(images), shifts_px)
        for number, (count, band) in enumerate(zip(self._rotations, self._bands, strict=True)):
            latest = self._draw_round(
                data[:, :band], contrast[:, :band], rotations, shifts_px, proposal, generators, count=count, from_prior=number == 0
            )
            proposal = self._fit(latest)
        return self._summarise(latest, proposal, contrast, rotations, generators)

    def _first_proposal(self, count: int, shifts_px: Tensor) -> _Proposal:
        return _Proposal(
            mean=torch.zeros(count, 3),
            factor=torch.eye(3).expand(count, 3, 3) * self._rotation_deviation,
            shift_mean=shifts_px,
            shift_deviation=torch.full((count,), self._shift_deviation),
        )

    def _draw_round(
        self,
        data: Tensor,
        contrast: Tensor,
        rotations: Tensor,
        shifts_px: Tensor,
        proposal: _Proposal,
        generators: list[torch.Generator],
        *,
        count: int,
        from_prior: bool,
    ) -> _Round:
        share = 1.0 if from_prior else _PRIOR_SHARE
        normal = torch.stack([torch.randn(count, 3, generator=generator) for generator in generators])
        wide = (torch.arange(count) < round(share * count))[None, :, None]
        fitted = proposal.mean[:, None] + normal @ proposal.factor.transpose(1, 2)
        vectors = torch.where(wide, normal * self._rotation_deviation, fitted)
        band = data.shape[1]
        slices = self.volume.slices(rotation_vectors_to_matrices(vectors) @ rotations[:, None], count=band)
        offsets = self._shift_grid(proposal.shift_deviation)
        log_likelihood = self._log_likelihood(data, contrast, slices, proposal.shift_mean, offsets)
        log_prior = self._log_normal(vectors, self._rotation_deviation)
        log_shift = self._log_normal(proposal.shift_mean[:, None] + offsets - shifts_px[:, None], self._shift_deviation)
        cell = 2 * torch.log(6 * proposal.shift_deviation / (_SHIFTS - 1))
        log_fitted = self._log_fitted(vectors, proposal)
        log_drawn = log_prior if from_prior else torch.logaddexp(log_prior + math.log(share), log_fitted + math.log1p(-share))
        log_weights = log_likelihood + (log_prior - log_drawn)[:, :, None] + (log_shift + cell[:, None])[:, None]
        return _Round(vectors, log_weights, slices, proposal.shift_mean, offsets)

    def _log_likelihood(self, data: Tensor, contrast: Tensor, slices: Tensor, centre: Tensor, offsets: Tensor) -> Tensor:
        band = data.shape[1]
        variance = self._noise[:band] + contrast.square() * self._map_error[:band]
        weight = self.coefficients.weight[:band] / variance
        factor = data.conj() * contrast * weight * self._phases(centre)[:, :band]
        matched = torch.view_as_real(slices * factor[:, None]).flatten(2)
        cross = matched @ _real_part_matrix(self._phases(offsets)[..., :band])
        power = torch.view_as_real(slices).square().sum(-1) @ (contrast.square() * weight)[:, :, None]
        return cross - 0.5 * power

    def _phases(self, shifts_px: Tensor) -> Tensor:
        return self.coefficients.shift_phases(shifts_px)

    def _fit(self, latest: _Round) -> _Proposal:
        weights = torch.softmax(latest.log_weights.flatten(1), 1).view_as(latest.log_weights)
        by_rotation, by_shift = weights.sum(2), weights.sum(1)
        mean = (by_rotation[..., None] * latest.vectors).sum(1)
        centred = latest.vectors - mean[:, None]
        floor = (0.05 * self._rotation_deviation) ** 2 * torch.eye(3)
        covariance = (by_rotation[:, :, None, None] * centred[..., :, None] * centred[..., None, :]).sum(1) + floor
        offset_mean = (by_shift[..., None] * latest.shift_offsets).sum(1)
        variance = (by_shift[..., None] * (latest.shift_offsets - offset_mean[:, None]).square()).sum((1, 2)) / 2
        spacing = latest.shift_offsets.amax((1, 2)) * 2 / (_SHIFTS - 1)
        deviation = (variance + (0.5 * spacing) ** 2).sqrt().clamp(max=self._shift_deviation)
        return _Proposal(mean, torch.linalg.cholesky(covariance * _WIDENING**2), latest.shift_centre + offset_mean, deviation)

    def _summarise(
        self, latest: _Round, fitted: _Proposal, contrast: Tensor, rotations: Tensor, generators: list[torch.Generator]
    ) -> PosteriorResult:
        log_weights = latest.log_weights.flatten(1)
        weights = torch.softmax(log_weights, 1).view_as(latest.log_weights)
        phases = self._phases(latest.shift_offsets)
        averaged = torch.complex(weights @ phases.real, weights @ phases.imag)
        to_centre = contrast * self._phases(latest.shift_centre)
        mean = self.coefficients.to_images((latest.slices * averaged).sum(1) * to_centre)
        uniform = torch.stack([torch.rand(1, generator=generator) for generator in generators])
        steps = (torch.arange(_DRAWS) + uniform) / _DRAWS
        cumulative = weights.flatten(1).cumsum(1)
        drawn = torch.searchsorted(cumulative, steps * cumulative[:, -1:]).clamp_max(cumulative.shape[1] - 1)
        row = torch.arange(len(drawn))[:, None]
        rotation, shift = drawn // weights.shape[2], drawn % weights.shape[2]
        shifted = latest.slices[row, rotation] * phases[row, shift]
        samples = self.coefficients.to_images(shifted * to_centre[:, None])
        by_rotation = weights.sum(2)
        return PosteriorResult(
            mean=mean,
            deviation=samples.std(1),
            log_evidence=torch.logsumexp(log_weights, 1) - math.log(latest.log_weights.shape[1]),
            effective_samples=1 / by_rotation.square().sum(1),
            poses=PosteriorPoses(
                rotations=rotation_vectors_to_matrices(latest.vectors[row, rotation]) @ rotations[:, None],
                shifts_px=latest.shift_centre[:, None] + latest.shift_offsets[row, shift],
                mean_rotations=rotation_vectors_to_matrices(fitted.mean) @ rotations,
                mean_shifts_px=fitted.shift_mean,
            ),
        )

    def _shift_grid(self, deviation: Tensor) -> Tensor:
        axis = torch.linspace(-3, 3, _SHIFTS)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        return grid[None] * deviation[:, None, None]

    @staticmethod
    def _log_normal(vectors: Tensor, deviation: float) -> Tensor:
        dimensions = vectors.shape[-1]
        return -0.5 * (vectors / deviation).square().sum(-1) - dimensions * (math.log(deviation) + 0.5 * math.log(2 * math.pi))

    @staticmethod
    def _log_fitted(vectors: Tensor, proposal: _Proposal) -> Tensor:
        whitened = torch.linalg.solve_triangular(proposal.factor, (vectors - proposal.mean[:, None]).transpose(1, 2), upper=False)
        log_volume = proposal.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_density: Tensor = -0.5 * whitened.square().sum(1) - log_volume[:, None] - 1.5 * math.log(2 * math.pi)
        return log_density


def _real_part_matrix(phases: Complex[Tensor, "b shifts m"]) -> Float[Tensor, "b two_m shifts"]:
    """Matrix that takes interleaved (real, imaginary) parts of a to Re(a phase)."""
    return torch.stack([phases.real, -phases.imag], -1).flatten(-2).transpose(-1, -2)
