import numpy as np
import pytest
import torch

from cryorestore.coefficients import CoefficientSet
from cryorestore.geometry import random_rotations
from cryorestore.slicing import add_slices, add_slices_on_device, grid_shape, read_slices, read_slices_on_device

SHELL = 5
REACH = 2 * (SHELL + 1) + 2


@pytest.fixture
def sampling():
    coefficients = CoefficientSet(12, SHELL)
    rotations = random_rotations(7, np.random.default_rng(0)).astype(np.float32)
    return rotations, 2 * coefficients.kx.numpy(), 2 * coefficients.ky.numpy()


def random_grid(parts, seed):
    return np.random.default_rng(seed).standard_normal(int(np.prod(grid_shape(REACH))) * parts).astype(np.float32)


def test_reading_on_the_cpu_and_by_torch_operations_agree(sampling):
    rotations, kx, ky = sampling
    grid, out = random_grid(2, 1), np.empty((len(rotations), 2 * len(kx)), np.float32)
    read_slices(grid, rotations, kx, ky, REACH, out)
    other = read_slices_on_device(*(torch.from_numpy(array) for array in (grid, rotations, kx, ky)), REACH)
    np.testing.assert_allclose(out.view(np.complex64), other.numpy(), atol=2e-6)


def test_adding_on_the_cpu_and_by_torch_operations_agree(sampling):
    rotations, kx, ky = sampling
    generator = np.random.default_rng(2)
    real, imaginary, weight = generator.standard_normal((3, len(rotations), len(kx))).astype(np.float32)
    grid = np.zeros_like(random_grid(3, 0))
    add_slices(grid, real, imaginary, weight, rotations, kx, ky, REACH)
    other = torch.zeros(len(grid))
    values = torch.complex(torch.from_numpy(real), torch.from_numpy(imaginary))
    add_slices_on_device(other, values, *(torch.from_numpy(array) for array in (weight, rotations, kx, ky)), REACH)
    np.testing.assert_allclose(grid, other.numpy(), atol=1e-5)
    # the eight shares of a sample sum to one: nothing is lost at the edges
    np.testing.assert_allclose(grid.reshape(-1, 3)[:, 2].sum(), weight.sum(), rtol=1e-4)


def test_adding_is_the_transpose_of_reading(sampling):
    rotations, kx, ky = sampling
    generator = np.random.default_rng(3)
    real, imaginary = generator.standard_normal((2, len(rotations), len(kx))).astype(np.float32)
    grid, added = random_grid(2, 4), np.zeros_like(random_grid(3, 0))
    read = np.empty((len(rotations), 2 * len(kx)), np.float32)
    read_slices(grid, rotations, kx, ky, REACH, read)
    add_slices(added, real, imaginary, np.zeros_like(real), rotations, kx, ky, REACH)
    forward = float((read.reshape(*real.shape, 2) * np.stack([real, imaginary], -1)).sum(dtype=np.float64))
    backward = float((grid.reshape(-1, 2) * added.reshape(-1, 3)[:, :2]).sum(dtype=np.float64))
    assert forward == pytest.approx(backward, rel=1e-4)
