import pytest
import torch

from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.errors import CryorestoreError


def test_gamma_is_the_product_of_one_minus_beta():
    schedule = NoiseSchedule(timesteps=3, beta_start=0.1, beta_end=0.3)
    assert torch.allclose(schedule.gammas, torch.tensor([1.0, 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], dtype=torch.float64))


def test_sr3_ends_in_noise():
    # the betas sum to 2000 * (1e-6 + 1e-2) / 2 = 10.001, and gamma_T is a little below exp(-10.001) = 4.54e-5
    assert 4.2e-5 < float(NoiseSchedule().gammas[-1]) < 4.54e-5


def test_noise_levels_are_drawn_for_each_image_between_neighbouring_steps():
    schedule = NoiseSchedule(timesteps=4, beta_start=0.2, beta_end=0.2)
    drawn = schedule.draw_gammas(40_000, torch.Generator().manual_seed(1)).double()
    assert drawn.unique().numel() > 30_000
    edges = schedule.gammas.sqrt().flip(0)
    counts = torch.histogram(drawn.sqrt(), edges).hist
    assert torch.allclose(counts / 40_000, torch.full((4,), 0.25, dtype=torch.float64), atol=0.01)


def test_a_subset_goes_from_noise_to_clean():
    schedule = NoiseSchedule(timesteps=100)
    levels = schedule.subset(10)
    assert levels.shape == (11,)
    assert levels[0] == schedule.gammas[100]
    assert levels[-1] == 1
    assert torch.equal(schedule.subset(100), schedule.gammas.flip(0))


def test_more_evaluations_than_levels_are_refused():
    with pytest.raises(CryorestoreError, match="sampler_steps is 11"):
        NoiseSchedule(timesteps=10).subset(11)


def test_a_beta_of_one_is_refused():
    with pytest.raises(CryorestoreError, match="impossible"):
        NoiseSchedule(beta_end=1.0)
