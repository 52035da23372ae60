"""Reconstruction by insertion of central slices, weighted with the CTF, on a padded grid (trilinear, with its gridding correction)."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from torch import Tensor

from cryorestore.coefficients import CoefficientSet
from cryorestore.ctf import ctf_2d
from cryorestore.geometry import symmetry_matrices
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.project import PADDING
from cryorestore.reconstruct.maps import HalfMaps
from cryorestore.slicing import add_slices, add_slices_on_device, grid_shape

_BATCH = 64
_WEIGHT_FLOOR = 1e-3
"""A grid point's weight is at least this share of its shell's mean, as in RELION."""

_GRIDDING_ITERATIONS = 10
_BLOB_RADIUS, _BLOB_ALPHA = 1.9, 15.0
_CONJUGATE = torch.tensor([1.0, -1.0, 1.0])
_CORNER_EDGE = 3.0
"""Width (px) of the soft edge outside the sphere that touches the box: its corners hold aliases, and RELION clears them likewise."""


class BackProjector:
    """Accumulate CTF-weighted slices; `volume()` divides by the accumulated CTF^2.

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

    def volume(self) -> Float[Tensor, "box box box"]:
        """The map in the grey scale of the images."""
        real, imaginary, weight = self._closed().unbind(-1)
        gridding = self._gridding_weights(self._floored(weight))
        return self._to_real(torch.complex(real * gridding, imaginary * gridding))

    def _gridding_weights(self, weight: Tensor) -> Tensor:
        """What to multiply the sums with: 1 / weight, iterated until it stays so after smoothing with a Kaiser-Bessel blob (Pipe and Menon 1999)."""
        size = next_fast_len(2 * self._reach + 2, real=True)
        size += size % 2
        blob = _blob_transform(size)
        inside = self._radius() <= PADDING * (self.coefficients.max_shell + 1)
        gridding = inside.float()
        for _ in range(_GRIDDING_ITERATIONS):
            real = torch.fft.irfftn(_wrapped(gridding * weight, size), s=(size,) * 3) * blob
            spread = torch.fft.rfftn(real).real
            gridding = gridding / _unwrapped(spread, self._reach).abs().clamp_min(1e-6)
        return gridding * inside

    def _radius(self) -> Tensor:
        axis, x = torch.arange(-self._reach, self._reach + 1), torch.arange(self._reach + 2)
        return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + x**2).float().sqrt()

    def _floored(self, weight: Tensor) -> Tensor:
        shell = (self._radius() / PADDING).round().long()
        sums = torch.zeros(int(shell.max()) + 1, dtype=torch.float64).index_add_(0, shell.flatten(), weight.flatten().double())
        mean = sums / torch.bincount(shell.flatten(), minlength=len(sums)).clamp_min(1)
        return torch.maximum(weight, (mean.float() * _WEIGHT_FLOOR).clamp_min(1e-12)[shell])

    def _to_real(self, transform: Tensor) -> Tensor:
        box_size, padded = self.box_size, self.box_size * PADDING
        reach = min(self._reach, padded // 2 - 1)
        inner = slice(self._reach - reach, self._reach + reach + 1)
        grid = _wrapped(transform[inner, inner, : reach + 1], padded)
        real = torch.fft.fftshift(torch.fft.irfftn(grid, s=(padded,) * 3)) * box_size
        start = padded // 2 - box_size // 2
        cropped = real[start : start + box_size, start : start + box_size, start : start + box_size]
        correction = torch.sinc((torch.arange(box_size) - box_size // 2) / padded).square()
        corrected = cropped / (correction[:, None, None] * correction[:, None] * correction)
        cleared: Tensor = corrected * soft_sphere(box_size, box_size / 2, _CORNER_EDGE)
        return cleared


def _wrapped(centred: Tensor, size: int) -> Tensor:
    """Put a half grid (z and y from -r to r, x from 0) into the order of `irfftn` for `size` points a side, zero beyond it."""
    deep, _, wide = centred.shape
    grid = centred.new_zeros(size, size, size // 2 + 1)
    for here, there in itertools.product(_ends(deep // 2), repeat=2):
        grid[here, there, :wide] = centred[_shifted(here, deep), _shifted(there, deep)]
    return grid


def _unwrapped(grid: Tensor, reach: int) -> Tensor:
    """Inverse of `_wrapped`, as far as `slicing.grid_shape` goes."""
    shape = grid_shape(reach)
    centred = grid.new_empty(shape)
    for here, there in itertools.product(_ends(reach), repeat=2):
        centred[_shifted(here, shape[0]), _shifted(there, shape[0])] = grid[here, there, : shape[2]]
    return centred


def _ends(reach: int) -> tuple[slice, slice]:
    """Where 0 to r and -r to -1 stand along an axis of a transform."""
    return slice(0, reach + 1), slice(-reach, None)


def _shifted(end: slice, deep: int) -> slice:
    """Where the same points stand when 0 is in the middle."""
    return slice(deep // 2, deep) if end.start == 0 else slice(0, deep // 2)


def _blob_transform(size: int) -> Tensor:
    """Transform of the Kaiser-Bessel blob (Lewitt 1990; order 0, RELION's radius and alpha) on a grid of `size` points; 1 at the origin."""
    axis = torch.fft.fftfreq(size, 1 / size).double() / size
    frequency = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    argument = _BLOB_ALPHA**2 - (2 * torch.pi * _BLOB_RADIUS * PADDING * frequency) ** 2
    x = argument.abs().sqrt().clamp_min(1e-3)
    value = torch.where(argument > 0, x * torch.cosh(x) - torch.sinh(x), torch.sin(x) - x * torch.cos(x)) / x**3
    transform: Tensor = (value / value[0, 0, 0]).float()
    return transform


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
    return HalfMaps(full=odd.merged(even).volume(), odd=odd.volume(), even=even.volume())
