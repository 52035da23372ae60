import pytest
import torch

from cryorestore.coefficients import CoefficientSet
from cryorestore.errors import CryorestoreError
from cryorestore.fourier import fourier_crop_2d, radial_average, radial_shells_2d, to_fourier, to_real
from cryorestore.masks import background_mask, soft_disc, soft_sphere
from cryorestore.noise import estimate_noise_power
from cryorestore.reference import coloured_noise


def generator():
    return torch.Generator().manual_seed(1)


def test_a_point_at_the_box_centre_has_phase_zero():
    image = torch.zeros(16, 16)
    image[8, 8] = 1.0
    assert torch.allclose(to_fourier(image), torch.full((16, 9), 1 / 16, dtype=torch.complex64))


def test_there_and_back():
    image = torch.randn(3, 16, 16, generator=generator())
    assert torch.allclose(to_real(to_fourier(image)), image, atol=1e-6)


def test_shells_are_half_open_about_their_radius():
    shells = radial_shells_2d(8)
    assert shells[0].tolist() == [0, 1, 2, 3, 4]
    assert int(shells[1, 1]) == 1
    assert int(shells[4, 4]) == 5


def test_white_noise_has_power_one_in_every_shell():
    power = radial_average(to_fourier(torch.randn(400, 32, 32, generator=generator())).abs().square()).mean(0)
    assert torch.allclose(power[1:], torch.ones(16), atol=0.05)


def test_fourier_crop_keeps_grey_values_and_the_centre():
    grid = (torch.arange(32.0) - 16) / 32
    wave = 2.0 + torch.cos(2 * torch.pi * 3 * grid)[None] * torch.ones(32, 1)
    small = fourier_crop_2d(wave, 16)
    assert torch.allclose(small, 2.0 + torch.cos(2 * torch.pi * 3 * (torch.arange(16.0) - 8) / 16)[None] * torch.ones(16, 1), atol=1e-5)


def test_a_band_limit_is_a_prefix():
    coefficients = CoefficientSet(16, 7)
    assert (coefficients.radius.diff() >= -1e-6).all()
    assert coefficients.count(3) == int((coefficients.radius < 3.5).sum())


def test_coefficients_give_back_a_band_limited_image():
    coefficients = CoefficientSet(16, 5)
    image = coefficients.to_images(coefficients.from_images(torch.randn(16, 16, generator=generator())))
    assert torch.allclose(coefficients.to_images(coefficients.from_images(image)), image, atol=1e-6)
    energy = (coefficients.from_images(image).abs().square() * coefficients.weight).sum()
    assert float(energy) == pytest.approx(float(image.square().sum()), rel=1e-5)


def test_shift_phases_move_an_image_by_whole_pixels():
    coefficients = CoefficientSet(16, 5)
    image = coefficients.to_images(coefficients.from_images(torch.randn(16, 16, generator=generator())))
    moved = coefficients.to_images(coefficients.from_images(image) * coefficients.shift_phases(torch.tensor([2.0, -3.0])))
    assert torch.allclose(moved, image.roll((-3, 2), (0, 1)), atol=1e-5)


def test_masks_are_one_inside_and_zero_beyond_their_edge():
    disc, sphere = soft_disc(16, 4.0, 2.0), soft_sphere(16, 4.0, 2.0)
    assert (float(disc[8, 8]), float(disc[8, 12]), float(disc[8, 14])) == (1.0, 1.0, 0.0)
    assert (float(sphere[8, 8, 13]), float(sphere[8, 8, 15])) == (pytest.approx(0.5), 0.0)
    assert int(background_mask(16, 3.0).sum()) == 256 - 29


@pytest.mark.parametrize("colour", [1.0, 4.0])
def test_the_noise_spectrum_is_found_in_the_background(colour):
    power = 1.0 + colour * torch.exp(-((torch.arange(17) / 6.0) ** 2))
    images = coloured_noise(torch.randn(600, 32, 32, generator=generator()), power)
    images[:, 10:22, 10:22] += 5.0
    found = estimate_noise_power([images], bg_radius=11.0)
    assert torch.allclose(found[2:16], power[2:16], rtol=0.12)


def test_no_background_is_refused():
    with pytest.raises(CryorestoreError, match="bg_radius"):
        estimate_noise_power([torch.zeros(2, 16, 16)], bg_radius=12.0)
