"""The posterior over all poses at the full band limit: against its own prediction, more draws, and noise."""

import pytest
import torch

from cryorestore.fourier import to_fourier, to_real
from cryorestore.masks import soft_sphere
from cryorestore.posterior import WidePosterior
from cryorestore.posterior.bank import PoseBank
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.search import mean_images, pose_weights
from cryorestore.project import FourierVolume
from helpers import BOX, blob_map, simulate_particles

SIGMA, COUNT = 1.2, 20


@pytest.fixture(scope="module")
def particles():
    return simulate_particles(COUNT, sigma=SIGMA, volume=blob_map() * soft_sphere(BOX, 10, 3.0), shift=0.8)


@pytest.fixture(scope="module")
def bank(particles):
    grid = make_pose_grid(step=12, max_shell=8, box_size=BOX, shift_range_px=0.9)
    return PoseBank(FourierVolume(particles["volume"], max_shell=8), grid, noise_power=torch.full((17,), SIGMA**2), radius_px=13)


def run(particles, bank, *, poses=256, images=None):
    spectra = {"noise_power": torch.full((17,), SIGMA**2), "map_error_power": torch.zeros(17)}
    posterior = WidePosterior(bank, FourierVolume(particles["volume"], max_shell=14), poses=poses, **spectra)
    return posterior(particles["images"] if images is None else images, particles["ctf"], range(COUNT))


def test_the_error_is_what_the_posterior_predicts_and_less_than_a_grid_leaves(particles, bank):
    result = run(particles, bank)
    actual = float((result.mean - particles["clean"]).square().mean())
    assert actual == pytest.approx(float(result.deviation.square().mean()), rel=0.4)
    grid = mean_images(bank, pose_weights(bank, bank.match(particles["images"], particles["ctf"])))
    left = float((to_real(to_fourier(grid) * particles["ctf"]) - particles["clean"]).square().mean())
    assert actual < 0.7 * left


def test_more_draws_change_little(particles, bank):
    few, many = run(particles, bank), run(particles, bank, poses=1024)
    assert float((few.mean - many.mean).square().mean()) < 0.15 * float(many.deviation.square().mean())
    assert float((few.log_evidence - many.log_evidence).abs().median()) < 0.5


def test_noise_has_evidence_against_a_particle(particles, bank):
    noise = torch.randn(COUNT, BOX, BOX, generator=torch.Generator().manual_seed(7)) * SIGMA
    assert float(run(particles, bank, images=noise).log_evidence.max()) < 0 < float(run(particles, bank).log_evidence.min())


def test_a_particle_is_restored_alike_whatever_it_is_batched_with(particles, bank):
    together = run(particles, bank)
    spectra = {"noise_power": torch.full((17,), SIGMA**2), "map_error_power": torch.zeros(17)}
    posterior = WidePosterior(bank, FourierVolume(particles["volume"], max_shell=14), **spectra)
    alone = posterior(particles["images"][3:4], particles["ctf"][3:4], [3])
    assert torch.allclose(alone.mean[0], together.mean[3], atol=1e-3)
