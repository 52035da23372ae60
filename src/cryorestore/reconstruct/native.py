"""Reconstruction by adding central slices, weighted with the CTF, to a padded grid, and solving for the map that fits them best."""

import itertools
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.coefficients import CoefficientSet
from cryorestore.ctf import ctf_2d
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import symmetry_matrices
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.project import PADDING
from cryorestore.reconstruct.least_squares import NormalEquations, signal_to_noise
from cryorestore.reconstruct.maps import HalfMaps
from cryorestore.slicing import add_slices, add_slices_on_device, grid_shape

PEAK_COPIES = 80
"""Memory of a reconstruction at most, in copies of the map at single precision (docs/reconstruction.md); the rules ask for as much."""
_BATCH = 64
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

    def equations(self, operators: Float[Tensor, "k 3 3"] | None = None) -> NormalEquations:
        """What the inserted images ask of the map.

        Parameters
        ----------
        operators
            Rotations that map the grid onto itself (entries -1, 0, 1): as if every image had been inserted at each.
        """
        # Grids of twice the box are most of the memory. So: one part of the sums and one axis at a time, and none of them is kept by a name here.
        whole = self.box_size * PADDING
        right = _to_real(self._grid(operators, real=0, imaginary=1), size=self.box_size, window=self._window()) * self.box_size
        kernel = _transform_of_even(_to_real(self._grid(operators, real=2), size=whole, window=self._window()))
        return NormalEquations(right, kernel, self._mean_weight(operators))

    def volume(self, operators: Float[Tensor, "k 3 3"] | None = None) -> Float[Tensor, "box box box"]:
        """The map in the grey scale of the images."""
        return cleared_corners(self.equations(operators).solve())

    def _window(self) -> Float[Tensor, "padded"]:
        """What trilinear shares multiply real space with along an axis, in the order of `irfftn`."""
        return torch.sinc(torch.fft.fftfreq(self.box_size * PADDING, device=self._sums.device)).square()

    def _mean_weight(self, operators: Tensor | None) -> Float[Tensor, "shells"]:
        weight = self._part(2, operators)
        axis, x = torch.arange(-self._reach, self._reach + 1, device=weight.device), torch.arange(self._reach + 2, device=weight.device)
        in_plane = axis[:, None] ** 2 + x**2
        sums = torch.zeros(2 * self._reach, dtype=torch.float64, device=weight.device)
        counts = torch.zeros_like(sums)
        for z, plane in zip(axis, weight, strict=True):
            shell = ((z**2 + in_plane).float().sqrt() / PADDING).round().long().flatten()
            sums.index_add_(0, shell, plane.flatten().double())
            counts += torch.bincount(shell, minlength=len(counts))
        return (sums / counts.clamp_min(1))[: self.box_size // 2].float()

    def _part(self, number: int, operators: Tensor | None) -> Float[Tensor, "z y x"]:
        """Real parts (0), imaginary parts (1) or weights (2) of the sums, with what lies just beside x = 0 added on both sides of it."""
        sign = -1.0 if number == 1 else 1.0
        part = self._sums.view(*grid_shape(self._reach), 3)[..., number].clone()
        part[:, :, 0] += sign * part[:, :, 0].flip((0, 1))
        return part if operators is None or len(operators) == 1 else _turned_sum(part, operators, sign)

    def _grid(self, operators: Tensor | None, *, real: int, imaginary: int | None = None) -> Tensor:
        """Parts of the sums in the order of `irfftn`."""
        padded = self.box_size * PADDING
        grid = torch.zeros(padded, padded, padded // 2 + 1, dtype=torch.complex64, device=self._sums.device)
        self._fill(grid.real, self._part(real, operators))
        if imaginary is not None:
            self._fill(grid.imag, self._part(imaginary, operators))
        return grid

    def _fill(self, grid: Tensor, centred: Tensor) -> None:
        """Put a part (z and y from -r to r, x from 0) into the order of `irfftn`."""
        reach = min(self._reach, self.box_size * PADDING // 2 - 1)
        inner = slice(self._reach - reach, self._reach + reach + 1)
        kept = centred[inner, inner, : reach + 1]
        for here, there in itertools.product(_ends(reach), repeat=2):
            grid[here, there, : reach + 1] = kept[_shifted(here, reach), _shifted(there, reach)]


def _to_real(grid: Tensor, *, size: int, window: Tensor) -> Tensor:
    """Real space of a half grid: its inner `size` points a side, the middle one the origin; the whole is left with the origin at the first point.

    Adding to eight points has smoothed the transform, which multiplied real space with `window` along each axis: it is divided out here.
    """
    padded = grid.shape[0]
    places = torch.arange(padded) if size == padded else torch.arange(-size // 2, size // 2) % padded
    places = places.to(grid.device)
    for axis in (0, 1):
        grid = torch.fft.ifft(grid, dim=axis)
        grid = grid if size == padded else grid.index_select(axis, places)
    space: Tensor = torch.fft.irfft(grid, n=padded, dim=2)
    del grid
    space = space if size == padded else space.index_select(2, places)
    for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        space /= window[places].view(shape)
    return space


def _transform_of_even(kernel: Tensor) -> Tensor:
    """Half transform of a function that is even about the first point: real."""
    transform = torch.fft.rfft(kernel, dim=2)
    del kernel
    for axis in (1, 0):
        transform = torch.fft.fft(transform, dim=axis)
    real: Tensor = transform.real.clone()
    return real


def _turned_sum(part: Tensor, operators: Tensor, sign: float) -> Tensor:
    """Sum of a closed part over rotations that map the grid onto itself."""
    wide = part.shape[2] - 2
    cube = torch.cat([sign * part[:, :, 1:-1].flip((0, 1, 2)), part[:, :, :-1]], 2)
    total = torch.zeros_like(cube)
    for operator in operators.round().long():
        # axes of the cube are z, y, x; the operator acts on (x, y, z)
        source = operator.abs().argmax(0).flip(0).sub(2).neg().tolist()
        signs = operator.sum(0).flip(0).tolist()
        turned = cube.permute(*source)
        total += turned.flip([axis for axis in range(3) if signs[axis] < 0]) if min(signs) < 0 else turned
    kept = torch.zeros_like(part)
    kept[:, :, :-1] = total[:, :, wide:]
    return kept


def shared_out(operators: Float[Tensor, "order 3 3"]) -> tuple[Float[Tensor, "k 3 3"], Float[Tensor, "order 3 3"] | None]:
    """At which rotations of a point group images are inserted, and which are applied to the sums (`BackProjector.equations`): all of them, at the
    price of one, where they map the grid onto itself; else an insertion each.
    """
    on_grid = bool((operators - operators.round()).abs().max() < 1e-6)
    return (operators[:1], operators) if on_grid else (operators, None)


def cleared_corners(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    """The map inside the sphere that touches the box: its corners hold aliases, and RELION clears them likewise."""
    box_size = volume.shape[-1]
    return volume * soft_sphere(box_size, box_size / 2, _CORNER_EDGE).to(volume.device)


def _ends(reach: int) -> tuple[slice, slice]:
    """Where 0 to r and -r to -1 stand along an axis of a transform."""
    return slice(0, reach + 1), slice(-reach, None)


def _shifted(end: slice, reach: int) -> slice:
    """Where the same points stand when 0 is in the middle."""
    return slice(reach, None) if end.start == 0 else slice(0, reach)


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


class OddEvenProjectors:
    """One accumulator for particles at odd places and one for those at even places, under a point group.

    Parameters
    ----------
    box_size
        Px.
    symmetry
        Point group, as RELION names it. Rotations that map the grid onto itself are applied to the sums; others cost an insertion each.
    """

    def __init__(self, box_size: int, *, symmetry: str = "C1") -> None:
        self.coefficients = CoefficientSet(box_size, box_size // 2)
        self._accumulators = [BackProjector(box_size), BackProjector(box_size)]
        self._inserted, self._applied = shared_out(torch.from_numpy(symmetry_matrices(symmetry)).float())

    def insert(
        self,
        places: NDArray[np.int64],
        data: Complex[Tensor, "n m"],
        ctf: Float[Tensor, "n m"],
        rotations: Float[Tensor, "n 3 3"],
        *,
        premultiplied: bool = False,
    ) -> None:
        """Add centred images by their places (from 0) among the particles of the map."""
        for parity, accumulator in enumerate(self._accumulators):
            chosen = torch.from_numpy(places % 2 == parity)
            for operator in self._inserted:
                accumulator.insert(data[chosen], ctf[chosen], rotations[chosen] @ operator, premultiplied=premultiplied)

    def solve(self, *, pixel_size: float, correlation: Float[Tensor, "shells"] | None = None) -> HalfMaps:
        """Solve as `solve_halves`; the sums are given up on the way, and nothing can be inserted then."""
        even, odd = (self._accumulators.pop().equations(self._applied) for _ in range(2))
        return solve_halves(odd, even, pixel_size=pixel_size, correlation=correlation)


def solve_halves(odd: NormalEquations, even: NormalEquations, *, pixel_size: float, correlation: Float[Tensor, "shells"] | None = None) -> HalfMaps:
    """Solve for odd and even images, and for all of them with the signal-to-noise ratio that `correlation` shows.

    Parameters
    ----------
    correlation
        Of two maps of independent particles at independent poses; that of the odd and the even map unless it is given.
    """
    odd_map, even_map = cleared_corners(odd.solve()), cleared_corners(even.solve())
    if correlation is None:
        correlation = fourier_shell_correlation(odd_map, even_map, pixel_size=pixel_size).correlation
    return HalfMaps(full=cleared_corners((odd + even).solve(signal_to_noise=signal_to_noise(correlation))), odd=odd_map, even=even_map)


def reconstruct_native(table: ParticleTable, *, symmetry: str, program: str, threads: int, scratch: Path) -> HalfMaps:
    """Reconstruct in this process, `_BATCH` particles at a time; `program` and `scratch` are not used."""
    box_size, pixel_size = table.box_size, table.pixel_size
    rotations, shifts = pose_tensors(table)
    parameters = table.ctf_parameters()
    projectors = OddEvenProjectors(box_size, symmetry=symmetry)
    coefficients = projectors.coefficients
    for start in range(0, len(table), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(table)))
        centred = coefficients.from_images(torch.from_numpy(table.load_images(rows))) * coefficients.shift_phases(-shifts[rows])
        contrast = coefficients.select(ctf_2d(parameters.take(rows), box_size=box_size, pixel_size=pixel_size))
        projectors.insert(rows, centred, contrast, rotations[rows], premultiplied=table.ctf_premultiplied)
    return projectors.solve(pixel_size=pixel_size)
