import pytest
import torch

from cryorestore.diffusion.process import q_sample
from cryorestore.diffusion.sampler import ParticleNoise, ancestral_step, sample
from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.errors import CryorestoreError

MEAN, SIGMA = 1.5, 0.5


def gaussian(y, gamma):
    """The exact posterior mean of y0 ~ N(MEAN, SIGMA^2) given y at level gamma."""
    gain = SIGMA**2 * gamma**0.5 / (gamma * SIGMA**2 + 1 - gamma)
    return MEAN + gain * (y - gamma**0.5 * MEAN)


def draw(sampler, steps, *, seeds=range(16), timesteps=2000, denoise=gaussian):
    schedule = NoiseSchedule(timesteps=timesteps)
    return sample(denoise, sampler=sampler, steps=steps, schedule=schedule, seeds=list(seeds), box_size=16, device=torch.device("cpu"))


@pytest.mark.parametrize(("sampler", "steps"), [("ancestral", 2000), ("ddim", 200), ("dpm", 20)])
def test_a_gaussian_is_sampled_with_its_mean_and_variance(sampler, steps):
    drawn = draw(sampler, steps)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.std()) == pytest.approx(SIGMA, rel=0.04)


def test_the_mean_is_the_posterior_mean_in_one_evaluation():
    calls = []
    drawn = draw("mean", 1, denoise=lambda y, gamma: calls.append(gamma) or gaussian(y, gamma))
    assert calls == [0.0]
    assert torch.equal(drawn, torch.full((16, 16, 16), MEAN))


@pytest.mark.parametrize(("gamma", "following"), [(4.5e-5, 0.01), (0.3, 0.6), (0.98, 0.999)])
def test_an_ancestral_step_from_one_level_arrives_at_the_other(gamma, following):
    y0 = torch.full((32, 32, 32), 2.0)
    noise = ParticleNoise(range(32))
    y = q_sample(y0, torch.full((32,), gamma), noise.draw(32))
    moved = ancestral_step(y, y0, noise.draw(32), gamma=gamma, following=following)
    assert float(moved.mean()) == pytest.approx(2 * following**0.5, abs=0.02)
    assert float(moved.var()) == pytest.approx(1 - following, rel=0.03)


def test_the_step_variance_is_sr3s_within_one_over_t():
    gammas = NoiseSchedule().gammas
    for t in (100, 1000, 2000):
        gamma, following = float(gammas[t]), float(gammas[t - 1])
        zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        variance = float(ancestral_step(zero, zero, one, gamma=gamma, following=following)) ** 2
        assert variance == pytest.approx(1 - gamma / following, rel=2.1 / t)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm"])
def test_a_particles_draws_do_not_depend_on_its_batch(sampler):
    together = draw(sampler, 20, seeds=[11, 12, 13], timesteps=20)
    alone = draw(sampler, 20, seeds=[12], timesteps=20)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_eight_equal_particles_get_eight_draws():
    drawn = draw("ancestral", 5, seeds=range(8), timesteps=5)
    assert len({tuple(image.flatten().tolist()) for image in drawn}) == 8


@pytest.mark.parametrize(("sampler", "steps"), [("ancestral", 7), ("ddim", 5), ("dpm", 6)])
def test_steps_are_evaluations(sampler, steps):
    calls = []
    draw(sampler, steps, seeds=[1], denoise=lambda y, gamma: calls.append(gamma) or gaussian(y, gamma))
    assert len(calls) == steps
    assert calls == sorted(calls)
    assert calls[0] == pytest.approx(float(NoiseSchedule().gammas[-1]))


def test_an_unknown_sampler_is_refused():
    with pytest.raises(CryorestoreError, match="'magic' is unknown"):
        draw("magic", 1)
