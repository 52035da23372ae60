"""Reconstruction by insertion of central slices, weighted with the CTF, on a padded grid (trilinear, with its gridding correction)."""

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

_BATCH = 64
_WEIGHT_FLOOR = 1e-3
"""A grid point's weight is at least this share of its shell's mean, as in RELION."""

_GRIDDING_ITERATIONS = 10
_BLOB_RADIUS, _BLOB_ALPHA = 1.9, 15.0
_CORNER_EDGE = 3.0
"""Width (px) of the soft edge outside the sphere that touches the box: its corners hold aliases, and RELION clears them likewise."""


class BackProjector:
    """Accumulate CTF-weighted slices; `volume()` divides by the accumulated CTF^2."""

    def __init__(self, box_size: int) -> None:
        self.coefficients = CoefficientSet(box_size, box_size // 2)
        self.box_size = box_size
        self._reach = PADDING * (self.coefficients.max_shell + 1) + 2
        self._size = 2 * self._reach + 1
        self._sums = torch.zeros(self._size**3, 3)

    def insert(
        self, data: Complex[Tensor, "n m"], ctf: Float[Tensor, "n m"], rotations: Float[Tensor, "n 3 3"], *, premultiplied: bool = False
    ) -> None:
        """Add centred images (coefficients of `self.coefficients`) with their CTF at `rotations`."""
        numerator = data if premultiplied else data * ctf
        values = torch.stack([numerator.real, numerator.imag, ctf.square()], -1)
        points = rotations[:, 0, :, None] * (self.coefficients.kx * PADDING) + rotations[:, 1, :, None] * (self.coefficients.ky * PADDING)
        floor = points.floor()
        fraction = points - floor
        x, y, z = (floor.long() + self._reach).unbind(1)
        for dz in (0, 1):
            for dy in (0, 1):
                for dx in (0, 1):
                    share = _share(fraction[:, 0], dx) * _share(fraction[:, 1], dy) * _share(fraction[:, 2], dz)
                    index = ((z + dz) * self._size + y + dy) * self._size + x + dx
                    self._sums.index_add_(0, index.flatten(), (values * share[..., None]).flatten(0, 1))

    def merged(self, other: "BackProjector") -> "BackProjector":
        """The accumulator of both sets of images."""
        both = BackProjector(self.box_size)
        both._sums = self._sums + other._sums
        return both

    def symmetrised(self, operators: Float[Tensor, "k 3 3"]) -> "BackProjector":
        """Average over rotations that map the grid onto itself (entries -1, 0, 1), as if every image had been inserted at each."""
        cube = self._sums.view(self._size, self._size, self._size, 3)
        total = torch.zeros_like(cube)
        for operator in operators.round().long():
            # axes of the cube are z, y, x; the operator acts on (x, y, z)
            source = operator.abs().argmax(0).flip(0).sub(2).neg().tolist()
            signs = operator.sum(0).flip(0).tolist()
            turned = cube.permute(*source, 3)
            total += turned.flip([axis for axis in range(3) if signs[axis] < 0]) if min(signs) < 0 else turned
        whole = BackProjector(self.box_size)
        whole._sums = total.reshape(-1, 3)
        return whole

    def volume(self) -> Float[Tensor, "box box box"]:
        """The map in the grey scale of the images."""
        half = self._sums.view(self._size, self._size, self._size, 3)
        mirrored = half.flip((0, 1, 2)) * torch.tensor([1.0, -1.0, 1.0])
        real, imaginary, weight = (half + mirrored).unbind(-1)
        gridding = self._gridding_weights(self._floored(weight))
        return self._to_real(torch.complex(real * gridding, imaginary * gridding))

    def _gridding_weights(self, weight: Tensor) -> Tensor:
        """What to multiply the sums with: 1 / weight, iterated until it stays so after smoothing with a Kaiser-Bessel blob (Pipe and Menon 1999)."""
        fast = next_fast_len(self._size, real=True)
        blob = _blob_transform(fast)
        inside = self._radius() <= PADDING * (self.coefficients.max_shell + 1)
        gridding = inside.float()
        for _ in range(_GRIDDING_ITERATIONS):
            spread = torch.fft.irfftn(torch.fft.rfftn(gridding * weight, s=(fast,) * 3) * blob, s=(fast,) * 3)
            gridding = gridding / spread[: self._size, : self._size, : self._size].abs().clamp_min(1e-6)
        return gridding * inside

    def _radius(self) -> Tensor:
        axis = torch.arange(self._size) - self._reach
        return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()

    def _floored(self, weight: Tensor) -> Tensor:
        shell = (self._radius() / PADDING).round().long()
        sums = torch.zeros(int(shell.max()) + 1, dtype=torch.float64).index_add_(0, shell.flatten(), weight.flatten().double())
        mean = sums / torch.bincount(shell.flatten(), minlength=len(sums)).clamp_min(1)
        return torch.maximum(weight, (mean.float() * _WEIGHT_FLOOR).clamp_min(1e-12)[shell])

    def _to_real(self, transform: Tensor) -> Tensor:
        box_size, padded = self.box_size, self.box_size * PADDING
        centre, reach = padded // 2, min(self._reach, padded // 2 - 1)
        inner = slice(self._reach - reach, self._reach + reach + 1)
        outer = slice(centre - reach, centre + reach + 1)
        grid = torch.zeros(padded, padded, padded, dtype=torch.complex64)
        grid[outer, outer, outer] = transform[inner, inner, inner]
        real = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(grid)).real, dim=(0, 1, 2)) * box_size
        start = centre - box_size // 2
        cropped = real[start : start + box_size, start : start + box_size, start : start + box_size]
        correction = torch.sinc((torch.arange(box_size) - box_size // 2) / padded).square()
        corrected = cropped / (correction[:, None, None] * correction[:, None] * correction)
        cleared: Tensor = corrected * soft_sphere(box_size, box_size / 2, _CORNER_EDGE)
        return cleared


def _blob_transform(size: int) -> Tensor:
    """Transform of the Kaiser-Bessel blob (Lewitt 1990; order 0, RELION's radius and alpha) on a grid of `size` points; 1 at the origin."""
    full, half = torch.fft.fftfreq(size, 1 / size).double() / size, torch.fft.rfftfreq(size, 1 / size).double() / size
    frequency = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    argument = _BLOB_ALPHA**2 - (2 * torch.pi * _BLOB_RADIUS * PADDING * frequency) ** 2
    x = argument.abs().sqrt().clamp_min(1e-3)
    value = torch.where(argument > 0, x * torch.cosh(x) - torch.sinh(x), torch.sin(x) - x * torch.cos(x)) / x**3
    transform: Tensor = (value / value[0, 0, 0]).float()
    return transform


def _share(fraction: Tensor, upper: int) -> Tensor:
    return fraction if upper else 1 - fraction


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
