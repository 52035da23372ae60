"""The search over all poses against a brute-force grid, its own prediction, and pure noise."""

import math

import numpy as np
import pytest
import torch

from cryorestore.fourier import to_fourier, to_real
from cryorestore.geometry import symmetry_matrices
from cryorestore.masks import soft_sphere
from cryorestore.posterior.bank import PoseBank
from cryorestore.posterior.grid import make_pose_grid, turned_directions
from cryorestore.posterior.search import likeliest_poses, mean_images, pose_weights
from cryorestore.project import FourierVolume
from helpers import BOX, blob_map, simulate_particles

SIGMA, RADIUS, SHELL = 1.5, 13, 9


@pytest.fixture(scope="module")
def particles():
    return simulate_particles(24, sigma=SIGMA, volume=blob_map() * soft_sphere(BOX, RADIUS - 3, 3.0), shift=0.8)


def bank_of(volume, *, step, shift, symmetry="C1", shell=SHELL):
    grid = make_pose_grid(step=step, max_shell=shell, box_size=BOX, shift_range_px=shift, symmetry=symmetry, seed=1)
    return PoseBank(FourierVolume(volume, max_shell=shell), grid, noise_power=torch.full((17,), SIGMA**2), radius_px=RADIUS)


def test_every_pose_has_the_weight_that_a_brute_force_grid_gives_it(particles):
    """The search integrates over rings what brute force sums over a lattice; at the band's rim they differ by a share f of the slice's power.

    With L = (sum of |C S|^2 / v) / 2, the log likelihood of the likeliest pose, noise makes a deviation of sqrt(2 f L) of that and the signal f L:
    f = 0.005 is granted. Of two sets of poses whose log weights err by d against each other, neither's share errs by more than d / 4.
    """
    share = 0.005
    bank = bank_of(particles["volume"], step=25, shift=0.8)
    grid, coefficients = bank.grid, bank.volume.coefficients
    weights = pose_weights(bank, bank.match(particles["images"], particles["ctf"]), keep=True)
    turns = 2 * math.pi * torch.arange(grid.turns) / grid.turns
    rotations = turned_directions(grid.directions[:, None].expand(-1, grid.turns, 3, 3), turns.expand(len(grid.directions), -1))
    slices = bank.volume.slices(rotations)
    for row in range(len(particles["images"])):
        model = slices * coefficients.select(particles["ctf"][row])
        data = coefficients.from_images(particles["images"][row])
        moved = model[:, :, None] * coefficients.shift_phases(grid.shifts_px)
        log_weights = ((data.conj() * moved).real - moved.abs().square() / 2) @ coefficients.weight / SIGMA**2
        posterior = torch.softmax(log_weights.flatten(), 0).view(log_weights.shape)
        best, expected = float(log_weights.max()), float(log_weights.flatten().logsumexp(0)) - math.log(grid.size)
        noise = math.sqrt(2 * share * best)
        assert float(weights.log_evidence[row]) == pytest.approx(expected, abs=share * best + 2 * noise)
        likely = posterior > 1e-3
        found = weights.every_pose[row].permute(2, 0, 1)[likely].log() + weights.log_evidence[row] + math.log(grid.size)
        assert float((found - log_weights[likely]).std(correction=0)) < noise
        bound = max(float((found - log_weights[likely]).max() - (found - log_weights[likely]).min()) / 4, 0.005)
        assert (posterior.sum((1, 2)) - weights.by_direction[row]).abs().max() < bound
        assert (posterior.sum((0, 1)) - weights.by_shift[row]).abs().max() < bound


def test_poses_are_as_wrong_as_they_are_said_to_be(particles):
    bank = bank_of(particles["volume"], step=9, shift=0.8)
    weights = pose_weights(bank, bank.match(particles["images"], particles["ctf"]))
    poses = likeliest_poses(bank, weights)
    assert torch.allclose(poses.rotations @ poses.rotations.mT, torch.eye(3).expand(24, 3, 3), atol=1e-4)
    cosines = ((poses.rotations * torch.from_numpy(particles["rotations"]).float()).sum((1, 2)) - 1) / 2
    errors = torch.rad2deg(cosines.clamp(-1, 1).acos())
    assert float(errors.median()) < 9 / 2
    sure = poses.rotation_sigma < 9
    assert sure.float().mean() > 0.5
    ratio = errors[sure].square().mean().sqrt() / poses.rotation_sigma[sure].square().mean().sqrt()
    assert 0.5 < float(ratio) < 1.6
    missed = (poses.shifts_px - torch.from_numpy(particles["shifts"]).float()).square().sum(1).mean().sqrt()
    assert float(missed) < 0.6


def test_the_mean_image_is_near_the_truth(particles):
    bank = bank_of(particles["volume"], step=9, shift=0.8)
    mean = mean_images(bank, pose_weights(bank, bank.match(particles["images"], particles["ctf"])))
    with_ctf = to_real(to_fourier(mean) * particles["ctf"])
    error, power = (with_ctf - particles["clean"]).square().mean(), particles["clean"].square().mean()
    assert float(error / power) < 0.2


def test_particles_have_evidence_and_noise_has_none(particles):
    bank = bank_of(particles["volume"], step=15, shift=0.8)
    noise = torch.randn(24, BOX, BOX, generator=torch.Generator().manual_seed(3)) * SIGMA
    seen = [pose_weights(bank, bank.match(images, particles["ctf"])).log_evidence for images in (particles["images"], noise)]
    assert float(seen[0].min()) > 0 > float(seen[1].max())


def test_searching_round_centres_finds_the_same_as_searching_wide(particles):
    bank = bank_of(particles["volume"], step=20, shift=0.0)
    shifts = torch.from_numpy(particles["shifts"]).float()
    weights = pose_weights(bank, bank.match(particles["images"], particles["ctf"], shifts))
    without = pose_weights(bank, bank.match(particles["images"], particles["ctf"]))
    assert float((weights.log_evidence - without.log_evidence).mean()) > 1
    assert torch.equal(likeliest_poses(bank, weights, shifts).shifts_px, shifts)


@pytest.mark.parametrize("symmetry", ["C3", "D2", "O"])
def test_the_asymmetric_unit_has_one_of_each_set_of_equivalent_directions(symmetry):
    everywhere = len(make_pose_grid(step=6, max_shell=5, box_size=32, shift_range_px=0).directions)
    grid = make_pose_grid(step=6, max_shell=5, box_size=32, shift_range_px=0, symmetry=symmetry)
    order = len(symmetry_matrices(symmetry))
    assert len(grid.directions) * order == pytest.approx(everywhere, rel=0.2)
    views = grid.directions[:, 2] @ grid.operators
    anywhere = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    nearest = torch.einsum("okj,nj->nok", views, anywhere).amax((1, 2))
    assert float(torch.rad2deg(nearest.acos()).max()) < 6


def test_shifts_are_as_fine_as_the_band_limit_asks():
    grid = make_pose_grid(step=30, max_shell=8, box_size=64, shift_range_px=3)
    steps = np.unique(grid.shifts_px[:, 0].numpy())
    assert steps[0] == -3
    assert steps[-1] == 3
    assert np.diff(steps).max() <= 1.1 * 64 / (2 * math.pi * 8)
