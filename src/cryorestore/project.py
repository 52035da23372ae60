"""Central slices of a map: the projections of RELION's convention, read from a padded transform by trilinear interpolation.

One table serves whole projections and the pose posterior, which reads short, radius-sorted prefixes at hundreds of poses an image:
the eight neighbours of a grid cell stand in one row, so that a sample is one gather. Checked against RELION's own projections in the tests.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.coefficients import CoefficientSet

PADDING = 2
_CHUNK = 32768
"""Samples read at a time: the temporaries then stay in the processor's cache (measured: five times the rate of a million at a time)."""


class FourierVolume:
    """The transform of a map, ready to be sliced.

    Parameters
    ----------
    volume
        Real map, centre at box // 2, axes z, y, x.
    max_shell
        Highest shell that will be asked for.
    """

    def __init__(self, volume: Float[Tensor, "box box box"], *, max_shell: int) -> None:
        self.box_size = volume.shape[-1]
        self.coefficients = CoefficientSet(self.box_size, max_shell)
        self._reach = PADDING * (self.coefficients.max_shell + 1) + 2
        table = self._neighbour_table(volume.float())
        # half the bytes are more than half the speed, for the samples are bound by memory; the rounding is 5e-4 of each coefficient
        self._scale = float(table.abs().max().clamp_min(1e-30))
        self._table = (table / self._scale).half()

    def slices(self, rotations: Float[Tensor, "*batch 3 3"], *, count: int | None = None) -> Complex[Tensor, "*batch m"]:
        """The first `count` coefficients (all by default) of the projection at each rotation, scaled as `CoefficientSet.from_images`."""
        kx, ky = self.coefficients.kx[:count] * PADDING, self.coefficients.ky[:count] * PADDING
        pieces = rotations.reshape(-1, 3, 3).split(max(1, _CHUNK // len(kx)))
        return torch.cat([self._slice(axes, kx, ky) for axes in pieces]).view(*rotations.shape[:-2], len(kx))

    def _slice(self, axes: Tensor, kx: Tensor, ky: Tensor) -> Tensor:
        points = axes[:, 0, :, None] * kx + axes[:, 1, :, None] * ky
        sign = torch.where(points[:, 0] < 0, -1.0, 1.0)
        points = points * sign[:, None]
        floor = points.floor()
        x, y, z = floor.int().unbind(1)
        size = 2 * self._reach
        rows = self._table.index_select(0, (((z + self._reach) * size + y + self._reach) * self._columns + x + 1).flatten())
        values = (rows.float().view(-1, 2, 8) @ _corner_weights(points - floor).view(-1, 8, 1)).view(*x.shape, 2)
        values[..., 1] *= sign
        return torch.view_as_complex(values) * self._scale

    def project(self, rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch box box"]:
        """Real projections, without their mean (the constant term is not kept)."""
        return self.coefficients.to_images(self.slices(rotations))

    def _neighbour_table(self, volume: Tensor) -> Tensor:
        box_size, padded = self.box_size, self.box_size * PADDING
        correction = torch.sinc((torch.arange(box_size) - box_size // 2) / padded).square()
        corrected = volume / (correction[:, None, None] * correction[:, None] * correction)
        start = padded // 2 - box_size // 2
        grid = torch.zeros(padded, padded, padded)
        grid[start : start + box_size, start : start + box_size, start : start + box_size] = corrected
        transform = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(grid)), dim=(0, 1, 2)) / box_size
        reach, centre = self._reach, padded // 2
        cube = torch.zeros(2 * reach + 1, 2 * reach + 1, reach + 2, dtype=torch.complex64)
        low, high = max(-reach, -centre), min(reach, centre - 1)
        inner = slice(low + reach, high + reach + 1)
        outer = slice(low + centre, high + centre + 1)
        cube[inner, inner, 0 : high + 2] = transform[outer, outer, centre - 1 : centre + high + 1]
        self._columns = cube.shape[2] - 1
        parts = torch.stack([cube.real, cube.imag], -1)
        corners = [parts[dz : 2 * reach + dz, dy : 2 * reach + dy, dx : self._columns + dx] for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]
        return torch.stack(corners, -1).reshape(-1, 16)


def _corner_weights(fraction: Float[Tensor, "n 3 m"]) -> Float[Tensor, "n m 8"]:
    fx, fy, fz = fraction.unbind(1)
    gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
    weights = torch.empty(*fx.shape, 8)
    for place, edge in enumerate((gz * gy, gz * fy, fz * gy, fz * fy)):
        torch.mul(edge, gx, out=weights[..., 2 * place])
        torch.mul(edge, fx, out=weights[..., 2 * place + 1])
    return weights
