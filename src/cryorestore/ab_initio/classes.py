"""Class averages in two dimensions: K references, each with all in-plane rotations and shifts, by expectation maximisation from random averages.

A quick look at a half's particles before any map is sought, and what is left to look at where none is found. The E-step is that of the search for
poses, its references being images.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.annealing import MAX_SHELL, Region, in_box_for
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.solving import ClassSums, smooth_power
from cryorestore.fourier import spread_shells
from cryorestore.logs import progress
from cryorestore.masks import soft_disc
from cryorestore.posterior.bank import ImageBank
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.search import PoseWeights, pose_weights

_STEP = 8.0
"""degrees between in-plane rotations"""
_FIRST_WEIGHT = 0.2
"""of the log likelihood in the first iteration"""
_LEAST_SHARE = 0.2
"""Of the newest batch in the running mean"""
_WHOLE_PASSES = 2
"""over all particles, at the end"""
_BATCH = 32
_EDGE = 2.0


@dataclass(frozen=True)
class ClassAverages:
    """K classes of n particles."""

    images: Float[Tensor, "k small small"]
    """in the box of `MAX_SHELL`; the most populated class first"""
    classes: Int[Tensor, "n"]
    """of each particle the likeliest, from 0"""
    probability: Float[Tensor, "n"]
    """of that class"""
    log_evidence: Float[Tensor, "n"]
    """of the particle being in one of the classes, against noise alone"""


def average_classes(
    particles: HalfParticles, region: Region, *, classes: int, iterations: int, images: int, seed: int, device: torch.device
) -> ClassAverages:
    """Sort particles into classes of like images, up to shell `MAX_SHELL`.

    Parameters
    ----------
    particles
        Of one half.
    region
        In px of their box.
    classes
        K; some may end empty.
    iterations, images
        Stochastic iterations, each over so many particles drawn anew; the weight of the likelihood rises from 0.2 to 1. Two passes over all follow.
    seed
        Of the draws.
    device
        Where images are compared.
    """
    small, place = in_box_for(particles, region, MAX_SHELL)
    generator = np.random.default_rng(seed)
    references, running, order = _random_averages(small, place, classes, generator), None, np.empty(0, np.int64)
    for iteration in progress(range(iterations), description=f"{classes} class averages"):
        if len(order) < min(images, len(small)):
            order = generator.permutation(len(small))
        rows, order = np.sort(order[:images]), order[images:]
        bank = _bank(references, small, place, device)
        weight = min(1.0, _FIRST_WEIGHT + 1.2 * iteration / iterations)
        sums, _ = _one_pass(bank, small, rows, temperature=1 / weight)
        sums.scaled(len(small) / len(rows))
        if running is None:
            running = sums
        else:
            running.mixed(sums, max(_LEAST_SHARE, (iteration + 1) ** -0.6))
        references = _averages(running, bank, small, place)
    everything = np.arange(len(small))
    for _ in range(_WHOLE_PASSES):
        bank = _bank(references, small, place, device)
        sums, parts = _one_pass(bank, small, everything)
        references = _averages(sums, bank, small, place)
    by_class = torch.cat([part.by_direction.cpu() for part in parts])
    by_size = by_class.sum(0).argsort(descending=True)
    probability, chosen = by_class[:, by_size].max(1)
    return ClassAverages(references[by_size], chosen, probability, torch.cat([part.log_evidence.cpu() for part in parts]))


def _bank(references: Tensor, particles: HalfParticles, region: Region, device: torch.device) -> ImageBank:
    shifts = make_pose_grid(step=90, max_shell=MAX_SHELL, box_size=particles.box_size, shift_range_px=region.shift_px).shifts_px
    return ImageBank(
        references,
        turns=round(360 / _STEP),
        shifts_px=shifts,
        max_shell=MAX_SHELL,
        noise_power=particles.noise_power,
        radius_px=region.radius_px,
        device=device,
    )


def _one_pass(bank: ImageBank, particles: HalfParticles, rows: NDArray[np.int64], *, temperature: float = 1.0) -> tuple[ClassSums, list[PoseWeights]]:
    sums, parts = ClassSums(bank), []
    for batch in np.array_split(rows, math.ceil(len(rows) / _BATCH)):
        matched = bank.match(particles.images[batch], particles.ctf(batch))
        weights = pose_weights(bank, matched, temperature=temperature)
        sums.add(matched, weights)
        parts.append(weights)
    return sums, parts


def _averages(sums: ClassSums, bank: ImageBank, particles: HalfParticles, region: Region) -> Tensor:
    """The posterior mean of each reference: its prior has the power of the images' own signal in each shell."""
    shells = torch.arange(bank.rings + 1)
    prior = smooth_power(particles.signal_power)[shells].to(bank.device)
    known = sums.numerator.permute(2, 1, 0) / (sums.weight.T + 1 / prior)[..., None]
    images = bank.polar.to_images(bank.polar.from_harmonics(known)).cpu()
    return images * soft_disc(bank.box_size, region.radius_px - _EDGE, _EDGE)


def _random_averages(particles: HalfParticles, region: Region, classes: int, generator: np.random.Generator) -> Tensor:
    """Wiener-weighted averages of a few particles each, drawn at random; as they lie."""
    references = []
    few = max(1, min(len(particles) // classes, 20))
    prior = smooth_power(particles.signal_power)
    inside = spread_shells((torch.arange(particles.box_size // 2 + 1) <= MAX_SHELL).float(), particles.box_size)
    variance, expected = (spread_shells(power, particles.box_size) for power in (particles.noise_power, prior))
    for _ in range(classes):
        rows = np.sort(generator.choice(len(particles), few, replace=False))
        ctf = particles.ctf(rows)
        transform = torch.fft.rfft2(particles.images[rows])
        wiener = (transform * ctf / variance).sum(0) / ((ctf.square() / variance).sum(0) + 1 / expected)
        wiener[0, 0] = 0
        references.append(torch.fft.irfft2(wiener * inside, s=particles.images.shape[1:]))
    return torch.stack(references) * soft_disc(particles.box_size, region.radius_px - _EDGE, _EDGE)
