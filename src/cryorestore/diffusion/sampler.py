"""From noise to image, with any callable that predicts the clean variable.

Draws come from one generator a particle, seeded by the particle's own number, so that they do not depend on the batch it is in.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.errors import CryorestoreError

Denoise = Callable[[Tensor, float], Tensor]
"""(y (n, box, box), gamma) -> predicted clean y0 (n, box, box)."""
Sampler = Literal["mean", "ancestral", "ddim", "dpm"]
SAMPLERS = get_args(Sampler)


class ParticleNoise:
    """Standard normal images, one independent stream a particle; drawn on the CPU, so that every device sees the same."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, box_size: int) -> Float[Tensor, "n box box"]:
        """The next image of every particle."""
        return torch.stack([torch.randn(box_size, box_size, generator=generator) for generator in self._generators])


def sample(
    denoise: Denoise, *, sampler: str, steps: int, schedule: NoiseSchedule, seeds: Sequence[int], box_size: int, device: torch.device
) -> Float[Tensor, "n box box"]:
    """Draw one diffused variable a particle.

    Parameters
    ----------
    denoise
        Predicts the clean variable from a noisy one and its level.
    sampler
        "mean": the posterior mean, one evaluation at gamma = 0, where y carries nothing and is put to zero as in training.
        "ancestral": SR3's, "ddim": without fresh noise (Song et al. 2020, eta = 0), "dpm": DPM-Solver++ 2M (Lu et al. 2022, diffusers' own).
    steps
        Network evaluations; 1 for "mean".
    seeds
        One number a particle, see `cryorestore.seeds`.

    Raises
    ------
    CryorestoreError
        For a sampler that is unknown, or more steps than noise levels.
    """
    if sampler == "mean":
        return denoise(torch.zeros(len(seeds), box_size, box_size, device=device), 0.0)
    if sampler not in SAMPLERS:
        raise CryorestoreError(f"sampler '{sampler}' is unknown; choose one of {', '.join(SAMPLERS)}")
    noise = ParticleNoise(seeds)
    y = noise.draw(box_size).to(device)
    if sampler == "dpm":
        return _sample_dpm(denoise, y, steps=steps, schedule=schedule)
    gammas = schedule.subset(steps).tolist()
    for gamma, following in pairwise(gammas):
        clean = denoise(y, gamma)
        if sampler == "ddim":
            y = ddim_step(y, clean, gamma=gamma, following=following)
        else:
            y = ancestral_step(y, clean, noise.draw(box_size).to(device) if following < 1 else None, gamma=gamma, following=following)
    return y


def ancestral_step(
    y: Float[Tensor, "n box box"],
    clean: Float[Tensor, "n box box"],
    noise: Float[Tensor, "n box box"] | None,
    *,
    gamma: float,
    following: float,
) -> Float[Tensor, "n box box"]:
    """Draw the variable at level `following` given the one at `gamma` and the clean one (SR3, equations 5 and 11; no noise in the last step).

    The variance is the posterior's, (1 - following) / (1 - gamma) (1 - alpha): SR3's own 1 - alpha within 1/t at step t of the full schedule, and the
    right one where steps are skipped.
    """
    alpha = gamma / following
    mean = (math.sqrt(following) * (1 - alpha) * clean + math.sqrt(alpha) * (1 - following) * y) / (1 - gamma)
    return mean if noise is None else mean + math.sqrt((1 - following) / (1 - gamma) * (1 - alpha)) * noise


def ddim_step(y: Float[Tensor, "n box box"], clean: Float[Tensor, "n box box"], *, gamma: float, following: float) -> Float[Tensor, "n box box"]:
    """Move to level `following` with the noise that `clean` leaves in `y` (Song et al. 2020, equation 12 with eta = 0)."""
    noise = (y - math.sqrt(gamma) * clean) / math.sqrt(1 - gamma)
    return math.sqrt(following) * clean + math.sqrt(1 - following) * noise


def _sample_dpm(denoise: Denoise, y: Tensor, *, steps: int, schedule: NoiseSchedule) -> Tensor:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler  # 2 s: only where it is used

    numbers = schedule.subset_numbers(steps)[:-1] - 1  # the solver's timestep t has gamma_(t + 1)
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=schedule.betas.numpy(),
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    solver.set_timesteps(timesteps=numbers.tolist())
    for timestep in solver.timesteps:
        clean = denoise(y, float(schedule.gammas[int(timestep) + 1]))
        y = solver.step(clean, timestep, y, return_dict=False)[0]
    sampled: Tensor = y
    return sampled
