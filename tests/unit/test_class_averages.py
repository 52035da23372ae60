"""Class averages: two structures and junk told apart, and nothing made of noise."""

import numpy as np
import pytest
import torch

from cryorestore.ab_initio.annealing import Region
from cryorestore.ab_initio.classes import average_classes
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.baselines.wiener import estimate_signal_power
from cryorestore.ctf import CtfParameters
from cryorestore.masks import soft_sphere
from helpers import BOX, PIXEL, blob_map, simulate_particles

REGION = Region(13.0, 1.0)
OPTIONS = {"classes": 12, "iterations": 20, "images": 120, "seed": 1, "device": torch.device("cpu")}


def half_of(*parts):
    """One half of several sets of particles."""
    images, ctf = (torch.cat([part[name] for part in parts]) for name in ("images", "ctf"))
    names = CtfParameters.__dataclass_fields__
    parameters = CtfParameters(**{name: np.concatenate([getattr(part["parameters"], name) for part in parts]) for name in names})
    noise = torch.ones(BOX // 2 + 1)
    return HalfParticles(images, parameters, PIXEL, noise, estimate_signal_power([(images, ctf)], noise_power=noise))


def particles_of(seed, count, *, signal=1.5):
    shape = blob_map(seed) * soft_sphere(BOX, 10, 3.0)
    if seed % 2:
        z = torch.arange(BOX)[:, None, None] - BOX // 2
        shape = shape * (z.abs() < 4)  # a plate: its views differ from those of the other
    return simulate_particles(count, sigma=1.0, seed=seed + 1, volume=signal * shape / shape.std() / 10, shift=0.8)


@pytest.fixture(scope="module")
def mixed():
    return average_classes(half_of(particles_of(0, 280), particles_of(1, 120)), REGION, **OPTIONS)


def test_two_proteins_seven_to_three_fall_into_different_classes(mixed):
    counts = np.zeros((12, 2), int)
    np.add.at(counts, (mixed.classes.numpy(), (np.arange(400) >= 280).astype(int)), 1)
    assert counts.sum() == 400
    assert counts.max(1).sum() / 400 > 0.9


def test_the_most_populated_class_is_the_first(mixed):
    sizes = torch.bincount(mixed.classes, minlength=12)
    assert int(sizes[0]) >= int(sizes[-1])
    assert mixed.images.shape == (12, 24, 24)


def test_boxes_without_a_particle_have_less_evidence_than_particles():
    empty = particles_of(0, 60, signal=0.0)
    evidence = average_classes(half_of(particles_of(0, 200), empty), REGION, **OPTIONS).log_evidence
    assert float((evidence[:200] > 0).float().mean()) > 0.95
    assert float((evidence[200:] > 0).float().mean()) < 0.2


def test_of_noise_nothing_is_made():
    noise = average_classes(half_of(particles_of(0, 200, signal=0.0)), REGION, **OPTIONS)
    assert float(noise.log_evidence.median().abs()) < 0.5
    structure = average_classes(half_of(particles_of(0, 200)), REGION, **OPTIONS)
    assert float(noise.images.std()) < 0.1 * float(structure.images.std())
