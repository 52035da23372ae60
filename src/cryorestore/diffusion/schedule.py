"""Noise levels of the diffusion process (SR3, Saharia et al. 2021, arXiv 2104.07636).

A noise level is gamma, the share of the clean image's variance that is left: y = sqrt(gamma) y0 + sqrt(1 - gamma) noise.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorestore.errors import CryorestoreError


@dataclass(frozen=True)
class NoiseSchedule:
    """SR3's schedule: `timesteps` noise variances beta, linear from `beta_start` to `beta_end`."""

    timesteps: int = 2000
    beta_start: float = 1e-6
    beta_end: float = 1e-2

    def __post_init__(self) -> None:
        if self.timesteps < 2 or not 0 < self.beta_start <= self.beta_end < 1:
            raise CryorestoreError(f"noise schedule {self} is impossible: timesteps of at least 2 and 0 < beta_start <= beta_end < 1 are needed")

    @cached_property
    def betas(self) -> Float[Tensor, "timesteps"]:
        """Variance added by each step, float64."""
        return torch.linspace(self.beta_start, self.beta_end, self.timesteps, dtype=torch.float64)

    @cached_property
    def gammas(self) -> Float[Tensor, "levels"]:
        """gamma_0 = 1 (clean) to gamma_T, float64: `timesteps` + 1 values."""
        return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - self.betas, 0)])

    def draw_gammas(self, count: int, generator: torch.Generator) -> Float[Tensor, "count"]:
        """Draw one continuous noise level an image, as SR3 trains: t uniform, sqrt(gamma) uniform from sqrt(gamma_t) to sqrt(gamma_(t-1))."""
        t = torch.randint(1, self.timesteps + 1, (count,), generator=generator)
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        root = self.gammas.sqrt()
        return ((1 - share) * root[t] + share * root[t - 1]).square().float()

    def subset_numbers(self, steps: int) -> Int[Tensor, "levels"]:
        """Numbers t of the levels of a sampler with `steps` evaluations, evenly spaced from T down to 0: `steps` + 1 values.

        Raises
        ------
        CryorestoreError
            If there are not that many levels.
        """
        if not 1 <= steps <= self.timesteps:
            raise CryorestoreError(f"sampler_steps is {steps}; the schedule has {self.timesteps} noise levels: choose 1 to {self.timesteps}")
        return (torch.arange(steps, -1, -1, dtype=torch.float64) * self.timesteps / steps).round().long()

    def subset(self, steps: int) -> Float[Tensor, "levels"]:
        """Noise levels of `subset_numbers`, from gamma_T to 1, float64."""
        return self.gammas[self.subset_numbers(steps)]
