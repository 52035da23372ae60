"""Central slices of a map: the projections of RELION's convention, read from a padded transform by trilinear interpolation.

One grid serves whole projections and the pose posterior, which reads short, radius-sorted prefixes at hundreds of poses an image.
Checked against RELION's own projections in the tests.
"""

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.coefficients import CoefficientSet
from cryorestore.slicing import grid_shape, read_slices, read_slices_on_device

PADDING = 2


class FourierVolume:
    """The transform of a map, ready to be sliced on the device that the map is on.

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
        self._grid = self._padded_transform(volume.float()).flatten()
        self._kx, self._ky = (axis.to(volume.device) * PADDING for axis in (self.coefficients.kx, self.coefficients.ky))

    def slices(self, rotations: Float[Tensor, "*batch 3 3"], *, count: int | None = None) -> Complex[Tensor, "*batch m"]:
        """The first `count` coefficients (all by default) of the projection at each rotation, scaled as `CoefficientSet.from_images`."""
        return self.read(rotations, self._kx[:count], self._ky[:count])

    def read(self, rotations: Float[Tensor, "*batch 3 3"], kx: Float[Tensor, "m"], ky: Float[Tensor, "m"]) -> Complex[Tensor, "*batch m"]:
        """Coefficients at other points than those of the set: `kx`, `ky` in cycles per `PADDING` boxes, no farther out than `max_shell`."""
        axes = rotations.reshape(-1, 3, 3).contiguous()
        if self._grid.is_cuda:
            values = read_slices_on_device(self._grid, axes, kx, ky, self._reach)
        else:
            parts = np.empty((len(axes), 2 * len(kx)), np.float32)
            read_slices(self._grid.numpy(), axes.float().numpy(), kx.numpy(), ky.numpy(), self._reach, parts)
            values = torch.view_as_complex(torch.from_numpy(parts).view(len(axes), len(kx), 2))
        return values.view(*rotations.shape[:-2], len(kx))

    def project(self, rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch box box"]:
        """Real projections, without their mean (the constant term is not kept)."""
        return self.coefficients.to_images(self.slices(rotations))

    def _padded_transform(self, volume: Tensor) -> Float[Tensor, "z y x 2"]:
        box_size, padded = self.box_size, self.box_size * PADDING
        correction = torch.sinc((torch.arange(box_size, device=volume.device) - box_size // 2) / padded).square()
        corrected = volume / (correction[:, None, None] * correction[:, None] * correction)
        start = padded // 2 - box_size // 2
        padded_map = volume.new_zeros(padded, padded, padded)
        padded_map[start : start + box_size, start : start + box_size, start : start + box_size] = corrected
        transform = torch.fft.fftshift(torch.fft.rfftn(torch.fft.ifftshift(padded_map)), dim=(0, 1)) / box_size
        reach, centre = self._reach, padded // 2
        grid = torch.zeros(*grid_shape(reach), dtype=torch.complex64, device=volume.device)
        low, high = max(-reach, -centre), min(reach, centre - 1)
        inner, outer = slice(low + reach, high + reach + 1), slice(low + centre, high + centre + 1)
        grid[inner, inner, : high + 1] = transform[outer, outer, : high + 1]
        return torch.view_as_real(grid)
