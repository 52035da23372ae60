"""A pass at the full band limit, with poses near those that a search over all of them has found.

The best pose of a grid is known better than its step: importance sampling near it (`posterior.local`) costs less than any finer grid.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.solving import FittedMap, MapSums
from cryorestore.geometry import symmetry_matrices
from cryorestore.logs import progress
from cryorestore.posterior import LocalPosterior, PosteriorPoses
from cryorestore.project import FourierVolume
from cryorestore.reference import map_error_power

ROTATION_SIGMA = 3.0
"""Degrees rms of the search: half the step of the last grid"""
SHIFT_SIGMA = 1 / 128
"""Of the search, as a share of the box, rms: half the step of the last grid's shifts"""
_EVERY = 3
"""One of so many draws goes into the map"""
_BATCH = 16


@dataclass(frozen=True)
class FoundPoses:
    """Of the n particles of a half, from the last pass."""

    rotations: Float[Tensor, "n 3 3"]
    shifts_px: Float[Tensor, "n 2"]
    """in px of the full working box"""
    rotation_sigma: Float[Tensor, "n"]
    """degrees"""
    far_sigma: Float[Tensor, "n"]
    """degrees: what poses that are not near this one contribute to it, by the last search over all poses"""
    shift_sigma: Float[Tensor, "n"]
    """px of the full working box"""
    log_evidence: Float[Tensor, "n"]
    """by the last search over all poses: a pose that was chosen for its image explains it too well"""


def near_pass(
    before: FittedMap,
    particles: HalfParticles,
    found: FoundPoses,
    mapped: NDArray[np.bool_],
    *,
    radius_px: float,
    max_shell: int,
    symmetry: str,
    seed: int,
) -> tuple[FoundPoses, Float[Tensor, "n"], FittedMap]:
    """Draw poses near those found, and fit a map to the particles at all of them.

    Parameters
    ----------
    before
        The map that poses are drawn with, in the particles' box.
    particles, found
        Of one half, row by row the same.
    mapped
        Which particles go into the map.
    radius_px
        Of the sphere that the map lies in.
    max_shell
        Of the map, and highest that is compared.
    symmetry
        Point group in RELION's setting.
    seed
        Of the draws, together with a particle's row.

    Returns
    -------
        The poses' means and errors; the log evidence of each particle near its pose; the new map.
    """
    noise = particles.noise_power
    known = torch.zeros_like(noise)
    known[: len(before.known)] = before.known
    slicer = FourierVolume(before.volume, max_shell=max_shell)
    posterior = LocalPosterior(
        slicer,
        noise_power=noise,
        map_error_power=map_error_power(before.volume, known, max_shell, seed),
        rotation_sigma=ROTATION_SIGMA,
        shift_sigma=SHIFT_SIGMA * particles.box_size,
    )
    sums = MapSums(particles.box_size, torch.from_numpy(symmetry_matrices(symmetry)).float())
    parts, evidence, used = [], [], 0
    for start in progress(range(0, len(particles), _BATCH), description=f"shell {max_shell}, near the poses found"):
        rows = np.arange(start, min(start + _BATCH, len(particles)))
        ctf = particles.ctf(rows)
        seeds = [(seed << 32) + row for row in rows.tolist()]
        result = posterior(particles.images[rows], ctf, found.rotations[rows], found.shifts_px[rows], seeds)
        _insert(sums, particles.images[rows], ctf, noise, result.poses, mapped[rows])
        parts.append(_updated(found, rows, result.poses))
        evidence.append(result.log_evidence)
        used = len(range(0, result.poses.rotations.shape[1], _EVERY))
    share = float(mapped.mean())
    fitted = sums.fit(images=used * share, signal_power=particles.signal_power, radius_px=radius_px, max_shell=max_shell)
    together = FoundPoses(**{name: torch.cat([getattr(part, name) for part in parts]) for name in FoundPoses.__dataclass_fields__})
    return together, torch.cat(evidence), fitted


def _insert(sums: MapSums, images: Tensor, ctf: Tensor, noise_power: Tensor, poses: PosteriorPoses, mapped: NDArray[np.bool_]) -> None:
    """Every image at some of its draws."""
    coefficients, chosen = sums.coefficients, torch.from_numpy(mapped)
    contrast = coefficients.select(ctf[chosen])
    variance = noise_power[coefficients.shell]
    numerator, weight = coefficients.from_images(images[chosen]) * contrast / variance, contrast.square() / variance
    for draw in range(0, poses.rotations.shape[1], _EVERY):
        shifted = numerator * coefficients.shift_phases(-poses.shifts_px[chosen, draw])
        sums.insert(shifted, weight, poses.rotations[chosen, draw])


def _updated(found: FoundPoses, rows: NDArray[np.int64], poses: PosteriorPoses) -> FoundPoses:
    """Means and errors over the draws; the poses far from them stay as likely as they were."""
    rotations, shifts = poses.mean_rotations, poses.mean_shifts_px
    deficit = (3 - (poses.rotations * rotations[:, None]).sum((2, 3)).mean(1)) / 2
    far = found.far_sigma[rows]
    return FoundPoses(
        rotations=rotations,
        shifts_px=shifts,
        rotation_sigma=(torch.rad2deg((2 * deficit.clamp_min(0)).sqrt()).square() + far.square()).sqrt(),
        far_sigma=far,
        shift_sigma=(poses.shifts_px - shifts[:, None]).square().sum(2).mean(1).sqrt(),
        log_evidence=found.log_evidence[rows],
    )
