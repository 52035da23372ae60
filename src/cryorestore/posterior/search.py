"""The posterior over all poses of a grid: every direction, in-plane rotation and shift of a batch of images in a few matrix products.

Log likelihood of a pose against "no particle" in the image: sum over the half plane of w [Re(conj(X) C S) - |C S|^2 / 2] / v, with X the image, C its
CTF, S the slice at the pose, v the noise power and w the Hermitian weights; here as sums over rings and angular harmonics. The norm of C S uses the
mean of C^2 / v on each ring: astigmatism enters the first term exactly and the second on average.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorestore.posterior.bank import MatchedImages, PoseBank
from cryorestore.posterior.grid import turned_directions

NEAR = 2.5
"""Steps of the grid within which poses belong to the best one"""


@dataclass(frozen=True)
class PoseWeights:
    """Normalised posterior weights of a batch, summed in the ways that are needed; a grid's poses are equally likely beforehand."""

    turned: Complex[Tensor, "m b s k"]
    """sum over in-plane rotations of weight times exp(-i m angle)"""
    log_evidence: Float[Tensor, "b"]
    """log of p(image | particle) / p(image | noise only), over the grid"""
    best: Float[Tensor, "b"]
    """weight of the likeliest pose"""
    best_direction: Int[Tensor, "b"]
    best_turn: Float[Tensor, "b"]
    """radians"""
    every_pose: Float[Tensor, "b turns s k"] | None = None

    @property
    def by_shift(self) -> Float[Tensor, "b s"]:
        """Marginal of the shift."""
        return self.turned[0].real.sum(2)

    @property
    def by_direction(self) -> Float[Tensor, "b k"]:
        """Marginal of the direction."""
        return self.turned[0].real.sum(1)


@dataclass(frozen=True)
class Poses:
    """The pose of each particle with its uncertainty."""

    rotations: Float[Tensor, "b 3 3"]
    """mean of the poses near the likeliest one"""
    shifts_px: Float[Tensor, "b 2"]
    rotation_sigma: Float[Tensor, "b"]
    """rms angle (degrees) between that rotation and the true one, by the posterior over all poses (equivalent ones counted as one)"""
    far_sigma: Float[Tensor, "b"]
    """what the poses that are not near have added to it (degrees, in square)"""
    shift_sigma: Float[Tensor, "b"]
    """rms error of the shift, both axes together, px"""
    share_near: Float[Tensor, "b"]
    """posterior probability of the poses near the likeliest one"""


def pose_weights(bank: PoseBank, matched: MatchedImages, *, temperature: float = 1.0, keep: bool = False) -> PoseWeights:
    """Weigh all poses of the bank's grid; log likelihoods are divided by `temperature`, and with `keep` the weight of each pose is returned."""
    grid, (images, shifts), directions = bank.grid, matched.harmonics.shape[:2], len(bank.grid.directions)
    count = bank.polar.harmonics + 1
    data = matched.harmonics.permute(3, 0, 1, 2).reshape(count, images * shifts, bank.rings + 1)
    products = torch.bmm(data, bank.weighted_references).view(count, images, shifts, directions).transpose(0, 1)
    norms = (-0.5 * matched.norm_weight @ bank.power.T)[:, None, None].expand(-1, 1, shifts, -1)
    to_angles, to_harmonics = _turn_matrices(bank)
    log_weights = to_angles @ torch.cat([products.real, products.imag, norms], 1).flatten(2)
    if temperature != 1.0:
        log_weights /= temperature
    flat = log_weights.flatten(1)
    weights = torch.softmax(flat, 1)
    best, place = weights.max(1)
    at_best = flat.gather(1, place[:, None])[:, 0]
    turned = (to_harmonics @ weights.view(images, grid.turns, -1)).view(images, 2, count, shifts, directions).permute(1, 2, 0, 3, 4)
    return PoseWeights(
        turned=torch.complex(turned[0], turned[1]),
        log_evidence=at_best - best.log() - math.log(grid.size),
        best=best,
        best_direction=place % directions,
        best_turn=place.div(shifts * directions, rounding_mode="floor") * (2 * math.pi / grid.turns),
        every_pose=weights.view(images, grid.turns, shifts, directions) if keep else None,
    )


def mean_images(bank: PoseBank, weights: PoseWeights, centres_px: Float[Tensor, "b 2"] | None = None) -> Float[Tensor, "b box box"]:
    """Posterior mean of the projections, where they are in the images, without their CTF."""
    harmonics, images, shifts, _ = weights.turned.shape
    mixed = torch.bmm(weights.turned.conj().resolve_conj().flatten(1, 2), bank.references.permute(2, 0, 1))
    slices = bank.polar.from_harmonics(mixed.view(harmonics, images, shifts, bank.rings + 1).permute(1, 2, 3, 0))
    moved = (slices * bank.back_shifts.conj()).sum(1)
    if centres_px is not None:
        moved = moved * bank.polar.shift_phases(centres_px)
    return bank.polar.to_images(moved)


def likeliest_poses(bank: PoseBank, weights: PoseWeights, centres_px: Float[Tensor, "b 2"] | None = None) -> Poses:
    """The poses, finer than the grid, and how well each is known."""
    grid = bank.grid
    directions, best = grid.directions.to(bank.device), weights.best_direction
    mates, closeness = _nearest_equivalents(directions, directions[best], grid.operators.to(bank.device))
    first_harmonic, by_direction = weights.turned[1].sum(1), weights.by_direction
    near = closeness > math.cos(math.radians(NEAR * grid.step))
    likeliest = turned_directions(directions[best], weights.best_turn)
    nearby, everywhere = _mean_matrices(mates, first_harmonic * near, by_direction * near), _mean_matrices(mates, first_harmonic, by_direction)
    share_near = (by_direction * near).sum(1)
    rotations = nearest_rotations(nearby + 1e-3 * likeliest)
    cosine_deficit = (3 - (rotations * everywhere).sum((1, 2))) / 2
    far_deficit = cosine_deficit - (3 * share_near - (rotations * nearby).sum((1, 2))) / 2
    spacing = math.radians(grid.step) ** 2 / 6 + (2 * math.pi / grid.turns) ** 2 / 12
    shifts = grid.shifts_px.to(bank.device)
    mean_shift = weights.by_shift @ shifts
    variance = (weights.by_shift @ shifts.square() - mean_shift.square()).sum(1)
    step = float((shifts[1] - shifts[0]).norm()) if len(shifts) > 1 else 0.0
    return Poses(
        rotations=rotations,
        shifts_px=mean_shift if centres_px is None else mean_shift + centres_px.to(bank.device),
        rotation_sigma=torch.rad2deg((2 * cosine_deficit.clamp_min(0) + spacing / 4).sqrt()),
        far_sigma=torch.rad2deg((2 * far_deficit.clamp_min(0)).sqrt()),
        shift_sigma=(variance.clamp_min(0) + step**2 / 24).sqrt(),
        share_near=share_near,
    )


def _turn_matrices(bank: PoseBank) -> tuple[Tensor, Tensor]:
    """From real and imaginary parts of harmonics, and a term for all rotations, to each (turns, 2 m + 1); from weights of rotations to harmonics."""
    angle = (2 * math.pi / bank.grid.turns) * torch.arange(bank.grid.turns, device=bank.device)
    phase = angle[:, None] * torch.arange(bank.polar.harmonics + 1, device=bank.device)
    cosine, sine = phase.cos(), phase.sin()
    forth = torch.cat([cosine * bank.multiplicity, sine * bank.multiplicity, torch.ones_like(angle)[:, None]], 1)
    return forth, torch.cat([cosine, -sine], 1).T.contiguous()


def _nearest_equivalents(directions: Tensor, best: Tensor, operators: Tensor) -> tuple[Tensor, Tensor]:
    """For every particle, each direction's equivalent that views nearest to its best one, and the cosine between the views: (b, k, 3, 3), (b, k)."""
    views = torch.einsum("kj,ojl->kol", directions[:, 2], operators)
    cosines = torch.einsum("kol,bl->bko", views, best[:, 2])
    closeness, chosen = cosines.max(2)
    return directions @ operators[chosen], closeness


def _mean_matrices(mates: Tensor, first_harmonic: Tensor, by_direction: Tensor) -> Tensor:
    """Weighted sum of the rotations, from the sums over in-plane angles of weight times exp(-i angle)."""
    cosine, sine = first_harmonic.real, -first_harmonic.imag
    along_x, along_y = (torch.einsum("bk,bkj->bj", part, mates[:, :, row]) for part, row in ((cosine, 0), (sine, 1)))
    across_x, across_y = (torch.einsum("bk,bkj->bj", part, mates[:, :, row]) for part, row in ((cosine, 1), (sine, 0)))
    view = torch.einsum("bk,bkj->bj", by_direction, mates[:, :, 2])
    return torch.stack([along_x + along_y, across_x - across_y, view], 1)


def nearest_rotations(matrices: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3 3"]:
    """The rotation nearest to each matrix (Kabsch 1976)."""
    left, _, right = torch.linalg.svd(matrices)
    signs = torch.ones(len(matrices), 3, device=matrices.device)
    signs[:, 2] = torch.linalg.det(left @ right)
    nearest: Tensor = left @ (signs[:, :, None] * right)
    return nearest
