"""The map that fits the images best: regularised least squares by conjugate gradients.

With images X_i = C_i P_i x + noise, the map solves (sum P_i' C_i^2 P_i + lambda) x = sum P_i' C_i X_i. The first operator is a convolution
(Wajer and Pruessmann 2001), so that one step costs two transforms of twice the box. lambda is, shell by shell, the weight over the
signal-to-noise ratio, as in RELION's maximum a posteriori; the shrinkage that it brings is divided out again, so that grey values stay those
of the images and only the relative weight of well and badly measured directions is what lambda changes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.fourier import radial_shells_3d

_ITERATIONS = 5
_DEFAULT_RATIO = 10.0
_SMALLEST_RATIO = 0.2


@dataclass(frozen=True)
class NormalEquations:
    """Right side and operator; those of several sets of images can be added."""

    right: Float[Tensor, "box box box"]
    """sum of what the images put at each point, real space"""
    kernel: Float[Tensor, "padded padded half"]
    """transform of the convolution kernel, real: twice the box, layout of `rfftn`"""
    weight: Float[Tensor, "shells"]
    """mean of the operator in each shell, 0 .. box // 2 - 1"""

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(self.right + other.right, self.kernel + other.kernel, self.weight + other.weight)

    def solve(self, *, signal_to_noise: Float[Tensor, "shells"] | None = None) -> Float[Tensor, "box box box"]:
        """The map inside the sphere that touches the box, in the grey scale of the images.

        Parameters
        ----------
        signal_to_noise
            Per shell, of the map to be expected; 10 everywhere unless it is given.
        """
        size, device = self.right.shape[-1], self.right.device
        shells, inside = radial_shells_3d(size).to(device), _ball(size).to(device)
        ratio = torch.full_like(self.weight, _DEFAULT_RATIO) if signal_to_noise is None else signal_to_noise[: len(self.weight)].to(device)
        weight = self.weight.clamp_min(1e-6 * float(self.weight.max()))
        damping = weight / ratio
        # the corners beyond the last shell were not measured: they are damped as much as that shell weighs
        beyond = weight[-1:].expand(int(shells.max()) + 1 - len(weight))
        damping_grid = torch.cat([damping, beyond])[shells]
        precondition = torch.cat([1 / (weight + damping), 0.5 / beyond])[shells]
        solution, residual = torch.zeros_like(self.right), self.right * inside
        direction, product = residual, 0.0
        for iteration in range(_ITERATIONS):
            scaled = _filtered(residual, precondition) * inside
            latest = float((residual * scaled).sum(dtype=torch.float64))
            if latest <= 0:
                break
            direction = scaled if iteration == 0 else scaled + (latest / product) * direction
            product = latest
            applied = (self._convolved(direction) + _filtered(direction, damping_grid)) * inside
            step = product / float((direction * applied).sum(dtype=torch.float64))
            solution, residual = solution + step * direction, residual - step * applied
        unshrunk = torch.cat([1 + 1 / ratio, torch.zeros_like(beyond)])
        return _filtered(solution, unshrunk[shells])

    def _convolved(self, volume: Tensor) -> Tensor:
        """Convolve on twice the box; transforms go axis by axis, so that the empty part is not transformed."""
        size, padded = volume.shape[-1], self.kernel.shape[0]
        transform = torch.fft.rfft(volume, n=padded, dim=2)
        for axis in (1, 0):
            transform = torch.fft.fft(transform, n=padded, dim=axis)
        transform *= self.kernel
        for axis in (0, 1):
            transform = torch.fft.ifft(transform, dim=axis).narrow(axis, 0, size)
        convolved: Tensor = torch.fft.irfft(transform, n=padded, dim=2)[:, :, :size]
        return convolved


def _ball(size: int) -> Tensor:
    axis = torch.arange(size) - size // 2
    return ((axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < (size / 2) ** 2).float()


def _filtered(volume: Tensor, factor: Tensor) -> Tensor:
    filtered: Tensor = torch.fft.irfftn(torch.fft.rfftn(volume) * factor, s=volume.shape)
    return filtered


def signal_to_noise(correlation: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """Of the whole map, from the correlation of its two halves: 2 FSC / (1 - FSC) (Frank and Al-Ali 1975), between 0.2 and 1000.

    From the first shell below 0.05 on, the smallest of these.
    """
    ratio = (2 * correlation / (1 - correlation).clamp_min(1e-6)).clamp(_SMALLEST_RATIO, 1000.0)
    ratio[0] = 1000.0
    below = torch.nonzero(correlation[1:] < 0.05).flatten()
    if below.numel():
        ratio[int(below[0]) + 1 :] = _SMALLEST_RATIO
    return ratio
