"""Images as angular harmonics on rings of their transform: turning an image multiplies its m-th harmonic with a phase.

So all in-plane rotations of an image against many references are one matrix product (Barnett et al. 2017, "Rapid solution of the cryo-EM
reconstruction problem by frequency marching").
"""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.special import j0, j1
from torch import Tensor

from cryorestore.masks import soft_disc

_EDGE = 2.0
"""Width (px) of the soft edge of the disc that is transformed"""
_CORE = 0.92
"""Part of the object's radius within which nearly all of it lies"""
_DAMPING = 1e-3


class PolarTransform:
    """Transform of the disc in the middle of a box, on rings of radius 0, 1 .. `rings` times `spacing` (cycles per box).

    Harmonic m of a ring is the mean of F(angle) exp(-i m angle) over the circle; those of negative m follow, for images are real.
    Scaled as `CoefficientSet.from_images`: orthonormal, phase origin at the pixel box // 2.

    Parameters
    ----------
    box_size
        Px.
    rings
        How many rings there are beside that of radius 0.
    disc_px
        What is farther from the centre is cut off with a soft edge.
    object_px
        Radius of what images are compared with: harmonics and the quadrature's weights are as many and as good as that needs. The angles are so
        fine that none of an image's own, higher harmonics is folded onto them.
    spacing
        Of the rings.
    device
        Where the matrices are kept.
    """

    def __init__(
        self, box_size: int, *, rings: int, disc_px: float, object_px: float, spacing: float = 1.0, device: str | torch.device = "cpu"
    ) -> None:
        self.box_size, self.rings = box_size, rings
        self.harmonics = _harmonics(rings * spacing, radius_px=object_px, box_size=box_size)
        self.angles = smooth_even(self.harmonics + _harmonics(rings * spacing, radius_px=disc_px + _EDGE, box_size=box_size) + 2)
        theta = 2 * math.pi * torch.arange(self.angles // 2) / self.angles
        radius = spacing * torch.arange(rings + 1.0)
        self.kx, self.ky = (radius[:, None] * theta.cos()).to(device), (radius[:, None] * theta.sin()).to(device)
        self.ring_weight = _quadrature(rings, spacing=spacing, radius_px=object_px, box_size=box_size).to(device)
        """by which means over the rings become a sum over the coefficients below radius (rings + 1/2) spacing, shape (rings + 1,)"""
        disc = soft_disc(box_size, disc_px, _EDGE)
        self._inside = disc.flatten().nonzero()[:, 0]
        self._disc = disc.flatten()[self._inside].to(device)
        y, x = (self._inside // box_size - box_size // 2).float().to(device), (self._inside % box_size - box_size // 2).float().to(device)
        angle = (-2 * math.pi / box_size) * (x[:, None] * self.kx.flatten() + y[:, None] * self.ky.flatten())
        self._cos, self._sin = angle.cos() / box_size, angle.sin() / box_size
        signs = (-1.0) ** torch.arange(1, self.harmonics + 1, device=device)
        self._mirror = signs

    def from_images(self, images: Float[Tensor, "*batch box box"]) -> Complex[Tensor, "*batch rings half"]:
        """The transform at angles 0 .. pi of every ring."""
        pixels = images.flatten(-2)[..., self._inside].to(self._disc.device) * self._disc
        values: Tensor = torch.complex(pixels @ self._cos, pixels @ self._sin).unflatten(-1, (self.rings + 1, self.angles // 2))
        return values

    def to_harmonics(self, values: Complex[Tensor, "*batch rings half"]) -> Complex[Tensor, "*batch rings m"]:
        """Harmonics 0 .. `harmonics` of values at angles 0 .. pi."""
        circle = torch.cat([values, values.conj()], -1)
        transformed: Tensor = torch.fft.fft(circle, dim=-1, norm="forward")
        return transformed[..., : self.harmonics + 1]

    def from_harmonics(self, harmonics: Complex[Tensor, "*batch rings m"]) -> Complex[Tensor, "*batch rings half"]:
        """Values at angles 0 .. pi."""
        circle = harmonics.new_zeros(*harmonics.shape[:-1], self.angles)
        circle[..., : self.harmonics + 1] = harmonics
        circle[..., -self.harmonics :] = (harmonics[..., 1:].conj() * self._mirror).flip(-1)
        values: Tensor = torch.fft.ifft(circle, dim=-1, norm="forward")
        return values[..., : self.angles // 2]

    def to_images(self, values: Complex[Tensor, "*batch rings half"]) -> Float[Tensor, "*batch box box"]:
        """The image whose transform has these values at angles 0 .. pi: quadrature over the rings, zero outside the disc."""
        weighted = (values * (2 * self.ring_weight / self.angles)[:, None]).flatten(-2)
        pixels = (weighted.real @ self._cos.T + weighted.imag @ self._sin.T) * self._disc
        images = pixels.new_zeros(*values.shape[:-2], self.box_size**2)
        images[..., self._inside] = pixels
        square: Tensor = images.unflatten(-1, (self.box_size, self.box_size))
        return square

    def shift_phases(self, shifts_px: Float[Tensor, "*batch 2"]) -> Complex[Tensor, "*batch rings half"]:
        """Factors that move an image by `shifts_px` (x, y)."""
        moved = shifts_px.to(self.kx.device)
        angle = (-2 * math.pi / self.box_size) * (moved[..., :1, None] * self.kx + moved[..., 1:, None] * self.ky)
        return torch.polar(torch.ones_like(angle), angle)


def _harmonics(ring: float, *, radius_px: float, box_size: int) -> int:
    """The highest harmonic that an image within `radius_px` has at radius `ring`, beyond which Bessel functions are negligible."""
    reach = 2 * math.pi * ring * radius_px / box_size
    return math.ceil(reach + math.cbrt(reach))


def _quadrature(rings: int, *, spacing: float, radius_px: float, box_size: int) -> Tensor:
    """Weights of the rings with which sums over Bessel functions come nearest to their integral over the disc.

    A disc's transform is barely resolved by rings one cycle apart, and the trapezoidal rule errs by some percent in the lowest shells. What is
    fitted is the kernel between two points of the object, as often as their distance occurs in a disc.
    """
    radius, edge = spacing * np.arange(rings + 1), spacing * (rings + 0.5)
    share = np.linspace(0.002, 1, 400)
    distance = 2 * _CORE * radius_px / box_size * share
    weight = np.sqrt(share * (np.arccos(share) - share * np.sqrt(1 - share**2)))
    wanted = edge * j1(2 * np.pi * edge * distance) / distance
    trapezoid = 2 * np.pi * spacing * radius
    design = j0(2 * np.pi * radius * distance[:, None])
    damping = _DAMPING * np.sqrt((weight**2).sum()) * np.eye(rings + 1)
    left, right = np.concatenate([design * weight[:, None], damping]), np.concatenate([(wanted - design @ trapezoid) * weight, np.zeros(rings + 1)])
    return torch.from_numpy(trapezoid + np.linalg.lstsq(left, right, rcond=None)[0]).float()


def smooth_even(least: int) -> int:
    """The first even number from `least` on with no prime factor above 5."""
    number = least + least % 2
    while not _is_smooth(number):
        number += 2
    return number


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1
