"""Particles that look the same from several sides, spread evenly over these sides.

A search without symmetry may put each particle of a symmetric structure at any of its equivalent poses. Where a map is better known, it explains
images better, so that they gather there, and the rest of the transform is left unfilled although every pose is right. Drawing one of the equivalent
poses at random fills it. Whether poses are equivalent is for the particles to say: by the evidence of the map that results.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.alignment import MapMove, own_moves
from cryorestore.ab_initio.annealing import MAX_SHELL, Region, held_out_evidence
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.near import FoundPoses
from cryorestore.ab_initio.solving import FittedMap, MapSums
from cryorestore.ab_initio.volumes import resized_map
from cryorestore.logs import get_logger

_ALIKE = 0.75
"""Correlation of a map with itself, turned, from which on it is tried; unevenly filled maps of symmetric structures reach 0.85"""
_BATCH = 256


def spread_over_equals(
    volume: Float[Tensor, "small small small"],
    found: FoundPoses,
    particles: HalfParticles,
    mapped: NDArray[np.bool_],
    region: Region,
    *,
    max_shell: int,
    seed: int,
    device: torch.device,
) -> tuple[FoundPoses, FittedMap, int] | None:
    """Give each particle one of the poses at which the map looks alike, and fit a map to that; None where this map explains the particles less well.

    Parameters
    ----------
    volume
        Map without symmetry that poses were found with, in any box of the particles' width.
    found, particles
        Of one half, row by row the same.
    mapped
        Which particles go into the map.
    region
        In px of the particles' box.
    max_shell
        Of the new map.
    seed
        Of the draws.
    device
        Where evidence is computed.

    Returns
    -------
        The new poses, the new map, and how many ways the map looks like itself.
    """
    large = resized_map(volume, particles.box_size)
    moves = own_moves(large, least=_ALIKE)
    if len(moves) == 1:
        return None
    chosen = np.random.default_rng(seed).integers(0, len(moves), len(particles))
    spread = _moved(found, moves, chosen)
    fitted = map_at_poses(spread, particles, mapped, radius_px=region.radius_px, max_shell=max_shell)
    before, after = (
        held_out_evidence(resized_map(part, particles.for_shell(MAX_SHELL).box_size), particles, region, symmetry="C1", device=device).mean()
        for part in (large, fitted.volume)
    )
    get_logger().info("the map looks like itself in %d ways; log evidence %.2f, after spreading %.2f", len(moves), before, after)
    return (spread, fitted, len(moves)) if after > before else None


def _moved(found: FoundPoses, moves: list[MapMove], chosen: NDArray[np.int64]) -> FoundPoses:
    rotations, shifts = found.rotations.double().numpy().copy(), found.shifts_px.double().numpy().copy()
    for number, move in enumerate(moves):
        rows = chosen == number
        rotations[rows] = move.rotations(rotations[rows])
        shifts[rows] = move.shifts_px(rotations[rows], shifts[rows])
    new = {"rotations": torch.from_numpy(rotations).float(), "shifts_px": torch.from_numpy(shifts).float()}
    return FoundPoses(**{**vars(found), **new})


def map_at_poses(found: FoundPoses, particles: HalfParticles, mapped: NDArray[np.bool_], *, radius_px: float, max_shell: int) -> FittedMap:
    """The map of those of the particles that are `mapped`, each at one pose; the options are those of `MapSums.fit`."""
    sums = MapSums(particles.box_size, torch.eye(3)[None])
    coefficients = sums.coefficients
    variance = particles.noise_power[coefficients.shell]
    places = np.flatnonzero(mapped)
    for start in range(0, len(places), _BATCH):
        rows = places[start : start + _BATCH]
        contrast = coefficients.select(particles.ctf(rows))
        centred = coefficients.from_images(particles.images[rows]) * coefficients.shift_phases(-found.shifts_px[rows])
        sums.insert(centred * contrast / variance, contrast.square() / variance, found.rotations[rows])
    return sums.fit(images=float(mapped.mean()), signal_power=particles.signal_power, radius_px=radius_px, max_shell=max_shell)
