import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_shells_2d, to_fourier, to_real
from cryorestore.metrics import GreyScaleRegression, Scores, first_crossing, fourier_ring_correlation, mean_interval, score_images


@pytest.fixture
def clean():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_error_of_half_the_signal_is_a_quarter_of_its_variance(clean):
    scores = score_images(0.5 * clean, clean)
    assert torch.allclose(scores.nmse, torch.full((3,), 0.25), atol=1e-5)


def test_psnr_counts_from_the_range_of_each_clean_image(clean):
    pattern = torch.ones(32, 32)
    pattern[::2] = -1.0
    span = clean.amax((-2, -1)) - clean.amin((-2, -1))
    noisy = clean + 0.1 * span[:, None, None] * pattern
    assert torch.allclose(score_images(noisy, clean).psnr, torch.full((3,), 20.0), atol=1e-3)


def test_a_change_of_the_mean_costs_nothing(clean):
    shifted, same = score_images(clean + 5.0, clean), score_images(clean, clean)
    assert float(shifted.nmse.max()) < 1e-10
    assert torch.allclose(shifted.ssim, same.ssim, atol=1e-4)
    assert torch.allclose(same.ssim, torch.ones(3), atol=1e-5)


def test_ssim_does_not_depend_on_the_grey_scale(clean):
    noisy = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(score_images(noisy, clean).ssim, score_images(30 * noisy, 30 * clean).ssim, atol=1e-4)


def test_a_constant_clean_image_is_refused(clean):
    with pytest.raises(CryorestoreError, match="constant"):
        score_images(clean, torch.zeros_like(clean))


def test_a_sign_flip_beyond_a_ring_flips_the_correlation_there(clean):
    ft = to_fourier(clean)
    flipped = to_real(torch.where(radial_shells_2d(32) >= 7, -ft, ft))
    rings = fourier_ring_correlation(flipped, clean)
    assert torch.allclose(rings[:, :7], torch.ones(3, 7), atol=1e-4)
    assert torch.allclose(rings[:, 7:], -torch.ones(3, 10), atol=1e-4)
    assert first_crossing(rings.mean(0), box_size=32, pixel_size=2.0, threshold=0.0) == pytest.approx(64 / 6.5, rel=1e-3)


def test_independent_noise_has_no_ring_correlation():
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 400, 32, 32, generator=generator)
    assert float(fourier_ring_correlation(first, second).mean(0)[1:].abs().max()) < 0.1


def test_identical_images_never_cross(clean):
    curve = fourier_ring_correlation(clean, clean).mean(0)
    assert first_crossing(curve, box_size=32, pixel_size=2.0, threshold=0.5) is None


def test_a_curve_that_starts_below_crosses_before_the_first_ring():
    curve = torch.cat([torch.ones(1), torch.full((16,), 0.25)])
    assert first_crossing(curve, box_size=32, pixel_size=2.0, threshold=0.5) == pytest.approx(64 / (2 / 3))


def test_the_regression_of_clean_on_restored_finds_the_line(clean):
    line = GreyScaleRegression()
    for batch in clean.split(2):
        line.add(batch, 1.5 * batch + 0.25)
    assert line.slope_and_offset() == pytest.approx((1.5, 0.25))
    flat = GreyScaleRegression()
    flat.add(torch.zeros_like(clean), clean)
    assert flat.slope_and_offset() is None


def test_the_bootstrap_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(1).normal(10, 2, 400)
    result = mean_interval(values, seed=1)
    half_width = 1.96 * values.std(ddof=1) / 20
    assert result["ci95"] == pytest.approx([values.mean() - half_width, values.mean() + half_width], abs=0.04)
    assert mean_interval(values, seed=1) == result


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval(np.array([2.0]), seed=1) == {"mean": 2.0, "ci95": None}
    assert mean_interval(np.array([]), seed=1) == {"mean": None, "ci95": None}


def test_scores_do_not_depend_on_the_batches(clean):
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
    whole, parts = Scores(), Scores()
    whole.add(dict.fromkeys(("raw", "wiener", "restored"), noisy), clean)
    for images, truth in zip(noisy.split(1), clean.split(1), strict=True):
        parts.add(dict.fromkeys(("raw", "wiener", "restored"), images), truth)
    first, second = (scores.summarize(box_size=32, pixel_size=2.0, seed=1) for scores in (whole, parts))
    assert first["psnr"]["raw"]["mean"] == pytest.approx(second["psnr"]["raw"]["mean"], rel=1e-6)
    assert first["frc"]["raw"] == pytest.approx(second["frc"]["raw"], rel=1e-5)
    assert first["paired_psnr_restored_minus_wiener"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
