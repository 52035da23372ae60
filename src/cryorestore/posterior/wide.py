"""Posterior of single particles over all poses, for a map of their own half: a grid over everything, then importance sampling at the full band limit.

The grid finds where the posterior lies; no grid is fine enough to say how large it is there. Poses drawn from the grid become parents; children are
drawn round them and weighed with their likelihood over the density that they were drawn with, in rounds with shrinking kernels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.posterior.bank import PoseBank
from cryorestore.posterior.grid import turned_directions
from cryorestore.posterior.local import PosteriorPoses, PosteriorResult
from cryorestore.posterior.search import NEAR, nearest_rotations, pose_weights
from cryorestore.project import FourierVolume
from cryorestore.rotation_vectors import rotation_vectors_to_matrices

_TEMPER = 0.6
"""Power of the weights by which parents are drawn: the grid's likelihood is too sure of itself"""
_KERNELS = (0.5, 0.25, 0.12)
"""Width of the rounds' kernels, as a share of the grid's step, each axis"""
_DRAWS = 24
"""Poses a particle that the deviation is taken over."""


@dataclass(frozen=True)
class _Cloud:
    """Poses of one particle."""

    rotations: Float[Tensor, "n 3 3"]
    shifts_px: Float[Tensor, "n 2"]
    log_weights: Float[Tensor, "n"]


class WidePosterior:
    """Marginalise the pose of particles about which nothing is known but that they are near the box's centre.

    Parameters
    ----------
    bank
        Of the map, at a band limit where its grid is fine enough.
    volume
        The same map to its full band limit, in the same box.
    noise_power, map_error_power
        Per shell, orthonormal transform.
    poses
        Drawn in each of the three rounds.
    """

    def __init__(
        self,
        bank: PoseBank,
        volume: FourierVolume,
        *,
        noise_power: Float[Tensor, "shells"],
        map_error_power: Float[Tensor, "shells"],
        poses: int = 256,
    ) -> None:
        self.bank, self.volume, self._poses = bank, volume, poses
        self._noise, self._map_error = (power[volume.coefficients.shell] for power in (noise_power, map_error_power))
        grid = bank.grid
        self._step = math.radians(grid.step)
        self._shift_step = float((grid.shifts_px[1] - grid.shifts_px[0]).norm()) if len(grid.shifts_px) > 1 else 0.2

    def __call__(
        self,
        images: Float[Tensor, "b box box"],
        ctf: Float[Tensor, "b box half"],
        seeds: Sequence[int],
        centres_px: Float[Tensor, "b 2"] | None = None,
    ) -> PosteriorResult:
        """Restore normalized particles; the random draws of each depend on its own seed only."""
        weights = pose_weights(self.bank, self.bank.match(images, ctf, centres_px), keep=True)
        assert weights.every_pose is not None
        data, contrast = self.volume.coefficients.from_images(images), self.volume.coefficients.select(ctf)
        results = []
        for row, seed in enumerate(seeds):
            generator = np.random.default_rng(seed)
            centre = torch.zeros(2) if centres_px is None else centres_px[row]
            cloud = self._from_grid(weights.every_pose[row].cpu(), centre, generator)
            results.append(self._sampled(data[row], contrast[row], cloud, generator))
        return _joined(results)

    def _from_grid(self, weights: Tensor, centre: Tensor, generator: np.random.Generator) -> _Cloud:
        """Parents: the grid's poses, drawn by their tempered weights."""
        grid = self.bank.grid
        turn, shift, direction = np.unravel_index(_drawn(weights.flatten().log() * _TEMPER, self._poses, generator), weights.shape)
        angles = torch.from_numpy(turn * (2 * math.pi / grid.turns)).float()
        return _Cloud(turned_directions(grid.directions[direction], angles), grid.shifts_px[shift] + centre, torch.zeros(self._poses))

    def _sampled(self, data: Tensor, contrast: Tensor, cloud: _Cloud, generator: np.random.Generator) -> PosteriorResult:
        """Of one particle: a batch of one."""
        coefficients = self.volume.coefficients
        parents = cloud
        for kernel in _KERNELS:
            cloud, model = self._round(data, contrast, parents, kernel, generator)
            chosen = _drawn(cloud.log_weights * _TEMPER, self._poses, generator)
            parents = _Cloud(cloud.rotations[chosen], cloud.shifts_px[chosen], cloud.log_weights[chosen])
        weights = torch.softmax(cloud.log_weights, 0)
        drawn = _drawn(cloud.log_weights, _DRAWS, generator)
        return PosteriorResult(
            mean=coefficients.to_images(weights.to(model.dtype) @ model)[None],
            deviation=coefficients.to_images(model[drawn]).std(0)[None],
            log_evidence=torch.logsumexp(cloud.log_weights, 0)[None] - math.log(self._poses),
            effective_samples=1 / weights.square().sum()[None],
            poses=self._poses_of(cloud, weights, drawn),
        )

    def _poses_of(self, cloud: _Cloud, weights: Tensor, drawn: NDArray[np.int64]) -> PosteriorPoses:
        """Draws, and the mean of the poses near the likeliest one: an average over poses that are far apart is none of them."""
        best = cloud.rotations[weights.argmax()]
        near = ((cloud.rotations * best).sum((1, 2)) - 1) / 2 > math.cos(NEAR * self._step)
        kept = weights * near
        return PosteriorPoses(
            rotations=cloud.rotations[drawn][None],
            shifts_px=cloud.shifts_px[drawn][None],
            mean_rotations=nearest_rotations((kept[:, None, None] * cloud.rotations).sum(0)[None]),
            mean_shifts_px=(kept @ cloud.shifts_px / kept.sum())[None],
        )

    def _round(self, data: Tensor, contrast: Tensor, parents: _Cloud, kernel: float, generator: np.random.Generator) -> tuple[_Cloud, Tensor]:
        """Children of all parents, with the likelihood over the mixture of kernels that they come from."""
        count = self._poses
        widths = torch.tensor([kernel * self._step] * 3 + [kernel * self._shift_step] * 2)
        change = torch.from_numpy(generator.standard_normal((count, 5))).float() * widths
        rotations = rotation_vectors_to_matrices(change[:, :3]) @ parents.rotations
        shifts = parents.shifts_px + change[:, 3:]
        model = self.volume.slices(rotations) * contrast * self.volume.coefficients.shift_phases(shifts)
        weight = self.volume.coefficients.weight / (self._noise + contrast.square() * self._map_error)
        log_likelihood = (model.conj() * data).real @ weight - 0.5 * model.abs().square() @ weight
        cosine = ((rotations.flatten(1) @ parents.rotations.flatten(1).T - 1) / 2).clamp(-1, 1)
        apart = (2 * (1 - cosine)) / widths[0] ** 2 + torch.cdist(shifts, parents.shifts_px).square() / widths[3] ** 2
        norm = 2.5 * math.log(2 * math.pi) + float(widths.log().sum())
        log_drawn = torch.logsumexp(-0.5 * apart, 1) - math.log(count) - norm
        return _Cloud(rotations, shifts, log_likelihood + self._log_prior() - log_drawn), model

    def _log_prior(self) -> float:
        """Of a pose, uniform over rotations (in the volume of rotation vectors, 8 pi^2) and over the grid's square of shifts."""
        shifts = self.bank.grid.shifts_px
        side = float(shifts[:, 0].max() - shifts[:, 0].min()) + self._shift_step
        return -math.log(8 * math.pi**2 / len(self.bank.grid.operators)) - 2 * math.log(side)


def _joined(results: Sequence[PosteriorResult]) -> PosteriorResult:
    """Batches one after the other."""
    poses = [result.poses for result in results]
    return PosteriorResult(
        mean=torch.cat([result.mean for result in results]),
        deviation=torch.cat([result.deviation for result in results]),
        log_evidence=torch.cat([result.log_evidence for result in results]),
        effective_samples=torch.cat([result.effective_samples for result in results]),
        poses=PosteriorPoses(**{name: torch.cat([getattr(part, name) for part in poses]) for name in PosteriorPoses.__dataclass_fields__}),
    )


def _drawn(log_weights: Tensor, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Systematic draws by weight."""
    cumulative = np.cumsum(torch.softmax(log_weights.double(), 0).numpy())
    places = (np.arange(count) + generator.uniform()) / count * cumulative[-1]
    found: NDArray[np.int64] = np.minimum(np.searchsorted(cumulative, places), len(cumulative) - 1)
    return found
