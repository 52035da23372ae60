"""The posterior against what can be worked out otherwise: a dense grid, its own prediction, and pure noise."""

import math

import numpy as np
import pytest
import torch

from cryorestore.geometry import perturb_rotations
from cryorestore.posterior import LocalPosterior
from cryorestore.project import FourierVolume
from cryorestore.rotation_vectors import rotation_vectors_to_matrices
from helpers import BOX, simulate_particles

ROTATION, SHIFT, SIGMA = 4.0, 0.6, 2.0


@pytest.fixture(scope="module")
def particles():
    data = simulate_particles(32, sigma=SIGMA, shift=0.0)
    generator = np.random.default_rng(5)
    data["given"] = torch.from_numpy(perturb_rotations(data["rotations"], rotation_error=ROTATION, generator=generator)).float()
    data["given_shifts"] = torch.from_numpy(generator.standard_normal((32, 2)) * SHIFT / math.sqrt(2)).float()
    return data


def posterior(volume, **options):
    spectra = {"noise_power": torch.full((17,), SIGMA**2), "map_error_power": torch.zeros(17)}
    return LocalPosterior(FourierVolume(volume, max_shell=15), rotation_sigma=ROTATION, shift_sigma=SHIFT, **spectra, **options)


def run(data, images=None, **options):
    images = data["images"] if images is None else images
    return posterior(data["volume"], **options)(images, data["ctf"], data["given"], data["given_shifts"], list(range(len(images))))


def test_the_error_is_what_the_posterior_predicts(particles):
    result = run(particles)
    actual = (result.mean - particles["clean"]).square().mean()
    assert float(actual) == pytest.approx(float(result.deviation.square().mean()), rel=0.35)
    assert float(actual) < 0.2 * float(particles["clean"].square().mean())


def test_more_samples_change_little(particles):
    few, many = run(particles), run(particles, rotations=(600, 400, 400))
    error = (few.mean - many.mean).square().mean()
    assert float(error) < 0.1 * float(many.deviation.square().mean())
    assert float((few.log_evidence - many.log_evidence).abs().median()) < 0.3


def test_a_dense_grid_of_poses_agrees(particles):
    row = 3
    volume, coefficients = FourierVolume(particles["volume"], max_shell=15), FourierVolume(particles["volume"], max_shell=15).coefficients
    deviation, shift = math.radians(ROTATION) / math.sqrt(3), SHIFT / math.sqrt(2)
    axis = torch.linspace(-3, 3, 13)
    vectors = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    offsets = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    contrast = coefficients.select(particles["ctf"][row])
    slices = volume.slices(rotation_vectors_to_matrices(vectors * deviation) @ particles["given"][row]) * contrast
    data = coefficients.from_images(particles["images"][row])
    log_weights, images = [], []
    for offset in offsets:
        model = slices * coefficients.shift_phases(particles["given_shifts"][row] + offset * shift)
        likelihood = ((data.conj() * model).real - model.abs().square() / 2) @ coefficients.weight / SIGMA**2
        log_weights.append(likelihood - vectors.square().sum(1) / 2 - offset.square().sum() / 2)
        images.append(torch.softmax(log_weights[-1], 0).to(torch.complex64) @ model)
    totals = torch.stack([weights.logsumexp(0) for weights in log_weights])
    mean = coefficients.to_images(torch.softmax(totals, 0).to(torch.complex64) @ torch.stack(images))
    prior = -0.5 * (vectors.square().sum(1)[:, None] + offsets.square().sum(1)[None]).flatten().double()
    evidence = float(totals.double().logsumexp(0) - prior.logsumexp(0))
    result = run(particles, rotations=(600, 400, 400))
    assert float((result.mean[row] - mean).square().mean()) < 0.05 * float(result.deviation[row].square().mean())
    assert float(result.log_evidence[row]) == pytest.approx(evidence, abs=0.3)


def test_noise_has_evidence_against_a_particle(particles):
    noise = torch.randn(32, BOX, BOX, generator=torch.Generator().manual_seed(7)) * SIGMA
    assert float(run(particles, noise).log_evidence.max()) < 0
    assert float(run(particles).log_evidence.min()) > 0


def test_draws_belong_to_the_particle_not_to_its_place_in_the_batch(particles):
    restore = posterior(particles["volume"])
    order = torch.arange(31, -1, -1)
    forward = run(particles).mean
    names = ("images", "ctf", "given", "given_shifts")
    backward = restore(*[particles[name][order] for name in names], order.tolist()).mean
    assert torch.allclose(forward[order], backward, atol=1e-4)


def test_a_map_error_makes_the_posterior_more_careful(particles):
    spectra = {"noise_power": torch.full((17,), SIGMA**2), "map_error_power": torch.full((17,), 4 * SIGMA**2)}
    careful = LocalPosterior(FourierVolume(particles["volume"], max_shell=15), rotation_sigma=ROTATION, shift_sigma=SHIFT, **spectra)
    arguments = [particles[name] for name in ("images", "ctf", "given", "given_shifts")]
    assert float(careful(*arguments, list(range(32))).log_evidence.mean()) < float(run(particles).log_evidence.mean())
