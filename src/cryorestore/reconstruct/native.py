"""Reconstruction by adding central slices, weighted with the CTF, to a padded grid, and solving for the map that fits them best."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.coefficients import CoefficientSet
from cryorestore.ctf import ctf_2d
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import symmetry_matrices
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.project import PADDING
from cryorestore.reconstruct.least_squares import NormalEquations, signal_to_noise
from cryorestore.reconstruct.maps import HalfMaps
from cryorestore.slicing import add_slices, add_slices_on_device, grid_shape

_BATCH = 64
_CONJUGATE = torch.tensor([1.0, -1.0, 1.0])
_CORNER_EDGE = 3.0
"""Width (px) of the soft edge outside the sphere that touches the box: its corners hold aliases, and RELION clears them likewise."""


class BackProjector:
    """Accumulate CTF-weighted slices and CTF^2; `volume()` solves for the map.

    Only x >= 0 is kept: sums of real parts, imaginary parts and CTF^2 at each grid point (`slicing.grid_shape`).

    Parameters
    ----------
    box_size
        Px.
    device
        Where the sums are kept: on a GPU slices are added in torch operations.
    """

    def __init__(self, box_size: int, *, device: str | torch.device = "cpu") -> None:
        self.coefficients = CoefficientSet(box_size, box_size // 2)
        self.box_size = box_size
        self._reach = PADDING * (self.coefficients.max_shell + 1) + 2
        self._sums = torch.zeros(3 * math.prod(grid_shape(self._reach)), device=device)
        self._kx, self._ky = (axis.to(device) * PADDING for axis in (self.coefficients.kx, self.coefficients.ky))

    def insert(
        self, data: Complex[Tensor, "n m"], ctf: Float[Tensor, "n m"], rotations: Float[Tensor, "n 3 3"], *, premultiplied: bool = False
    ) -> None:
        """Add centred images (coefficients of `self.coefficients`) with their CTF at `rotations`."""
        # on kx = 0 both halves of a conjugate pair are there
        once = self.coefficients.weight.to(data.device) / 2
        numerator, weight = (data if premultiplied else data * ctf) * once, ctf.square() * once
        axes = rotations.float().contiguous()
        if self._sums.is_cuda:
            add_slices_on_device(self._sums, numerator, weight, axes, self._kx, self._ky, self._reach)
            return
        real, imaginary, power = (part.contiguous().numpy() for part in (numerator.real, numerator.imag, weight))
        add_slices(self._sums.numpy(), real, imaginary, power, axes.numpy(), self._kx.numpy(), self._ky.numpy(), self._reach)

    def merged(self, other: "BackProjector") -> "BackProjector":
        """The accumulator of both sets of images."""
        return self._with_sums(self._sums + other._sums)

    def _with_sums(self, sums: Tensor) -> "BackProjector":
        other = copy.copy(self)
        other._sums = sums
        return other

    def symmetrised(self, operators: Float[Tensor, "k 3 3"]) -> "BackProjector":
        """Average over rotations that map the grid onto itself (entries -1, 0, 1), as if every image had been inserted at each."""
        closed = self._closed()
        mirror = closed[:, :, 1:-1].flip((0, 1, 2)) * _CONJUGATE
        cube = torch.cat([mirror, closed[:, :, :-1]], 2)
        total = torch.zeros_like(cube)
        for operator in operators.round().long():
            # axes of the cube are z, y, x; the operator acts on (x, y, z)
            source = operator.abs().argmax(0).flip(0).sub(2).neg().tolist()
            signs = operator.sum(0).flip(0).tolist()
            turned = cube.permute(*source, 3)
            total += turned.flip([axis for axis in range(3) if signs[axis] < 0]) if min(signs) < 0 else turned
        kept = torch.zeros_like(closed)
        kept[:, :, :-1] = total[:, :, self._reach :]
        kept[:, :, 0] /= 2  # closing adds the mirror image of this plane once more
        return self._with_sums(kept.flatten())

    def _closed(self) -> Float[Tensor, "z y x 3"]:
        """The sums, with what lies just beside x = 0 added on both sides of it."""
        sums = self._sums.view(*grid_shape(self._reach), 3).clone()
        sums[:, :, 0] += sums[:, :, 0].flip((0, 1)) * _CONJUGATE
        return sums

    def equations(self) -> NormalEquations:
        """What the inserted images ask of the map."""
        box_size, padded = self.box_size, self.box_size * PADDING
        real, imaginary, weight = self._closed().unbind(-1)
        start = padded // 2 - box_size // 2
        inner = slice(start, start + box_size)
        # adding to eight points has smoothed the transform, which multiplied real space with a sinc^2: divided out here
        right = self._to_real(torch.complex(real, imaginary))[inner, inner, inner] / _window(box_size, padded) * box_size
        kernel = self._to_real(weight.to(torch.complex64)) / _window(padded, padded)
        return NormalEquations(right, torch.fft.rfftn(torch.fft.ifftshift(kernel)).real, self._mean_weight(weight))

    def volume(self) -> Float[Tensor, "box box box"]:
        """The map in the grey scale of the images."""
        return cleared_corners(self.equations().solve())

    def _mean_weight(self, weight: Tensor) -> Float[Tensor, "shells"]:
        axis, x = torch.arange(-self._reach, self._reach + 1), torch.arange(self._reach + 2)
        radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + x**2).float().sqrt()
        shell = (radius / PADDING).round().long().flatten().to(weight.device)
        sums = torch.zeros(int(shell.max()) + 1, dtype=torch.float64, device=weight.device).index_add_(0, shell, weight.flatten().double())
        return (sums / torch.bincount(shell)).float()[: self.box_size // 2]

    def _to_real(self, transform: Tensor) -> Tensor:
        """Real space of twice the box, its centre in the middle."""
        padded = self.box_size * PADDING
        reach = min(self._reach, padded // 2 - 1)
        inner = slice(self._reach - reach, self._reach + reach + 1)
        shifted: Tensor = torch.fft.fftshift(torch.fft.irfftn(_wrapped(transform[inner, inner, : reach + 1], padded), s=(padded,) * 3))
        return shifted


def cleared_corners(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    """The map inside the sphere that touches the box: its corners hold aliases, and RELION clears them likewise."""
    box_size = volume.shape[-1]
    return volume * soft_sphere(box_size, box_size / 2, _CORNER_EDGE).to(volume.device)


def _window(size: int, padded: int) -> Float[Tensor, "size size size"]:
    """What trilinear shares multiply real space with, about its centre."""
    window = torch.sinc((torch.arange(size) - size // 2) / padded).square()
    return window[:, None, None] * window[:, None] * window


def _wrapped(centred: Tensor, size: int) -> Tensor:
    """Put a half grid (z and y from -r to r, x from 0) into the order of `irfftn` for `size` points a side, zero beyond it."""
    deep, _, wide = centred.shape
    grid = centred.new_zeros(size, size, size // 2 + 1)
    for here, there in itertools.product(_ends(deep // 2), repeat=2):
        grid[here, there, :wide] = centred[_shifted(here, deep), _shifted(there, deep)]
    return grid


def _ends(reach: int) -> tuple[slice, slice]:
    """Where 0 to r and -r to -1 stand along an axis of a transform."""
    return slice(0, reach + 1), slice(-reach, None)


def _shifted(end: slice, deep: int) -> slice:
    """Where the same points stand when 0 is in the middle."""
    return slice(deep // 2, deep) if end.start == 0 else slice(0, deep // 2)


def backproject(
    images: Float[Tensor, "n box box"],
    ctf: Float[Tensor, "n box half"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_px: Float[Tensor, "n 2"],
    into: BackProjector,
    *,
    premultiplied: bool = False,
) -> None:
    """Centre real images and insert them."""
    coefficients = into.coefficients
    centred = coefficients.from_images(images) * coefficients.shift_phases(-shifts_px)
    into.insert(centred, coefficients.select(ctf), rotations, premultiplied=premultiplied)


def reconstruct_native(table: ParticleTable, *, symmetry: str, program: str, threads: int, scratch: Path) -> HalfMaps:
    """Reconstruct in this process, `_BATCH` particles at a time; `program` and `scratch` are not used."""
    box_size, pixel_size = table.box_size, table.pixel_size
    operators = torch.from_numpy(symmetry_matrices(symmetry)).float()
    on_grid = bool((operators - operators.round()).abs().max() < 1e-6)
    rotations = torch.from_numpy(table.rotation_matrices()).float()
    shifts = torch.from_numpy(-table.origins() / pixel_size).float()
    parameters = table.ctf_parameters()
    accumulators = BackProjector(box_size), BackProjector(box_size)
    for start in range(0, len(table), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(table)))
        images = torch.from_numpy(table.load_images(rows))
        ctf = ctf_2d(parameters.take(rows), box_size=box_size, pixel_size=pixel_size)
        for parity, accumulator in enumerate(accumulators):
            chosen = torch.from_numpy(rows % 2 == parity)
            for operator in operators[:1] if on_grid else operators:
                picked = torch.from_numpy(rows)[chosen]
                backproject(
                    images[chosen], ctf[chosen], rotations[picked] @ operator, shifts[picked], accumulator, premultiplied=table.ctf_premultiplied
                )
    odd, even = (accumulator.symmetrised(operators) for accumulator in accumulators) if on_grid else accumulators
    return solve_halves(odd.equations(), even.equations(), pixel_size=pixel_size)


def solve_halves(odd: NormalEquations, even: NormalEquations, *, pixel_size: float) -> HalfMaps:
    """Solve for odd and even images, and for all of them with the signal-to-noise ratio that the correlation of these two shows."""
    odd_map, even_map = cleared_corners(odd.solve()), cleared_corners(even.solve())
    correlation = fourier_shell_correlation(odd_map, even_map, pixel_size=pixel_size).correlation
    return HalfMaps(full=cleared_corners((odd + even).solve(signal_to_noise=signal_to_noise(correlation))), odd=odd_map, even=even_map)
