import numpy as np
import pytest
import torch

from cryorestore.fsc import fourier_shell_correlation
from cryorestore.reconstruct.least_squares import signal_to_noise
from cryorestore.reconstruct.native import BackProjector, backproject, cleared_corners, solve_halves
from helpers import BOX, PIXEL, simulate_particles


def projector(data, rows):
    into = BackProjector(BOX)
    rotations, shifts = (torch.from_numpy(data[name][rows]).float() for name in ("rotations", "shifts"))
    backproject(data["images"][rows], data["ctf"][rows], rotations, shifts, into)
    return into


@pytest.fixture(scope="module")
def noisy():
    return simulate_particles(400, sigma=3.0, seed=5)


def truth_correlation(volume, data):
    return fourier_shell_correlation(volume, data["volume"], pixel_size=PIXEL).correlation[1:10]


def test_the_operator_of_two_sets_is_the_sum_of_theirs(noisy):
    odd, even, both = (projector(noisy, rows).equations() for rows in (slice(0, None, 2), slice(1, None, 2), slice(None)))
    together = odd + even
    for name in ("right", "kernel", "weight"):
        whole = getattr(both, name)
        torch.testing.assert_close(getattr(together, name), whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_the_solution_fits_better_than_dividing_shell_by_shell(noisy):
    halves = [projector(noisy, slice(half, None, 2)).equations() for half in (0, 1)]
    solved = solve_halves(*halves, pixel_size=PIXEL).full
    whole = halves[0] + halves[1]
    divided = cleared_corners(whole.right / float(whole.weight.mean()))
    better = truth_correlation(solved, noisy) - truth_correlation(divided, noisy)
    assert float(better.mean()) > 0.005
    assert float(better.min()) > -0.02


def test_grey_values_do_not_depend_on_the_damping(noisy):
    equations = projector(noisy, slice(None)).equations()
    volumes = [equations.solve(signal_to_noise=torch.full((BOX // 2,), ratio)) for ratio in (1.0, 100.0)]
    slopes = [float((volume * noisy["volume"]).sum() / noisy["volume"].square().sum()) for volume in volumes]
    assert slopes == pytest.approx([1.0, 1.0], abs=0.06)


def test_the_signal_to_noise_ratio_ends_where_the_halves_no_longer_agree():
    correlation = torch.tensor([1.0, 0.9, 0.5, 0.04, 0.6])
    np.testing.assert_allclose(signal_to_noise(correlation).numpy(), [1000.0, 18.0, 2.0, 0.2, 0.2], rtol=1e-5)
