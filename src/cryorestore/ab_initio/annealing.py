"""A map from nothing: stochastic expectation maximisation from a random blob, its band limit and its temperature marching.

The likelihood starts at a seventh of its weight and at shell 4, so that the first maps commit to little (Punjani et al. 2017 and Barnett et al. 2017
for the two ideas). Several seeds are tried, and the held-out evidence says which of them found the deepest basin.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.solving import ClassSums, solve_map
from cryorestore.ab_initio.volumes import masked_map
from cryorestore.fourier import filtered_map
from cryorestore.logs import progress
from cryorestore.posterior.bank import PoseBank
from cryorestore.posterior.grid import PoseGrid, make_pose_grid
from cryorestore.posterior.search import pose_weights
from cryorestore.project import FourierVolume

STEP = 12.0
"""degrees between directions"""
MAX_SHELL = 8
"""the band limit that is reached"""
_FIRST_SHELL = 4
_FIRST_WEIGHT = 0.15
"""of the log likelihood in the first iteration"""
_LEAST_SHARE = 0.1
"""Of the newest batch in the running mean of the class averages"""
_EVIDENCE_PARTICLES = 500
_POSES_AT_ONCE = 1_000_000
"""Poses times images that are weighed at once, in a few copies of four bytes: more than that leaves the processor's cache"""


@dataclass(frozen=True)
class Region:
    """Where the particle is sought, in px of the particles' full working box."""

    radius_px: float
    """of the sphere that it lies in"""
    shift_px: float
    """how far it may be off the box's centre, along x and y"""


def anneal(
    particles: HalfParticles, region: Region, *, symmetry: str, iterations: int, images: int, seed: int, device: torch.device
) -> Float[Tensor, "box box box"]:
    """Find a map of shells up to `MAX_SHELL`, from `images` particles drawn anew in each of `iterations`.

    Parameters
    ----------
    particles
        Of one half.
    region
        In px of their box.
    symmetry
        Point group in RELION's setting, imposed from the start.
    iterations, images
        Of the stochastic expectation maximisation.
    seed
        Of blob, grid and draws.
    device
        Where poses are weighed.

    Returns
    -------
        In the box of `particles.for_shell(MAX_SHELL)`.
    """
    small, place = in_box_for(particles, region, MAX_SHELL)
    grid = make_pose_grid(step=STEP, max_shell=MAX_SHELL, box_size=small.box_size, shift_range_px=place.shift_px, symmetry=symmetry, seed=seed)
    generator = np.random.default_rng(seed)
    volume = random_blob(small, place, generator)
    running: ClassSums | None = None
    order = np.empty(0, np.int64)
    for iteration in progress(range(iterations), description=f"ab initio, seed {seed}"):
        done = iteration / iterations
        shell = min(MAX_SHELL, _FIRST_SHELL + round(1.5 * done * (MAX_SHELL - _FIRST_SHELL)))
        weight = min(1.0, _FIRST_WEIGHT + 1.2 * done)
        if len(order) < min(images, len(small)):
            order = generator.permutation(len(small))
        rows, order = np.sort(order[:images]), order[images:]
        bank = make_bank(volume, small, grid, place, max_shell=shell, rings=MAX_SHELL, device=device)
        sums = ClassSums(bank)
        for batch in np.array_split(rows, math.ceil(len(rows) / batch_size(grid))):
            matched = bank.match(small.images[batch], small.ctf(batch))
            sums.add(matched, pose_weights(bank, matched, temperature=1 / weight))
        sums.scaled(len(small) / len(rows))
        if running is None:
            running = sums
        else:
            running.mixed(sums, max(_LEAST_SHARE, (iteration + 1) ** -0.6))
        volume = solve_map(running, bank, signal_power=small.signal_power, radius_px=place.radius_px, max_shell=shell).volume
    return volume


def held_out_evidence(
    volume: Float[Tensor, "small small small"], particles: HalfParticles, region: Region, *, symmetry: str, device: torch.device
) -> NDArray[np.float64]:
    """Log evidence of the same particles for every map of a half: evenly drawn, at shell `MAX_SHELL`."""
    small, place = in_box_for(particles, region, MAX_SHELL)
    grid = make_pose_grid(step=STEP, max_shell=MAX_SHELL, box_size=small.box_size, shift_range_px=place.shift_px, symmetry=symmetry)
    bank = make_bank(volume, small, grid, place, max_shell=MAX_SHELL, rings=MAX_SHELL, device=device)
    rows = np.linspace(0, len(small) - 1, min(len(small), _EVIDENCE_PARTICLES)).astype(np.int64)
    parts = [
        pose_weights(bank, bank.match(small.images[batch], small.ctf(batch))).log_evidence.cpu().numpy()
        for batch in np.array_split(rows, math.ceil(len(rows) / batch_size(grid)))
    ]
    return np.concatenate(parts).astype(np.float64)


def in_box_for(particles: HalfParticles, region: Region, max_shell: int) -> tuple[HalfParticles, Region]:
    """Particles and region in the smallest box for a band limit."""
    small = particles.for_shell(max_shell)
    scale = small.box_size / particles.box_size
    return small, Region(region.radius_px * scale, region.shift_px * scale)


def make_bank(
    volume: Tensor, particles: HalfParticles, grid: PoseGrid, region: Region, *, max_shell: int, rings: int, device: torch.device
) -> PoseBank:
    """References up to `rings`, those of a map that ends at `max_shell`; the particles' own noise."""
    limited = filtered_map(volume, torch.ones(max_shell + 1))
    slices = FourierVolume(limited, max_shell=rings)
    return PoseBank(slices, grid, noise_power=particles.noise_power, radius_px=region.radius_px, device=device)


def batch_size(grid: PoseGrid) -> int:
    """Images that are compared with all poses of a grid at once."""
    return max(1, min(64, _POSES_AT_ONCE // grid.size))


def random_blob(particles: HalfParticles, region: Region, generator: np.random.Generator) -> Float[Tensor, "box box box"]:
    """A smooth ball with random lumps, as strong as the images' signal in shells 1 to 3."""
    box_size = particles.box_size
    lumps = torch.from_numpy(generator.standard_normal((box_size,) * 3).astype(np.float32))
    lumps = filtered_map(lumps, torch.exp(-((torch.arange(box_size // 2 + 1) / 3.0) ** 2) / 2))
    blob = masked_map(1 + 0.5 * lumps / lumps.std(), radius_px=region.radius_px)
    return scaled_to_signal(blob, particles)


def scaled_to_signal(volume: Float[Tensor, "box box box"], particles: HalfParticles) -> Float[Tensor, "box box box"]:
    """The map, as strong as the images' signal in shells 1 to 3."""
    slices = FourierVolume(volume, max_shell=3)
    views = make_pose_grid(step=30, max_shell=3, box_size=particles.box_size, shift_range_px=0).directions
    power = slices.slices(views).abs().square().mean(0)
    return volume * math.sqrt(float(particles.signal_power[slices.coefficients.shell].sum()) / max(float(power.sum()), 1e-20))
