"""What a map's own error adds to the deviation of a restored pixel."""

import numpy as np
import pytest
import torch

from cryorestore.geometry import perturb_rotations, random_rotations
from cryorestore.map_error import MapError
from cryorestore.project import FourierVolume
from cryorestore.reference import Reference, map_error_power

BOX = 32


CENTRES = np.random.default_rng(1).uniform(-5.5, 5.5, (10, 3))


def blobs(rotations):
    """Ten blobs within 10 px of the centre, in a sphere of 12 px: the mean over rotations of the whole."""
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    centres = (rotations @ CENTRES.T).transpose(0, 2, 1).reshape(-1, 3)
    total = sum(np.exp(-((z - c) ** 2 + (y - b) ** 2 + (x - a) ** 2) / 4) for a, b, c in centres) / len(rotations)
    return torch.from_numpy(np.where(x**2 + y**2 + z**2 <= 144, total, 0)).float()


@pytest.fixture(scope="module")
def volume():
    return blobs(np.eye(3)[None])


def reference(volume, weights):
    ones = torch.ones(BOX // 2 + 1)
    return Reference(volume, 3.0, 15, ones, ones, map_error_power(volume, weights, 15, 1), weights, 1.0)


def test_a_map_that_agrees_with_itself_wholly_has_no_error(volume):
    error = MapError(reference(volume, torch.ones(BOX // 2 + 1)), rotation_sigma=5.0, shift_sigma=3.0)
    assert error.variance(torch.ones(2, BOX, BOX // 2 + 1)).abs().max() == 0


def test_at_exact_poses_the_error_is_what_the_weights_say(volume):
    weights = torch.full((BOX // 2 + 1,), 0.5)  # half of the power is noise: what is lost is as large as what is kept
    made = reference(volume, weights)
    error = MapError(made, rotation_sigma=0.0, shift_sigma=0.0)
    assert torch.allclose(error.power[1:15], made.map_error_power[1:15], rtol=0.15)


def test_what_erring_poses_cost_is_told_from_the_map_that_they_made(volume):
    generator = np.random.default_rng(2)
    made = blobs(perturb_rotations(np.repeat(np.eye(3)[None], 60, 0), rotation_error=6.0, generator=generator))
    slicer = FourierVolume(volume, max_shell=15)
    rotations = torch.from_numpy(random_rotations(100, generator)).float()
    lost = (slicer.slices(rotations) - FourierVolume(made, max_shell=15).slices(rotations)).abs().square().mean(0)
    weights = torch.full((BOX // 2 + 1,), 0.99999)
    weights[1] = 0.99  # a map with some noise, but not where it is compared
    error = MapError(reference(made, weights), rotation_sigma=6.0, shift_sigma=0.0)
    for number in (6, 8, 10):
        assert float(error.power[number]) == pytest.approx(float(lost[slicer.coefficients.shell == number].mean()), rel=0.35)


def test_the_variance_of_an_image_is_that_of_its_coefficients(volume):
    error = MapError(reference(volume, torch.full((BOX // 2 + 1,), 0.5)), rotation_sigma=2.5, shift_sigma=1.5)
    variance = error.variance(torch.ones(1, BOX, BOX // 2 + 1))
    coefficients = FourierVolume(volume, max_shell=15).coefficients
    assert float(variance.sum()) == pytest.approx(float((error.power[coefficients.shell] * coefficients.weight).sum()), rel=1e-4)
    assert float(variance[0, 0, 0]) == 0  # outside of the map's support
