"""Reading and adding central slices on a grid of Fourier coefficients, trilinear, compiled for the CPU.

One sample touches eight grid points. torch makes an index, a weight and a copy of each; a compiled loop keeps them in registers, which
is five times the rate for reading and thirty for adding. The grid holds x >= 0 only: what lies at x < 0 is the conjugate of its mirror image.

A grid of reach r has 2 r + 1 points along z and y (from -r to r) and r + 2 along x (from 0).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.compiled import compiled

Floats = NDArray[np.float32]

_ONE, _ZERO = np.float32(1), np.float32(0)


def grid_shape(reach: int) -> tuple[int, int, int]:
    """Points of a grid along z, y and x."""
    return 2 * reach + 1, 2 * reach + 1, reach + 2


@compiled
def read_slices(grid: Floats, rotations: Floats, kx: Floats, ky: Floats, reach: int, out: Floats) -> None:
    """Read coefficients at `kx` x axis + `ky` y axis of each rotation.

    Parameters
    ----------
    grid
        (2 reach + 1, 2 reach + 1, reach + 2, 2), flattened: real and imaginary parts.
    rotations
        (n, 3, 3); rows 0 and 1 are the image's axes in the frame of the grid (x, y, z).
    kx, ky
        (m,), grid points.
    out
        (n, 2 m), written: real and imaginary parts side by side.
    """
    row, section = np.uint64(2 * (reach + 2)), np.uint64(2 * (reach + 2) * (2 * reach + 1))
    middle = np.float32(reach)
    for image in range(rotations.shape[0]):
        ax, ay, az = rotations[image, 0, 0], rotations[image, 0, 1], rotations[image, 0, 2]
        bx, by, bz = rotations[image, 1, 0], rotations[image, 1, 1], rotations[image, 1, 2]
        for place in range(kx.shape[0]):
            x, y, z = ax * kx[place] + bx * ky[place], ay * kx[place] + by * ky[place], az * kx[place] + bz * ky[place]
            sign = _ONE
            if x < _ZERO:
                x, y, z, sign = -x, -y, -z, -sign
            y += middle
            z += middle
            ix, iy, iz = np.uint32(x), np.uint32(y), np.uint32(z)
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
            corner = np.uint64(iz) * section + np.uint64(iy) * row + np.uint64(2) * np.uint64(ix)
            real, imaginary = _ZERO, _ZERO
            for edge in range(4):
                share, start = gz * gy, corner
                if edge == 1:
                    share, start = gz * fy, corner + row
                elif edge == 2:
                    share, start = fz * gy, corner + section
                elif edge == 3:
                    share, start = fz * fy, corner + section + row
                low, high = share * gx, share * fx
                real += low * grid[start] + high * grid[start + np.uint64(2)]
                imaginary += low * grid[start + np.uint64(1)] + high * grid[start + np.uint64(3)]
            out[image, 2 * place] = real
            out[image, 2 * place + 1] = sign * imaginary


@compiled
def add_slices(grid: Floats, real: Floats, imaginary: Floats, weight: Floats, rotations: Floats, kx: Floats, ky: Floats, reach: int) -> None:
    """Add coefficients and their weights to the eight grid points round each; the transpose of `read_slices`.

    Parameters
    ----------
    grid
        (2 reach + 1, 2 reach + 1, reach + 2, 3), flattened, changed: sums of real parts, imaginary parts and weights.
    real, imaginary, weight
        (n, m).
    rotations, kx, ky
        As in `read_slices`.
    """
    row, section = np.uint64(3 * (reach + 2)), np.uint64(3 * (reach + 2) * (2 * reach + 1))
    middle = np.float32(reach)
    for image in range(rotations.shape[0]):
        ax, ay, az = rotations[image, 0, 0], rotations[image, 0, 1], rotations[image, 0, 2]
        bx, by, bz = rotations[image, 1, 0], rotations[image, 1, 1], rotations[image, 1, 2]
        for place in range(kx.shape[0]):
            x, y, z = ax * kx[place] + bx * ky[place], ay * kx[place] + by * ky[place], az * kx[place] + bz * ky[place]
            re, im, w = real[image, place], imaginary[image, place], weight[image, place]
            if x < _ZERO:
                x, y, z, im = -x, -y, -z, -im
            y += middle
            z += middle
            ix, iy, iz = np.uint32(x), np.uint32(y), np.uint32(z)
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
            corner = np.uint64(iz) * section + np.uint64(iy) * row + np.uint64(3) * np.uint64(ix)
            for edge in range(4):
                share, start = gz * gy, corner
                if edge == 1:
                    share, start = gz * fy, corner + row
                elif edge == 2:
                    share, start = fz * gy, corner + section
                elif edge == 3:
                    share, start = fz * fy, corner + section + row
                low, high = share * gx, share * fx
                grid[start] += low * re
                grid[start + np.uint64(1)] += low * im
                grid[start + np.uint64(2)] += low * w
                grid[start + np.uint64(3)] += high * re
                grid[start + np.uint64(4)] += high * im
                grid[start + np.uint64(5)] += high * w


def read_slices_on_device(grid: Tensor, rotations: Tensor, kx: Tensor, ky: Tensor, reach: int) -> Tensor:
    """`read_slices` in torch operations, for a GPU: complex (n, m) from the flat grid."""
    corners, shares, sign = _corners(rotations, kx, ky, reach)
    pairs = torch.view_as_complex(grid.view(-1, 2))
    values = torch.zeros(sign.shape, dtype=torch.complex64, device=grid.device)
    for offset, share in shares:
        values += pairs[corners + offset] * share
    return torch.complex(values.real, values.imag * sign)


def add_slices_on_device(grid: Tensor, values: Tensor, weight: Tensor, rotations: Tensor, kx: Tensor, ky: Tensor, reach: int) -> None:
    """`add_slices` in torch operations, for a GPU: `values` complex (n, m), `weight` (n, m); changes the flat grid."""
    corners, shares, sign = _corners(rotations, kx, ky, reach)
    parts = torch.stack([values.real, values.imag * sign, weight], -1)
    points = grid.view(-1, 3)
    for offset, share in shares:
        points.index_add_(0, (corners + offset).flatten(), (parts * share[..., None]).flatten(0, 1))


def _corners(rotations: Tensor, kx: Tensor, ky: Tensor, reach: int) -> tuple[Tensor, list[tuple[int, Tensor]], Tensor]:
    """Grid point below each sample, the eight offsets from there with their shares, and the sign of the imaginary part."""
    points = rotations[:, 0, :, None] * kx + rotations[:, 1, :, None] * ky
    sign = torch.where(points[:, 0] < 0, -1.0, 1.0)
    points = points * sign[:, None] + points.new_tensor([0.0, reach, reach])[:, None]
    floor = points.floor()
    upper = (points - floor).unbind(1)
    row, section = reach + 2, (reach + 2) * (2 * reach + 1)
    x, y, z = floor.long().unbind(1)
    shares = []
    for dz, dy, dx in np.ndindex(2, 2, 2):
        share = torch.ones_like(sign)
        for fraction, above in zip(upper, (dx, dy, dz), strict=True):
            share = share * (fraction if above else 1 - fraction)
        shares.append((dz * section + dy * row + dx, share))
    return z * section + y * row + x, shares, sign
